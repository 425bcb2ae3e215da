//! From the spool to a report, and what its acknowledgement means.

use muster_compliance::packed;
use muster_domain::UpdateNo;
use muster_domain::priority::Priority;
use muster_domain::states::Detection;
use muster_proto::convert;
use muster_proto::state::{
    self as pb, Compliance, DeploymentState, LeafNeed, Report, ReportKind, UpdateEnforcementState,
};
use muster_stream::{Draft, DraftKind, SerialRange};
use prost::Message;

use crate::Error;
use crate::priority::Rules;
use crate::scan::detection_of;
use crate::store::{Kind, Registration, SavedState, Store, Writer, meta};

/// A report is cut before it gets longer, in bytes; the management point takes 1 MiB.
const MAX_REPORT: usize = 900 * 1024;
/// What a state costs in a report beside its value, at most, in bytes.
const OVERHEAD: usize = 48;
/// The same for a detection: number, state, and the heads of its packages' names.
const DETECTION_OVERHEAD: usize = 24;

/// A packed report and what its acknowledgement means.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Packed {
    /// The report.
    pub(crate) report: Report,
    /// States are left for another report.
    pub(crate) more: bool,
}

/// Packs what the site has not acknowledged; `None` when it has everything.
///
/// What does not fit waits for the next report. Of a delta those are the highest serials. A full
/// report replaces everything up to its last serial, so what it leaves out gets new serials and
/// follows as a delta. While detections are left, the catalog generation is not the new one: with
/// it, what is still to come would read as "not required".
///
/// # Errors
/// When the spool cannot be read or written.
pub(crate) fn pack(store: &Store, now: jiff::Timestamp) -> Result<Option<Packed>, Error> {
    let Some(pending) = store.read(|r| Pending::read(r, now))? else {
        return Ok(None);
    };
    let Pending {
        registration,
        draft,
        acked,
        mut states,
        rules,
        generation,
        acked_generation,
    } = pending;
    let full = draft.kind == DraftKind::Full;
    let mut last = draft.range.last;
    let left = if full {
        // Few and most telling first; words about single updates last.
        states.sort_by_key(|state| match state.kind {
            Kind::Detection => 1,
            Kind::UpdateEnforcement => 2,
            Kind::Restart
            | Kind::Heartbeat
            | Kind::Deployment
            | Kind::Scan
            | Kind::Inventory
            | Kind::Health => 0,
        });
        states.split_off(fitting(&states))
    } else {
        let left = states.split_off(fitting(&states));
        if !left.is_empty() {
            last = states.last().map_or(last, |state| state.serial);
        }
        left
    };
    if full && !left.is_empty() {
        tracing::warn!(
            states = left.len(),
            "a full report is too long, the rest follows"
        );
        store.write(|w| left.iter().try_for_each(|state| w.renumber(state)))?;
    }
    let again = draft.kind == DraftKind::Again;
    let more = again || !left.is_empty();
    // A full report is routine, whatever is in it: a site that asks everybody for everything must
    // not fill the lane of what is urgent.
    let priority = match states.iter().map(|state| rules.priority(state)).min() {
        Some(priority) if !full => priority,
        Some(_) | None => Priority::Normal,
    };
    let generation = match left.iter().any(|state| state.kind == Kind::Detection) {
        // What came with the serials after the range says it.
        _ if again && last < acked => 0,
        _ if again => acked_generation,
        false => generation,
        // Older than every update: there is no data about what is not listed yet.
        true if full => 0,
        true => acked_generation,
    };
    let mut report = Report {
        client_id: registration.client_id.as_bytes().to_vec().into(),
        epoch: draft.epoch,
        first_serial: draft.range.first,
        last_serial: last,
        kind: if full {
            ReportKind::Full
        } else {
            ReportKind::Delta
        }
        .into(),
        priority: priority.id().into(),
        reported_at: Some(convert::to_timestamp(now)),
        catalog_generation: generation,
        ..Report::default()
    };
    fill(&mut report, &states, full)?;
    Ok(Some(Packed { report, more }))
}

/// Whether everything that is to be sent can wait for a later routine report.
///
/// # Errors
/// When the spool cannot be read.
pub(crate) fn can_wait(store: &Store, now: jiff::Timestamp) -> Result<bool, Error> {
    let Some(pending) = store.read(|r| Pending::read(r, now))? else {
        return Ok(false);
    };
    let low = |state: &SavedState| pending.rules.priority(state) == Priority::Low;
    let news = pending.draft.kind == DraftKind::News;
    Ok(news && pending.states.iter().all(low))
}

/// Whether there is nothing to send.
///
/// # Errors
/// When the spool cannot be read.
pub(crate) fn is_silent(store: &Store, now: jiff::Timestamp) -> Result<bool, Error> {
    Ok(store.read(|r| Pending::read(r, now))?.is_none())
}

