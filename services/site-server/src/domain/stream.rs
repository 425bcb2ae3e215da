//! How far one client's reports have been recorded, and what a further report changes about
//! that. A report may come twice, late, or before the one it follows: urgent ones overtake.

use jiff::Timestamp;

use super::report::{Header, Part, Report};

/// Reports that wait for a gap to close: so many at most, and so many bytes each. What does not
/// fit is left out, and the gap is then closed by a FULL report.
const MAX_EARLY: usize = 16;
const MAX_EARLY_BYTES: usize = 64 * 1024;

/// One row of `report_streams`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    /// The epoch the site gave last.
    pub(crate) epoch: i32,
    /// A FULL report of this epoch was recorded.
    pub(crate) has_full: bool,
    /// Everything up to here is recorded.
    pub(crate) contiguous: i64,
    /// The last serial seen at all.
    pub(crate) highest: i64,
    /// Encoded compliance of reports that came too early.
    pub(crate) early: Vec<Vec<u8>>,
    /// Whether `early` is not what the row has any more.
    pub(crate) early_changed: bool,
    /// Since when something is missing.
    pub(crate) gap_since: Option<Timestamp>,
    /// The client is asked for a FULL report.
    pub(crate) wants_full: bool,
}

/// What a report is to its stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Of an epoch before the last registration: nothing in it counts any more.
    Stale,
    /// Of an epoch that the site never gave.
    NeverGiven,
    /// Recorded before.
    Repeat,
    /// Replaces everything; then the parts of reports that had waited for it apply in order.
    Full(Vec<Part>),
    /// Adds to what is held: its compliance in order, empty while something before it is missing.
    Delta(Vec<Part>),
}

impl Stream {
    /// What a report is that changes nothing; `None` for one that has to be taken.
    pub(crate) fn judge(&self, header: &Header) -> Option<Taken> {
        if header.epoch != self.epoch {
            let stale = header.epoch < self.epoch;
            return Some(if stale {
                Taken::Stale
            } else {
                Taken::NeverGiven
            });
        }
        let asked_for = header.last_serial == self.contiguous && self.wants_full;
        let news =
            header.last_serial > self.contiguous || (header.full && (asked_for || !self.has_full));
        (!news).then_some(Taken::Repeat)
    }

    /// Takes a report in. Whatever the answer, topics other than compliance are newest-wins by
    /// (epoch, serial) and need no order.
    pub(crate) fn take(&mut self, report: &Report, now: Timestamp) -> Taken {
        if let Some(nothing) = self.judge(&report.header()) {
            return nothing;
        }
        let taken = if report.full {
            self.take_full(report)
        } else {
            self.take_delta(report)
        };
        if taken != Taken::Repeat {
            self.highest = self.highest.max(report.last_serial);
            let gap = self.highest > self.contiguous;
            self.gap_since = gap.then(|| self.gap_since.unwrap_or(now));
        }
        taken
    }

    fn take_full(&mut self, report: &Report) -> Taken {
        self.has_full = true;
        self.wants_full = false;
        self.contiguous = report.last_serial;
        // What is still missing after this is a new gap with a time of its own.
        self.gap_since = None;
        Taken::Full(self.close_gap())
    }

    fn take_delta(&mut self, report: &Report) -> Taken {
        if self.has_full && report.first_serial <= self.contiguous + 1 {
            self.contiguous = report.last_serial;
            let mut parts = vec![report.compliance.clone()];
            parts.extend(self.close_gap());
            return Taken::Delta(parts);
        }
        let parked = report.parked();
        if self.early.contains(&parked) {
            return Taken::Repeat;
        }
        if self.early.len() < MAX_EARLY && parked.len() <= MAX_EARLY_BYTES {
            self.early.push(parked);
            self.early_changed = true;
        }
        Taken::Delta(Vec::new())
    }

