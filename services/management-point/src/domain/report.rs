//! Which report may pass. A report is decoded here to be looked at; what travels on are the
//! bytes as they came.

use muster_domain::{ClientId, shard_of};
use muster_proto::state::{Priority, Report, ReportKind};
use prost::Message;

/// Reports in one call.
pub(crate) const MAX_REPORTS: usize = 16;
/// Reports in one call of another management point.
pub(crate) const MAX_RELAYED: usize = 64;
/// Bytes of one report.
pub(crate) const MAX_REPORT: usize = 1024 * 1024;
/// Updates in one report.
const MAX_UPDATES: usize = 65_536;

/// Why a report does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("no report, or more than {MAX_REPORTS}")]
    Count,
    #[error("a report is longer than {MAX_REPORT} bytes")]
    TooLarge,
    #[error("a report cannot be decoded")]
    Undecodable,
    #[error("a report names another client")]
    Foreign,
    #[error("{0}")]
    Field(&'static str),
}

/// Which way a report goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Lane {
    /// Ahead of all others.
    Urgent,
    /// Ahead of what is routine. Apart from what is urgent: when a deadline comes, all clients have
    /// something to say here.
    High,
    /// The queue of the client's shard.
    Shard(u16),
}

/// Looks at one report of `client` and says which way it goes.
pub(crate) fn check(bytes: &[u8], client: ClientId, shards: u16) -> Result<Lane, Refused> {
    if bytes.len() > MAX_REPORT {
        return Err(Refused::TooLarge);
    }
    let report = Report::decode(bytes).map_err(|_| Refused::Undecodable)?;
    if report.client_id != client.as_bytes().as_slice() {
        return Err(Refused::Foreign);
    }
    // The database keeps them as signed numbers.
    if i32::try_from(report.epoch).map_or(true, |epoch| epoch < 1) {
        return Err(Refused::Field("epoch is not one that a site gives"));
    }
    if i64::try_from(report.last_serial).is_err() {
        return Err(Refused::Field("last_serial is out of range"));
    }
    // The site's own rule: what it would put into quarantine is refused here, while the client
    // listens. A client without news sends no report.
    if report.first_serial < 1 || report.first_serial > report.last_serial {
        return Err(Refused::Field("first_serial is not 1 to last_serial"));
    }
    if matches!(report.kind(), ReportKind::Unspecified) {
        return Err(Refused::Field("kind is not set"));
    }
    if report
        .compliance
        .is_some_and(|it| it.update_numbers.len() > MAX_UPDATES)
    {
        return Err(Refused::Field("compliance has more than 65,536 updates"));
    }
    // An unknown priority is an ordinary one.
    let priority = Priority::try_from(report.priority).unwrap_or(Priority::Normal);
    Ok(match priority {
        Priority::UrgentUnspecified => Lane::Urgent,
        Priority::High => Lane::High,
        Priority::Normal | Priority::Low => Lane::Shard(shard_of(client, shards)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(client: ClientId) -> Report {
        Report {
            client_id: client.as_bytes().to_vec().into(),
            epoch: 1,
            first_serial: 1,
            last_serial: 5,
            kind: ReportKind::Delta.into(),
            priority: Priority::Normal.into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_report_goes_to_its_clients_shard_and_an_urgent_one_ahead() {
        let client = ClientId::generate();
        let shard = Lane::Shard(shard_of(client, 4));
        assert_eq!(check(&report(client).encode_to_vec(), client, 4), Ok(shard));
        let urgent = Report {
            priority: 0,
            ..report(client)
        };
        assert_eq!(check(&urgent.encode_to_vec(), client, 4), Ok(Lane::Urgent));
        let high = Report {
            priority: 1,
            ..report(client)
        };
        assert_eq!(check(&high.encode_to_vec(), client, 4), Ok(Lane::High));
        let unheard = Report {
            priority: 77,
            ..report(client)
        };
        assert_eq!(check(&unheard.encode_to_vec(), client, 4), Ok(shard));
        let one_serial = Report {
            first_serial: 5,
            ..report(client)
        };
        assert_eq!(check(&one_serial.encode_to_vec(), client, 4), Ok(shard));
    }

    #[test]
    fn what_can_never_be_recorded_does_not_pass() {
        let client = ClientId::generate();
        let refused = |report: Report| check(&report.encode_to_vec(), client, 2).unwrap_err();
        assert_eq!(refused(report(ClientId::generate())), Refused::Foreign);
        assert_eq!(
            refused(Report {
                client_id: Default::default(),
                ..report(client)
            }),
            Refused::Foreign
        );
        for broken in [
            Report {
                epoch: 0,
                ..report(client)
            },
            Report {
                epoch: u32::MAX,
                ..report(client)
            },
            Report {
                last_serial: u64::MAX,
                ..report(client)
            },
            // A report of no change: the site would put it into quarantine.
            Report {
                first_serial: 6,
                ..report(client)
            },
            Report {
                first_serial: 0,
                ..report(client)
            },
            Report {
                kind: 0,
                ..report(client)
            },
        ] {
            assert!(
                matches!(refused(broken.clone()), Refused::Field(_)),
                "{broken:?}"
            );
        }
        assert_eq!(check(b"\xff\xff\xff", client, 2), Err(Refused::Undecodable));
        assert_eq!(
            check(&vec![0; MAX_REPORT + 1], client, 2),
            Err(Refused::TooLarge)
        );
    }

    #[test]
    fn clients_spread_over_all_shards() {
        let mut counts = [0; 8];
        for _ in 0..8_000 {
            counts[usize::from(shard_of(ClientId::generate(), 8))] += 1;
        }
        assert!(
            counts.iter().all(|count| (700..1_300).contains(count)),
            "{counts:?}"
        );
        assert_eq!(shard_of(ClientId::generate(), 0), 0);
    }
}
