//! Deployments: updates + collection + times.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_domain::states::{DeploymentCompliance, DeploymentEnforcement, Progress};
use muster_proto::link::ObjectKind;
use muster_proto::policy::Verbosity;
use muster_proto::{convert, deployment as pb};
use uuid::Uuid;

use super::links::{self, objects};
use super::{
    Error, Site, deployment_states, known_deployments, manage_collections, manage_update_lists,
};
use crate::domain::names;
use crate::domain::page::Page;
use crate::store::named::Named;
use crate::store::packages::{self, Missing};
use crate::store::{deployments, sites};

/// More updates in a deployment, or deployments on a machine, make a warning (semantics.md 1).
const RECOMMENDED_UPDATES: usize = 100;
const RECOMMENDED_DEPLOYMENTS: i64 = 50;

/// A deployment by name or id.
pub(crate) async fn find(site: &Site, db: &impl GenericClient, name: &str) -> Result<Named, Error> {
    let name = name.trim();
    let found = deployments::find(db, site.config.site_code, name).await?;
    found.ok_or_else(|| deployments::unknown(name))
}

/// Makes a deployment. Policy changes with it, in the same transaction.
pub(crate) async fn create_deployment(
    site: &Site,
    administrator: &str,
    request: &pb::CreateDeploymentRequest,
) -> Result<pb::CreateDeploymentResponse, Error> {
    let name = names::name(&request.name)?;
    let time = |field, time: &Option<prost_types::Timestamp>| {
        time.as_ref()
            .map(|time| convert::from_timestamp(field, time))
            .transpose()
    };
    let available_at = time("available_at", &request.available_at)?.unwrap_or_else(Timestamp::now);
    let deadline_at = time("deadline_at", &request.deadline_at)?;
    if deadline_at.is_some_and(|deadline| deadline < available_at) && request.available_at.is_some()
    {
        let message = "the deadline is before the time from which the updates are available";
        return Err(Error::invalid("DEADLINE", message));
    }
    let verbosity = match request.verbosity {
        None => Verbosity::All,
        Some(number) => Verbosity::try_from(number)
            .map_err(|_| Error::invalid("VERBOSITY", "there is no such verbosity"))?,
    };
    let _names = site.known_deployments.forget_at_end();
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let collection = manage_collections::find(site, &tx, &request.collection).await?;
    let (update_list_no, updates) =
        manage_update_lists::chosen(site, &tx, &request.update_list, &request.update_numbers)
            .await?;
    if updates.is_empty() {
        return Err(Error::invalid(
            "UPDATES",
            "a deployment needs at least one update",
        ));
    }
    if let Some(missing) = packages::first_missing(&tx, &updates).await? {
        let message = match missing {
            Missing::Package { update_no } => {
                format!("update {update_no} has no content: create a package for it first")
            }
            Missing::File {
                package,
                version,
                why,
            } => format!("{package} {version} is on no distribution point: {why}"),
        };
        return Err(Error::conflict("NO_CONTENT", message));
    }
    let new = deployments::New {
        name: name.clone(),
        collection_no: collection.number,
        update_list_no,
        updates,
        available_at,
        deadline_at,
        suppress_restart: request.suppress_restart,
        verbosity,
    };
    let number = deployments::add(&tx, &new)
        .await
        .map_err(|error| error.taken("deployment", &name))?;
    let revision = sites::raise_policy_revision(&tx).await?;
    let deployment = deployments::show(&tx, site.config.site_code, number).await?;
    let on_machine = deployments::count_for(&tx, collection.number).await?;
    let id = Uuid::from_slice(&deployment.deployment_id).unwrap_or_default();
    objects::changed(&tx, ObjectKind::Deployment, &[id]).await?;
    tx.commit().await?;
    links::wake(site);
    tracing::info!(
        audit = true,
        administrator,
        deployment = name,
        updates = new.updates.len(),
        collection = collection.label(),
        revision,
        "deployment created"
    );
    let mut warnings = Vec::new();
    if new.updates.len() > RECOMMENDED_UPDATES {
        let count = new.updates.len();
        warnings.push(format!(
            "{count} updates: at most {RECOMMENDED_UPDATES} are recommended"
        ));
    }
    if on_machine > RECOMMENDED_DEPLOYMENTS {
        warnings.push(format!(
            "{on_machine} deployments on a machine: at most {RECOMMENDED_DEPLOYMENTS} are recommended"
        ));
    }
    Ok(pb::CreateDeploymentResponse {
        deployment: Some(deployment),
        warnings,
    })
}

