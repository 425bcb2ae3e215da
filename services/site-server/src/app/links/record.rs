//! Records what a child site says of clients, with the code that records clients' own reports.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use deadpool_postgres::Transaction;
use jiff::Timestamp;
use muster_compliance::ClientStates;
use muster_domain::SiteCode;
use muster_proto::{convert, link as pb};
use muster_stream::{Runs, Taken};
use uuid::Uuid;

use super::clients::{self, Marked};
use super::objects::{self, Members};
use super::{Error, Site, moves, numbers};
use crate::app::directory::Turn;
use crate::app::known_clients::Locked;
use crate::app::record_states::{self, Applied, FromLink};
use crate::app::{deployment_states, matrix, negative_controls};
use crate::domain::changed::Changed;
use crate::domain::deployment_states::StateMoves;
use crate::domain::link_rows::{self, Row};
use crate::domain::names::cleaned;
use crate::domain::report::{Refused, Report, Stream};
use crate::domain::settle::{Known, Moves, Work};
use crate::store::replicas::{self, Replica};
use crate::store::{self, compliance, sites, streams};

/// Longest name of a host and the like, in bytes.
const MAX_WORD: usize = 255;

/// What a batch says of clients, checked as far as that goes without the database.
#[derive(Debug, Default)]
pub(super) struct OfClients {
    replicas: Vec<Replica>,
    reports: Vec<Report>,
    /// Of clients that are named by number, and what the child compares of them.
    rows: Vec<Row>,
    check: Vec<u8>,
    numbered_at: Timestamp,
}

impl OfClients {
    /// Opens the records and reports of a batch.
    pub(super) fn read(body: &pb::BatchBody, numbered_at: Timestamp) -> Result<Self, Refused> {
        let reports = body.reports.iter();
        let report = |bytes: &Bytes| -> Result<Report, Refused> {
            let mut report = Report::decode(bytes, numbered_at)?;
            negative_controls::forget_newer(&mut report);
            Ok(report)
        };
        let (rows, check) = match &body.rows {
            Some(rows) => (link_rows::unpack(rows)?, rows.check.to_vec()),
            None => Default::default(),
        };
        let replicas: Vec<Replica> = body.clients.iter().map(replica).collect::<Result<_, _>>()?;
        let numbers: HashSet<i32> = replicas.iter().map(|it| it.number).collect();
        if numbers.len() < replicas.len() {
            return Err(Refused::new("INVALID_CLIENT_RECORD", "number"));
        }
        Ok(Self {
            replicas,
            rows,
            check,
            reports: reports.map(report).collect::<Result<_, _>>()?,
            numbered_at,
        })
    }

    /// The child does not have these clients.
    pub(super) fn delete(&mut self, child: SiteCode, clients: Vec<Uuid>) {
        let replica = |client_id| Replica {
            client_id,
            number: 0,
            owner: child.to_string(),
            host_name: String::new(),
            os_id: String::new(),
            os_version_id: String::new(),
            architecture: String::new(),
            agent_version: String::new(),
            epoch: 1,
            enrolled_at: Timestamp::UNIX_EPOCH,
            deleted: true,
            certificate_ends_at: None,
            last_report_at: None,
            fingerprint: None,
            move_no: 0,
        };
        self.replicas.extend(clients.into_iter().map(replica));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.replicas.is_empty() && self.reports.is_empty() && self.rows.is_empty()
    }

    /// Keys.
    pub(super) fn len(&self) -> usize {
        self.replicas
            .len()
            .max(self.reports.len() + self.rows.len())
    }

    /// Makes reports of the rows.
    pub(super) async fn resolve(
        &mut self,
        site: &Site,
        child: SiteCode,
    ) -> Result<Result<(), Refused>, Error> {
        let rows = std::mem::take(&mut self.rows);
        let reports = numbers::reports(site, child, &self.replicas, rows, &self.check).await?;
        Ok(reports.map(|reports| self.reports.extend(reports)))
    }

    /// Whether it says who clients are.
    pub(super) fn names_clients(&self) -> bool {
        !self.replicas.is_empty()
    }

    /// Leaves out what it says of these clients.
    fn without(&mut self, clients: &BTreeSet<Uuid>) {
        self.replicas.retain(|it| !clients.contains(&it.client_id));
        self.reports.retain(|it| !clients.contains(&it.client_id.0));
    }

    /// The clients that it names.
    pub(super) fn ids(&self) -> BTreeSet<Uuid> {
        let named = self.replicas.iter().map(|it| it.client_id);
        let reported = self.reports.iter().map(|it| it.client_id.0);
        named.chain(reported).collect()
    }
}

