//! Takes in what clients reported. All of a batch commits together: marks, states, counters and
//! the quarantine, and only then is the queue told (reliability.md D3, D7).
//!
//! What each client has said is in memory (`known_clients`, `matrix`), so that a repeat costs no
//! SQL, and a small report one narrow row. What a report changes is decided in `domain/settle.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use muster_compliance::Change;
use muster_runtime::faults;
use muster_stream::{Moment, Taken};
use tracing::Instrument;
use uuid::Uuid;

use super::known_clients::Locked;
use super::links::clients::{self as told, Marked};
use super::open_batch::{Arrived, Item, open};
use super::{Error, Site, deployment_states, matrix, negative_controls};
use crate::domain::changed;
use crate::domain::deployment_states::StateMoves;
use crate::domain::report::{MAX_AHEAD, Refused, Stream, peek};
use crate::domain::settle::{Settled, Work, settle};
use crate::store::{self, catalog, clients, compliance, quarantine, states, streams};

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
    /// Of the reports: those that wait for one before them.
    pub(crate) early: usize,
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
        sum.early += recorded.early;
    }
    Ok(sum)
}

/// What a batch comes down to.
#[derive(Debug, Default)]
struct Sorted<'a> {
    works: Vec<Work>,
    ids: Vec<Uuid>,
    refused: Vec<(&'a Item, Refused)>,
    recorded: Recorded,
    /// A report names an update beyond what is known of the catalog.
    beyond: bool,
    /// Empty, unless a negative control counts deliveries instead of changes.
    delivered: Vec<Change>,
    link: Option<FromLink>,
}

/// What is different about reports that a child site put together.
#[derive(Debug)]
pub(crate) struct FromLink {
    /// When it did.
    pub(crate) numbered_at: Timestamp,
    /// The same, where these clients reported just then.
    pub(crate) reported_at: Option<Timestamp>,
    /// What was removed before, because everything of these clients is said anew.
    pub(crate) gone: StateMoves,
    /// Further states of clients, of other epochs than their reports: each client once in each.
    pub(crate) layers: Vec<Vec<Work>>,
}

async fn record(site: &Site, items: &[&Item], now: Timestamp) -> Result<Recorded, Error> {
    let mut known = hold(site, items).await?;
    let sorted = sort(site, items, &known, now).await?;
    if sorted.works.is_empty() && sorted.refused.is_empty() && sorted.delivered.is_empty() {
        return Ok(sorted.recorded);
    }
    faults::point("site.record.before_begin");
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let applied = write(site, &tx, sorted, now).await?;
    // An error here leaves the outcome unknown: the messages come again and are recognised.
    applied.doubt(&mut known);
    faults::point("site.record.before_commit");
    tx.commit().await?;
    faults::point("site.record.after_commit");
    let recorded = applied.recorded;
    remember(site, &mut known, applied);
    Ok(recorded)
}

/// What a transaction does, for when it has committed.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) recorded: Recorded,
    needs: BTreeSet<(i32, String)>,
    works: Vec<Work>,
    ids: Vec<Uuid>,
    settled: Settled,
    state_moves: StateMoves,
    layers: Vec<Vec<Work>>,
    marked: Marked,
}

impl Applied {
    /// Right before the commit: until its answer is there, the database is asked about these
    /// clients.
    pub(crate) fn doubt(&self, known: &mut Locked<'_>) {
        for (id, work) in self.ids.iter().zip(&self.works) {
            known.doubt(*id, work.known.client_no);
        }
    }
}

/// Keeps other writers away from the clients of these items. Take a database connection
/// afterwards, never before.
pub(crate) async fn hold<'a>(site: &'a Site, items: &[&Item]) -> Result<Locked<'a>, Error> {
    let ids: BTreeSet<Uuid> = items.iter().filter_map(|item| item.client_id).collect();
    let mut known = site.known_clients.lock(ids.iter().copied()).await;
    prepare(site, &mut known, &ids).await?;
    Ok(known)
}

/// Does to the database what the items say. The caller holds their clients, and commits between
/// [`Applied::doubt`] and [`finish`].
pub(crate) async fn apply(
    site: &Site,
    known: &Locked<'_>,
    tx: &Transaction<'_>,
    items: &[&Item],
    now: Timestamp,
) -> Result<Applied, Error> {
    let sorted = sort(site, items, known, now).await?;
    write(site, tx, sorted, now).await
}

