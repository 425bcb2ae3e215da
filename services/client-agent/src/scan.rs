//! Scanning: bring the catalog up to date when the rules ask for it (semantics.md 2.4), read the
//! machine, evaluate, and save what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use muster_domain::states::{Detection, Scan};
use muster_domain::{UpdateNo, error_code};
use muster_proto::catalog::scan_service_client::ScanServiceClient;
use muster_proto::catalog::{GetScanMetadataRequest, GetScanMetadataResponse};
use muster_proto::convert;
use muster_proto::state::{InventorySummary, RestartState, ScanState};
use muster_runtime::Role;
use tonic::codec::CompressionEncoding;

use crate::agent::Agent;
use crate::error::cut;
use crate::evaluate::{self, Evaluation};
use crate::policy::Settings;
use crate::provider::{Machine, Restart};
use crate::store::{Kind, Writer, meta};
use crate::{Error, wire};

/// The most package names in one request (`GetScanMetadataRequest.packages`).
const MAX_NAMES: usize = 20_000;
/// Free disk space is reported in steps, or every scan would be a change.
const DISK_STEP: u64 = 1 << 30;

/// What made a scan start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The scan schedule.
    Scheduled,
    /// A person.
    User,
    /// The schedule on which deployments are evaluated again.
    Reevaluation,
    /// Updates are about to be downloaded.
    BeforeDownload,
    /// Updates are about to be installed.
    BeforeInstallation,
    /// Updates were just installed.
    AfterInstallation,
    /// The machine was restarted.
    AfterRestart,
}

impl Trigger {
    /// Whether the update source is asked, given how long ago it was (semantics.md 2.4, current
    /// branch). An answer of the source starts a new time to live.
    #[must_use]
    pub fn is_online(self, settings: &Settings, age: Option<Duration>) -> bool {
        let outside = age.is_none_or(|age| age >= settings.scan_ttl);
        match self {
            Self::User => true,
            Self::Scheduled => settings.scheduled_scan_is_forced || outside,
            Self::Reevaluation | Self::BeforeDownload | Self::BeforeInstallation => outside,
            Self::AfterInstallation | Self::AfterRestart => false,
        }
    }
}

/// What a scan did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// Whether the update source was asked.
    pub online: bool,
    /// What the machine needs.
    pub evaluation: Evaluation,
}

impl Agent {
    /// Scans the machine and saves what changed.
    ///
    /// # Errors
    /// When no software update point gave an answer although one was needed. The machine is
    /// evaluated with the catalog at hand even then, and the scan is "pending retry".
    pub async fn scan(&self, trigger: Trigger) -> Result<Scanned, Error> {
        self.scan_if(trigger, false).await
    }

    /// As [`Agent::scan`], and online in any case when `must` is set.
    pub(crate) async fn scan_if(&self, trigger: Trigger, must: bool) -> Result<Scanned, Error> {
        let settings = Settings::of(self.policy()?.as_ref());
        let now = self.now();
        let last = self.store().read(|r| r.time(meta::LAST_ONLINE_SCAN))?;
        let age = last.map(|last| Duration::try_from(now.duration_since(last)).unwrap_or_default());
        let online = must || trigger.is_online(&settings, age);
        let machine = self.read_machine().await?;
        let answered = if online {
            self.store()
                .write(|w| w.put_message(Kind::Scan, b"", &scan_state(Scan::Running), now))?;
            self.update_catalog(&machine).await
        } else {
            Ok(())
        };
        if answered.is_ok() && online {
            self.store()
                .write(|w| w.set_time(meta::LAST_ONLINE_SCAN, now))?;
        }
        let evaluation = self.save_scan(&machine, answered.as_ref().err())?;
        tracing::info!(
            ?trigger,
            online,
            generation = evaluation.generation,
            required = evaluation
                .updates
                .iter()
                .filter(|u| u.detection == Detection::Required)
                .count(),
            "scanned"
        );
        answered?;
        Ok(Scanned { online, evaluation })
    }

