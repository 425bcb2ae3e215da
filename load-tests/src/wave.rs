//! A deployment of five updates as its clients go through it, one report for each step, and what
//! the site must hold at the end.

use std::collections::BTreeMap;

use anyhow::Result;
use muster_domain::states::{
    DeploymentCompliance, DeploymentEnforcement, DeploymentEvaluation, UpdateEnforcement,
};
use muster_proto::state as pb;
use prost::Message;
use uuid::Uuid;

use crate::fleet::{Member, Random, Sent, UPDATES};
use crate::ground::Ground;

/// Updates in the deployment: the first of the new ones.
const DEPLOYED: usize = 5;
/// One installation in so many fails.
const FAILS_ONE_IN: usize = 50;
/// What a failed one says.
const ERROR: i32 = 100;

/// A deployment to all systems.
#[derive(Debug, Clone, Copy)]
pub struct Deployment {
    /// Its id.
    pub id: Uuid,
    /// Its number at the site.
    pub number: i32,
}

/// What a client said last of a deployment and of its updates, in SQL's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    deployment: [i16; 3],
    updates: [i16; DEPLOYED],
}

/// Makes a deployment of the first new updates, due at once.
///
/// # Errors
/// When the database refuses.
pub async fn deploy(ground: &Ground) -> Result<Deployment> {
    const DEPLOY: &str = "
        INSERT INTO deployments (deployment_id, name, collection_no, available_at, deadline_at,
                                 suppress_restart)
        SELECT $1::uuid, 'wave ' || $1::uuid::text, min(collection_no), now(), now(), true FROM collections
        RETURNING deployment_no";
    const UPDATES_SQL: &str = "
        INSERT INTO deployment_updates SELECT $1, unnest($2::int4[])";
    let db = ground.pool.get().await?;
    let id = Uuid::new_v4();
    let number: i32 = db.query_one(DEPLOY, &[&id]).await?.get(0);
    let updates: Vec<i32> = (0..DEPLOYED).map(update_no).map(u32::cast_signed).collect();
    db.execute(UPDATES_SQL, &[&number, &updates]).await?;
    Ok(Deployment { id, number })
}

fn update_no(at: usize) -> u32 {
    u32::try_from(UPDATES + 1 + at).unwrap_or(0)
}

/// The steps of one client: the deployment waits for content, downloads, installs and ends; each
/// of its updates goes through six states. Updates that move together share a report.
pub fn steps(
    member: &mut Member,
    deployment: Deployment,
    random: &mut Random,
) -> (Vec<Sent>, Said) {
    use {DeploymentEnforcement as D, UpdateEnforcement as U};
    let failed = random.once_in(FAILS_ONE_IN);
    let last = if failed {
        (D::FailedToInstall, U::FailedToInstall)
    } else {
        (D::SuccessfullyInstalled, U::SuccessfullyInstalled)
    };
    let mut sent = Vec::new();
    let mut said = Said {
        deployment: [0; 3],
        updates: [0; DEPLOYED],
    };
    for (on_deployment, on_updates) in [
        (D::Downloading, vec![U::WaitingForContent, U::Downloading]),
        (D::Downloaded, vec![U::Downloaded]),
        (D::Installing, vec![U::PendingInstallation, U::Installing]),
        (last.0, vec![last.1]),
    ] {
        for state in &on_updates {
            let mut report = member.next(pb::ReportKind::Delta);
            let serial = report.last_serial;
            let error_code = if *state == U::FailedToInstall {
                ERROR
            } else {
                0
            };
            for at in 0..DEPLOYED {
                said.updates[at] = state.id().into();
                report.update_enforcements.push(pb::UpdateEnforcementState {
                    deployment_id: deployment.id.as_bytes().to_vec().into(),
                    update_no: update_no(at),
                    state: i32::from(state.id()),
                    error_code,
                    serial,
                    ..Default::default()
                });
            }
            if Some(state) == on_updates.first() {
                let done = on_deployment == D::SuccessfullyInstalled;
                let compliance = if done {
                    DeploymentCompliance::Compliant
                } else {
                    DeploymentCompliance::NonCompliant
                };
                let evaluation = DeploymentEvaluation::Succeeded;
                said.deployment = [
                    compliance.id().into(),
                    on_deployment.id().into(),
                    evaluation.id().into(),
                ];
                report.deployments.push(pb::DeploymentState {
                    deployment_id: deployment.id.as_bytes().to_vec().into(),
                    compliance: compliance.id().into(),
                    enforcement: on_deployment.id().into(),
                    evaluation: evaluation.id().into(),
                    error_code,
                    serial,
                    ..Default::default()
                });
            }
            let report = report.encode_to_vec();
            sent.push(member.sent(report.into()));
        }
    }
    (sent, said)
}

/// How many rows are missing or are not what the clients said; `said` is in the order of the
/// clients' numbers.
///
/// # Errors
/// When the database does not answer.
pub async fn compare(ground: &Ground, deployment: Deployment, said: &[Said]) -> Result<u64> {
    const DEPLOYMENTS: &str = "
        SELECT client_no, compliance, enforcement, evaluation FROM deployment_states
        WHERE deployment_no = $1";
    const UPDATES_SQL: &str = "
        SELECT client_no, update_no, state FROM update_enforcement_states WHERE deployment_no = $1";
    let db = ground.pool.get().await?;
    let mut model: BTreeMap<(i32, i32), Vec<i16>> = BTreeMap::new();
    for (said, client_no) in said.iter().zip(1..) {
        model.insert((client_no, 0), said.deployment.to_vec());
        for (at, state) in said.updates.iter().enumerate() {
            model.insert((client_no, update_no(at).cast_signed()), vec![*state]);
        }
    }
    let mut wrong = 0;
    for row in db.query(DEPLOYMENTS, &[&deployment.number]).await? {
        let held = vec![row.get(1), row.get(2), row.get(3)];
        wrong += u64::from(model.remove(&(row.get(0), 0)) != Some(held));
    }
    for row in db.query(UPDATES_SQL, &[&deployment.number]).await? {
        let held = vec![row.get(2)];
        wrong += u64::from(model.remove(&(row.get(0), row.get(1))) != Some(held));
    }
    Ok(wrong + model.len() as u64)
}