/// As [`apply`], for what a link brought: works of clients, with their ids.
pub(crate) async fn apply_linked(
    site: &Site,
    tx: &Transaction<'_>,
    (works, ids): (Vec<Work>, Vec<Uuid>),
    link: FromLink,
    now: Timestamp,
) -> Result<Applied, Error> {
    let sorted = Sorted {
        works,
        ids,
        link: Some(link),
        ..Sorted::default()
    };
    write(site, tx, sorted, now).await
}

/// What follows a commit that was not made by [`record_states`].
pub(crate) fn finish(site: &Site, known: &mut Locked<'_>, applied: Applied) {
    count(applied.recorded);
    remember(site, known, applied);
}

async fn write(
    site: &Site,
    tx: &Transaction<'_>,
    sorted: Sorted<'_>,
    now: Timestamp,
) -> Result<Applied, Error> {
    let Sorted {
        mut works,
        ids,
        refused,
        mut recorded,
        beyond: _,
        delivered,
        link,
    } = sorted;
    let (reported_at, recorded_at) = match &link {
        Some(link) => (link.reported_at, link.numbered_at),
        None => (Some(now), now),
    };
    recorded.quarantined += refused.len();
    for (item, refused) in &refused {
        let kept = keep_aside(tx, item, refused);
        kept.instrument(item.span.clone()).await?;
    }
    let rows: Vec<i32> = works
        .iter()
        .filter(|work| work.known.has_row && work.writes_row())
        .map(|work| work.known.client_no)
        .collect();
    // Whether the lease is still ours is asked beside the rest: what counts is that the answer is
    // there before the commit.
    let asked = !rows.is_empty();
    let held = if asked {
        let ((), held) = tokio::try_join!(site.still_active(tx), compliance::load(tx, &rows))?;
        held
    } else {
        BTreeMap::new()
    };
    let active = async {
        if asked {
            return Ok(());
        }
        site.still_active(tx).await
    };
    if works.iter().any(|work| !work.writes_row()) {
        // Nobody adds a first row of these clients from here on.
        matrix::welcome(site);
    }
    let mut settled = settle(&mut works, held, || matrix::look(site));
    negative_controls::count_deliveries(&mut settled.moves, &delivered);
    let (replaced, unlogged) = (&settled.replaced, &settled.unlogged);
    compliance::keep_rows(tx, &settled.rows, replaced, unlogged).await?;
    let (fresh, needs) = (newest(&works), unknown_needs(site, &works));
    let needs: Vec<&(i32, String)> = needs.iter().collect();
    let marked = |work: &&Work| work.marks_changed;
    let moved = |work: &&Work| {
        let marks = &settled.marks;
        !work.marks_changed && marks.binary_search(&work.known.client_no).is_ok()
    };
    let marks = streams_of(works.iter().filter(marked));
    let moved = streams_of(works.iter().filter(moved));
    // None of these builds on another: they are under way together, on the one connection.
    let dirty = changed_clients(&works, link.as_ref());
    let ((), (), mut state_moves, needs, (), (), marked) = tokio::try_join!(
        active,
        compliance::keep_log(tx, &settled.log, recorded_at),
        states::keep_newest(tx, &fresh),
        compliance::add_needs(tx, &needs),
        streams::keep(tx, &marks, reported_at),
        streams::move_on(tx, &moved, reported_at),
        told::mark(site, tx, &dirty),
    )?;
    let mut layers = Vec::new();
    if let Some(link) = link {
        state_moves.follow(link.gone);
        layers = link.layers;
        for layer in &layers {
            state_moves.extend(states::keep_newest(tx, &newest(layer)).await?);
        }
    }
    let (reports, states) = (recorded.reports, recorded.states);
    let counters = state_moves.counters();
    compliance::move_counters(tx, &settled.moves, &counters, reports, states).await?;
    Ok(Applied {
        recorded,
        needs,
        works,
        ids,
        settled,
        state_moves,
        layers,
        marked,
    })
}

/// The numbers of the clients of which something is recorded.
fn changed_clients(works: &[Work], link: Option<&FromLink>) -> Vec<i32> {
    let layers = link.iter().flat_map(|link| link.layers.iter().flatten());
    let recorded = works.iter().filter(|work| !work.reports.is_empty());
    let numbers = recorded.chain(layers).map(|work| work.known.client_no);
    let mut numbers: Vec<i32> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn streams_of<'a>(works: impl Iterator<Item = &'a Work>) -> Vec<(i32, &'a Stream)> {
    works
        .map(|work| (work.known.client_no, &work.known.stream))
        .collect()
}