    /// Evaluates the machine with the catalog at hand. Saves nothing.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn evaluate(&self) -> Result<Evaluation, Error> {
        let machine = self.read_machine().await?;
        let catalog = self.store().read(|r| r.catalog())?;
        Ok(evaluate::evaluate(&machine, &catalog, |path| {
            self.provider().file_exists(path)
        }))
    }

    async fn read_machine(&self) -> Result<Machine, Error> {
        let provider = Arc::clone(self.provider());
        // Reads files of megabytes.
        let machine = tokio::task::spawn_blocking(move || provider.machine()).await;
        machine.map_err(|_| Error::Saved { what: "machine" })
    }

    /// The software update points in order of preference: the one that answered last comes first.
    fn update_points(&self) -> Result<Vec<String>, Error> {
        let from_policy = self.policy()?.map(|policy| policy.software_update_points);
        let mut points = match from_policy {
            Some(points) if !points.is_empty() => points,
            _ => self.locations()?.software_update_points,
        };
        let start = self
            .store()
            .read(|r| r.number(meta::UPDATE_POINT))?
            .unwrap_or(0);
        let len = points.len().max(1);
        points.rotate_left(usize::try_from(start).unwrap_or(0) % len);
        Ok(points)
    }

    /// Goes over to the next software update point: the present one failed too often.
    pub(crate) fn leave_update_point(&self) -> Result<(), Error> {
        self.store().write(|w| {
            let now = w.number(meta::UPDATE_POINT)?.unwrap_or(0);
            w.set_number(meta::UPDATE_POINT, now.wrapping_add(1) % 1_000)
        })
    }

    /// Brings the catalog up to date: the difference since the generation at hand, and everything
    /// about packages that were installed since.
    async fn update_catalog(&self, machine: &Machine) -> Result<(), Error> {
        let empty = Vec::new();
        let installed: BTreeSet<&str> = machine
            .packages
            .as_ref()
            .unwrap_or(&empty)
            .iter()
            .map(|package| package.name.as_str())
            .collect();
        let mut restarted = false;
        loop {
            let (base, known) = self.store().read(|r| {
                Ok((
                    r.number(meta::GENERATION)?.unwrap_or(0),
                    r.known_packages()?,
                ))
            })?;
            let mut fresh: Vec<String> = installed
                .iter()
                .filter(|name| !known.contains(**name))
                .map(|name| (*name).to_owned())
                .collect();
            let more = fresh.len() > MAX_NAMES;
            fresh.truncate(MAX_NAMES);
            let request = GetScanMetadataRequest {
                base_generation: base,
                packages: fresh.clone(),
                architecture: machine.architecture.clone(),
                os_id: machine.os_id.clone(),
                os_version_id: machine.os_version_id.clone(),
            };
            let cold = match self.ask_update_point(&request).await {
                Ok(answer) if !answer.restart_cold => {
                    self.store().write(|w| w.apply_catalog(&answer, &fresh))?;
                    if !more {
                        return Ok(());
                    }
                    continue;
                }
                Ok(_) => None,
                Err(error) if error.reason().as_deref() == Some("GENERATION_UNKNOWN") => {
                    Some(error)
                }
                Err(error) => return Err(error),
            };
            if restarted || base == 0 {
                return Err(cold.unwrap_or_else(|| {
                    Error::Answer("asked to start cold when it already did".into())
                }));
            }
            tracing::info!(base, "the catalog starts again from nothing");
            self.store().write(|w| w.forget_catalog())?;
            restarted = true;
        }
    }

    async fn ask_update_point(
        &self,
        request: &GetScanMetadataRequest,
    ) -> Result<GetScanMetadataResponse, Error> {
        let points = self.update_points()?;
        // One at a time: changing the server for every hiccup would move whole fleets about
        // (semantics.md 2.5, "scan retry"). The daemon counts and moves on.
        let first = points.get(..1).unwrap_or_default();
        let answer = wire::first(
            self.wire(),
            first,
            (Role::SoftwareUpdatePoint, "no scan metadata"),
            |channel| {
                let request = request.clone();
                async move {
                    ScanServiceClient::new(channel)
                        .accept_compressed(CompressionEncoding::Zstd)
                        .max_decoding_message_size(wire::MAX_ANSWER)
                        .get_scan_metadata(request)
                        .await
                }
            },
        )
        .await?;
        Ok(answer.into_inner())
    }

    /// Evaluates, and saves every state that changed, in one transaction.
    fn save_scan(&self, machine: &Machine, failed: Option<&Error>) -> Result<Evaluation, Error> {
        let now = self.now();
        let restart = self.provider().restart();
        let catalog = self.store().read(|r| r.catalog())?;
        let evaluation =
            evaluate::evaluate(machine, &catalog, |path| self.provider().file_exists(path));
        let state = outcome(machine, failed, now);
        self.store().write(|w| {
            let evaluation = keep_waiting_for_restart(w, evaluation, &restart, now)?;
            if evaluation.generation > 0 {
                save_detections(w, &evaluation, now)?;
                w.set_number(meta::SCANNED_GENERATION, evaluation.generation)?;
            }
            w.put_message(Kind::Scan, b"", &state, now)?;
            w.put_message(Kind::Inventory, b"", &inventory(machine), now)?;
            let restart = RestartState {
                pending: restart.pending,
                reason: cut(restart.reason),
                serial: 0,
            };
            w.put_message(Kind::Restart, b"", &restart, now)?;
            if w.get(Kind::Health, b"")?.is_none() {
                w.put_message(Kind::Health, b"", &crate::policy::healthy(), now)?;
            }
            w.set_time(meta::LAST_SCAN, now)?;
            Ok(evaluation)
        })
    }
}

