//! Takes in what clients reported. All of a batch commits together: marks, states, counters and
//! the quarantine, and only then is the queue told (reliability.md D3, D7).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_proto::{convert, state as pb};
use prost::Message;
use uuid::Uuid;

use super::{Error, Site};
use crate::domain::report::{Refused, Report};
use crate::domain::stream::{Stream, Taken};
use crate::store::{backlog, compliance, quarantine, states, streams};

/// Needs that are remembered in memory; beyond this the database is asked each time.
const MAX_KNOWN_NEEDS: usize = 1_000_000;

/// A message as it came from a queue.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    /// An encoded `ReportBatch`.
    pub(crate) body: bytes::Bytes,
    /// Queue and broker user.
    pub(crate) origin: String,
    /// The broker vouches for the sender.
    pub(crate) trusted: bool,
}

/// One report on its way, or what could not be read as one.
#[derive(Debug)]
pub(crate) struct Item {
    origin: String,
    bytes: bytes::Bytes,
    report: Result<Report, Refused>,
    /// The bytes are a `ReportBatch` that could not be opened, not one report.
    pub(crate) whole_batch: bool,
    /// The broker vouched for the sender.
    trusted: bool,
    /// The client that the certificate named.
    client_id: Option<Uuid>,
    /// The number it has in quarantine, when it is tried again.
    pub(crate) held: Option<i64>,
}

impl Item {
    /// A message that cannot be opened.
    fn whole(message: &Arrived, refused: Refused) -> Self {
        Self {
            origin: message.origin.clone(),
            bytes: message.body.clone(),
            report: Err(refused),
            whole_batch: true,
            trusted: message.trusted,
            client_id: None,
            held: None,
        }
    }

    /// An encoded report of the client that the certificate named.
    pub(crate) fn of_client(
        origin: String,
        named: Option<Uuid>,
        bytes: bytes::Bytes,
        received_at: Timestamp,
    ) -> Self {
        let report = Report::decode(&bytes, received_at).and_then(|report| {
            // The management point checked this against the certificate; a message that says
            // otherwise did not come from one.
            if named != Some(report.client_id.0) {
                return Err(Refused::new(
                    "FOREIGN_CLIENT",
                    "the report names another client",
                ));
            }
            Ok(report)
        });
        Self {
            origin,
            bytes,
            report,
            whole_batch: false,
            trusted: true,
            client_id: named,
            held: None,
        }
    }

    /// The same bytes, refused.
    fn refused(&self, refused: Refused) -> Self {
        Self {
            origin: self.origin.clone(),
            bytes: self.bytes.clone(),
            report: Err(refused),
            ..*self
        }
    }
}

/// What became of the reports of a batch.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) reports: usize,
    pub(crate) states: usize,
    pub(crate) repeats: usize,
    pub(crate) stale: usize,
    pub(crate) quarantined: usize,
}

/// Records a batch of messages. When this returns `Ok`, everything in them is on stable storage
/// or known to be of no more use, and the messages may be acknowledged.
pub(crate) async fn record_states(site: &Site, arrived: &[Arrived]) -> Result<Recorded, Error> {
    let now = Timestamp::now();
    let items: Vec<Item> = arrived
        .iter()
        .flat_map(|message| open(message, now))
        .collect();
    let all: Vec<&Item> = items.iter().collect();
    let recorded = match record(site, &all, now).await {
        Err(error) if error.is_data_error() => {
            // The door let a value through that a table refuses. The others must not suffer.
            tracing::error!(error = %muster_runtime::status::chain(&error),
                            "a report of a batch is refused, recording them one by one");
            one_by_one(site, &items, now).await?
        }
        other => other?,
    };
    count(recorded);
    Ok(recorded)
}

/// The reports in a message, or the message itself when it cannot be opened.
pub(crate) fn open(message: &Arrived, now: Timestamp) -> Vec<Item> {
    if !message.trusted {
        let why = "the broker does not vouch for the sender";
        return vec![Item::whole(message, Refused::new("UNKNOWN_SENDER", why))];
    }
    let batch = match pb::ReportBatch::decode(message.body.clone()) {
        Ok(batch) => batch,
        Err(error) => {
            let refused = Refused::new("UNDECODABLE_BATCH", error);
            return vec![Item::whole(message, refused)];
        }
    };
    let item = |envelope: pb::ReportEnvelope| {
        let received_at = envelope
            .received_at
            .as_ref()
            .and_then(|time| convert::from_timestamp("received_at", time).ok())
            .unwrap_or(now);
        let named = Uuid::from_slice(&envelope.client_id).ok();
        let client = named.map_or_else(|| "unknown client".to_owned(), |id| format!("client {id}"));
        let origin = format!("{}, {client}", message.origin);
        Item::of_client(origin, named, envelope.report, received_at)
    };
    batch.reports.into_iter().map(item).collect()
}