/// Takes over in memory what has been committed.
fn remember(site: &Site, known: &mut Locked<'_>, applied: Applied) {
    known.settle_doubts();
    matrix::apply(site, &applied.settled);
    deployment_states::apply(site, &applied.state_moves);
    // After them: whoever takes this out of memory finds the values there.
    told::note(site, applied.marked, || {
        let ids = applied.ids.iter().copied().map(Some);
        let layers = applied.layers.iter().flatten().map(|work| (work, None));
        let works = applied.works.iter().zip(ids).chain(layers);
        changed::of_batch(works, &applied.settled, &applied.state_moves)
    });
    for (id, work) in applied.ids.into_iter().zip(applied.works) {
        let mut client = work.known;
        client.stream.early_changed = false;
        if work.forked {
            metrics::counter!("muster_state_forks_total").increment(1);
            tracing::error!(client.id = %id, "a client's identity is used by more than one machine");
        }
        known.keep(id, client);
    }
    remember_needs(site, applied.needs);
}

/// Asks the database about clients that are not known yet, and about those in doubt.
pub(crate) async fn prepare(
    site: &Site,
    known: &mut Locked<'_>,
    ids: &BTreeSet<Uuid>,
) -> Result<(), Error> {
    let doubtful = known.doubtful();
    if !doubtful.is_empty() {
        let db = site.db().await?;
        let rows = compliance::load(&db, &doubtful).await?;
        let clients = clients::not_deleted(&db, &doubtful).await?;
        matrix::replace(site, &doubtful, &rows, &clients);
        let rows = store::deployment_states::of_clients(&db, &doubtful).await?;
        deployment_states::replace(site, &doubtful, &rows);
        known.settle_doubts();
    }
    let missing: Vec<Uuid> = ids
        .iter()
        .filter(|id| known.get(**id).is_none())
        .copied()
        .collect();
    if !missing.is_empty() {
        let db = site.db().await?;
        for (id, client) in streams::load(&db, &missing).await? {
            known.keep(id, client);
        }
    }
    Ok(())
}

/// First what is new at all: a repeat ends here, before it is decoded and before any SQL.
///
/// Reports may come before the catalog does, and count from then on; numbers of updates are
/// dense, so one far beyond the catalog names nothing.
async fn sort<'a>(
    site: &Site,
    items: &[&'a Item],
    known: &Locked<'_>,
    now: Timestamp,
) -> Result<Sorted<'a>, Error> {
    let ceiling = || {
        let highest = site.highest_update.load(Ordering::Relaxed);
        highest.saturating_add(MAX_AHEAD)
    };
    let before = ceiling();
    let retry = site.config.retry();
    let moment = Moment {
        now,
        retry: &retry,
        random: rand::random(),
    };
    let sorted = Sorted::new(items, known, before, &moment);
    if !sorted.beyond {
        return Ok(sorted);
    }
    let highest = catalog::highest_update(&site.db().await?).await?;
    site.highest_update.store(highest, Ordering::Relaxed);
    Ok(Sorted::new(items, known, ceiling(), &moment))
}