/// "Installed but restart pending stays Required" (semantics.md 2.3). Updates whose restart is
/// over become installed, and their enforcement successful.
fn keep_waiting_for_restart(
    w: &Writer<'_>,
    mut evaluation: Evaluation,
    restart: &Restart,
    now: Timestamp,
) -> Result<Evaluation, Error> {
    let waiting = w.restart_pending()?;
    let mut still = BTreeSet::new();
    for found in &mut evaluation.updates {
        if restart.pending
            && found.detection == Detection::Installed
            && waiting.contains(&found.update_no)
        {
            found.detection = Detection::Required;
            still.insert(found.update_no);
        }
    }
    if still != waiting {
        let over: BTreeSet<UpdateNo> = waiting.difference(&still).copied().collect();
        crate::topics::restarted(w, &evaluation, &over, now)?;
        w.set_restart_pending(&still)?;
    }
    Ok(evaluation)
}

fn save_detections(w: &Writer<'_>, evaluation: &Evaluation, now: Timestamp) -> Result<(), Error> {
    let mut held = w.all(Kind::Detection)?;
    for found in &evaluation.updates {
        let key = found.update_no.0.to_be_bytes();
        let before = held.remove(&key[..]);
        // "Not required" is inferred until it was something else.
        if found.detection == Detection::NotRequired && before.is_none() {
            continue;
        }
        let value = detection_value(found.detection, found.needs.iter().map(|n| n.name.as_str()));
        if before.as_ref() != Some(&value) {
            w.put(Kind::Detection, &key, &value, now)?;
        }
    }
    // What left the catalog is no longer required of anybody.
    for (key, value) in held {
        let gone = detection_value(Detection::NotRequired, []);
        if value != gone {
            w.put(Kind::Detection, &key, &gone, now)?;
        }
    }
    Ok(())
}

/// How the spool keeps topic 500 (see [`Kind::Detection`]).
pub(crate) fn detection_value<'a>(
    detection: Detection,
    packages: impl IntoIterator<Item = &'a str>,
) -> Vec<u8> {
    let mut value = vec![detection.id()];
    if detection == Detection::Required {
        let names: BTreeSet<&str> = packages.into_iter().collect();
        for (at, name) in names.into_iter().enumerate() {
            if at > 0 {
                value.push(b'\n');
            }
            value.extend_from_slice(name.as_bytes());
        }
    }
    value
}

