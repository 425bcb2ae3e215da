//! A report as a client sent it, checked once at the door: whatever is in a [`Report`] fits the
//! tables, so that one bad report can never make a batch of good ones fail.

use jiff::Timestamp;
use muster_compliance::packed;
use muster_domain::states::{
    DeploymentCompliance, DeploymentEnforcement, DeploymentEvaluation, Detection, Scan,
    UpdateEnforcement,
};
use muster_domain::{ClientId, DeploymentId, UpdateNo};
use muster_proto::{convert, state as pb};
use muster_stream::{Early, Header, Moment, Receiver, Run, SerialRange, Taken};
use prost::Message;

use super::names::cleaned;

/// Largest encoded report, in bytes; the management point refuses larger ones.
pub(crate) const MAX_REPORT: usize = 1024 * 1024;
/// Most states of one topic other than compliance.
const MAX_STATES: usize = 65_536;
/// How far the numbers of updates in a report may be ahead of the site's catalog: more updates
/// than any catalog gains between two looks at it.
pub(crate) const MAX_AHEAD: i32 = 1_000_000;
/// Longest text for people, in bytes.
const MAX_DETAIL: usize = 1_024;
/// What is kept of a report that came too early, in bytes; the compliance of a longer one is asked
/// for again.
const MAX_EARLY: usize = 64 * 1024;
/// Longest name of a package, host or kernel, in bytes.
const MAX_WORD: usize = 255;

/// Why a report goes to the quarantine.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}: {detail}")]
pub(crate) struct Refused {
    /// A stable word.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) detail: String,
}

impl Refused {
    pub(crate) fn new(reason: &'static str, detail: impl ToString) -> Self {
        Self {
            reason,
            detail: detail.to_string(),
        }
    }
}

fn invalid(field: &str, why: &str) -> Refused {
    Refused::new("INVALID_REPORT", format!("{field} {why}"))
}

/// Everything one report says.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) client_id: ClientId,
    pub(crate) epoch: i32,
    pub(crate) first_serial: i64,
    pub(crate) last_serial: i64,
    /// What was given when it was packed, at least `last_serial`.
    pub(crate) given_serial: u64,
    pub(crate) full: bool,
    /// Which run of the client's program packed it.
    pub(crate) run: Option<Run>,
    pub(crate) compliance: Part,
    pub(crate) needs: Vec<(i32, String)>,
    pub(crate) enforcements: Vec<Enforcement>,
    pub(crate) deployments: Vec<DeploymentState>,
    pub(crate) scan: Option<ScanState>,
    pub(crate) restart: Option<RestartState>,
    pub(crate) inventory: Option<Inventory>,
    pub(crate) health: Option<Health>,
    /// The compliance as it came, for parking.
    pub(crate) wire: Option<pb::Compliance>,
}

/// The compliance of one report, in the order of its serials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) last_serial: i64,
    /// 0: no scan yet.
    pub(crate) catalog_generation: i64,
    pub(crate) states: Vec<(UpdateNo, Detection)>,
}

/// Topic 402.
#[derive(Debug, Clone)]
pub(crate) struct Enforcement {
    pub(crate) deployment_id: DeploymentId,
    pub(crate) update_no: i32,
    pub(crate) state: UpdateEnforcement,
    pub(crate) error_code: i32,
    pub(crate) detail: String,
    pub(crate) serial: i64,
    pub(crate) changed_at: Timestamp,
}

/// Topics 300, 301 and 302.
#[derive(Debug, Clone)]
pub(crate) struct DeploymentState {
    pub(crate) deployment_id: DeploymentId,
    pub(crate) compliance: DeploymentCompliance,
    pub(crate) enforcement: DeploymentEnforcement,
    pub(crate) evaluation: DeploymentEvaluation,
    pub(crate) error_code: i32,
    pub(crate) detail: String,
    pub(crate) serial: i64,
    pub(crate) changed_at: Timestamp,
}

