//! How each link is, for people and for metrics.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_domain::SiteCode;
use muster_link::State;
use muster_proto::link::LinkHealth;
use muster_proto::{convert, site as pb};
use muster_runtime::status::chain;

use super::{Error, Neighbour, Site};
use crate::domain::link_progress::Progress;
use crate::domain::names::cleaned;
use crate::store::sites;

/// What was applied longer ago says nothing of how it goes now.
const LATELY: Duration = Duration::from_secs(60);

/// How a link is.
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
    /// Why nothing could be sent, as it was tried last.
    pub(crate) problem: Option<String>,
    /// A session speaks with the peer, or tries to.
    connected: bool,
    /// The last number we gave.
    pub(crate) sent_seq: u64,
    /// Clients that changed and are in no batch.
    pub(crate) clients_changed: u64,
    /// Keys that are dirty or under way.
    pub(crate) items_behind: u64,
    /// Since when the oldest of them waits.
    pub(crate) oldest: Option<Timestamp>,
    /// Keys per second that arrived there.
    pub(crate) send_rate: f64,
    /// Until nothing is behind.
    pub(crate) time_left: Option<Duration>,
    /// Keys per second that arrived here.
    pub(crate) receive_rate: f64,
    /// When a batch was applied last, and how old it was.
    pub(crate) applied: Option<(Timestamp, Duration)>,
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
            problem: None,
            connected: true,
            sent_seq: 0,
            clients_changed: 0,
            items_behind: 0,
            oldest: None,
            send_rate: 0.0,
            time_left: None,
            receive_rate: 0.0,
            applied: None,
        }
    }

    /// What is behind of what we send.
    pub(super) fn sends(&mut self, behind: u64, progress: &Progress, oldest: Option<Timestamp>) {
        self.items_behind = behind;
        self.oldest = oldest.filter(|_| behind > 0);
        self.send_rate = progress.rate();
        self.time_left = progress.time_left();
    }

    /// A batch of the peer that was numbered at this time is applied.
    pub(super) fn applied_at(&mut self, numbered_at: Timestamp) {
        let now = Timestamp::now();
        self.applied = Some((now, age(numbered_at, now)));
    }

    /// How old the oldest is that the peer does not have.
    pub(crate) fn lag(&self, now: Timestamp) -> Duration {
        self.oldest
            .map_or(Duration::ZERO, |oldest| age(oldest, now))
    }

    pub(crate) fn link_health(&self) -> LinkHealth {
        match (&self.refusal, self.health) {
            (Some(_), _) => LinkHealth::Refused,
            (None, State::Healthy) => LinkHealth::Healthy,
            (None, State::Degraded) => LinkHealth::Degraded,
            (None, State::Failed) => LinkHealth::Failed,
        }
    }
}

fn age(of: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(of).try_into().unwrap_or_default()
}

fn states(site: &Site) -> MutexGuard<'_, BTreeMap<SiteCode, LinkStatus>> {
    let states = site.links.states.lock();
    states.unwrap_or_else(PoisonError::into_inner)
}

/// The links with what their rows say and what their sessions know, the parent first.
pub(crate) async fn shown(
    site: &Site,
    db: &impl GenericClient,
) -> Result<Vec<pb::SiteLink>, Error> {
    let mut links = sites::links(db, site.config.site_code).await?;
    let states = states(site);
    let now = Timestamp::now();
    for link in &mut links {
        let code = link.peer_site_code.parse::<SiteCode>().ok();
        if let Some(status) = code.and_then(|code| states.get(&code)) {
            add(link, status, now);
        }
    }
    Ok(links)
}

