//! Telling the site: what changed since the last acknowledged serial, packed into one report at
//! a time. A report is made from the spool each time it is sent, so a repeat carries everything
//! that is newer too; nothing leaves the spool before the acknowledgement.

use std::time::Duration;

use muster_compliance::packed;
use muster_domain::UpdateNo;
use muster_domain::states::{Detection, UpdateEnforcement};
use muster_proto::convert;
use muster_proto::state::state_service_client::StateServiceClient;
use muster_proto::state::{
    self as pb, Compliance, DeploymentState, LeafNeed, Priority, Report, ReportKind,
    ReportStatesRequest, UpdateEnforcementState,
};
use muster_runtime::Role;
use prost::Message;

use crate::agent::Agent;
use crate::scan::detection_of;
use crate::store::{Kind, SavedState, Store, Writer, meta};
use crate::{Error, wire};

/// A report is cut before it gets longer, in bytes; the management point takes 1 MiB.
const MAX_REPORT: usize = 900 * 1024;
/// What a state costs in a report beside its value, at most, in bytes.
const OVERHEAD: usize = 48;

/// A packed report and what its acknowledgement means.
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    /// The report.
    pub report: Report,
    /// States are left for another report.
    pub more: bool,
}

/// What was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Acknowledged reports.
    pub reports: u32,
    /// When the management point wants the next routine report.
    pub next_report_in: Option<Duration>,
}

impl Agent {
    /// Sends everything that was not acknowledged yet, one report after the other.
    ///
    /// # Errors
    /// When a report was not acknowledged: it stays in the spool. Repeat with backoff.
    pub async fn send_reports(&self) -> Result<Sent, Error> {
        let mut sent = Sent::default();
        while let Some(packed) = pack(self.store(), self.now())? {
            if self.mark_serials().await? {
                // In a new epoch now: the report begins again.
                continue;
            }
            let request = ReportStatesRequest {
                reports: vec![packed.report.encode_to_vec().into()],
            };
            let points = self.locations()?.management_points;
            let answer = wire::first(
                self.wire(),
                &points,
                (Role::ManagementPoint, "report not acknowledged"),
                |channel| {
                    let request = request.clone();
                    async move {
                        StateServiceClient::new(channel)
                            .report_states(request)
                            .await
                    }
                },
            )
            .await;
            let answer = match answer {
                Ok(answer) => answer.into_inner(),
                Err(error) => {
                    if error.code() == Some(tonic::Code::InvalidArgument) {
                        // A delta that can never be accepted must not stop the client for ever.
                        tracing::error!(%error, "report refused, a full one comes next");
                        self.store().write(|w| w.set_number(meta::FULL_WANTED, 1))?;
                    }
                    return Err(error);
                }
            };
            acknowledge(self.store(), &packed.report)?;
            metrics::counter!("muster_agent_reports_total").increment(1);
            sent.reports += 1;
            sent.next_report_in = answer
                .next_report_in
                .and_then(|d| convert::from_duration("next_report_in", &d).ok());
            if !packed.more {
                break;
            }
        }
        Ok(sent)
    }
}

/// Packs what the site has not acknowledged; `None` when it has everything.
///
/// # Errors
/// When the spool cannot be read.
pub fn pack(store: &Store, now: jiff::Timestamp) -> Result<Option<Packed>, Error> {
    store.read(|r| {
        let registration = r.registration()?.ok_or(Error::NotEnrolled)?;
        let full = r.number(meta::FULL_WANTED)?.unwrap_or(0) != 0;
        let (last, acked) = r.marks()?;
        let after = if full { 0 } else { acked };
        let mut states = r.changed_after(after)?;
        if states.is_empty() {
            return Ok(None);
        }
        let mut more = false;
        let mut last_serial = last;
        let size: usize = states
            .iter()
            .map(|state| state.value.len() + OVERHEAD)
            .sum();
        if size > MAX_REPORT && !full {
            let mut total = 0;
            let fits = states.iter().take_while(|state| {
                total += state.value.len() + OVERHEAD;
                total <= MAX_REPORT
            });
            let fits = fits.count().max(1);
            states.truncate(fits);
            more = true;
            last_serial = states.last().map_or(last, |state| state.serial);
        }
        // A full report replaces everything, so it cannot be cut; it does without words.
        let brief = full && size > MAX_REPORT;
        let mut report = Report {
            client_id: registration.client_id.as_bytes().to_vec().into(),
            epoch: registration.epoch,
            first_serial: after + 1,
            last_serial,
            kind: if full {
                ReportKind::Full
            } else {
                ReportKind::Delta
            }
            .into(),
            priority: Priority::Normal.into(),
            reported_at: Some(convert::to_timestamp(now)),
            catalog_generation: r.number(meta::SCANNED_GENERATION)?.unwrap_or(0),
            ..Report::default()
        };
        fill(&mut report, &states, full, brief)?;
        if !full && has_bad_news(&report) {
            report.priority = Priority::UrgentUnspecified.into();
        }
        Ok(Some(Packed { report, more }))
    })
}

