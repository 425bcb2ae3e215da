//! What clients say of deployments, by state: the clients behind each count. Pure, as the matrix;
//! the rows are the truth, this is told of what changed in them after each commit.

use std::collections::BTreeMap;

use muster_compliance::{RoaringBitmap, StateBitmaps};
use muster_domain::states::{
    DeploymentCompliance, DeploymentEnforcement, DeploymentEvaluation, UpdateEnforcement,
};

/// What one client says of one deployment: topics 300, 301 and 302.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OfDeployment {
    pub(crate) compliance: DeploymentCompliance,
    pub(crate) enforcement: DeploymentEnforcement,
    pub(crate) evaluation: DeploymentEvaluation,
    pub(crate) error_code: i32,
}

/// What one client says of one update of a deployment: topic 402.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OfUpdate {
    pub(crate) state: UpdateEnforcement,
    pub(crate) error_code: i32,
}

/// A row that really changed; `None` is no row, before or after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moved<K, S> {
    pub(crate) client_no: i32,
    pub(crate) key: K,
    pub(crate) from: Option<S>,
    pub(crate) to: Option<S>,
}

/// The rows that a batch really changed, in the order in which it did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StateMoves {
    /// By deployment.
    pub(crate) deployments: Vec<Moved<i32, OfDeployment>>,
    /// By deployment and update.
    pub(crate) updates: Vec<Moved<(i32, i32), OfUpdate>>,
}

/// By how much a counter moves: deployment, topic, state, clients.
pub(crate) type CounterMove = (i32, i16, i16, i32);

impl StateMoves {
    /// Further rows changed.
    pub(crate) fn extend(&mut self, later: Self) {
        self.deployments.extend(later.deployments);
        self.updates.extend(later.updates);
    }

    /// Other rows changed before these.
    pub(crate) fn follow(&mut self, mut earlier: Self) {
        std::mem::swap(self, &mut earlier);
        self.extend(earlier);
    }

    /// What these moves do to the counters, each counter once and only those that move.
    pub(crate) fn counters(&self) -> Vec<CounterMove> {
        let mut counters: BTreeMap<(i32, i16, i16), i32> = BTreeMap::new();
        for moved in &self.deployments {
            for (said, by) in [(moved.from, -1), (moved.to, 1)] {
                let Some(said) = said else { continue };
                for (topic, state) in [
                    (300, said.compliance.id()),
                    (301, said.enforcement.id()),
                    (302, said.evaluation.id()),
                ] {
                    *counters
                        .entry((moved.key, topic, state.into()))
                        .or_default() += by;
                }
            }
        }
        counters
            .into_iter()
            .filter(|(_, by)| *by != 0)
            .map(|((deployment_no, topic, state), by)| (deployment_no, topic, state, by))
            .collect()
    }
}

/// Clients by what they said, of every deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeploymentStates {
    /// Topic 300, by deployment.
    pub(crate) compliance: StateBitmaps<i32, DeploymentCompliance>,
    /// Topic 301, by deployment.
    pub(crate) enforcement: StateBitmaps<i32, DeploymentEnforcement>,
    /// Topic 302, by deployment.
    pub(crate) evaluation: StateBitmaps<i32, DeploymentEvaluation>,
    /// Topic 402, by deployment and update.
    pub(crate) updates: StateBitmaps<(i32, i32), UpdateEnforcement>,
    /// Error codes other than 0, by deployment and update; those of the deployment as a whole
    /// without an update.
    pub(crate) errors: StateBitmaps<(i32, Option<i32>), i32>,
}

impl DeploymentStates {
    /// Takes over a row of which nothing is held yet.
    pub(crate) fn load_deployment(
        &mut self,
        client_no: i32,
        deployment_no: i32,
        said: OfDeployment,
    ) {
        let client = client_no.unsigned_abs();
        self.compliance.add(deployment_no, client, said.compliance);
        self.enforcement
            .add(deployment_no, client, said.enforcement);
        self.evaluation.add(deployment_no, client, said.evaluation);
        if said.error_code != 0 {
            self.errors
                .add((deployment_no, None), client, said.error_code);
        }
    }

    /// As [`load_deployment`](Self::load_deployment), of one update.
    pub(crate) fn load_update(&mut self, client_no: i32, key: (i32, i32), said: OfUpdate) {
        let client = client_no.unsigned_abs();
        self.updates.add(key, client, said.state);
        if said.error_code != 0 {
            self.errors
                .add((key.0, Some(key.1)), client, said.error_code);
        }
    }