/// Adds what the link's session knows.
fn add(link: &mut pb::SiteLink, status: &LinkStatus, now: Timestamp) {
    link.problem = status.problem.clone().unwrap_or_default();
    if !status.connected {
        return;
    }
    link.health = status.link_health().into();
    link.since = Some(convert::to_timestamp(status.since));
    link.heard_at = status.heard_at.map(convert::to_timestamp).or(link.heard_at);
    link.missed_cycles = status.missed;
    if let Some(refusal) = &status.refusal {
        link.refusal.clone_from(refusal);
    }
    if let Some(sending) = &mut link.sending {
        sending.items_behind += status.clients_changed;
        sending.numbered_seq = sending.numbered_seq.max(status.sent_seq);
        sending.rate = status.send_rate;
        if sending.items_behind > 0 {
            sending.time_left = status.time_left.map(convert::to_duration);
        }
    }
    if let Some(receiving) = &mut link.receiving {
        receiving.rate = status.receive_rate;
        let lately = status.applied.filter(|(at, _)| age(*at, now) < LATELY);
        receiving.lag = lately.map(|(_, lag)| convert::to_duration(lag));
    }
}

/// The way to the peer could not be opened; what its rows say of the link is all that is known.
pub(crate) fn cannot_connect(
    site: &Site,
    peer: Neighbour,
    why: &(dyn std::error::Error + 'static),
) {
    let mut states = states(site);
    let status = states.entry(peer.code).or_insert_with(|| LinkStatus {
        connected: false,
        ..LinkStatus::new(peer)
    });
    status.problem = Some(problem(why));
}

/// An error of the way to the peer, for people.
pub(super) fn problem(why: &(dyn std::error::Error + 'static)) -> String {
    cleaned(&chain(why).to_string(), 512)
}

pub(super) fn keep(site: &Site, status: &LinkStatus) {
    let now = Timestamp::now();
    let health = match status.link_health() {
        LinkHealth::Unspecified | LinkHealth::Healthy => 0.0,
        LinkHealth::Degraded => 1.0,
        LinkHealth::Failed => 2.0,
        LinkHealth::Refused => 3.0,
    };
    let left = match status.time_left {
        Some(left) => left.as_secs_f64(),
        None if status.items_behind == 0 => 0.0,
        None => f64::INFINITY,
    };
    #[expect(clippy::cast_precision_loss, reason = "a count of keys")]
    gauge(
        site,
        status.peer.code,
        &Gauges {
            health,
            behind: status.items_behind as f64,
            lag: status.lag(now).as_secs_f64(),
            send_rate: status.send_rate,
            receive_rate: status.receive_rate,
            left,
            silent: age(status.heard_at.unwrap_or(status.since), now).as_secs_f64(),
        },
    );
    states(site).insert(status.peer.code, status.clone());
}

/// What the metrics of a link show.
#[derive(Default)]
struct Gauges {
    health: f64,
    behind: f64,
    lag: f64,
    send_rate: f64,
    receive_rate: f64,
    left: f64,
    silent: f64,
}

fn gauge(site: &Site, peer: SiteCode, shown: &Gauges) {
    let of = [
        ("site", site.config.site_code.to_string()),
        ("peer", peer.to_string()),
    ];
    metrics::gauge!("muster_link_health", &of).set(shown.health);
    metrics::gauge!("muster_link_items_behind", &of).set(shown.behind);
    metrics::gauge!("muster_link_lag_seconds", &of).set(shown.lag);
    metrics::gauge!("muster_link_send_rate", &of).set(shown.send_rate);
    metrics::gauge!("muster_link_receive_rate", &of).set(shown.receive_rate);
    metrics::gauge!("muster_link_catch_up_seconds", &of).set(shown.left);
    metrics::gauge!("muster_link_silent_seconds", &of).set(shown.silent);
}

/// Forgets links that are no more: nobody is to be woken because of them.
pub(super) fn keep_only(site: &Site, joined: &[(Neighbour, Timestamp)]) {
    states(site).retain(|code, _| {
        let stays = joined.iter().any(|(peer, _)| peer.code == *code);
        if !stays {
            gauge(site, *code, &Gauges::default());
        }
        stays
    });
}