/// Topic 501.
#[derive(Debug, Clone)]
pub(crate) struct ScanState {
    pub(crate) state: Scan,
    pub(crate) last_scanned_at: Option<Timestamp>,
    pub(crate) error_code: i32,
    pub(crate) detail: String,
    pub(crate) serial: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct RestartState {
    pub(crate) pending: bool,
    pub(crate) reason: String,
    pub(crate) serial: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct Inventory {
    pub(crate) host_name: String,
    pub(crate) os_id: String,
    pub(crate) os_version: String,
    pub(crate) architecture: String,
    pub(crate) kernel: String,
    pub(crate) installed_packages: i32,
    pub(crate) free_disk_bytes: i64,
    pub(crate) memory_bytes: i64,
    pub(crate) agent_version: String,
    pub(crate) serial: i64,
}

/// Topic 1300.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    pub(crate) healthy: bool,
    pub(crate) problems: Vec<String>,
    pub(crate) serial: i64,
}

/// How far a client's reports have been recorded. Of one that came too early, its encoded
/// compliance is kept.
pub(crate) type Stream = Receiver<Vec<u8>>;

/// Reads which report it is off the front of an encoded report, where every encoder puts its
/// first fields; `None` when they are not there, or name another client: then the report is decoded
/// first. Good enough to see that a report is a repeat, which is then forgotten.
pub(crate) fn peek(bytes: &[u8], client_id: &[u8; 16]) -> Option<Header> {
    let rest = bytes.strip_prefix(&[0x0a, 16])?;
    let rest = rest.strip_prefix(client_id)?;
    let (epoch, rest) = field(rest, 2)?;
    let (first, rest) = field(rest, 3)?;
    let (last, rest) = field(rest, 4)?;
    let (kind, rest) = field(rest, 5)?;
    let fits = |number: u64| i64::try_from(number).is_ok().then_some(number);
    let (run, given) = run_in(rest)?;
    Some(Header {
        epoch: u32::try_from(epoch).ok().filter(|epoch| *epoch > 0)?,
        first: fits(first)?,
        last: fits(last)?,
        given: given.max(last),
        full: match kind {
            1 => true,
            2 => false,
            _ => return None,
        },
        run,
    })
}

/// The number in a field that comes first in `bytes`, and what follows it.
fn field(bytes: &[u8], number: u8) -> Option<(u64, &[u8])> {
    let mut rest = bytes.strip_prefix(&[number << 3])?;
    prost::encoding::decode_varint(&mut rest)
        .ok()
        .map(|value| (value, rest))
}

/// The run among the fields of a report, and the serial it was built on; what is in the others is
/// skipped, not looked at. `None` when they make no sense.
fn run_in(mut rest: &[u8]) -> Option<(Option<Run>, u64)> {
    let (mut id, mut began, mut before, mut given) = (0, 0, 0, 0);
    while !rest.is_empty() {
        let key = prost::encoding::decode_varint(&mut rest).ok()?;
        match key & 7 {
            0 => {
                let value = prost::encoding::decode_varint(&mut rest).ok()?;
                match key >> 3 {
                    18 => began = value,
                    20 => given = value,
                    _ => {}
                }
            }
            1 => {
                let (value, after) = rest.split_first_chunk()?;
                match key >> 3 {
                    16 => id = u64::from_le_bytes(*value),
                    19 => before = u64::from_le_bytes(*value),
                    _ => {}
                }
                rest = after;
            }
            2 => {
                let length = prost::encoding::decode_varint(&mut rest).ok()?;
                rest = rest.get(usize::try_from(length).ok()?..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some((run(id, began, before), given))
}

fn run(id: u64, began: u64, after: u64) -> Option<Run> {
    (id != 0).then_some(Run { id, began, after })
}

/// What was kept of a report that came too early; `None` for bytes that make no sense.
pub(crate) fn early(bytes: Vec<u8>) -> Option<Early<Vec<u8>>> {
    let report = Report::decode(&bytes, Timestamp::UNIX_EPOCH).ok()?;
    let header = report.header();
    let range = SerialRange {
        first: header.first,
        last: header.last,
    };
    Some(Early { range, part: bytes })
}

impl Report {
    /// Which report it is.
    pub(crate) fn header(&self) -> Header {
        Header {
            epoch: self.epoch.unsigned_abs(),
            first: self.first_serial.unsigned_abs(),
            last: self.last_serial.unsigned_abs(),
            given: self.given_serial,
            full: self.full,
            run: self.run,
        }
    }

    /// Takes it into its stream. What had waited for it comes back as compliance to apply after it.
    pub(crate) fn take_into(&self, stream: &mut Stream, moment: &Moment<'_>) -> Taken<Part> {
        let park = || Some(self.parked()).filter(|bytes| bytes.len() <= MAX_EARLY);
        let part = |bytes: Vec<u8>| {
            let early = Self::decode(&bytes, Timestamp::UNIX_EPOCH).ok()?;
            Some(early.compliance)
        };
        stream.take(&self.header(), park, moment).filter_map(part)
    }

    /// Nothing but compliance is in it.
    pub(crate) fn has_compliance_only(&self) -> bool {
        self.states() == self.compliance.states.len()
    }

    /// How many states it carries, for the totals.
    pub(crate) fn states(&self) -> usize {
        self.compliance.states.len()
            + self.enforcements.len()
            + self.deployments.len()
            + usize::from(self.scan.is_some())
            + usize::from(self.restart.is_some())
            + usize::from(self.inventory.is_some())
            + usize::from(self.health.is_some())
    }

    /// The highest number of an update that it names anywhere; 0 when it names none.
    pub(crate) fn highest_update(&self) -> i32 {
        let states = self.compliance.states.iter();
        let states = states.map(|(number, _)| i32::try_from(number.0).unwrap_or(i32::MAX));
        let needs = self.needs.iter().map(|(number, _)| *number);
        let enforcements = self.enforcements.iter().map(|state| state.update_no);
        states.chain(needs).chain(enforcements).max().unwrap_or(0)
    }

    /// Opens an encoded report. A time that a broken clock made up is replaced by `received_at`:
    /// times are data and never decide an order.
    pub(crate) fn decode(bytes: &[u8], received_at: Timestamp) -> Result<Self, Refused> {
        if bytes.len() > MAX_REPORT {
            return Err(Refused::new(
                "REPORT_TOO_LARGE",
                format!("{} bytes", bytes.len()),
            ));
        }
        let message =
            pb::Report::decode(bytes).map_err(|e| Refused::new("UNDECODABLE_REPORT", e))?;
        Self::read(message, received_at)
    }

    fn read(message: pb::Report, received_at: Timestamp) -> Result<Self, Refused> {
        let client_id = ClientId::from_slice(&message.client_id)
            .map_err(|_| invalid("client_id", "must be 16 bytes"))?;
        let epoch = i32::try_from(message.epoch).ok().filter(|epoch| *epoch > 0);
        let epoch = epoch.ok_or_else(|| invalid("epoch", "must be 1 to 2147483647"))?;
        let (first, last) = (serial(message.first_serial)?, serial(message.last_serial)?);
        if first < 1 || first > last {
            return Err(invalid("first_serial", "must be from 1 to last_serial"));
        }
        let full = match pb::ReportKind::try_from(message.kind) {
            Ok(pb::ReportKind::Full) => true,
            Ok(pb::ReportKind::Delta) => false,
            Ok(pb::ReportKind::Unspecified) | Err(_) => {
                return Err(invalid("kind", "must be FULL or DELTA"));
            }
        };
        let within = |field: &str, at: u64| {
            let at = serial(at)?;
            if at > last {
                Err(invalid(field, "must not be above last_serial"))
            } else {
                Ok(at)
            }
        };
        let time = |time: &Option<prost_types::Timestamp>| {
            time.as_ref().and_then(sane).unwrap_or(received_at)
        };
        for (field, count) in [
            ("update_enforcements", message.update_enforcements.len()),
            ("deployments", message.deployments.len()),
        ] {
            if count > MAX_STATES {
                return Err(invalid(field, "has too many entries"));
            }
        }
        let generation = i64::try_from(message.catalog_generation)
            .map_err(|_| invalid("catalog_generation", "is too large"))?;
        let mut compliance = Part {
            last_serial: last,
            catalog_generation: generation,
            states: Vec::new(),
        };
        let mut needs = Vec::new();
        if let Some(part) = &message.compliance {
            compliance.states = packed::unpack(&part.update_numbers, &part.states)
                .map_err(|e| Refused::new("INVALID_REPORT", format!("compliance: {e}")))?;
            needs = read_needs(&part.needs)?;
        }
        let enforcements = message
            .update_enforcements
            .iter()
            .map(|s| {
                Ok(Enforcement {
                    deployment_id: deployment_id(&s.deployment_id)?,
                    update_no: number("update_no", s.update_no)?,
                    state: state(
                        "update_enforcements.state",
                        s.state,
                        UpdateEnforcement::from_id,
                    )?,
                    error_code: s.error_code,
                    detail: cleaned(&s.detail, MAX_DETAIL),
                    serial: within("update_enforcements.serial", s.serial)?,
                    changed_at: time(&s.changed_at),
                })
            })
            .collect::<Result<_, Refused>>()?;
        let deployments = message
            .deployments
            .iter()
            .map(|s| {
                Ok(DeploymentState {
                    deployment_id: deployment_id(&s.deployment_id)?,
                    compliance: state("compliance", s.compliance, DeploymentCompliance::from_id)?,
                    enforcement: state(
                        "enforcement",
                        s.enforcement,
                        DeploymentEnforcement::from_id,
                    )?,
                    evaluation: state("evaluation", s.evaluation, DeploymentEvaluation::from_id)?,
                    error_code: s.error_code,
                    detail: cleaned(&s.detail, MAX_DETAIL),
                    serial: within("deployments.serial", s.serial)?,
                    changed_at: time(&s.changed_at),
                })
            })
            .collect::<Result<_, Refused>>()?;
        let scan = message.scan.as_ref().map(|s| {
            Ok(ScanState {
                state: state("scan.state", s.state, Scan::from_id)?,
                last_scanned_at: s.last_scanned_at.as_ref().and_then(sane),
                error_code: s.error_code,
                detail: cleaned(&s.detail, MAX_DETAIL),
                serial: within("scan.serial", s.serial)?,
            })
        });
        let restart = message.restart.as_ref().map(|s| {
            Ok(RestartState {
                pending: s.pending,
                reason: cleaned(&s.reason, MAX_DETAIL),
                serial: within("restart.serial", s.serial)?,
            })
        });
        let inventory = message.inventory.as_ref().map(|s| {
            Ok(Inventory {
                host_name: cleaned(&s.host_name, MAX_WORD),
                os_id: cleaned(&s.os_id, MAX_WORD),
                os_version: cleaned(&s.os_version, MAX_WORD),
                architecture: cleaned(&s.architecture, MAX_WORD),
                kernel: cleaned(&s.kernel, MAX_WORD),
                installed_packages: i32::try_from(s.installed_packages).unwrap_or(i32::MAX),
                free_disk_bytes: i64::try_from(s.free_disk_bytes).unwrap_or(i64::MAX),
                memory_bytes: i64::try_from(s.memory_bytes).unwrap_or(i64::MAX),
                agent_version: cleaned(&s.agent_version, MAX_WORD),
                serial: within("inventory.serial", s.serial)?,
            })
        });
        if let Some(heartbeat) = &message.heartbeat {
            within("heartbeat.serial", heartbeat.serial)?;
        }
        let health = message.health.as_ref().map(|s| {
            Ok(Health {
                healthy: s.healthy,
                problems: s
                    .problems
                    .iter()
                    .take(16)
                    .map(|p| cleaned(p, MAX_DETAIL))
                    .collect(),
                serial: within("health.serial", s.serial)?,
            })
        });
        Ok(Self {
            client_id,
            epoch,
            first_serial: first,
            last_serial: last,
            full,
            given_serial: message.given_serial.max(message.last_serial),
            run: run(message.run_id, message.run_began_after, message.run_after),
            compliance,
            needs,
            enforcements,
            deployments,
            scan: scan.transpose()?,
            restart: restart.transpose()?,
            inventory: inventory.transpose()?,
            health: health.transpose()?,
            wire: message.compliance,
        })
    }

    /// The same with another serial in place of its own, as if nothing could be missing before
    /// it: for the negative controls only.
    pub(crate) fn renumbered(mut self, serial: i64) -> Self {
        (self.first_serial, self.last_serial) = (1, serial);
        self.given_serial = serial.unsigned_abs();
        self.compliance.last_serial = serial;
        let enforcements = self.enforcements.iter_mut().map(|it| &mut it.serial);
        let deployments = self.deployments.iter_mut().map(|it| &mut it.serial);
        let others = [
            self.scan.as_mut().map(|it| &mut it.serial),
            self.restart.as_mut().map(|it| &mut it.serial),
            self.inventory.as_mut().map(|it| &mut it.serial),
            self.health.as_mut().map(|it| &mut it.serial),
        ];
        for held in enforcements
            .chain(deployments)
            .chain(others.into_iter().flatten())
        {
            *held = serial;
        }
        self
    }

    /// Its compliance alone, encoded: what is kept of a report that overtook another one.
    pub(crate) fn parked(&self) -> Vec<u8> {
        pb::Report {
            client_id: bytes::Bytes::copy_from_slice(self.client_id.as_bytes()),
            epoch: self.epoch.unsigned_abs(),
            first_serial: self.first_serial.unsigned_abs(),
            last_serial: self.last_serial.unsigned_abs(),
            kind: pb::ReportKind::Delta.into(),
            catalog_generation: self.compliance.catalog_generation.unsigned_abs(),
            compliance: self.wire.clone(),
            ..pb::Report::default()
        }
        .encode_to_vec()
    }
}

/// Which binary packages of updates are needed.
pub(crate) fn read_needs(needs: &[pb::LeafNeed]) -> Result<Vec<(i32, String)>, Refused> {
    let mut pairs = Vec::new();
    for need in needs {
        let update_no = number("needs.update_no", need.update_no)?;
        for package in &need.packages {
            // Debian policy 5.6.1; a name decides what is fetched, so it is not cleaned but refused.
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"+-._:".contains(&b);
            if package.is_empty() || package.len() > MAX_WORD || !package.bytes().all(allowed) {
                return Err(invalid("needs.packages", "must be names of packages"));
            }
            pairs.push((update_no, package.clone()));
        }
        if pairs.len() > MAX_STATES {
            return Err(invalid("needs", "has too many entries"));
        }
    }
    Ok(pairs)
}

fn serial(serial: u64) -> Result<i64, Refused> {
    i64::try_from(serial).map_err(|_| invalid("serial", "is too large"))
}

fn number(field: &str, number: u32) -> Result<i32, Refused> {
    let number = i32::try_from(number).ok().filter(|number| *number > 0);
    number.ok_or_else(|| invalid(field, "must be 1 to 2147483647"))
}

fn deployment_id(bytes: &[u8]) -> Result<DeploymentId, Refused> {
    DeploymentId::from_slice(bytes).map_err(|_| invalid("deployment_id", "must be 16 bytes"))
}

fn state<T>(field: &str, id: i32, from_id: fn(u8) -> Option<T>) -> Result<T, Refused> {
    let state = u8::try_from(id).ok().and_then(from_id);
    state.ok_or_else(|| invalid(field, "is not a state of its topic"))
}

/// A time that a working clock could show.
fn sane(time: &prost_types::Timestamp) -> Option<Timestamp> {
    let time = convert::from_timestamp("time", time).ok()?;
    (0..=4_102_444_800)
        .contains(&time.as_second())
        .then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> pb::Report {
        pb::Report {
            client_id: vec![7; 16].into(),
            epoch: 1,
            first_serial: 1,
            last_serial: 5,
            kind: pb::ReportKind::Full.into(),
            ..pb::Report::default()
        }
    }

    fn refused(message: pb::Report) -> String {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        Report::decode(&message.encode_to_vec(), now)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn values_that_no_table_can_hold_are_refused_with_the_field() {
        for (field, message) in [
            (
                "client_id",
                pb::Report {
                    client_id: vec![1; 15].into(),
                    ..message()
                },
            ),
            (
                "epoch",
                pb::Report {
                    epoch: 0,
                    ..message()
                },
            ),
            (
                "epoch",
                pb::Report {
                    epoch: u32::MAX,
                    ..message()
                },
            ),
            (
                "serial",
                pb::Report {
                    last_serial: u64::MAX,
                    ..message()
                },
            ),
            (
                "first_serial",
                pb::Report {
                    first_serial: 6,
                    ..message()
                },
            ),
            (
                "first_serial",
                pb::Report {
                    first_serial: 0,
                    ..message()
                },
            ),
            (
                "kind",
                pb::Report {
                    kind: 9,
                    ..message()
                },
            ),
            (
                "catalog_generation",
                pb::Report {
                    catalog_generation: u64::MAX,
                    ..message()
                },
            ),
        ] {
            let text = refused(message);
            assert!(text.contains(field), "{field}: {text}");
        }
        let scan = pb::ScanState {
            state: 77,
            serial: 1,
            ..Default::default()
        };
        assert!(
            refused(pb::Report {
                scan: Some(scan),
                ..message()
            })
            .contains("scan.state")
        );
        let scan = pb::ScanState {
            state: 3,
            serial: 6,
            ..Default::default()
        };
        assert!(
            refused(pb::Report {
                scan: Some(scan),
                ..message()
            })
            .contains("last_serial")
        );
        let need = pb::LeafNeed {
            update_no: 1,
            packages: vec!["a b".into()],
        };
        let part = pb::Compliance {
            needs: vec![need],
            ..Default::default()
        };
        assert!(
            refused(pb::Report {
                compliance: Some(part),
                ..message()
            })
            .contains("needs")
        );
    }

    #[test]
    fn a_broken_clock_and_wild_text_lose_nothing_but_themselves() {
        let received = Timestamp::from_second(1_700_000_000).unwrap();
        let state = pb::UpdateEnforcementState {
            deployment_id: vec![1; 16].into(),
            update_no: 3,
            state: 10,
            detail: format!("x\0{}", "y".repeat(5_000)),
            serial: 2,
            changed_at: Some(prost_types::Timestamp {
                seconds: i64::MAX,
                nanos: -5,
            }),
            ..Default::default()
        };
        let message = pb::Report {
            update_enforcements: vec![state],
            ..message()
        };
        let report = Report::decode(&message.encode_to_vec(), received).unwrap();
        assert_eq!(report.enforcements[0].changed_at, received);
        assert_eq!(report.enforcements[0].detail.len(), 1_024);
        assert!(!report.enforcements[0].detail.contains('\0'));
    }

    #[test]
    fn random_bytes_never_panic() {
        let now = Timestamp::from_second(0).unwrap();
        let mut seed = 42_u64;
        for length in 0..2_000_usize {
            let bytes: Vec<u8> = (0..length % 97)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (seed >> 33) as u8
                })
                .collect();
            let _ = Report::decode(&bytes, now);
        }
    }
}