/// What is to be sent, in one snapshot.
struct Pending {
    registration: Registration,
    draft: Draft,
    acked: u64,
    states: Vec<SavedState>,
    rules: Rules,
    generation: u64,
    acked_generation: u64,
}

impl Pending {
    fn read(r: &Writer<'_>, now: jiff::Timestamp) -> Result<Option<Self>, Error> {
        let registration = r.registration()?.ok_or(Error::NotEnrolled)?;
        let sender = r.sender()?;
        let Some(draft) = sender.next() else {
            return Ok(None);
        };
        // Serials without a state were superseded. A report without any closes a gap all the same.
        let mut states = r.changed_after(draft.range.first - 1)?;
        states.retain(|state| state.serial <= draft.range.last);
        // What the site does not want to hear counts as told with the next report.
        let rules = Rules::read(r, now)?;
        states.retain(|state| rules.lets(state));
        if states.is_empty() && draft.kind == DraftKind::News {
            return Ok(None);
        }
        Ok(Some(Self {
            registration,
            draft,
            acked: sender.acked,
            states,
            rules,
            generation: r.number(meta::SCANNED_GENERATION)?.unwrap_or(0),
            acked_generation: r.number(meta::ACKED_GENERATION)?.unwrap_or(0),
        }))
    }
}

/// How many of these states fit in one report; one in any case, if there is one.
fn fitting(states: &[SavedState]) -> usize {
    let mut total = 0;
    let fit = states.iter().take_while(|state| {
        total += match state.kind {
            Kind::Detection => {
                let names = state.value.iter().filter(|byte| **byte == b'\n').count();
                DETECTION_OVERHEAD + state.value.len() + 2 * names
            }
            Kind::Restart
            | Kind::Heartbeat
            | Kind::Deployment
            | Kind::UpdateEnforcement
            | Kind::Scan
            | Kind::Inventory
            | Kind::Health => OVERHEAD + state.value.len(),
        };
        total <= MAX_REPORT
    });
    fit.count().max(1).min(states.len())
}

