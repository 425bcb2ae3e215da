//! How urgent saved states are, and which of them the deployments' verbosity lets through. The
//! rules are in `muster_domain::priority`; here they meet the policy.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use muster_domain::DeploymentId;
use muster_domain::priority::{Priority, Verbosity};
use muster_domain::states::{
    DeploymentCompliance, DeploymentEnforcement, DeploymentEvaluation, UpdateEnforcement,
};
use muster_proto::policy::Policy;
use muster_proto::state::{ClientHealth, DeploymentState, RestartState, UpdateEnforcementState};
use prost::Message;

use crate::Error;
use crate::store::{Kind, SavedState, Writer, meta};

/// A deadline is near this long before it.
const NEAR: SignedDuration = SignedDuration::from_hours(1);

/// What the policy says of each deployment.
#[derive(Debug, Default)]
pub(crate) struct Rules(BTreeMap<DeploymentId, Rule>);

#[derive(Debug, Clone, Copy)]
struct Rule {
    due: bool,
    verbosity: Verbosity,
}

impl Rules {
    /// By the policy in force.
    pub(crate) fn read(r: &Writer<'_>, now: Timestamp) -> Result<Self, Error> {
        let Some(bytes) = r.bytes(meta::POLICY)? else {
            return Ok(Self::default());
        };
        let policy =
            Policy::decode(bytes.as_slice()).map_err(|_| Error::Saved { what: "policy" })?;
        Ok(Self::of(&policy, now))
    }

    fn of(policy: &Policy, now: Timestamp) -> Self {
        let rules = policy.deployments.iter().filter_map(|deployment| {
            let id = DeploymentId::from_slice(&deployment.deployment_id).ok()?;
            let deadline = deployment.deadline_at.as_ref();
            let deadline = deadline.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok());
            let due = deadline.is_some_and(|at| at.duration_since(now) < NEAR);
            let verbosity = u8::try_from(deployment.verbosity).unwrap_or(u8::MAX);
            let verbosity = Verbosity::from_id(verbosity);
            Some((id, Rule { due, verbosity }))
        });
        Self(rules.collect())
    }

    /// Of what the policy no longer has, everything is sent.
    fn rule(&self, key: &[u8]) -> Rule {
        let id = key
            .get(..16)
            .and_then(|id| DeploymentId::from_slice(id).ok());
        id.and_then(|id| self.0.get(&id).copied()).unwrap_or(Rule {
            due: false,
            verbosity: Verbosity::All,
        })
    }

    /// How urgent a state is. One that cannot be read is sent like any other.
    pub(crate) fn priority(&self, state: &SavedState) -> Priority {
        let (value, rule) = (state.value.as_slice(), || self.rule(&state.key));
        let known = match state.kind {
            Kind::UpdateEnforcement => UpdateEnforcementState::decode(value).ok().map(|it| {
                Priority::of_update(known(it.state, UpdateEnforcement::from_id), rule().due)
            }),
            Kind::Deployment => DeploymentState::decode(value).ok().map(|it| {
                let enforcement = known(it.enforcement, DeploymentEnforcement::from_id);
                let evaluation = known(it.evaluation, DeploymentEvaluation::from_id);
                Priority::of_deployment(enforcement, evaluation, rule().due)
            }),
            Kind::Restart => RestartState::decode(value)
                .ok()
                .map(|it| Priority::of_restart(it.pending)),
            Kind::Health => ClientHealth::decode(value)
                .ok()
                .map(|it| Priority::of_health(it.healthy)),
            Kind::Detection | Kind::Scan => Some(Priority::SCAN),
            Kind::Inventory => Some(Priority::INVENTORY),
            // It takes along what could wait.
            Kind::Heartbeat => None,
        };
        known.unwrap_or(Priority::Normal)
    }

    /// Whether the site wants to hear of a state.
    pub(crate) fn lets(&self, state: &SavedState) -> bool {
        let (value, rule) = (state.value.as_slice(), || self.rule(&state.key));
        let lets = match state.kind {
            Kind::UpdateEnforcement => UpdateEnforcementState::decode(value).ok().map(|it| {
                let state = known(it.state, UpdateEnforcement::from_id);
                rule().verbosity.lets_update(state)
            }),
            Kind::Deployment => DeploymentState::decode(value).ok().map(|it| {
                rule().verbosity.lets_deployment(
                    known(it.compliance, DeploymentCompliance::from_id),
                    known(it.enforcement, DeploymentEnforcement::from_id),
                    known(it.evaluation, DeploymentEvaluation::from_id),
                )
            }),
            Kind::Restart
            | Kind::Heartbeat
            | Kind::Health
            | Kind::Detection
            | Kind::Scan
            | Kind::Inventory => Some(true),
        };
        lets.unwrap_or(true)
    }
}

fn known<T>(number: i32, from_id: fn(u8) -> Option<T>) -> T
where
    T: Unknown,
{
    let id = u8::try_from(number).ok();
    id.and_then(from_id).unwrap_or(T::UNKNOWN)
}

/// A state that nothing is known of.
trait Unknown {
    const UNKNOWN: Self;
}

impl Unknown for UpdateEnforcement {
    const UNKNOWN: Self = Self::Unknown;
}

impl Unknown for DeploymentCompliance {
    const UNKNOWN: Self = Self::Unknown;
}

impl Unknown for DeploymentEnforcement {
    const UNKNOWN: Self = Self::Unknown;
}

impl Unknown for DeploymentEvaluation {
    const UNKNOWN: Self = Self::Unknown;
}

/// A deployment whose verbosity has grown: what was kept back of it is news.
pub(crate) fn tell_more(
    w: &Writer<'_>,
    before: Option<&Policy>,
    fresh: &Policy,
) -> Result<(), Error> {
    let Some(before) = before else {
        return Ok(());
    };
    let level = |number: i32| Verbosity::from_id(u8::try_from(number).unwrap_or(u8::MAX));
    let grown = fresh.deployments.iter().filter(|deployment| {
        let same =
            |it: &&muster_proto::policy::Deployment| it.deployment_id == deployment.deployment_id;
        let held = before.deployments.iter().find(same);
        held.is_some_and(|held| level(held.verbosity) < level(deployment.verbosity))
    });
    let grown: Vec<&[u8]> = grown.map(|it| it.deployment_id.as_ref()).collect();
    if grown.is_empty() {
        return Ok(());
    }
    for state in w.changed_after(0)? {
        let of_it = |id: &&[u8]| state.key.starts_with(id);
        let kind = matches!(state.kind, Kind::Deployment | Kind::UpdateEnforcement);
        if kind && grown.iter().any(of_it) {
            w.renumber(&state)?;
        }
    }
    Ok(())
}