/// Forgets what the site has.
///
/// # Errors
/// When the spool cannot be written.
pub fn acknowledge(store: &Store, report: &Report) -> Result<(), Error> {
    store.write(|w| {
        // A registration in between started a new count.
        if w.registration()?
            .is_none_or(|held| held.epoch != report.epoch)
        {
            return Ok(());
        }
        let acked = w.number(meta::ACKED_SERIAL)?.unwrap_or(0);
        w.set_number(meta::ACKED_SERIAL, acked.max(report.last_serial))?;
        if report.kind == i32::from(ReportKind::Full) {
            w.set_number(meta::FULL_WANTED, 0)?;
            forget_not_required(w, report.last_serial)?;
        }
        Ok(())
    })
}

/// "Not required" is inferred from a full report; rows that say it are only needed to take back
/// something else.
fn forget_not_required(w: &Writer<'_>, up_to: u64) -> Result<(), Error> {
    for state in w.changed_after(0)? {
        if state.kind == Kind::Detection
            && state.serial <= up_to
            && detection_of(&state.value).0 == Detection::NotRequired
        {
            w.forget(Kind::Detection, &state.key)?;
        }
    }
    Ok(())
}

fn fill(report: &mut Report, states: &[SavedState], full: bool, brief: bool) -> Result<(), Error> {
    let broken = |_| Error::Saved { what: "state" };
    let mut detections = Vec::new();
    let mut compliance = Compliance::default();
    for state in states {
        let (value, serial) = (state.value.as_slice(), state.serial);
        let changed_at = Some(convert::to_timestamp(state.changed_at));
        match state.kind {
            Kind::Detection => {
                let number: [u8; 4] =
                    state.key.as_slice().try_into().map_err(|_| Error::Saved {
                        what: "update number",
                    })?;
                let update_no = u32::from_be_bytes(number);
                let (detection, packages) = detection_of(value);
                compliance.serial = compliance.serial.max(serial);
                if full && detection == Detection::NotRequired {
                    continue;
                }
                if !packages.is_empty() {
                    compliance.needs.push(LeafNeed {
                        update_no,
                        packages,
                    });
                }
                detections.push((UpdateNo(update_no), detection));
            }
            Kind::UpdateEnforcement => {
                let mut state = UpdateEnforcementState::decode(value).map_err(broken)?;
                (state.serial, state.changed_at) = (serial, changed_at);
                if brief {
                    state.detail.clear();
                }
                report.update_enforcements.push(state);
            }
            Kind::Deployment => {
                let mut state = DeploymentState::decode(value).map_err(broken)?;
                (state.serial, state.changed_at) = (serial, changed_at);
                report.deployments.push(state);
            }
            Kind::Scan => {
                let state = pb::ScanState::decode(value).map_err(broken)?;
                report.scan = Some(pb::ScanState { serial, ..state });
            }
            Kind::Restart => {
                let state = pb::RestartState::decode(value).map_err(broken)?;
                report.restart = Some(pb::RestartState { serial, ..state });
            }
            Kind::Inventory => {
                let state = pb::InventorySummary::decode(value).map_err(broken)?;
                report.inventory = Some(pb::InventorySummary { serial, ..state });
            }
            Kind::Health => {
                let state = pb::ClientHealth::decode(value).map_err(broken)?;
                report.health = Some(pb::ClientHealth { serial, ..state });
            }
        }
    }
    if compliance.serial > 0 {
        detections.sort_unstable_by_key(|(update, _)| *update);
        compliance.needs.sort_unstable_by_key(|need| need.update_no);
        let columns = packed::pack(detections);
        compliance.update_numbers = columns.update_numbers;
        compliance.states = columns.states.into();
        report.compliance = Some(compliance);
    }
    Ok(())
}