/// One page of deployments.
pub(crate) async fn list_deployments(
    site: &Site,
    request: &pb::ListDeploymentsRequest,
) -> Result<pb::ListDeploymentsResponse, Error> {
    let page = Page::read(request.page_size, &request.page_token)?;
    let mut found = deployments::list(&site.db().await?, site.config.site_code, page).await?;
    let next_page_token = page.cut(&mut found);
    Ok(pb::ListDeploymentsResponse {
        deployments: found,
        next_page_token,
    })
}

/// One deployment and how far it is.
pub(crate) async fn get_deployment(
    site: &Site,
    request: &pb::GetDeploymentRequest,
) -> Result<pb::GetDeploymentResponse, Error> {
    let (number, deployment) = {
        let db = site.db().await?;
        let number = find(site, &db, &request.name).await?.number;
        let shown = deployments::show(&db, site.config.site_code, number).await?;
        (number, shown)
    };
    Ok(pb::GetDeploymentResponse {
        deployment: Some(deployment),
        summary: Some(summary(site, number).await?),
    })
}

/// How far a deployment is: clients of its collection by state, and clients × updates by state.
pub(crate) async fn summary(
    site: &Site,
    deployment_no: i32,
) -> Result<pb::DeploymentSummary, Error> {
    let members = deployment_states::members(site, deployment_no).await?;
    let (pairs, updates) = {
        let held = deployment_states::read(site);
        let pairs = held.pairs(deployment_no, &members);
        (pairs, held.update_counts(deployment_no))
    };
    let mut summary = pb::DeploymentSummary::default();
    for (enforcement, compliance, clients) in pairs {
        summary.clients += clients;
        *column(&mut summary, enforcement, compliance) += clients;
        let state = i32::from(enforcement.id());
        match summary.enforcement.last_mut() {
            Some(last) if last.state == state => last.clients += clients,
            _ => summary
                .enforcement
                .push(pb::EnforcementCount { state, clients }),
        }
    }
    summary.updates = updates
        .into_iter()
        .map(|(state, count)| pb::UpdateEnforcementCount {
            state: state.id().into(),
            count,
        })
        .collect();
    Ok(summary)
}

/// Which of the four columns a client counts in. A client that needs none of the updates is
/// compliant without ever having installed anything.
fn column(
    summary: &mut pb::DeploymentSummary,
    enforcement: DeploymentEnforcement,
    compliance: DeploymentCompliance,
) -> &mut u32 {
    match (enforcement.progress(), compliance) {
        (Progress::Error, _) => &mut summary.failed,
        (Progress::Success, _) | (_, DeploymentCompliance::Compliant) => &mut summary.compliant,
        (Progress::InProgress, _)
        | (
            Progress::Unknown,
            DeploymentCompliance::NonCompliant | DeploymentCompliance::Conflict,
        ) => &mut summary.in_progress,
        (Progress::Unknown, DeploymentCompliance::Unknown) => &mut summary.unknown,
    }
}

/// Removes a deployment and what clients said of it.
pub(crate) async fn delete_deployment(
    site: &Site,
    administrator: &str,
    request: &pb::DeleteDeploymentRequest,
) -> Result<(), Error> {
    // Reports wait until this is done: none may bring its states back.
    let _known = site.known_clients.lock_all().await;
    let _names = site.known_deployments.forget_at_end();
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let found = find(site, &tx, &request.name).await?.ours("deployment")?;
    deployments::delete(&tx, found.number).await?;
    objects::deleted(&tx, ObjectKind::Deployment, found.id).await?;
    sites::raise_policy_revision(&tx).await?;
    tx.commit().await?;
    deployment_states::remove_deployment(site, found.number);
    links::wake(site);
    tracing::info!(
        audit = true,
        administrator,
        deployment = request.name,
        "deployment deleted"
    );
    Ok(())
}

/// The number of a deployment, for watching it.
pub(crate) async fn number_of(site: &Site, name: &str) -> Result<i32, Error> {
    Ok(known_deployments::find(site, name).await?.deployment_no)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_states_counts_in_the_column_that_people_expect() {
        let counted = |enforcement, compliance| {
            let enforcement = DeploymentEnforcement::from_id(enforcement).unwrap();
            let compliance = DeploymentCompliance::from_id(compliance).unwrap();
            let mut summary = pb::DeploymentSummary::default();
            *column(&mut summary, enforcement, compliance) += 1;
            (
                summary.compliant,
                summary.in_progress,
                summary.failed,
                summary.unknown,
            )
        };
        assert_eq!(counted(4, 1), (1, 0, 0, 0));
        assert_eq!(counted(0, 1), (1, 0, 0, 0), "nothing of it was required");
        assert_eq!(counted(6, 2), (0, 0, 1, 0));
        assert_eq!(counted(7, 2), (0, 1, 0, 0));
        assert_eq!(counted(0, 2), (0, 1, 0, 0), "waits for its deadline");
        assert_eq!(counted(0, 0), (0, 0, 0, 1));
    }
}