fn replica(record: &pb::ClientRecord) -> Result<Replica, Refused> {
    let invalid = |field: &str| Refused::new("INVALID_CLIENT_RECORD", field);
    let time = |time: &Option<prost_types::Timestamp>| {
        let time = time.as_ref()?;
        convert::from_timestamp("time", time).ok()
    };
    let word = |text: &str| cleaned(text, MAX_WORD);
    let owner: SiteCode = record
        .owner_site_code
        .parse()
        .map_err(|_| invalid("owner_site_code"))?;
    let epoch = i32::try_from(record.epoch).ok().filter(|it| *it > 0);
    let number = i32::try_from(record.number).ok().filter(|it| *it > 0);
    let fingerprint = match record.certificate_fingerprint.len() {
        0 => None,
        32 => Some(hex::encode(&record.certificate_fingerprint)),
        _ => return Err(invalid("certificate_fingerprint")),
    };
    let move_no = i64::try_from(record.move_no).map_err(|_| invalid("move_no"))?;
    Ok(Replica {
        number: number.ok_or_else(|| invalid("number"))?,
        client_id: Uuid::from_slice(&record.client_id).map_err(|_| invalid("client_id"))?,
        owner: owner.to_string(),
        host_name: word(&record.host_name),
        os_id: word(&record.os_id),
        os_version_id: word(&record.os_version_id),
        architecture: word(&record.architecture),
        agent_version: word(&record.agent_version),
        epoch: epoch.ok_or_else(|| invalid("epoch"))?,
        enrolled_at: time(&record.enrolled_at).ok_or_else(|| invalid("enrolled_at"))?,
        deleted: record.deleted,
        certificate_ends_at: time(&record.certificate_ends_at),
        last_report_at: time(&record.last_report_at),
        fingerprint,
        move_no,
    })
}

/// What a transaction does, for when it has committed.
#[derive(Debug)]
pub(super) struct Done {
    child: SiteCode,
    applied: Option<Applied>,
    marked: Marked,
    /// Clients that are told of: new, changed or deleted.
    named: Vec<(Uuid, i32)>,
    /// The sites that those report to who are told of and not deleted.
    owners: Vec<(i32, String)>,
    touched: Vec<(Uuid, i32)>,
    /// With the numbers that they had before.
    replaced: Vec<(Uuid, i32)>,
    deleted: Vec<i32>,
    arrived: Members,
    left: Members,
    /// Clients that were never told of, or that somebody removed here: what is said of them comes to
    /// nothing.
    pub(super) missing: Vec<Uuid>,
}