async fn one_by_one(site: &Site, items: &[Item], now: Timestamp) -> Result<Recorded, Error> {
    let mut sum = Recorded::default();
    for item in items {
        let recorded = match record(site, &[item], now).await {
            Err(error) if error.is_data_error() => {
                let refused =
                    Refused::new("REFUSED_BY_DATABASE", muster_runtime::status::chain(&error));
                record(site, &[&item.refused(refused)], now).await?
            }
            other => other?,
        };
        sum.reports += recorded.reports;
        sum.states += recorded.states;
        sum.repeats += recorded.repeats;
        sum.stale += recorded.stale;
        sum.quarantined += recorded.quarantined;
    }
    Ok(sum)
}

/// What a batch does to one client.
#[derive(Debug)]
struct Work {
    client_no: i32,
    deleted: bool,
    stream: Stream,
    changed: bool,
}

async fn record(site: &Site, items: &[&Item], now: Timestamp) -> Result<Recorded, Error> {
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let (recorded, needs) = apply(site, &tx, items, now).await?;
    // An error here leaves the outcome unknown: the messages come again and are recognised.
    tx.commit().await?;
    remember_needs(site, needs);
    Ok(recorded)
}

/// Does to the database what the items say; the caller commits, and then remembers the needs
/// that are returned.
pub(crate) async fn apply(
    site: &Site,
    tx: &impl GenericClient,
    items: &[&Item],
    now: Timestamp,
) -> Result<(Recorded, BTreeSet<(i32, String)>), Error> {
    let mut recorded = Recorded::default();
    site.still_active(tx).await?;

    let ids: BTreeSet<Uuid> = items
        .iter()
        .filter_map(|item| Some(item.report.as_ref().ok()?.client_id.0))
        .collect();
    let ids: Vec<Uuid> = ids.into_iter().collect();
    let mut clients: BTreeMap<Uuid, Work> = streams::lock(tx, &ids)
        .await?
        .into_iter()
        .map(|held| {
            let work = Work {
                client_no: held.client_no,
                deleted: held.deleted,
                stream: held.stream,
                changed: false,
            };
            (held.client_id, work)
        })
        .collect();

    // First what is new at all: a repeat ends here, before any further statement.
    let mut taken = Vec::new();
    for item in items {
        let report = match &item.report {
            Ok(report) => report,
            Err(refused) => {
                keep_aside(tx, item, refused).await?;
                recorded.quarantined += 1;
                continue;
            }
        };
        let Some(work) = clients.get_mut(&report.client_id.0) else {
            let refused = Refused::new("UNKNOWN_CLIENT", "this site has no such client");
            keep_aside(tx, item, &refused).await?;
            recorded.quarantined += 1;
            continue;
        };
        if work.deleted {
            recorded.stale += 1;
            continue;
        }
        match work.stream.take(report, now) {
            Taken::Stale => recorded.stale += 1,
            Taken::Repeat => recorded.repeats += 1,
            Taken::NeverGiven => {
                let detail = format!("epoch {} was never given", report.epoch);
                keep_aside(tx, item, &Refused::new("UNKNOWN_EPOCH", detail)).await?;
                recorded.quarantined += 1;
            }
            fresh @ (Taken::Full(_) | Taken::Delta(_)) => {
                work.changed = true;
                recorded.reports += 1;
                recorded.states += report.states();
                taken.push((work.client_no, report, fresh));
            }
        }
    }

    keep_compliance(tx, &taken).await?;
    states::keep_newest(tx, &newest(&taken)).await?;
    let new_needs = unknown_needs(site, &taken);
    compliance::add_needs(tx, &new_needs.iter().collect::<Vec<_>>()).await?;
    let changed: Vec<(i32, &Stream)> = clients
        .values()
        .filter(|work| work.changed)
        .map(|work| (work.client_no, &work.stream))
        .collect();
    if !changed.is_empty() {
        streams::keep(tx, &changed, now).await?;
        let (reports, states) = (recorded.reports, recorded.states);
        backlog::add_totals(
            tx,
            i64::try_from(reports).unwrap_or(i64::MAX),
            i64::try_from(states).unwrap_or(i64::MAX),
        )
        .await?;
    }
    Ok((recorded, new_needs))
}

/// What follows a commit that was not made by [`record_states`].
pub(crate) fn finish(site: &Site, recorded: Recorded, needs: BTreeSet<(i32, String)>) {
    remember_needs(site, needs);
    count(recorded);
}

async fn keep_aside(db: &impl GenericClient, item: &Item, refused: &Refused) -> Result<(), Error> {
    let reason = reason(refused);
    if let Some(quarantine_no) = item.held {
        return quarantine::refuse_again(db, quarantine_no, &reason).await;
    }
    tracing::warn!(
        origin = item.origin,
        reason = refused.reason,
        detail = refused.detail,
        bytes = item.bytes.len(),
        "message quarantined"
    );
    metrics::counter!("muster_state_quarantined_total", "reason" => refused.reason).increment(1);
    let aside = quarantine::Aside {
        origin: &item.origin,
        reason: &reason,
        body: &item.bytes,
        whole_batch: item.whole_batch,
        trusted: item.trusted,
        client_id: item.client_id,
    };
    quarantine::keep(db, &aside).await
}

