//! Takes in what clients reported. All of a batch commits together: marks, states, counters and
//! the quarantine, and only then is the queue told (reliability.md D3, D7).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use tracing::Instrument;
use uuid::Uuid;

use super::open_batch::{Arrived, Item, open};
use super::{Error, Site};
use crate::domain::report::{MAX_AHEAD, Refused, Report};
use crate::domain::stream::{Stream, Taken};
use crate::store::{backlog, catalog, compliance, quarantine, states, streams};

/// Needs that are remembered in memory; beyond this the database is asked each time.
const MAX_KNOWN_NEEDS: usize = 1_000_000;

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
        let ceiling = ceiling(site, tx, item).await?;
        let outcome = match judge(item, &mut clients, ceiling, now) {
            Judged::Fresh(client_no, report, fresh) => {
                recorded.reports += 1;
                recorded.states += report.states();
                taken.push((client_no, report, fresh));
                "recorded"
            }
            Judged::Repeat => {
                recorded.repeats += 1;
                "repeat"
            }
            Judged::Stale => {
                recorded.stale += 1;
                "stale"
            }
            Judged::Refused(refused) => {
                let kept = keep_aside(tx, item, &refused);
                kept.instrument(item.span.clone()).await?;
                recorded.quarantined += 1;
                "quarantined"
            }
        };
        item.span.record("outcome", outcome);
    }

    keep_compliance(tx, &taken).await?;
    states::keep_newest(tx, &newest(&taken)).await?;
    let new_needs = unknown_needs(site, &taken);
    let new_needs = compliance::add_needs(tx, &new_needs.iter().collect::<Vec<_>>()).await?;
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

/// What an item is to the stream of its client.
enum Judged<'a> {
    Fresh(i32, &'a Report, Taken),
    Repeat,
    Stale,
    Refused(Cow<'a, Refused>),
}

/// The highest number of an update that a report may name. Reports may come before the catalog
/// does, and count from then on; numbers are dense, so one far beyond the catalog names nothing.
async fn ceiling(site: &Site, tx: &impl GenericClient, item: &Item) -> Result<i32, Error> {
    let known = site.highest_update.load(Ordering::Relaxed);
    let ceiling = known.saturating_add(MAX_AHEAD);
    match &item.report {
        Ok(report) if report.highest_update() > ceiling => {
            let known = catalog::highest_update(tx).await?;
            site.highest_update.store(known, Ordering::Relaxed);
            Ok(known.saturating_add(MAX_AHEAD))
        }
        Ok(_) | Err(_) => Ok(ceiling),
    }
}

fn judge<'a>(
    item: &'a Item,
    clients: &mut BTreeMap<Uuid, Work>,
    ceiling: i32,
    now: Timestamp,
) -> Judged<'a> {
    let refused =
        |reason, detail: String| Judged::Refused(Cow::Owned(Refused::new(reason, detail)));
    let report = match &item.report {
        Ok(report) => report,
        Err(refused) => return Judged::Refused(Cow::Borrowed(refused)),
    };
    let Some(work) = clients.get_mut(&report.client_id.0) else {
        return refused("UNKNOWN_CLIENT", "this site has no such client".to_owned());
    };
    if work.deleted {
        return Judged::Stale;
    }
    let highest = report.highest_update();
    if highest > ceiling {
        let detail = format!("update {highest} is far beyond the catalog");
        return refused("UNKNOWN_UPDATE", detail);
    }
    match work.stream.take(report, now) {
        Taken::Stale => Judged::Stale,
        Taken::Repeat => Judged::Repeat,
        Taken::NeverGiven => {
            let detail = format!("epoch {} was never given", report.epoch);
            refused("UNKNOWN_EPOCH", detail)
        }
        fresh @ (Taken::Full(_) | Taken::Delta(_)) => {
            work.changed = true;
            Judged::Fresh(work.client_no, report, fresh)
        }
    }
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
    if !quarantine::keep(db, &aside).await? {
        metrics::counter!("muster_state_quarantine_overflow_total").increment(1);
        tracing::error!(
            origin = item.origin,
            "the quarantine of this origin is full, only the hash is kept"
        );
    }
    Ok(())
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