/// Does to the database what a child says. The caller holds the clients and, when the batch names
/// any, the turn of the directory.
pub(super) async fn apply(
    site: &Site,
    tx: &Transaction<'_>,
    known: &Locked<'_>,
    child: SiteCode,
    mut batch: OfClients,
) -> Result<Result<Done, Refused>, Error> {
    let now = Timestamp::now();
    let mut ids: Vec<Uuid> = batch.ids().into_iter().collect();
    site.links.numbers.doubt(child, &batch.replicas);
    let named: HashSet<Uuid> = batch.replicas.iter().map(|it| it.client_id).collect();
    // Of those that only report, memory knows how they came to us.
    let came = |id: &&Uuid| known.get(**id).is_some_and(|it| it.via == Some(child));
    let ask = ids.iter().filter(|id| named.contains(*id) || !came(id));
    let mut held = replicas::held(tx, &ask.copied().collect::<Vec<Uuid>>()).await?;
    let sorted = moves::sort(tx, child, &batch.replicas, &held).await?;
    moves::take_over(tx, child, &sorted, &batch.replicas).await?;
    for id in &sorted.arriving {
        if let Some(held) = held.get_mut(id) {
            held.via = Some(child.to_string());
        }
    }
    if !sorted.stale.is_empty() {
        batch.without(&sorted.stale);
        ids.retain(|id| !sorted.stale.contains(id));
        held.retain(|id, _| !sorted.stale.contains(id));
    }
    let below = match named.is_empty() {
        true => BTreeSet::default(),
        false => sites::below(tx, child).await?,
    };
    let foreign = |id: &Uuid, why: &str| {
        let text = format!("client {id} {why}");
        Refused::new("NOT_A_CHILD", text)
    };
    for (id, held) in &held {
        if held.via.as_deref() != Some(child.as_str()) {
            return Ok(Err(foreign(id, "is known from elsewhere")));
        }
    }
    for replica in &batch.replicas {
        if !below.contains(&replica.owner) {
            let why = format!("is of site {}, which is not below {child}", replica.owner);
            return Ok(Err(foreign(&replica.client_id, &why)));
        }
    }
    let gone = batch.replicas.iter().filter(|it| it.deleted);
    let gone: Vec<i32> = gone
        .filter_map(|it| held.get(&it.client_id))
        .filter(|it| !it.deleted)
        .map(|it| it.client_no)
        .collect();
    let here: Vec<&Replica> = batch.replicas.iter().filter(|it| !it.deleted).collect();
    let left = objects::members_left(tx, &gone).await?;
    remove(tx, &gone).await?;
    let mut named = replicas::keep(tx, child.as_str(), &here).await?;
    let new: Vec<Uuid> = named
        .iter()
        .map(|(id, _)| *id)
        .filter(|id| held.get(id).is_none_or(|it| it.deleted))
        .collect();
    let arrived = objects::members_arrived(tx, &new).await?;
    let numbers: HashMap<Uuid, i32> = named.iter().copied().collect();
    let owners = here.iter();
    let owners = owners.filter_map(|it| Some((*numbers.get(&it.client_id)?, it.owner.clone())));
    let owners = owners.collect();
    let mut reported: Vec<(i32, Timestamp)> = here
        .iter()
        .filter_map(|it| Some((*numbers.get(&it.client_id)?, it.last_report_at?)))
        .collect();
    // Who is named may have another number or epoch than memory knows.
    let mut fresh: HashMap<Uuid, Known> = HashMap::new();
    let unsure = |id: &&Uuid| numbers.contains_key(*id) || known.get(**id).is_none();
    let look: Vec<Uuid> = ids.iter().filter(unsure).copied().collect();
    if !look.is_empty() {
        fresh.extend(streams::load(tx, &look).await?);
    }
    let find = |id: Uuid| fresh.get(&id).or_else(|| known.get(id));
    let (mut sorted, mut missing) = (Sorted::default(), Vec::new());
    for report in batch.reports {
        let id = report.client_id.0;
        match find(id) {
            Some(client) => sorted.take(report, client),
            None => missing.push(id),
        }
    }
    let numbered_at = batch.numbered_at.min(now);
    if !here.is_empty() {
        // Of the others, what is said here is the news.
        let others = ids.iter().filter(|id| !numbers.contains_key(*id));
        let number = |id: &Uuid| Some((find(*id)?.client_no, numbered_at));
        reported.extend(others.filter_map(number));
    }
    replicas::reported_at(tx, &reported).await?;
    let again: Vec<i32> = sorted.replaced.iter().copied().collect();
    let removed = match again.is_empty() {
        true => StateMoves::default(),
        false => store::deployment_states::remove_clients(tx, &again).await?,
    };
    replicas::clear(tx, &again).await?;
    let touched: Vec<(Uuid, i32)> = ids
        .iter()
        .filter_map(|id| Some((*id, find(*id)?.client_no)))
        .collect();
    named.extend(touched.iter().filter(|(_, no)| gone.contains(no)));
    // Somebody removed its row, and it has another number now.
    let before = ids.iter().filter_map(|id| {
        let before = known.get(*id)?.client_no;
        (numbers.get(id)? != &before).then_some((*id, before))
    });
    let replaced: Vec<(Uuid, i32)> = before.collect();
    let named_nos: Vec<i32> = named.iter().map(|(_, no)| *no).collect();
    let marked = clients::mark(site, tx, &named_nos).await?;
    let applied = if sorted.is_empty() {
        None
    } else {
        let link = FromLink {
            numbered_at,
            reported_at: here.is_empty().then_some(numbered_at),
            gone: removed,
            layers: sorted.layers,
        };
        let works = (sorted.works, sorted.ids);
        Some(record_states::apply_linked(site, tx, works, link, now).await?)
    };
    Ok(Ok(Done {
        child,
        applied,
        marked,
        named,
        owners,
        touched,
        replaced,
        deleted: gone,
        arrived,
        left,
        missing,
    }))
}

/// Deletes clients, as their site did.
async fn remove(tx: &Transaction<'_>, gone: &[i32]) -> Result<(), Error> {
    if gone.is_empty() {
        return Ok(());
    }
    let mut moves = Moves::default();
    for row in compliance::load(tx, gone).await?.values() {
        moves.add(&row.states.differences(&ClientStates::default()));
    }
    let said = store::deployment_states::remove_clients(tx, gone).await?;
    compliance::move_counters(tx, &moves, &said.counters(), 0, 0).await?;
    for client_no in gone {
        store::clients::delete(tx, *client_no).await?;
    }
    Ok(())
}

