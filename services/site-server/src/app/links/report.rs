//! Puts together what the parent is told of clients that changed: who each is, and one report of
//! what is so. States of different epochs go in reports of their own: a serial says nothing without
//! its epoch.

use std::collections::BTreeMap;

use deadpool_postgres::Transaction;
use muster_compliance::packed;
use muster_domain::UpdateNo;
use muster_proto::{link, state as pb};
use prost::Message;

use super::{Error, Site};
use crate::app::matrix;
use crate::domain::changed::Changed;
use crate::domain::settle::Held;
use crate::store::compliance;
use crate::store::told_clients::{self, Told};

/// States of updates of deployments in one report.
const MAX_ENFORCEMENTS: usize = 1_000;

/// Who a client is, if that is to be told, and what it says.
#[derive(Debug, Default)]
pub(super) struct OfClient {
    pub(super) record: Option<link::ClientRecord>,
    pub(super) reports: Vec<Vec<u8>>,
}

/// Reads what is so of clients that changed, in the transaction that takes their marks off. What
/// changes meanwhile is marked again.
pub(super) async fn put_together(
    site: &Site,
    tx: &Transaction<'_>,
    changes: &BTreeMap<i32, Changed>,
) -> Result<BTreeMap<i32, OfClient>, Error> {
    let pick = |which: fn(&Changed) -> bool| -> Vec<i32> {
        let picked = changes.iter().filter(|(_, changed)| which(changed));
        picked.map(|(client_no, _)| *client_no).collect()
    };
    let everybody: Vec<i32> = changes.keys().copied().collect();
    let told = told_clients::describe(tx, site.config.site_code.as_str(), &everybody).await?;
    let all_of = pick(|it| it.all);
    let rows = compliance::load(tx, &all_of).await?;
    let mut drafts: BTreeMap<i32, Draft> = BTreeMap::new();
    for (client_no, changed) in changes {
        let Some(told) = told.get(client_no).filter(|it| !it.record.deleted) else {
            continue;
        };
        if !changed.all && !changed.reported {
            continue;
        }
        let row = rows.get(client_no);
        drafts.insert(*client_no, Draft::new(site, *client_no, changed, told, row));
    }
    let flat = changes.iter().filter(|(_, changed)| !changed.all);
    let keys: Vec<(i32, i32)> = flat
        .clone()
        .flat_map(|(no, changed)| changed.deployments.iter().map(|key| (*no, *key)))
        .collect();
    for (no, epoch, state) in told_clients::deployments(tx, &all_of, &keys).await? {
        if let Some(report) = part(&mut drafts, no, epoch, state.serial) {
            report.deployments.push(state);
        }
    }
    let keys: Vec<(i32, (i32, i32))> = flat
        .flat_map(|(no, changed)| changed.enforcements.iter().map(|key| (*no, *key)))
        .collect();
    for (no, epoch, state) in told_clients::enforcements(tx, &all_of, &keys).await? {
        if let Some(report) = part(&mut drafts, no, epoch, state.serial) {
            report.update_enforcements.push(state);
        }
    }
    for (no, epoch, state) in told_clients::scans(tx, &pick(|it| it.all || it.scan)).await? {
        if let Some(report) = part(&mut drafts, no, epoch, state.serial) {
            report.scan = Some(state);
        }
    }
    for (no, epoch, state) in told_clients::restarts(tx, &pick(|it| it.all || it.restart)).await? {
        if let Some(report) = part(&mut drafts, no, epoch, state.serial) {
            report.restart = Some(state);
        }
    }
    let clients = pick(|it| it.all || it.inventory);
    for (no, epoch, state) in told_clients::inventories(tx, &clients).await? {
        if let Some(report) = part(&mut drafts, no, epoch, state.serial) {
            report.inventory = Some(state);
        }
    }
    for (no, epoch, state) in told_clients::health(tx, &pick(|it| it.all || it.health)).await? {
        if let Some(report) = part(&mut drafts, no, epoch, state.serial) {
            report.health = Some(state);
        }
    }
    let of_client = |(client_no, told): (i32, Told)| {
        let changed = changes.get(&client_no);
        let record = changed.is_some_and(|it| it.all || it.record) || told.record.deleted;
        let reports = drafts.remove(&client_no).map(Draft::finish);
        let of_client = OfClient {
            record: record.then_some(told.record),
            reports: reports.unwrap_or_default(),
        };
        (client_no, of_client)
    };
    Ok(told.into_iter().map(of_client).collect())
}

