//! The client's end of a stream.

use jiff::{SignedDuration, Timestamp};

use crate::{MAX_RANGES, Mark, SerialRange, Wanted, Wish};

/// What a client knows of its stream: saved in the transaction that changes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Sender {
    /// Given by the site at the last registration.
    pub epoch: u32,
    /// The last serial given to a change.
    pub last: u64,
    /// The highest serial that a report was built on, which has left or was about to: it may end
    /// below it. Saved before it leaves.
    pub sent: u64,
    /// Everything up to here is acknowledged.
    pub acked: u64,
    /// Everything is to be told.
    pub full_wanted: bool,
    /// Where the last acknowledged FULL report ended. What it left out, because "not there" was all
    /// there was to say, has been forgotten; a range from before cannot be told any more.
    pub full_at: u64,
    /// Acknowledged serials that the site asks for again, ascending.
    pub asked: Vec<SerialRange>,
}

/// What a report is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Draft {
    /// Its epoch.
    pub epoch: u32,
    /// Its serials. A FULL report begins at 1.
    pub range: SerialRange,
    /// What of them.
    pub kind: DraftKind,
}

/// What a report is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DraftKind {
    /// Every state there is.
    Full,
    /// What changed since the last acknowledged report.
    News,
    /// What changed in a range that the site asked for: a DELTA report on the wire, as the one above.
    Again,
}

/// What is to be done about a wish, beside what it changed in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Heard {
    /// Nothing: it is not for this epoch.
    Nothing,
    /// Send what is next.
    Send,
    /// Register, then send.
    Register,
    /// Ask for another identity.
    RenewIdentity,
}

impl Sender {
    /// What the next report is; `None` when the site has everything.
    #[must_use]
    pub fn next(&self) -> Option<Draft> {
        let draft = |kind, first, last| Draft {
            epoch: self.epoch,
            range: SerialRange { first, last },
            kind,
        };
        if self.full_wanted {
            // Without a single serial there is nothing to tell yet.
            return (self.last > 0).then(|| draft(DraftKind::Full, 1, self.last));
        }
        if let Some(range) = self.asked.first() {
            return Some(draft(DraftKind::Again, range.first, range.last));
        }
        (self.last > self.acked).then(|| draft(DraftKind::News, self.acked + 1, self.last))
    }