    /// Takes over what a batch committed.
    pub(crate) fn apply(&mut self, moves: &StateMoves) {
        for it in &moves.deployments {
            let client = it.client_no.unsigned_abs();
            let (from, to) = (it.from, it.to);
            let compliance = |said: OfDeployment| said.compliance;
            let enforcement = |said: OfDeployment| said.enforcement;
            let evaluation = |said: OfDeployment| said.evaluation;
            let (of_300, of_301) = (&mut self.compliance, &mut self.enforcement);
            of_300.move_client(it.key, client, from.map(compliance), to.map(compliance));
            of_301.move_client(it.key, client, from.map(enforcement), to.map(enforcement));
            let of_302 = &mut self.evaluation;
            of_302.move_client(it.key, client, from.map(evaluation), to.map(evaluation));
            let error = |said: Option<OfDeployment>| said.map_or(0, |it| it.error_code);
            self.move_error((it.key, None), client, error(from), error(to));
        }
        for it in &moves.updates {
            let client = it.client_no.unsigned_abs();
            let state = |said: Option<OfUpdate>| said.map(|it| it.state);
            let (from, to) = (state(it.from), state(it.to));
            self.updates.move_client(it.key, client, from, to);
            let error = |said: Option<OfUpdate>| said.map_or(0, |it| it.error_code);
            let key = (it.key.0, Some(it.key.1));
            self.move_error(key, client, error(it.from), error(it.to));
        }
    }

    fn move_error(&mut self, key: (i32, Option<i32>), client: u32, from: i32, to: i32) {
        let code = |code: i32| (code != 0).then_some(code);
        if from != to {
            self.errors.move_client(key, client, code(from), code(to));
        }
    }

    /// Forgets clients.
    pub(crate) fn remove_clients(&mut self, clients: &RoaringBitmap) {
        self.compliance.remove_clients(clients);
        self.enforcement.remove_clients(clients);
        self.evaluation.remove_clients(clients);
        self.updates.remove_clients(clients);
        self.errors.remove_clients(clients);
    }

    /// Forgets a deployment.
    pub(crate) fn remove_deployment(&mut self, deployment_no: i32) {
        self.compliance.remove(deployment_no);
        self.enforcement.remove(deployment_no);
        self.evaluation.remove(deployment_no);
        self.updates.retain(|(of, _)| of != deployment_no);
        self.errors.retain(|(of, _)| of != deployment_no);
    }

    /// How many of the members are in each enforcement state, those in none left out. Who has
    /// said nothing is in "unknown".
    pub(crate) fn enforcement_counts(
        &self,
        deployment_no: i32,
        members: &RoaringBitmap,
    ) -> Vec<(DeploymentEnforcement, u32)> {
        let mut counts = self.enforcement.counts(deployment_no, Some(members));
        let said: u64 = counts.iter().map(|(_, clients)| u64::from(*clients)).sum();
        let silent = u32::try_from(members.len().saturating_sub(said)).unwrap_or(u32::MAX);
        match counts.first_mut() {
            Some((DeploymentEnforcement::Unknown, clients)) => *clients += silent,
            _ if silent > 0 => counts.insert(0, (DeploymentEnforcement::Unknown, silent)),
            _ => {}
        }
        counts
    }

    /// The members in an enforcement state; who has said nothing is in "unknown".
    pub(crate) fn in_enforcement(
        &self,
        deployment_no: i32,
        state: DeploymentEnforcement,
        members: &RoaringBitmap,
    ) -> RoaringBitmap {
        let held = &self.enforcement;
        let mut clients = held
            .in_state(deployment_no, state, Some(members))
            .into_owned();
        if state == DeploymentEnforcement::Unknown {
            clients |= held.in_none(deployment_no, members);
        }
        clients
    }

    /// How many of the members are in each pair of enforcement and compliance, in order; who has
    /// said nothing is unknown in both.
    pub(crate) fn pairs(
        &self,
        deployment_no: i32,
        members: &RoaringBitmap,
    ) -> Vec<(DeploymentEnforcement, DeploymentCompliance, u32)> {
        let mut pairs = Vec::new();
        for state in DeploymentEnforcement::ALL {
            let enforcement = self.in_enforcement(deployment_no, *state, members);
            if enforcement.is_empty() {
                continue;
            }
            let mut rest = enforcement.len();
            let unknown = pairs.len();
            for (compliance, clients) in self.compliance.counts(deployment_no, Some(&enforcement)) {
                rest -= u64::from(clients);
                pairs.push((*state, compliance, clients));
            }
            let rest = u32::try_from(rest).unwrap_or(u32::MAX);
            match pairs.get_mut(unknown) {
                Some((_, DeploymentCompliance::Unknown, clients)) => *clients += rest,
                _ if rest > 0 => {
                    pairs.insert(unknown, (*state, DeploymentCompliance::Unknown, rest));
                }
                _ => {}
            }
        }
        pairs
    }

