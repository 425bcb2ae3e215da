//! Puts together what the parent is told of clients that changed: who each is, and one report of
//! what is so. States of different epochs go in reports of their own: a serial says nothing without
//! its epoch.

use std::collections::BTreeMap;

use bytes::Bytes;
use deadpool_postgres::Transaction;
use muster_compliance::packed;
use muster_domain::UpdateNo;
use muster_domain::states::Detection;
use muster_proto::{link, state as pb};
use prost::Message;
use uuid::Uuid;

use super::{Error, Site};
use crate::app::matrix;
use crate::domain::changed::{Changed, Stands};
use crate::domain::link_rows::Row;
use crate::domain::settle::Held;
use crate::store::compliance;
use crate::store::told_clients;

/// States of updates of deployments in one report.
const MAX_ENFORCEMENTS: usize = 1_000;

/// Who a client is, if that is to be told, and what it says.
#[derive(Debug, Default)]
pub(super) struct OfClient {
    pub(super) record: Option<link::ClientRecord>,
    /// What it thinks of updates, when it says nothing else.
    pub(super) row: Option<(Uuid, Row)>,
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
    // The others are what memory says.
    let unsure = pick(|it| it.record || it.stands.is_none());
    let mut told = told_clients::describe(tx, site.config.site_code.as_str(), &unsure).await?;
    let all_of = pick(|it| it.all);
    let rows = compliance::load(tx, &all_of).await?;
    let mut drafts: BTreeMap<i32, Draft> = BTreeMap::new();
    for (client_no, changed) in changes {
        let stands = match told.get(client_no) {
            Some(told) if told.record.deleted => continue,
            Some(told) => told.stands,
            None => match changed.stands.filter(|_| !changed.record) {
                Some(stands) => stands,
                None => continue,
            },
        };
        if !changed.all && !changed.reported {
            continue;
        }
        let row = rows.get(client_no);
        drafts.insert(
            *client_no,
            Draft::new(site, *client_no, changed, &stands, row),
        );
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
    let of_client = |(client_no, changed): (&i32, &Changed)| {
        let told = told.remove(client_no);
        let record = told.filter(|it| changed.record || it.record.deleted);
        let mut of_client = OfClient {
            record: record.map(|it| it.record),
            ..OfClient::default()
        };
        if let Some(draft) = drafts.remove(client_no) {
            draft.finish(*client_no, &mut of_client);
        }
        (*client_no, of_client)
    };
    Ok(changes.iter().map(of_client).collect())
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
    client_id: Uuid,
    main: pb::Report,
    /// What the main one says of updates.
    compliance: Option<Said>,
    others: BTreeMap<u32, pb::Report>,
}

/// What a client thinks of updates, up to this serial.
#[derive(Debug)]
struct Said {
    serial: u64,
    states: Vec<(UpdateNo, Detection)>,
}

impl Draft {
    fn new(
        site: &Site,
        client_no: i32,
        changed: &Changed,
        stands: &Stands,
        row: Option<&Held>,
    ) -> Self {
        let mut main = pb::Report {
            client_id: Bytes::copy_from_slice(stands.client_id.as_bytes()),
            epoch: stands.epoch,
            first_serial: 1,
            last_serial: stands.contiguous.max(1),
            kind: pb::ReportKind::Delta.into(),
            ..pb::Report::default()
        };
        let mut compliance = None;
        if changed.all {
            main.kind = pb::ReportKind::Full.into();
            if let Some(row) = row {
                main.epoch = row.epoch.unsigned_abs();
                // Since the row was written only the client's mark may have moved on.
                let mark = stands.contiguous * u64::from(main.epoch == stands.epoch);
                let serial = row.serial.unsigned_abs().max(mark);
                main.last_serial = serial.max(1);
                main.catalog_generation = row.catalog_generation.unsigned_abs();
                let states = row.states.listed();
                compliance = Some(Said { serial, states });
            }
        } else if stands.has_row && stands.has_full {
            // Memory has whatever was committed before its mark was taken out of it.
            let mut updates = changed.updates.clone();
            updates.sort_unstable();
            updates.dedup();
            let client = client_no.unsigned_abs();
            let matrix = matrix::look(site);
            let held = |number: &i32| {
                let update_no = UpdateNo(number.unsigned_abs());
                (update_no, matrix.held(update_no, client))
            };
            let generation = matrix.generation(client).unwrap_or(0);
            main.catalog_generation = generation.unsigned_abs();
            compliance = Some(Said {
                serial: stands.contiguous,
                states: updates.iter().map(held).collect(),
            });
        }
        Self {
            client_id: stands.client_id,
            main,
            compliance,
            others: BTreeMap::new(),
        }
    }

    /// The report that a state of this epoch and serial belongs in.
    fn part(&mut self, epoch: u32, serial: u64) -> &mut pb::Report {
        let report = if epoch == self.main.epoch {
            &mut self.main
        } else {
            let other = || pb::Report {
                client_id: Bytes::copy_from_slice(self.client_id.as_bytes()),
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

    /// The main one says nothing but what the client thinks of updates.
    fn is_row(&self) -> bool {
        let main = &self.main;
        main.update_enforcements.is_empty()
            && main.deployments.is_empty()
            && main.scan.is_none()
            && main.restart.is_none()
            && main.inventory.is_none()
            && main.health.is_none()
    }

    /// As a row, or encoded, each within the bounds of a report.
    fn finish(mut self, client_no: i32, of_client: &mut OfClient) {
        let is_row = self.is_row();
        if let Some(Said { serial, states }) = self.compliance.take() {
            if is_row {
                let row = Row {
                    client_no: client_no.unsigned_abs(),
                    full: self.main.kind == i32::from(pb::ReportKind::Full),
                    epoch: self.main.epoch,
                    serial,
                    catalog_generation: self.main.catalog_generation,
                    states,
                };
                of_client.row = Some((self.client_id, row));
            } else {
                self.main.compliance = Some(pack(states, serial));
            }
        }
        let reports = &mut of_client.reports;
        let main = of_client.row.is_none().then_some(self.main);
        for mut report in main.into_iter().chain(self.others.into_values()) {
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
    }
}

fn pack(states: Vec<(UpdateNo, Detection)>, serial: u64) -> pb::Compliance {
    let packed = packed::pack(states);
    pb::Compliance {
        update_numbers: packed.update_numbers,
        states: packed.states.into(),
        serial,
        needs: Vec::new(),
    }
}