/// The reason as it is stored.
pub(crate) fn reason(refused: &Refused) -> String {
    crate::domain::names::cleaned(&refused.to_string(), 1_024)
}

type Fresh<'a> = (i32, &'a Report, Taken);

/// Applies compliance in the order of arrival and moves the counters by what really changed.
async fn keep_compliance(db: &impl GenericClient, taken: &[Fresh<'_>]) -> Result<(), Error> {
    let touched: BTreeSet<i32> = taken
        .iter()
        .filter(|(_, _, fresh)| !matches!(fresh, Taken::Delta(parts) if parts.is_empty()))
        .map(|(client_no, _, _)| *client_no)
        .collect();
    if touched.is_empty() {
        return Ok(());
    }
    let mut held = compliance::load(db, &touched.iter().copied().collect::<Vec<_>>()).await?;
    let mut written = BTreeSet::new();
    let mut difference = compliance::Difference::default();
    for (client_no, report, fresh) in taken {
        let parts = match fresh {
            Taken::Full(parts) => {
                let row = held.entry(*client_no).or_default();
                difference.add(&row.states.replace(&report.compliance.states));
                row.epoch = report.epoch;
                row.serial = report.last_serial;
                row.catalog_generation = report.compliance.catalog_generation;
                written.insert(*client_no);
                parts
            }
            Taken::Delta(parts) => parts,
            Taken::Stale | Taken::NeverGiven | Taken::Repeat => continue,
        };
        for part in parts {
            let row = held.entry(*client_no).or_default();
            let changes = row.states.merge(&part.states);
            let generation = part.catalog_generation.max(row.catalog_generation);
            // Most reports say nothing about compliance: the large row stays as it is.
            if !changes.is_empty() || generation != row.catalog_generation {
                row.epoch = report.epoch;
                row.serial = part.last_serial;
                row.catalog_generation = generation;
                written.insert(*client_no);
            }
            difference.add(&changes);
        }
    }
    for client_no in written {
        if let Some(row) = held.get(&client_no) {
            compliance::keep(db, client_no, row).await?;
        }
    }
    compliance::move_counters(db, &difference).await
}

/// The newest value of each key in the batch.
fn newest(taken: &[Fresh<'_>]) -> states::Fresh {
    let mut fresh = states::Fresh::default();
    for (client_no, report, kind) in taken {
        let client = fresh.clients.entry(*client_no).or_default();
        client.epoch = report.epoch;
        if matches!(kind, Taken::Full(_)) {
            let to = report.last_serial;
            client.replaced_to = client.replaced_to.max(Some(to));
            client.enforcements.retain(|_, state| state.serial > to);
            client.deployments.retain(|_, state| state.serial > to);
        }
        for state in &report.enforcements {
            let key = (state.deployment_id.0, state.update_no);
            if client
                .enforcements
                .get(&key)
                .is_none_or(|held| held.serial < state.serial)
            {
                client.enforcements.insert(key, state.clone());
            }
        }
        for state in &report.deployments {
            let key = state.deployment_id.0;
            if client
                .deployments
                .get(&key)
                .is_none_or(|held| held.serial < state.serial)
            {
                client.deployments.insert(key, state.clone());
            }
        }
        newer(&mut client.scan, report.scan.as_ref(), |state| state.serial);
        newer(&mut client.restart, report.restart.as_ref(), |state| {
            state.serial
        });
        newer(&mut client.inventory, report.inventory.as_ref(), |state| {
            state.serial
        });
        newer(&mut client.health, report.health.as_ref(), |state| {
            state.serial
        });
    }
    fresh
}

fn newer<T: Clone>(held: &mut Option<T>, fresh: Option<&T>, serial: impl Fn(&T) -> i64) {
    if let Some(fresh) = fresh
        && held
            .as_ref()
            .is_none_or(|held| serial(held) < serial(fresh))
    {
        *held = Some(fresh.clone());
    }
}

/// Needs that are not known to be in the database.
fn unknown_needs(site: &Site, taken: &[Fresh<'_>]) -> BTreeSet<(i32, String)> {
    let known = site
        .known_needs
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    taken
        .iter()
        .flat_map(|(_, report, _)| &report.needs)
        .filter(|need| !known.contains(*need))
        .cloned()
        .collect()
}

/// Keeps new needs in mind once they are in the database, and wakes who fetches content.
fn remember_needs(site: &Site, needs: BTreeSet<(i32, String)>) {
    if needs.is_empty() {
        return;
    }
    site.content_wanted.notify_one();
    let mut known = site
        .known_needs
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if known.len() + needs.len() <= MAX_KNOWN_NEEDS {
        known.extend(needs);
    }
}

fn count(recorded: Recorded) {
    for (outcome, reports) in [
        ("recorded", recorded.reports),
        ("repeat", recorded.repeats),
        ("stale", recorded.stale),
        ("quarantined", recorded.quarantined),
    ] {
        metrics::counter!("muster_state_reports_total", "outcome" => outcome)
            .increment(u64::try_from(reports).unwrap_or(0));
    }
    metrics::counter!("muster_state_states_total")
        .increment(u64::try_from(recorded.states).unwrap_or(0));
}