    /// The next serial, for a change.
    pub fn give(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// A report is about to leave. Say so, save it, write the mark, then send. What was given until
    /// now is what the report says it was built on: changes after its end are why it leaves states
    /// out, and if they were lost with the machine's disk the site must be able to tell.
    pub fn leaves(&mut self) -> u64 {
        self.sent = self.last;
        self.sent
    }

    /// The management point has this report on stable storage. More may have happened since it was
    /// packed: what is newer stays to be sent, and an acknowledgement of an older epoch says nothing.
    /// Says whether it counted.
    pub fn acknowledge(&mut self, epoch: u32, full: bool, range: SerialRange) -> bool {
        if epoch != self.epoch || range.last > self.last {
            return false;
        }
        if full {
            self.acked = self.acked.max(range.last);
            self.full_at = self.full_at.max(range.last);
            self.full_wanted = false;
            self.asked.clear();
            return true;
        }
        if range.first <= self.acked + 1 {
            self.acked = self.acked.max(range.last);
        }
        self.asked = without(&self.asked, range);
        true
    }

    /// The management point can never take a report of ours: everything is told anew.
    pub fn refused(&mut self) {
        self.full_wanted = true;
        self.asked.clear();
    }

    /// Takes in what the site wants.
    pub fn hear(&mut self, wish: &Wish) -> Heard {
        match &wish.wanted {
            // Whoever shares an identity is in any epoch.
            Wanted::RenewIdentity => Heard::RenewIdentity,
            _ if wish.epoch != self.epoch => Heard::Nothing,
            Wanted::Register => Heard::Register,
            Wanted::Full => {
                self.refused();
                Heard::Send
            }
            Wanted::Ranges(ranges) => self.hear_ranges(ranges),
        }
    }

    fn hear_ranges(&mut self, ranges: &[SerialRange]) -> Heard {
        if ranges.iter().any(|range| range.last > self.last) {
            // The site has seen serials that this database never gave: it was restored.
            return Heard::Register;
        }
        if self.full_wanted {
            return Heard::Send;
        }
        // What is not acknowledged yet is sent anyway.
        let acked = ranges.iter().filter(|range| range.first <= self.acked);
        let mut asked: Vec<SerialRange> = acked
            .map(|range| SerialRange {
                first: range.first,
                last: range.last.min(self.acked),
            })
            .collect();
        if asked.iter().any(|range| range.first <= self.full_at) {
            self.refused();
            return Heard::Send;
        }
        asked.append(&mut self.asked);
        self.asked = merged(asked);
        if self.asked.len() > MAX_RANGES {
            self.refused();
        }
        Heard::Send
    }

    /// The site gave a new epoch: nothing of it has been acknowledged.
    pub fn registered(&mut self, epoch: u32) {
        self.epoch = epoch;
        self.acked = 0;
        self.full_wanted = true;
        self.asked.clear();
    }

    /// What the mark beside the database is compared with, and becomes once a report is about to
    /// leave. It is what reports were built on, not what was given: a copy that was put back gives
    /// new serials before it sends any.
    #[must_use]
    pub fn mark(&self, instance: String) -> Mark {
        Mark {
            instance,
            epoch: self.epoch,
            serial: self.sent,
        }
    }
}

/// Whether a client that last sent something at `sent_at` says that it is there.
#[must_use]
pub fn heartbeat_due(
    sent_at: Option<Timestamp>,
    now: Timestamp,
    interval: std::time::Duration,
) -> bool {
    let interval = SignedDuration::try_from(interval).unwrap_or(SignedDuration::MAX);
    // A clock that was put back must not silence the client until it has caught up.
    sent_at.is_none_or(|sent| now < sent || now.duration_since(sent) >= interval)
}

/// Ascending, without overlaps, neighbours joined.
fn merged(mut ranges: Vec<SerialRange>) -> Vec<SerialRange> {
    ranges.sort_unstable();
    let mut merged: Vec<SerialRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(before) if range.first <= before.last.saturating_add(1) => {
                before.last = before.last.max(range.last);
            }
            Some(_) | None => merged.push(range),
        }
    }
    merged
}

