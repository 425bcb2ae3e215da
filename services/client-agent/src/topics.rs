//! Topics 300, 301, 302 and 402 as the spool keeps them: how they are read, changed, and derived
//! from each other. `enforce` says when.

use std::collections::BTreeSet;

use jiff::Timestamp;
use muster_domain::states::{
    DeploymentCompliance, DeploymentEnforcement, DeploymentEvaluation, Detection,
    UpdateEnforcement as State,
};
use muster_domain::{DeploymentId, UpdateNo};
use muster_proto::policy::Policy;
use muster_proto::state::{DeploymentState, UpdateEnforcementState};
use prost::Message;

use crate::evaluate::Evaluation;
use crate::policy::{Deployment, deployments};
use crate::scan::{detection_value, detections};
use crate::store::{Kind, Writer, key_of, meta};
use crate::{Error, Failure, plan};

/// Updates whose restart is over: successful where the scan finds them installed.
pub(crate) fn restarted(
    w: &Writer<'_>,
    evaluation: &Evaluation,
    over: &BTreeSet<UpdateNo>,
    now: Timestamp,
) -> Result<(), Error> {
    let Some(bytes) = w.bytes(meta::POLICY)? else {
        return Ok(());
    };
    let policy = Policy::decode(bytes.as_slice()).map_err(|_| Error::Saved { what: "policy" })?;
    let all = deployments(&policy);
    for found in &evaluation.updates {
        if found.detection != Detection::Installed || !over.contains(&found.update_no) {
            continue;
        }
        for deployment in all.iter().filter(|d| d.updates.contains(&found.update_no)) {
            if update_state(w, deployment.id, found.update_no)? == Some(State::PendingRestart) {
                let state = State::SuccessfullyInstalled;
                put_update(w, deployment.id, found.update_no, state, None, now)?;
            }
        }
        // The scan saves the detections after this; the summary must see the new one.
        let value = detection_value(Detection::Installed, []);
        w.put(
            Kind::Detection,
            &found.update_no.0.to_be_bytes(),
            &value,
            now,
        )?;
    }
    summarise(w, &all, now)
}

/// Deployments that the policy no longer has are forgotten; the site knows that better than we.
pub(crate) fn forget_vanished(w: &Writer<'_>, all: &[Deployment]) -> Result<(), Error> {
    let known = |key: &[u8]| all.iter().any(|d| key.starts_with(d.id.as_bytes()));
    for kind in [Kind::Deployment, Kind::UpdateEnforcement] {
        for key in w.all(kind)?.into_keys().filter(|key| !known(key)) {
            w.forget(kind, &key)?;
        }
    }
    Ok(())
}

/// Topic 302, "activated", for deployments that are new.
pub(crate) fn activate(w: &Writer<'_>, active: &[Deployment], now: Timestamp) -> Result<(), Error> {
    for deployment in active {
        if w.get(Kind::Deployment, deployment.id.as_bytes())?.is_none() {
            let mut state = deployment_state(w, deployment.id)?;
            state.evaluation = DeploymentEvaluation::Activated.id().into();
            put_deployment(w, &state, now)?;
        }
    }
    Ok(())
}

/// What others installed is installed; what is no longer required is no failure.
pub(crate) fn reconcile(
    w: &Writer<'_>,
    active: &[Deployment],
    now: Timestamp,
) -> Result<(), Error> {
    let found = detections(w)?;
    for deployment in active {
        for update in &deployment.updates {
            let Some(state) = update_state(w, deployment.id, *update)? else {
                continue;
            };
            let fresh = match found.get(update) {
                Some(Detection::Installed) => State::SuccessfullyInstalled,
                Some(Detection::NotRequired) | None
                    if !matches!(state, State::SuccessfullyInstalled | State::Unknown) =>
                {
                    State::Unknown
                }
                _ => continue,
            };
            put_update(w, deployment.id, *update, fresh, None, now)?;
            w.clear_attempt(*update)?;
        }
    }
    Ok(())
}

/// Remembers the updates of deployments about which no scan could find out anything.
pub(crate) fn set_unheard(w: &Writer<'_>, updates: &BTreeSet<u32>) -> Result<(), Error> {
    let bytes: Vec<u8> = updates.iter().flat_map(|no| no.to_be_bytes()).collect();
    w.set_bytes(meta::UNHEARD_UPDATES, &bytes)
}

