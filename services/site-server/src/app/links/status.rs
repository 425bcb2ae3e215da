//! How each link is, for people and for metrics.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use jiff::Timestamp;
use muster_domain::SiteCode;
use muster_link::{Mark, State};

use super::{Neighbour, Site};

/// How a link is.
#[allow(dead_code, reason = "for the services that show it")]
#[derive(Debug, Clone)]
pub(crate) struct LinkStatus {
    pub(crate) peer: Neighbour,
    pub(crate) health: State,
    /// Since when it is so.
    pub(crate) since: Timestamp,
    /// When the peer said something last.
    pub(crate) heard_at: Option<Timestamp>,
    /// Cycles without a word of it.
    pub(crate) missed: u32,
    /// A stable word, a colon, and text for people.
    pub(crate) refusal: Option<String>,
    /// What the peer's database has of ours.
    pub(crate) acked: Mark,
    /// The last number we gave.
    pub(crate) sent_seq: u64,
    /// What our database has of the peer's.
    pub(crate) applied: Mark,
    /// Keys that are dirty or under way.
    pub(crate) items_behind: u64,
    /// How long it took lately from numbering a batch to its acknowledgement, in seconds.
    pub(crate) lag: f64,
    /// Batches acknowledged and applied in the last cycle.
    pub(crate) batches: u64,
}

impl LinkStatus {
    pub(super) fn new(peer: Neighbour) -> Self {
        Self {
            peer,
            health: State::Healthy,
            since: Timestamp::now(),
            heard_at: None,
            missed: 0,
            refusal: None,
            acked: Mark::default(),
            sent_seq: 0,
            applied: Mark::default(),
            items_behind: 0,
            lag: 0.0,
            batches: 0,
        }
    }
}

fn states(site: &Site) -> MutexGuard<'_, BTreeMap<SiteCode, LinkStatus>> {
    let states = site.links.states.lock();
    states.unwrap_or_else(PoisonError::into_inner)
}

/// How all links are.
#[allow(dead_code, reason = "for the services that show it")]
pub(crate) fn status(site: &Site) -> Vec<LinkStatus> {
    states(site).values().cloned().collect()
}

pub(super) fn keep(site: &Site, status: &LinkStatus) {
    let code = status.peer.code.to_string();
    let health = match (&status.refusal, status.health) {
        (Some(_), _) => 3.0,
        (None, State::Healthy) => 0.0,
        (None, State::Degraded) => 1.0,
        (None, State::Failed) => 2.0,
    };
    metrics::gauge!("muster_link_health", "peer" => code.clone()).set(health);
    #[expect(clippy::cast_precision_loss, reason = "a count of keys")]
    metrics::gauge!("muster_link_items_behind", "peer" => code.clone())
        .set(status.items_behind as f64);
    metrics::gauge!("muster_link_lag_seconds", "peer" => code).set(status.lag);
    states(site).insert(status.peer.code, status.clone());
}

/// Forgets links that are no more.
pub(super) fn keep_only(site: &Site, joined: &[(Neighbour, Timestamp)]) {
    states(site).retain(|code, _| joined.iter().any(|(peer, _)| peer.code == *code));
}