fn part(
    drafts: &mut BTreeMap<i32, Draft>,
    client_no: i32,
    epoch: u32,
    serial: u64,
) -> Option<&mut pb::Report> {
    Some(drafts.get_mut(&client_no)?.part(epoch, serial))
}

/// The reports of one client: the main one, and those of states of other epochs.
#[derive(Debug)]
struct Draft {
    main: pb::Report,
    others: BTreeMap<u32, pb::Report>,
}

impl Draft {
    fn new(
        site: &Site,
        client_no: i32,
        changed: &Changed,
        told: &Told,
        row: Option<&Held>,
    ) -> Self {
        let mut main = pb::Report {
            client_id: told.record.client_id.clone(),
            epoch: told.epoch,
            first_serial: 1,
            last_serial: told.contiguous.max(1),
            kind: pb::ReportKind::Delta.into(),
            reported_at: told.record.last_report_at,
            ..pb::Report::default()
        };
        if changed.all {
            main.kind = pb::ReportKind::Full.into();
            if let Some(row) = row {
                main.epoch = row.epoch.unsigned_abs();
                // Since the row was written only the client's mark may have moved on.
                let mark = told.contiguous * u64::from(main.epoch == told.epoch);
                let serial = row.serial.unsigned_abs().max(mark);
                main.last_serial = serial.max(1);
                main.catalog_generation = row.catalog_generation.unsigned_abs();
                main.compliance = Some(pack(row.states.listed(), serial));
            }
        } else if told.has_row && told.has_full {
            // Memory has whatever was committed before its mark was taken out of it.
            let mut updates = changed.updates.clone();
            updates.sort_unstable();
            updates.dedup();
            let client = client_no.unsigned_abs();
            let matrix = matrix::read(site);
            let held = |number: &i32| {
                let update_no = UpdateNo(number.unsigned_abs());
                (update_no, matrix.held(update_no, client))
            };
            let generation = matrix.generation(client).unwrap_or(0);
            main.catalog_generation = generation.unsigned_abs();
            let states = updates.iter().map(held);
            main.compliance = Some(pack(states, told.contiguous));
        }
        Self {
            main,
            others: BTreeMap::new(),
        }
    }

    /// The report that a state of this epoch and serial belongs in.
    fn part(&mut self, epoch: u32, serial: u64) -> &mut pb::Report {
        let report = if epoch == self.main.epoch {
            &mut self.main
        } else {
            let other = || pb::Report {
                client_id: self.main.client_id.clone(),
                epoch,
                first_serial: 1,
                last_serial: 1,
                kind: pb::ReportKind::Delta.into(),
                ..pb::Report::default()
            };
            self.others.entry(epoch).or_insert_with(other)
        };
        report.last_serial = report.last_serial.max(serial);
        report
    }

    /// Encoded, each within the bounds of a report.
    fn finish(self) -> Vec<Vec<u8>> {
        let mut reports = Vec::new();
        for mut report in [self.main].into_iter().chain(self.others.into_values()) {
            let mut rest = report
                .update_enforcements
                .split_off(report.update_enforcements.len().min(MAX_ENFORCEMENTS));
            let further = pb::Report {
                kind: pb::ReportKind::Delta.into(),
                client_id: report.client_id.clone(),
                epoch: report.epoch,
                first_serial: 1,
                last_serial: report.last_serial,
                ..pb::Report::default()
            };
            reports.push(report.encode_to_vec());
            while !rest.is_empty() {
                let later = rest.split_off(rest.len().min(MAX_ENFORCEMENTS));
                let further = pb::Report {
                    update_enforcements: std::mem::replace(&mut rest, later),
                    ..further.clone()
                };
                reports.push(further.encode_to_vec());
            }
        }
        reports
    }
}

fn pack(
    states: impl IntoIterator<Item = (UpdateNo, muster_domain::states::Detection)>,
    serial: u64,
) -> pb::Compliance {
    let packed = packed::pack(states);
    pb::Compliance {
        update_numbers: packed.update_numbers,
        states: packed.states.into(),
        serial,
        needs: Vec::new(),
    }
}