/// Forgets what the site has.
///
/// # Errors
/// When the spool cannot be written.
pub(crate) fn acknowledge(store: &Store, report: &Report) -> Result<(), Error> {
    store.write(|w| {
        let mut sender = w.sender()?;
        let full = report.kind == i32::from(ReportKind::Full);
        let news = full || report.last_serial > sender.acked;
        let range = SerialRange {
            first: report.first_serial,
            last: report.last_serial,
        };
        if !sender.acknowledge(report.epoch, full, range) {
            return Ok(());
        }
        w.keep_sender(&sender)?;
        if news {
            w.set_number(meta::ACKED_GENERATION, report.catalog_generation)?;
        }
        if full {
            forget_not_required(w, report.last_serial)?;
        }
        let sent_at = report.reported_at.as_ref();
        match sent_at.map(|at| convert::from_timestamp("reported_at", at)) {
            Some(Ok(at)) => w.set_time(meta::SENT_AT, at),
            Some(Err(_)) | None => Ok(()),
        }
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

fn fill(report: &mut Report, states: &[SavedState], full: bool) -> Result<(), Error> {
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
            Kind::Heartbeat => report.heartbeat = Some(pb::Heartbeat { serial }),
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use muster_domain::ClientId;
    use muster_stream::{Heard, Wanted, Wish};

    use super::*;
    use crate::scan::detection_value;
    use crate::store::Durability;

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
    fn only_what_need_not_be_known_soon_can_wait() {
        let (_dir, store) = store();
        let waits = || can_wait(&store, Timestamp::now()).unwrap();
        detect(&store, 1, Detection::Required);
        assert!(!waits(), "the first report is full");
        acknowledge(&store, &packed(&store).report).unwrap();
        assert!(!waits(), "there is nothing");
        let inventory = pb::InventorySummary {
            installed_packages: 7,
            ..Default::default()
        };
        let put =
            |w: &Writer<'_>| w.put_message(Kind::Inventory, b"", &inventory, Timestamp::now());
        store.write(put).unwrap();
        assert!(waits());
        assert_eq!(packed(&store).report.priority(), pb::Priority::Low);
        detect(&store, 2, Detection::Required);
        assert!(!waits());
        assert_eq!(packed(&store).report.priority(), pb::Priority::Normal);
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
        for packed in all_parts(&store) {
            assert_eq!(packed.report.first_serial, next);
            next = packed.report.last_serial + 1;
            states += packed.report.update_enforcements.len();
        }
        assert_eq!((next, states), (1_501, 1_500));
    }

    /// Acknowledges part after part.
    fn all_parts(store: &Store) -> Vec<Packed> {
        let mut parts = Vec::new();
        loop {
            let packed = packed(store);
            assert!(packed.report.encoded_len() < 1024 * 1024);
            acknowledge(store, &packed.report).unwrap();
            let more = packed.more;
            parts.push(packed);
            if !more {
                assert_eq!(pack(store, Timestamp::now()).unwrap(), None);
                return parts;
            }
        }
    }

    #[test]
    fn a_full_report_too_long_for_one_is_followed_by_deltas_with_the_rest() {
        let (_dir, store) = store();
        let names: Vec<String> = (0..60)
            .map(|n| format!("package-with-a-name-{n}"))
            .collect();
        store
            .write(|w| {
                w.set_number(meta::SCANNED_GENERATION, 7)?;
                for update_no in 1..=2_000_u32 {
                    let key = update_no.to_be_bytes();
                    let state = UpdateEnforcementState {
                        update_no,
                        detail: "x".repeat(1_000),
                        ..Default::default()
                    };
                    w.put_message(Kind::UpdateEnforcement, &key, &state, Timestamp::now())?;
                    let needs = names.iter().map(String::as_str);
                    let value = detection_value(Detection::Required, needs);
                    w.put(Kind::Detection, &key, &value, Timestamp::now())?;
                }
                Ok(())
            })
            .unwrap();
        // The acknowledgement of the first attempt is lost.
        assert!(packed(&store).more);
        let before = store.read(|r| r.sender()).unwrap().last;
        let parts = all_parts(&store);
        let (first, rest) = parts.split_first().unwrap();
        assert_eq!(first.report.kind(), ReportKind::Full);
        assert_eq!(
            first.report.last_serial, before,
            "above all that was ever sent"
        );
        let mut next = before + 1;
        for part in rest {
            assert_eq!(part.report.kind(), ReportKind::Delta);
            assert_eq!(part.report.first_serial, next);
            next = part.report.last_serial + 1;
        }
        let mut seen = std::collections::BTreeSet::new();
        let mut words = 0;
        for part in &parts {
            words += part.report.update_enforcements.len();
            if part.report.compliance.is_some() {
                seen.extend(listed(&part.report).into_iter().map(|(update, _)| update));
            }
            let complete = seen.len() == 2_000;
            let generation = if complete { 7 } else { 0 };
            assert_eq!(part.report.catalog_generation, generation);
        }
        assert_eq!((parts.len() > 3, seen.len(), words), (true, 2_000, 2_000));
    }

    #[test]
    fn a_delta_in_parts_keeps_the_old_generation_until_its_detections_are_told() {
        let (_dir, store) = store();
        let set = |generation| store.write(|w| w.set_number(meta::SCANNED_GENERATION, generation));
        set(7).unwrap();
        detect(&store, 1, Detection::Installed);
        all_parts(&store);
        set(8).unwrap();
        let name = "x".repeat(500);
        for update in 2..2_500 {
            let value = detection_value(Detection::Required, [name.as_str()]);
            let put = |w: &Writer<'_>| {
                w.put(
                    Kind::Detection,
                    &u32::to_be_bytes(update),
                    &value,
                    Timestamp::now(),
                )
            };
            store.write(put).unwrap();
        }
        let parts = all_parts(&store);
        let generations: Vec<u64> = parts.iter().map(|p| p.report.catalog_generation).collect();
        assert_eq!(generations, [7, 8]);
    }

    #[test]
    fn a_range_is_told_again_with_what_was_not_superseded() {
        let (_dir, store) = store();
        detect(&store, 1, Detection::Installed);
        all_parts(&store);
        for (update, detection) in [
            (1, Detection::Required),
            (2, Detection::Required),
            (3, Detection::Required),
            (2, Detection::Installed),
        ] {
            detect(&store, update, detection);
        }
        all_parts(&store);
        detect(&store, 4, Detection::Required);
        let hear = |first, last| {
            let wanted = Wanted::Ranges(vec![SerialRange { first, last }]);
            store
                .write(|w| {
                    let mut sender = w.sender()?;
                    let heard = sender.hear(&Wish { epoch: 1, wanted });
                    w.keep_sender(&sender)?;
                    Ok(heard)
                })
                .unwrap()
        };
        assert_eq!(hear(2, 3), Heard::Send);
        let again = packed(&store);
        assert_eq!(again.report.kind(), ReportKind::Delta);
        let serials = (again.report.first_serial, again.report.last_serial);
        assert_eq!((serials, again.more), ((2, 3), true));
        assert_eq!(listed(&again.report), [(1, Detection::Required)]);
        acknowledge(&store, &again.report).unwrap();

        // Nothing is left of serial 3, and it closes the gap all the same.
        assert_eq!(hear(3, 3), Heard::Send);
        let empty = packed(&store).report;
        assert_eq!((empty.last_serial, &empty.compliance), (3, &None));
        acknowledge(&store, &empty).unwrap();
        let news = packed(&store).report;
        assert_eq!((news.first_serial, news.last_serial), (6, 6));

        // What the full report left out has been forgotten.
        assert_eq!(hear(1, 3), Heard::Send);
        assert_eq!(packed(&store).report.kind(), ReportKind::Full);
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