    /// Takes out of the waiting reports those that follow now.
    fn close_gap(&mut self) -> Vec<Part> {
        if self.early.is_empty() {
            return Vec::new();
        }
        self.early_changed = true;
        let epoch_zero = Timestamp::UNIX_EPOCH;
        let mut waiting: Vec<Report> = self
            .early
            .iter()
            .filter_map(|bytes| Report::decode(bytes, epoch_zero).ok())
            .filter(|early| early.last_serial > self.contiguous)
            .collect();
        waiting.sort_by_key(|early| early.first_serial);
        let mut parts = Vec::new();
        waiting.retain(|early| {
            if early.last_serial <= self.contiguous {
                return false;
            }
            if early.first_serial > self.contiguous + 1 {
                return true;
            }
            self.contiguous = early.last_serial;
            parts.push(early.compliance.clone());
            false
        });
        self.early = waiting.iter().map(Report::parked).collect();
        parts
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use muster_domain::UpdateNo;
    use muster_domain::states::Detection;
    use muster_proto::state as pb;
    use prost::Message;

    use super::*;

    fn report(kind: pb::ReportKind, first: u64, last: u64) -> Report {
        let update = u32::try_from(last).unwrap();
        let message = pb::Report {
            client_id: Bytes::from_static(&[1; 16]),
            epoch: 1,
            first_serial: first,
            last_serial: last,
            kind: kind.into(),
            catalog_generation: 4,
            compliance: Some(pb::Compliance {
                update_numbers: vec![update],
                states: Bytes::from_static(&[2]),
                ..Default::default()
            }),
            ..Default::default()
        };
        Report::decode(&message.encode_to_vec(), Timestamp::UNIX_EPOCH).unwrap()
    }

    fn full(last: u64) -> Report {
        report(pb::ReportKind::Full, 1, last)
    }

    fn delta(first: u64, last: u64) -> Report {
        report(pb::ReportKind::Delta, first, last)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn fresh() -> Stream {
        Stream {
            epoch: 1,
            wants_full: true,
            ..Default::default()
        }
    }

    #[test]
    fn a_report_that_overtook_another_one_waits_for_it() {
        let mut stream = fresh();
        assert_eq!(stream.take(&full(3), at(0)), Taken::Full(vec![]));
        assert!(!stream.wants_full);
        assert_eq!(stream.take(&delta(6, 7), at(1)), Taken::Delta(vec![]));
        assert_eq!(stream.gap_since, Some(at(1)));
        assert_eq!(stream.take(&delta(6, 7), at(2)), Taken::Repeat);
        let Taken::Delta(parts) = stream.take(&delta(4, 5), at(3)) else {
            panic!()
        };
        let serials: Vec<i64> = parts.iter().map(|part| part.last_serial).collect();
        assert_eq!(serials, [5, 7]);
        assert_eq!(parts[1].states, [(UpdateNo(7), Detection::Required)]);
        assert_eq!((stream.contiguous, stream.highest), (7, 7));
        assert_eq!((stream.gap_since, stream.early.len()), (None, 0));
    }

    #[test]
    fn repeats_and_old_epochs_change_nothing() {
        let mut stream = fresh();
        stream.take(&full(3), at(0));
        let held = stream.clone();
        assert_eq!(stream.take(&full(3), at(1)), Taken::Repeat);
        assert_eq!(stream.take(&full(2), at(1)), Taken::Repeat);
        assert_eq!(stream.take(&delta(2, 3), at(1)), Taken::Repeat);
        assert_eq!(
            stream.take(
                &Report {
                    epoch: 2,
                    ..full(9)
                },
                at(1)
            ),
            Taken::NeverGiven
        );
        assert_eq!(stream, held);
        stream.epoch = 2;
        assert_eq!(stream.take(&full(9), at(1)), Taken::Stale);
    }

    #[test]
    fn a_delta_means_nothing_before_the_first_full_report() {
        let mut stream = fresh();
        assert_eq!(stream.take(&delta(1, 2), at(0)), Taken::Delta(vec![]));
        assert_eq!(stream.contiguous, 0);
        assert_eq!(stream.take(&full(4), at(1)), Taken::Full(vec![]));
        assert_eq!((stream.contiguous, stream.gap_since), (4, None));
    }

    #[test]
    fn a_full_report_heals_a_gap_and_later_reports_stay() {
        let mut stream = fresh();
        stream.take(&full(1), at(0));
        stream.take(&delta(4, 4), at(1));
        stream.take(&delta(6, 6), at(2));
        let Taken::Full(parts) = stream.take(&full(5), at(9)) else {
            panic!()
        };
        assert_eq!(parts.len(), 1);
        assert_eq!((stream.contiguous, stream.gap_since), (6, None));
        // One that is older than the newest delta leaves a gap that is asked for again.
        stream.take(&delta(9, 9), at(10));
        assert_eq!(stream.take(&full(7), at(20)), Taken::Full(vec![]));
        assert_eq!(stream.gap_since, Some(at(20)));
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut stream = fresh();
        stream.take(&full(1), at(0));
        for n in 0..50 {
            stream.take(&delta(10 + 2 * n, 10 + 2 * n), at(1));
        }
        assert_eq!(stream.early.len(), MAX_EARLY);
        assert_eq!(stream.highest, 108);
        assert!(stream.gap_since.is_some());
    }
}