fn unheard(r: &Writer<'_>) -> Result<BTreeSet<UpdateNo>, Error> {
    let bytes = r.bytes(meta::UNHEARD_UPDATES)?.unwrap_or_default();
    let number = |four: &[u8]| four.try_into().map(u32::from_be_bytes).map(UpdateNo);
    let numbers: Result<_, _> = bytes.chunks(4).map(number).collect();
    numbers.map_err(|_| Error::Saved {
        what: meta::UNHEARD_UPDATES,
    })
}

/// Topics 300 and 301 from what is saved of topics 500 and 402.
pub(crate) fn summarise(
    w: &Writer<'_>,
    active: &[Deployment],
    now: Timestamp,
) -> Result<(), Error> {
    let (found, unheard) = (detections(w)?, unheard(w)?);
    for deployment in active {
        if w.get(Kind::Deployment, deployment.id.as_bytes())?.is_none() {
            continue;
        }
        let mut state = deployment_state(w, deployment.id)?;
        let mut states = Vec::new();
        let (mut required, mut unknown) = (false, false);
        let mut problem = None;
        for update in &deployment.updates {
            let saved = saved_update(w, deployment.id, *update)?;
            let enforced = saved
                .as_ref()
                .and_then(|s| state_of(s.state))
                .unwrap_or(State::Unknown);
            match found.get(update) {
                _ if unheard.contains(update) => unknown = true,
                Some(Detection::Required) => {
                    required = true;
                    states.push(enforced);
                }
                Some(Detection::Unknown) => unknown = true,
                Some(Detection::Installed | Detection::NotRequired) | None => {}
            }
            if let Some(saved) = saved.filter(|_| enforced.is_failure()) {
                problem.get_or_insert((saved.error_code, saved.detail));
            }
        }
        let compliance = match (required, unknown) {
            (true, _) => DeploymentCompliance::NonCompliant,
            (false, true) => DeploymentCompliance::Unknown,
            (false, false) => DeploymentCompliance::Compliant,
        };
        let enforcement = match (required, unknown) {
            (false, true) => DeploymentEnforcement::Unknown,
            _ => plan::summary(&states),
        };
        state.compliance = compliance.id().into();
        state.enforcement = enforcement.id().into();
        let evaluated = state.evaluation != i32::from(DeploymentEvaluation::Failed.id());
        if problem.is_some() || evaluated {
            (state.error_code, state.detail) = problem.unwrap_or_default();
        }
        put_deployment(w, &state, now)?;
    }
    Ok(())
}

pub(crate) fn deployment_state(w: &Writer<'_>, id: DeploymentId) -> Result<DeploymentState, Error> {
    let held = w.get_message(Kind::Deployment, id.as_bytes())?;
    let deployment_id = id.as_bytes().to_vec().into();
    Ok(held.unwrap_or(DeploymentState {
        deployment_id,
        ..DeploymentState::default()
    }))
}

pub(crate) fn put_deployment(
    w: &Writer<'_>,
    state: &DeploymentState,
    now: Timestamp,
) -> Result<(), Error> {
    w.put_message(Kind::Deployment, &state.deployment_id, state, now)?;
    Ok(())
}

fn saved_update(
    w: &Writer<'_>,
    deployment: DeploymentId,
    update: UpdateNo,
) -> Result<Option<UpdateEnforcementState>, Error> {
    w.get_message(Kind::UpdateEnforcement, &key_of(deployment, update))
}

fn update_state(
    w: &Writer<'_>,
    deployment: DeploymentId,
    update: UpdateNo,
) -> Result<Option<State>, Error> {
    Ok(saved_update(w, deployment, update)?.and_then(|saved| state_of(saved.state)))
}

fn state_of(number: i32) -> Option<State> {
    u8::try_from(number).ok().and_then(State::from_id)
}

pub(crate) fn put_update(
    w: &Writer<'_>,
    deployment: DeploymentId,
    update: UpdateNo,
    state: State,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Result<(), Error> {
    let message = UpdateEnforcementState {
        deployment_id: deployment.as_bytes().to_vec().into(),
        update_no: update.0,
        state: state.id().into(),
        error_code: failure.map_or(0, |failure| failure.code),
        detail: failure.map_or_else(String::new, |failure| failure.detail.clone()),
        serial: 0,
        changed_at: None,
    };
    w.put_message(
        Kind::UpdateEnforcement,
        &key_of(deployment, update),
        &message,
        now,
    )?;
    Ok(())
}