fn has_bad_news(report: &Report) -> bool {
    let failed = |state: &UpdateEnforcementState| {
        let state = u8::try_from(state.state)
            .ok()
            .and_then(UpdateEnforcement::from_id);
        state.is_some_and(UpdateEnforcement::is_failure)
    };
    report.update_enforcements.iter().any(failed)
        || report.health.as_ref().is_some_and(|health| !health.healthy)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use muster_domain::ClientId;

    use super::*;
    use crate::scan::detection_value;
    use crate::store::{Durability, Registration};

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("agent.db"), Durability::Full).unwrap();
        let registration = Registration {
            client_id: ClientId::generate(),
            site_code: "P01".into(),
            epoch: 1,
            policy_keys: vec![vec![1; 32]],
        };
        store.write(|w| w.set_registration(&registration)).unwrap();
        (dir, store)
    }

    fn detect(store: &Store, update: u32, detection: Detection) {
        let value = detection_value(detection, ["bash"]);
        let key = update.to_be_bytes();
        store
            .write(|w| w.put(Kind::Detection, &key, &value, Timestamp::now()))
            .unwrap();
    }

    fn packed(store: &Store) -> Packed {
        pack(store, Timestamp::now()).unwrap().unwrap()
    }

    fn listed(report: &Report) -> Vec<(u32, Detection)> {
        let compliance = report.compliance.as_ref().unwrap();
        packed::unpack(&compliance.update_numbers, &compliance.states)
            .unwrap()
            .into_iter()
            .map(|(update, state)| (update.0, state))
            .collect()
    }

    #[test]
    fn the_first_report_is_full_and_later_ones_carry_what_changed() {
        let (_dir, store) = store();
        detect(&store, 9, Detection::Installed);
        detect(&store, 2, Detection::Required);
        let first = packed(&store).report;
        assert_eq!(first.kind(), ReportKind::Full);
        assert_eq!((first.first_serial, first.last_serial), (1, 2));
        assert_eq!(
            listed(&first),
            [(2, Detection::Required), (9, Detection::Installed)]
        );
        assert_eq!(
            first.compliance.as_ref().unwrap().needs[0].packages,
            ["bash"]
        );
        acknowledge(&store, &first).unwrap();
        assert_eq!(
            pack(&store, Timestamp::now()).unwrap(),
            None,
            "the site has everything"
        );

        detect(&store, 2, Detection::NotRequired);
        let second = packed(&store).report;
        assert_eq!(second.kind(), ReportKind::Delta);
        assert_eq!((second.first_serial, second.last_serial), (3, 3));
        assert_eq!(listed(&second), [(2, Detection::NotRequired)]);
    }

    #[test]
    fn a_report_stays_until_it_is_acknowledged_and_a_repeat_carries_newer_states_too() {
        let (_dir, store) = store();
        detect(&store, 1, Detection::Required);
        acknowledge(&store, &packed(&store).report).unwrap();
        detect(&store, 2, Detection::Required);
        let lost = packed(&store).report;
        detect(&store, 3, Detection::Required);
        let again = packed(&store).report;
        assert_eq!((lost.first_serial, again.first_serial), (2, 2));
        assert_eq!(again.last_serial, 3);
        // The late acknowledgement of the first attempt leaves the newer state in the spool.
        acknowledge(&store, &lost).unwrap();
        assert_eq!(listed(&packed(&store).report), [(3, Detection::Required)]);
    }

    #[test]
    fn the_acknowledgement_of_an_older_epoch_means_nothing() {
        let (_dir, store) = store();
        detect(&store, 1, Detection::Required);
        let old = packed(&store).report;
        let mut registration = store.registration().unwrap().unwrap();
        registration.epoch = 2;
        store.write(|w| w.set_registration(&registration)).unwrap();
        acknowledge(&store, &old).unwrap();
        let fresh = packed(&store).report;
        assert_eq!((fresh.epoch, fresh.kind()), (2, ReportKind::Full));
    }

    #[test]
    fn a_backlog_larger_than_a_report_goes_out_in_parts_without_a_gap() {
        let (_dir, store) = store();
        acknowledge(
            &store,
            &Report {
                epoch: 1,
                kind: 1,
                ..Report::default()
            },
        )
        .unwrap();
        let detail = "x".repeat(1_000);
        store
            .write(|w| {
                for update_no in 0..1_500_u32 {
                    let state = UpdateEnforcementState {
                        update_no,
                        detail: detail.clone(),
                        ..Default::default()
                    };
                    let key = update_no.to_be_bytes();
                    w.put_message(Kind::UpdateEnforcement, &key, &state, Timestamp::now())?;
                }
                Ok(())
            })
            .unwrap();
        let (mut next, mut states) = (1, 0);
        loop {
            let packed = packed(&store);
            assert!(packed.report.encoded_len() < 1024 * 1024);
            assert_eq!(packed.report.first_serial, next);
            next = packed.report.last_serial + 1;
            states += packed.report.update_enforcements.len();
            acknowledge(&store, &packed.report).unwrap();
            if !packed.more {
                break;
            }
        }
        assert_eq!((next, states), (1_501, 1_500));
    }

    #[test]
    fn three_hundred_states_fit_in_about_five_hundred_bytes() {
        let (_dir, store) = store();
        store
            .write(|w| {
                for update in 0..300_u32 {
                    let value = detection_value(Detection::Installed, []);
                    w.put(
                        Kind::Detection,
                        &(update * 7 + 1).to_be_bytes(),
                        &value,
                        Timestamp::now(),
                    )?;
                }
                Ok(())
            })
            .unwrap();
        let size = packed(&store).report.encoded_len();
        assert!(size < 500, "{size}");
    }
}