/// What of `ranges` is not in `told`.
fn without(ranges: &[SerialRange], told: SerialRange) -> Vec<SerialRange> {
    let mut left = Vec::with_capacity(ranges.len());
    for &SerialRange { first, last } in ranges {
        let below = SerialRange {
            first,
            last: last.min(told.first.saturating_sub(1)),
        };
        let above = SerialRange {
            first: first.max(told.last.saturating_add(1)),
            last,
        };
        if last < told.first || first > told.last {
            left.push(SerialRange { first, last });
            continue;
        }
        left.extend([below, above].into_iter().filter(|r| r.first <= r.last));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Marked;

    fn range(first: u64, last: u64) -> SerialRange {
        SerialRange { first, last }
    }

    fn sender() -> Sender {
        Sender {
            epoch: 2,
            last: 9,
            sent: 9,
            acked: 7,
            full_at: 2,
            ..Sender::default()
        }
    }

    fn wish(wanted: Wanted) -> Wish {
        Wish { epoch: 2, wanted }
    }

    fn next(sender: &Sender) -> Option<(DraftKind, u64, u64)> {
        sender.next().map(|d| (d.kind, d.range.first, d.range.last))
    }

    #[test]
    fn asked_ranges_go_before_news_and_are_told_in_parts_too() {
        let mut sender = sender();
        let asked = vec![range(3, 4), range(6, 8)];
        assert_eq!(sender.hear(&wish(Wanted::Ranges(asked))), Heard::Send);
        assert_eq!(next(&sender), Some((DraftKind::Again, 3, 4)));
        assert!(sender.acknowledge(2, false, range(3, 3)));
        assert_eq!(next(&sender), Some((DraftKind::Again, 4, 4)));
        assert!(sender.acknowledge(2, false, range(4, 4)));
        assert_eq!(
            next(&sender),
            Some((DraftKind::Again, 6, 7)),
            "8 was never acknowledged"
        );
        assert!(sender.acknowledge(2, false, range(6, 7)));
        assert_eq!(next(&sender), Some((DraftKind::News, 8, 9)));
        assert!(sender.acknowledge(2, false, range(8, 9)));
        assert_eq!(next(&sender), None);
    }

    #[test]
    fn a_range_from_before_the_last_full_report_is_answered_with_everything() {
        let mut sender = sender();
        let asked = vec![range(2, 4)];
        assert_eq!(sender.hear(&wish(Wanted::Ranges(asked))), Heard::Send);
        assert_eq!(next(&sender), Some((DraftKind::Full, 1, 9)));
        sender.give();
        assert!(sender.acknowledge(2, true, range(1, 9)));
        assert_eq!(next(&sender), Some((DraftKind::News, 10, 10)));
        assert_eq!(sender.full_at, 9);
    }

    #[test]
    fn a_range_that_was_never_given_tells_that_the_database_was_restored() {
        let mut sender = sender();
        let asked = vec![range(8, 10)];
        assert_eq!(sender.hear(&wish(Wanted::Ranges(asked))), Heard::Register);
        sender.registered(3);
        assert_eq!(next(&sender), Some((DraftKind::Full, 1, 9)));
    }

    #[test]
    fn what_belongs_to_another_epoch_changes_nothing() {
        let mut sender = sender();
        let held = sender.clone();
        for wanted in [Wanted::Full, Wanted::Register] {
            let wish = Wish { epoch: 1, wanted };
            assert_eq!(sender.hear(&wish), Heard::Nothing);
        }
        assert!(!sender.acknowledge(1, true, range(1, 9)));
        assert!(!sender.acknowledge(2, false, range(8, 12)), "never given");
        assert_eq!(sender, held);
    }

    #[test]
    fn too_many_ranges_are_answered_with_everything() {
        let mut sender = Sender {
            last: 1_000,
            acked: 1_000,
            ..sender()
        };
        for n in 0..40 {
            let asked = vec![range(10 + 2 * n, 10 + 2 * n)];
            sender.hear(&wish(Wanted::Ranges(asked)));
        }
        assert_eq!(next(&sender), Some((DraftKind::Full, 1, 1_000)));
    }

    #[test]
    fn a_copy_that_has_given_new_serials_is_still_behind_its_mark() {
        let mut sender = sender();
        let copy = sender.clone();
        sender.give();
        assert_eq!(sender.leaves(), 10);
        let mark = sender.mark(String::new());
        let mut restored = copy;
        for _ in 0..5 {
            restored.give();
        }
        let own = restored.mark(String::new());
        assert_eq!(own.against(Some(&mark)), Marked::Overtaken);
        assert_eq!(
            sender.mark(String::new()).against(Some(&mark)),
            Marked::Current
        );
    }

    #[test]
    fn ranges_are_joined_and_cut() {
        let ranges = merged(vec![range(5, 6), range(1, 2), range(3, 3), range(6, 9)]);
        assert_eq!(ranges, [range(1, 3), range(5, 9)]);
        assert_eq!(
            without(&ranges, range(2, 6)),
            [range(1, 1), range(7, 9)],
            "cut on both sides"
        );
        assert_eq!(without(&ranges, range(4, 4)), ranges);
        assert_eq!(without(&ranges, range(1, 9)), []);
    }

    #[test]
    fn a_silent_client_has_a_heartbeat_and_a_clock_put_back_does_not_stop_it() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let hour = std::time::Duration::from_secs(3600);
        assert!(heartbeat_due(None, at(0), hour));
        assert!(!heartbeat_due(Some(at(0)), at(3599), hour));
        assert!(heartbeat_due(Some(at(0)), at(3600), hour));
        assert!(heartbeat_due(Some(at(9_000_000)), at(0), hour));
    }
}