impl<'a> Sorted<'a> {
    fn new(items: &[&'a Item], known: &Locked<'_>, ceiling: i32, moment: &Moment<'_>) -> Self {
        let mut sorted = Self::default();
        let mut at: HashMap<Uuid, usize> = HashMap::new();
        for item in items {
            let outcome = match sorted.take(item, known, &mut at, ceiling, moment) {
                Ok(outcome) => outcome,
                Err(refused) => {
                    sorted.refused.push((item, refused));
                    "quarantined"
                }
            };
            item.span.record("outcome", outcome);
        }
        sorted
    }

    fn take(
        &mut self,
        item: &Item,
        known: &Locked<'_>,
        at: &mut HashMap<Uuid, usize>,
        ceiling: i32,
        moment: &Moment<'_>,
    ) -> Result<&'static str, Refused> {
        let client = item.client_id.and_then(|id| Some((id, known.get(id)?)));
        self.delivered.extend(negative_controls::delivered(item));
        if let (Some((id, client)), None) = (client, &item.refused) {
            let held = at.get(&id).map_or(client, |at| &self.works[*at].known);
            let header = peek(&item.bytes, id.as_bytes());
            if client.deleted {
                self.recorded.stale += 1;
                return Ok("stale");
            }
            if let Some(Taken::Repeat) = header.and_then(|header| held.stream.judge(&header))
                && !negative_controls::replaces_order()
            {
                self.recorded.repeats += 1;
                return Ok("repeat");
            }
        }
        let report = item.decode()?;
        let unknown = || Refused::new("UNKNOWN_CLIENT", "this site has no such client");
        let (id, client) = client.filter(|(_, it)| it.own).ok_or_else(unknown)?;
        let highest = report.highest_update();
        if highest > ceiling {
            self.beyond = true;
            let detail = format!("update {highest} is far beyond the catalog");
            return Err(Refused::new("UNKNOWN_UPDATE", detail));
        }
        let held = at.get(&id).map_or(client, |at| &self.works[*at].known);
        let report = negative_controls::renumber(report, item, &held.stream);
        let mut stream = held.stream.clone();
        // Clients of one batch must not all be asked at the same time.
        let moment = Moment {
            random: moment.random ^ id.as_u64_pair().1.rotate_left(32),
            ..*moment
        };
        let taken = report.take_into(&mut stream, &moment);
        let turned = stream.turned(&held.stream);
        let forked = stream.forked_at.is_some() && held.stream.forked_at.is_none();
        let recorded = matches!(taken, Taken::Full(_) | Taken::Next(_) | Taken::Early);
        // What is not recorded can still say something of its client.
        let work = (recorded || turned).then(|| {
            let at = *at.entry(id).or_insert_with(|| {
                self.works.push(Work::new(client.clone()));
                self.ids.push(id);
                self.works.len() - 1
            });
            let work = &mut self.works[at];
            work.marks_changed |= turned;
            work.forked |= forked;
            work.known.stream = stream;
            work
        });
        let early = matches!(taken, Taken::Early);
        match taken {
            Taken::Stale => {
                self.recorded.stale += 1;
                Ok("stale")
            }
            Taken::Repeat => {
                self.recorded.repeats += 1;
                Ok("repeat")
            }
            Taken::NeverGiven => {
                let detail = format!("epoch {} was never given", report.epoch);
                Err(Refused::new("UNKNOWN_EPOCH", detail))
            }
            Taken::Full(_) | Taken::Next(_) | Taken::Early => {
                self.recorded.early += usize::from(early);
                self.recorded.reports += 1;
                self.recorded.states += report.states();
                if let Some(work) = work {
                    work.reports.push((report, taken));
                }
                Ok("recorded")
            }
        }
    }
}

async fn keep_aside(db: &impl GenericClient, item: &Item, refused: &Refused) -> Result<(), Error> {
    let reason = reason(refused);
    if let Some(quarantine_no) = item.held {
        return quarantine::refuse_again(db, quarantine_no, &reason).await;
    }
    let origin = match item.client_id {
        Some(id) => format!("{}, client {id}", item.origin),
        None if item.whole_batch => item.origin.to_string(),
        None => format!("{}, unknown client", item.origin),
    };
    tracing::warn!(
        origin,
        reason = refused.reason,
        detail = refused.detail,
        bytes = item.bytes.len(),
        "message quarantined"
    );
    metrics::counter!("muster_state_quarantined_total", "reason" => refused.reason).increment(1);
    let aside = quarantine::Aside {
        origin: &origin,
        reason: &reason,
        body: &item.bytes,
        whole_batch: item.whole_batch,
        trusted: item.trusted,
        client_id: item.client_id,
    };
    if !quarantine::keep(db, &aside).await? {
        metrics::counter!("muster_state_quarantine_overflow_total").increment(1);
        tracing::error!(
            origin,
            "the quarantine of this origin is full, only the hash is kept"
        );
    }
    faults::point("site.quarantine.kept");
    Ok(())
}

/// The reason as it is stored.
pub(crate) fn reason(refused: &Refused) -> String {
    crate::domain::names::cleaned(&refused.to_string(), 1_024)
}

/// The newest value of each key in the batch.
fn newest(works: &[Work]) -> states::Fresh {
    let mut fresh = states::Fresh::default();
    let taken = works.iter().flat_map(|work| {
        let reports = work.reports.iter();
        reports.map(|(report, kind)| (work.known.client_no, report, kind))
    });
    for (client_no, report, kind) in taken {
        if !matches!(kind, Taken::Full(_)) && report.has_compliance_only() {
            continue;
        }
        let client = fresh.clients.entry(client_no).or_default();
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
fn unknown_needs(site: &Site, works: &[Work]) -> BTreeSet<(i32, String)> {
    let known = site
        .known_needs
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    works
        .iter()
        .flat_map(|work| &work.reports)
        .flat_map(|(report, _)| &report.needs)
        .filter(|need| !known.contains(*need))
        .cloned()
        .collect()
}

/// Keeps new needs in mind once they are in the database, and wakes who fetches content.
pub(super) fn remember_needs(site: &Site, needs: BTreeSet<(i32, String)>) {
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
    metrics::counter!("muster_state_early_total")
        .increment(u64::try_from(recorded.early).unwrap_or(0));
    metrics::counter!("muster_state_states_total")
        .increment(u64::try_from(recorded.states).unwrap_or(0));
}