/// What reports come down to.
#[derive(Debug, Default)]
struct Sorted {
    works: Vec<Work>,
    ids: Vec<Uuid>,
    at: HashMap<Uuid, usize>,
    layers: Vec<Vec<Work>>,
    in_layers: HashMap<Uuid, usize>,
    /// Clients of whom everything is said anew.
    replaced: BTreeSet<i32>,
}

impl Sorted {
    fn is_empty(&self) -> bool {
        self.works.is_empty() && self.layers.is_empty()
    }

    /// The order of the link is the order: a report replaces what is held, whatever its serial.
    fn take(&mut self, mut report: Report, client: &Known) {
        if client.deleted {
            return;
        }
        let id = report.client_id.0;
        let said = report.wire.as_ref().map(|wire| wire.serial.cast_signed());
        report.compliance.last_serial = said.unwrap_or(report.last_serial);
        if report.full {
            self.replaced.insert(client.client_no);
        }
        let held = self.at.get(&id).map(|at| &self.works[*at].known);
        let held = held.unwrap_or(client);
        let own_epoch = report.epoch.unsigned_abs() == held.stream.epoch;
        let taken = match (report.full, said.is_some()) {
            (true, true) => Taken::Full(Vec::new()),
            // Its site has heard nothing of updates from it, any more.
            (true, false) if held.has_row => Taken::Full(Vec::new()),
            (false, true) if held.has_row && own_epoch => Taken::Next(Vec::new()),
            _ => return self.add_to_layer(report, client),
        };
        let at = *self.at.entry(id).or_insert_with(|| {
            self.works.push(Work::new(client.clone()));
            self.ids.push(id);
            self.works.len() - 1
        });
        let work = &mut self.works[at];
        let before = work.known.stream.contiguous;
        if own_epoch && said.is_some() {
            let stream = stream_after(&work.known.stream, &report);
            work.marks_changed |= stream.has_full != work.known.stream.has_full
                || stream.highest != stream.contiguous
                || work.known.stream.wants_full;
            work.known.stream = stream;
        }
        // The log has one entry for each serial.
        if !report.full && work.known.stream.contiguous <= before {
            work.write_row();
        }
        work.reports.push((report, taken));
    }

    fn add_to_layer(&mut self, report: Report, client: &Known) {
        let layer = self.in_layers.entry(report.client_id.0).or_default();
        if self.layers.len() == *layer {
            self.layers.push(Vec::new());
        }
        let mut work = Work::new(client.clone());
        work.reports.push((report, Taken::Early));
        self.layers[*layer].push(work);
        *layer += 1;
    }
}

/// How far the reports are recorded at the client's site; nothing is asked of a client from here.
fn stream_after(held: &Stream, report: &Report) -> Stream {
    let contiguous = report.compliance.last_serial.unsigned_abs();
    Stream {
        epoch: held.epoch,
        has_full: true,
        contiguous,
        highest: contiguous.max(report.last_serial.unsigned_abs()),
        runs: Runs::default(),
        ..Stream::default()
    }
}

impl Done {
    /// Right before the commit: until its answer is there, the database is asked.
    pub(super) fn doubt(&self, known: &mut Locked<'_>) {
        for (id, client_no) in self.touched.iter().chain(&self.named) {
            known.doubt(*id, *client_no);
        }
    }

    /// Takes over in memory what has been committed.
    pub(super) fn remember(self, site: &Site, known: &mut Locked<'_>, turn: Option<&Turn<'_>>) {
        known.settle_doubts();
        if !self.deleted.is_empty() {
            // A child may delete what is its own; people see that it does.
            let count = self.deleted.len();
            tracing::info!(audit = true, child = %self.child, count, "clients deleted by their site");
            let child = self.child.to_string();
            metrics::counter!("muster_link_clients_deleted_total", "peer" => child)
                .increment(count as u64);
        }
        let replaced = self.replaced.iter().map(|(_, client_no)| client_no);
        for client_no in self.deleted.iter().chain(replaced) {
            matrix::remove_client(site, *client_no);
            deployment_states::remove_client(site, *client_no);
        }
        let here = self.named.iter().map(|(_, no)| *no);
        let here: Vec<i32> = here.filter(|no| !self.deleted.contains(no)).collect();
        matrix::add_clients(site, &here);
        if let Some(turn) = turn {
            for client_no in &self.deleted {
                turn.remove_client(*client_no);
            }
            turn.set_owners(&self.owners);
            objects::remember_members(turn, &self.left);
            objects::remember_members(turn, &self.arrived);
        }
        if let Some(applied) = self.applied {
            record_states::finish(site, known, applied);
        }
        clients::note(site, self.marked, || {
            let changed = self.named.iter().map(|(_, no)| (*no, Changed::record()));
            changed.collect::<BTreeMap<_, _>>()
        });
    }
}