/// The opposite of [`detection_value`].
pub(crate) fn detection_of(value: &[u8]) -> (Detection, Vec<String>) {
    let Some((id, names)) = value.split_first() else {
        return (Detection::Unknown, Vec::new());
    };
    let names = std::str::from_utf8(names).unwrap_or_default();
    let names = names
        .split('\n')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    (Detection::from_id(*id).unwrap_or(Detection::Unknown), names)
}

/// What the last scan found, by update.
pub(crate) fn detections(r: &Writer<'_>) -> Result<BTreeMap<UpdateNo, Detection>, Error> {
    let mut found = BTreeMap::new();
    for (key, value) in r.all(Kind::Detection)? {
        let number: [u8; 4] = key.try_into().map_err(|_| Error::Saved {
            what: "update number",
        })?;
        found.insert(UpdateNo(u32::from_be_bytes(number)), detection_of(&value).0);
    }
    Ok(found)
}

fn scan_state(state: Scan) -> ScanState {
    ScanState {
        state: i32::from(state.id()),
        ..ScanState::default()
    }
}

fn outcome(machine: &Machine, failed: Option<&Error>, now: Timestamp) -> ScanState {
    let last_scanned_at = Some(convert::to_timestamp(now));
    if let Err(why) = &machine.packages {
        let detail = cut(format!("the package list cannot be read: {why}"));
        let error_code = error_code::INVENTORY_UNREADABLE;
        return ScanState {
            error_code,
            detail,
            ..scan_state(Scan::Failed)
        };
    }
    if let Some(error) = failed {
        let detail = cut(error.to_string());
        let error_code = error_code::SCAN_SOURCE_UNREACHABLE;
        return ScanState {
            error_code,
            detail,
            ..scan_state(Scan::PendingRetry)
        };
    }
    if !machine.unreadable.is_empty() {
        let detail = cut(format!("not understood: {}", machine.unreadable.join(", ")));
        return ScanState {
            last_scanned_at,
            detail,
            ..scan_state(Scan::CompletedWithErrors)
        };
    }
    ScanState {
        last_scanned_at,
        ..scan_state(Scan::Completed)
    }
}

fn inventory(machine: &Machine) -> InventorySummary {
    let installed = machine.packages.as_ref().map_or(0, Vec::len);
    InventorySummary {
        host_name: machine.host_name.clone(),
        os_id: machine.os_id.clone(),
        os_version: machine.os_version_id.clone(),
        architecture: machine.architecture.clone(),
        kernel: machine.kernel.clone(),
        installed_packages: u32::try_from(installed).unwrap_or(u32::MAX),
        free_disk_bytes: machine.free_disk_bytes / DISK_STEP * DISK_STEP,
        memory_bytes: machine.memory_bytes,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        serial: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_update_source_is_asked_as_the_table_says() {
        let settings = Settings::default();
        let (fresh, stale) = (Some(HOUR), Some(25 * HOUR));
        // Trigger, within the time to live, outside it.
        let table = [
            (Trigger::Scheduled, false, true),
            (Trigger::User, true, true),
            (Trigger::Reevaluation, false, true),
            (Trigger::BeforeDownload, false, true),
            (Trigger::BeforeInstallation, false, true),
            (Trigger::AfterInstallation, false, false),
            (Trigger::AfterRestart, false, false),
        ];
        for (trigger, within, outside) in table {
            assert_eq!(trigger.is_online(&settings, fresh), within, "{trigger:?}");
            assert_eq!(trigger.is_online(&settings, stale), outside, "{trigger:?}");
            assert_eq!(trigger.is_online(&settings, None), outside, "{trigger:?}");
        }
        let forced = Settings {
            scheduled_scan_is_forced: true,
            ..settings
        };
        assert!(Trigger::Scheduled.is_online(&forced, fresh));
    }

    #[test]
    fn a_detection_is_saved_with_its_packages_once_each() {
        let value = detection_value(Detection::Required, ["b", "a", "b"]);
        assert_eq!(
            detection_of(&value),
            (Detection::Required, vec!["a".to_owned(), "b".to_owned()])
        );
        let value = detection_value(Detection::Installed, ["a"]);
        assert_eq!(detection_of(&value), (Detection::Installed, Vec::new()));
    }
}