    /// How many (client, update) of a deployment are in each state.
    pub(crate) fn update_counts(&self, deployment_no: i32) -> BTreeMap<UpdateEnforcement, u32> {
        let mut counts = BTreeMap::new();
        let keys = (deployment_no, i32::MIN)..=(deployment_no, i32::MAX);
        for (_, state, clients) in self.updates.range(keys) {
            *counts.entry(state).or_default() += u32::try_from(clients.len()).unwrap_or(u32::MAX);
        }
        counts
    }

    /// How many clients are in each state of each deployment, as the counters count them.
    pub(crate) fn counters(&self) -> Vec<CounterMove> {
        let number = |clients: &RoaringBitmap| i32::try_from(clients.len()).unwrap_or(i32::MAX);
        let of_300 = self.compliance.range(..);
        let of_301 = self.enforcement.range(..);
        let of_302 = self.evaluation.range(..);
        of_300
            .map(|(key, state, held)| (key, 300, state.id().into(), number(held)))
            .chain(of_301.map(|(key, state, held)| (key, 301, state.id().into(), number(held))))
            .chain(of_302.map(|(key, state, held)| (key, 302, state.id().into(), number(held))))
            .collect()
    }

    /// Bytes of all bitmaps, for a gauge.
    pub(crate) fn bytes(&self) -> u64 {
        self.compliance.bytes()
            + self.enforcement.bytes()
            + self.evaluation.bytes()
            + self.updates.bytes()
            + self.errors.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(enforcement: DeploymentEnforcement, compliance: DeploymentCompliance) -> OfDeployment {
        OfDeployment {
            compliance,
            enforcement,
            evaluation: DeploymentEvaluation::Succeeded,
            error_code: 0,
        }
    }

    fn moved(client_no: i32, from: Option<OfDeployment>, to: Option<OfDeployment>) -> StateMoves {
        let deployments = vec![Moved {
            client_no,
            key: 7,
            from,
            to,
        }];
        StateMoves {
            deployments,
            updates: Vec::new(),
        }
    }

    use DeploymentCompliance::{Compliant, NonCompliant};
    use DeploymentEnforcement::{Installing, SuccessfullyInstalled, Unknown};

    #[test]
    fn who_has_said_nothing_is_unknown_and_strangers_do_not_count() {
        let mut states = DeploymentStates::default();
        states.apply(&moved(1, None, Some(said(Unknown, NonCompliant))));
        states.apply(&moved(2, None, Some(said(Installing, NonCompliant))));
        states.apply(&moved(9, None, Some(said(Installing, NonCompliant))));
        let members = RoaringBitmap::from_iter([1, 2, 3]);
        assert_eq!(
            states.enforcement_counts(7, &members),
            [(Unknown, 2), (Installing, 1)]
        );
        assert_eq!(
            states.in_enforcement(7, Unknown, &members),
            RoaringBitmap::from_iter([1, 3])
        );
        assert_eq!(
            states.pairs(7, &members),
            [
                (Unknown, DeploymentCompliance::Unknown, 1),
                (Unknown, NonCompliant, 1),
                (Installing, NonCompliant, 1)
            ]
        );
        states.remove_deployment(7);
        assert_eq!(states, DeploymentStates::default());
    }

    #[test]
    fn counters_move_by_the_difference_and_only_where_they_move() {
        let (before, after) = (
            said(Installing, NonCompliant),
            said(SuccessfullyInstalled, Compliant),
        );
        let moves = moved(1, Some(before), Some(after));
        assert_eq!(
            moves.counters(),
            [
                (7, 300, 1, 1),
                (7, 300, 2, -1),
                (7, 301, 1, -1),
                (7, 301, 4, 1)
            ]
        );
        let gone_and_back = StateMoves {
            deployments: [moved(1, Some(after), None), moved(1, None, Some(after))]
                .into_iter()
                .flat_map(|it| it.deployments)
                .collect(),
            updates: Vec::new(),
        };
        assert!(gone_and_back.counters().is_empty());
    }

    #[test]
    fn an_error_is_counted_until_it_is_gone() {
        let mut states = DeploymentStates::default();
        let failed = OfUpdate {
            state: UpdateEnforcement::FailedToInstall,
            error_code: 5,
        };
        let better = OfUpdate {
            state: UpdateEnforcement::SuccessfullyInstalled,
            error_code: 0,
        };
        let step = |from, to| StateMoves {
            deployments: Vec::new(),
            updates: vec![Moved {
                client_no: 3,
                key: (7, 1),
                from,
                to,
            }],
        };
        states.apply(&step(None, Some(failed)));
        assert_eq!(states.errors.counts((7, Some(1)), None), [(5, 1)]);
        assert_eq!(
            states.update_counts(7)[&UpdateEnforcement::FailedToInstall],
            1
        );
        states.apply(&step(Some(failed), Some(better)));
        assert_eq!(states.errors.counts((7, Some(1)), None), []);
        states.remove_clients(&RoaringBitmap::from_iter([3]));
        assert_eq!(states, DeploymentStates::default());
    }
}
