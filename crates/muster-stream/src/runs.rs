//! Which runs of the client's program a stream comes from, and what that proves.
//!
//! A report says which run packed it (drawn at random when the program starts), which run did so
//! before, and the last serial that run can have built a report on; and it says up to which serial
//! it is built itself: a report leaves out what changed again later, so that it depends on serials
//! beyond its last one. Runs of one machine follow each other, so the serials that they build on
//! never overlap, however late, often or disordered the reports come: a restart is never taken for
//! anything else. Two runs whose serials overlap mean that the machine's state went back to a copy, or that
//! the copy lives on a second machine. The first is told from the second by who is heard of: a run
//! that is over sends nothing new, two machines keep taking turns.
//!
//! A run after one that was never heard of proves nothing: its reports may have been lost, or they
//! may hide where the machine went back. Everything is asked for then, which settles both.

use jiff::{SignedDuration, Timestamp};

/// A run of the client's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// Drawn at random, never 0 and never adopted by another process.
    pub id: u64,
    /// Up to which serial reports were built before it began.
    pub began: u64,
    /// The run before it in the same database; 0 when there was none, or it is not said.
    pub after: u64,
}

impl Run {
    /// The run that the next report belongs to. A process stays in its run while nobody else has
    /// reported from the same database (`holder`: who did last, `sent`: up to which serial reports
    /// have been built so far); a second process, such as a command beside the daemon, begins a run of its own, and
    /// then the first one does.
    #[must_use]
    pub fn next(own: Option<Self>, holder: Option<u64>, sent: u64, random: u64) -> Self {
        match own {
            Some(own) if holder == Some(own.id) => own,
            Some(_) | None => Self {
                id: random.max(1),
                began: sent,
                after: holder.unwrap_or(0),
            },
        }
    }
}

/// Runs that are remembered of a stream.
const KEPT: usize = 4;
/// So often two overlapping runs take turns before that is taken for two machines. A copy that was
/// put back can look like two turns when a report of the time before comes late, not like three.
const TURNS_OF_TWO: u8 = 3;
/// So many unknown runs overlap with others within a day when an image was copied to many machines.
const STRANGERS_OF_MANY: u8 = 8;
const STRANGERS_WITHIN: SignedDuration = SignedDuration::from_hours(24);
/// What a run takes in bytes.
const WIDTH: usize = 28;
const HEAD: usize = 10;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Seen {
    id: u64,
    began: u64,
    /// The newest report of it that was seen, by the serial it was built up to.
    epoch: u32,
    last: u64,
}

impl Seen {
    /// Whether these two cannot both be runs of one machine whose state never went back.
    const fn overlaps(&self, other: &Self) -> bool {
        if self.epoch == other.epoch {
            self.last > other.began && other.last > self.began
        } else if self.epoch < other.epoch {
            // Epochs only grow: the other one came later, and begins where this one ended.
            self.last > other.began
        } else {
            other.last > self.began
        }
    }
}

/// The last runs of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Runs {
    /// The one heard of last comes last.
    seen: [Seen; KEPT],
    count: u8,
    turns: u8,
    strangers: u8,
    strangers_since: Option<Timestamp>,
}

/// What a report says of its run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sight {
    /// It overlaps with another run that reported in the same epoch: serials were given twice.
    pub(crate) reused: bool,
    /// There is more of it than was known, and it was not the one heard of last.
    pub(crate) other_run: bool,
    /// Between it and the newest run that is known there was another one, of which nothing came.
    pub(crate) unheard: bool,
}

impl Runs {
    fn seen(&self) -> &[Seen] {
        &self.seen[..usize::from(self.count)]
    }

    /// Whether a report of this run, built up to here, tells nothing new about runs.
    pub(crate) fn knows(&self, run: Option<Run>, epoch: u32, given: u64) -> bool {
        let Some(run) = run else { return true };
        let seen = self.seen().iter().find(|seen| seen.id == run.id);
        seen.is_some_and(|seen| (epoch, given) <= (seen.epoch, seen.last))
    }

    /// Takes in that a report was seen.
    pub(crate) fn see(
        &mut self,
        run: Option<Run>,
        epoch: u32,
        given: u64,
        now: Timestamp,
    ) -> Sight {
        let Some(run) = run.filter(|_| !self.knows(run, epoch, given)) else {
            return Sight::default();
        };
        let fresh = Seen {
            id: run.id,
            began: run.began,
            epoch,
            last: given,
        };
        let count = usize::from(self.count);
        let known = self.seen().iter().position(|seen| seen.id == run.id);
        let oldest = self.seen().iter().map(|seen| seen.began).min().unwrap_or(0);
        let newest = self
            .seen()
            .iter()
            .max_by_key(|seen| (seen.epoch, seen.last));
        let (newest, newest_epoch) = newest.map_or((0, 0), |seen| (seen.id, seen.epoch));
        let unheard = known.is_none() && run.after != 0 && newest != 0 && run.after != newest;
        let other_run = known.is_none_or(|at| at + 1 < count);
        match known {
            Some(at) => {
                self.seen[at..count].rotate_left(1);
                self.seen[count - 1] = fresh;
                // It was overtaken by one it overlaps with, and goes on all the same.
                if self.seen[at..count - 1].iter().any(|s| s.overlaps(&fresh)) {
                    self.turns = self.turns.saturating_add(1);
                }
            }
            None => {
                if self.seen().iter().any(|seen| seen.overlaps(&fresh)) {
                    self.count_stranger(now);
                }
                if count == KEPT {
                    self.seen.rotate_left(1);
                } else {
                    self.count += 1;
                }
                self.seen[usize::from(self.count) - 1] = fresh;
            }
        }
        // Older than all that is remembered: no report is that late, it is a copy.
        let forgotten =
            known.is_none() && count == KEPT && given <= oldest && epoch == newest_epoch;
        let others = &self.seen[..usize::from(self.count) - 1];
        let overlap = others
            .iter()
            .any(|seen| seen.epoch == epoch && seen.overlaps(&fresh));
        Sight {
            reused: forgotten || overlap,
            other_run,
            unheard,
        }
    }

    /// Forgets runs of which nothing has come in this epoch or a later one.
    pub(crate) fn forget_before(&mut self, epoch: u32) {
        let mut kept = Self { count: 0, ..*self };
        kept.seen = Default::default();
        for seen in self.seen().iter().filter(|seen| seen.epoch >= epoch) {
            kept.seen[usize::from(kept.count)] = *seen;
            kept.count += 1;
        }
        *self = kept;
    }

    fn count_stranger(&mut self, now: Timestamp) {
        let since = self
            .strangers_since
            .filter(|since| *since <= now && now.duration_since(*since) < STRANGERS_WITHIN);
        if since.is_none() {
            self.strangers = 0;
            self.strangers_since = Some(now);
        }
        self.strangers = self.strangers.saturating_add(1);
    }

    /// Whether the client lives on more than one machine.
    #[must_use]
    pub fn forked(&self) -> bool {
        self.turns >= TURNS_OF_TWO || self.strangers >= STRANGERS_OF_MANY
    }

    /// Whether any of them overlap. Only then each step of a run has to be remembered: of a lone
    /// run the stream's own marks say how far it came.
    #[must_use]
    pub fn contested(&self) -> bool {
        let seen = self.seen();
        let pairs = seen.iter().enumerate();
        self.turns > 0
            || self.strangers > 0
            || pairs
                .flat_map(|(at, one)| seen[at + 1..].iter().map(move |other| (one, other)))
                .any(|(one, other)| one.overlaps(other))
    }

    /// Whether they differ by more than how far a lone run has come, which [`Self::read`] takes
    /// from `highest`.
    pub(crate) fn turned(&self, before: &Self, highest: u64) -> bool {
        let ahead = self.seen().last().is_some_and(|it| it.last > highest);
        if ahead || self.contested() {
            return self != before;
        }
        let names = |runs: &Self| runs.seen.map(|seen| (seen.id, seen.began, seen.epoch));
        names(self) != names(before)
    }

    /// As [`Self::read`] reads them; empty when there are none.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        if self.count == 0 {
            return Vec::new();
        }
        let mut bytes = Vec::with_capacity(HEAD + WIDTH * usize::from(self.count));
        bytes.extend([self.turns, self.strangers]);
        let since = self.strangers_since.map_or(i64::MIN, Timestamp::as_second);
        bytes.extend(since.to_be_bytes());
        for seen in self.seen() {
            bytes.extend(seen.id.to_be_bytes());
            bytes.extend(seen.began.to_be_bytes());
            bytes.extend(seen.last.to_be_bytes());
            bytes.extend(seen.epoch.to_be_bytes());
        }
        bytes
    }

    /// What was kept of a stream that has come to `highest` in `epoch`. Bytes that make no sense
    /// count as none.
    #[must_use]
    pub fn read(bytes: &[u8], epoch: u32, highest: u64) -> Self {
        let mut runs = Self::decode(bytes).unwrap_or_default();
        if !runs.contested()
            && let Some(at) = usize::from(runs.count).checked_sub(1)
            && runs.seen[at].epoch == epoch
        {
            runs.seen[at].last = runs.seen[at].last.max(highest);
        }
        runs
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let since = i64::from_be_bytes(head[2..].try_into().ok()?);
        let mut runs = Self {
            turns: head[0],
            strangers: head[1],
            strangers_since: Timestamp::from_second(since).ok(),
            ..Self::default()
        };
        for seen in rest.chunks_exact(WIDTH).take(KEPT) {
            let number = |at: usize| Some(u64::from_be_bytes(seen[at..at + 8].try_into().ok()?));
            runs.seen[usize::from(runs.count)] = Seen {
                id: number(0)?,
                began: number(8)?,
                last: number(16)?,
                epoch: u32::from_be_bytes(seen[24..].try_into().ok()?),
            };
            runs.count += 1;
        }
        Some(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = 1;
    const B: u64 = 2;

    fn now() -> Timestamp {
        Timestamp::from_second(1_000).unwrap()
    }

    fn see(runs: &mut Runs, id: u64, began: u64, epoch: u32, last: u64) -> Sight {
        let after = 0;
        runs.see(Some(Run { id, began, after }), epoch, last, now())
    }

    #[test]
    fn restarts_are_no_fork_in_whatever_order_their_reports_come() {
        // Three runs, reports 1 to 9, a registration in the middle; every order of arrival.
        let reports = [
            (1, 0, 1, 2),
            (1, 0, 1, 3),
            (2, 3, 1, 5),
            (2, 3, 2, 6),
            (3, 7, 2, 7),
            (3, 7, 2, 9),
        ];
        let mut orders = vec![vec![]];
        for _ in 0..reports.len() {
            orders = orders
                .into_iter()
                .flat_map(|order: Vec<usize>| {
                    let left = (0..reports.len()).filter(|at| !order.contains(at));
                    left.map(|at| [order.as_slice(), &[at]].concat())
                        .collect::<Vec<_>>()
                })
                .collect();
        }
        assert_eq!(orders.len(), 720);
        for order in orders {
            let mut runs = Runs::default();
            // And once more, all of them repeated.
            for at in order.iter().chain(&order) {
                let (id, began, epoch, last) = reports[*at];
                let sight = see(&mut runs, id, began, epoch, last);
                assert!(!sight.reused, "{order:?}");
            }
            assert!(!runs.contested() && !runs.forked(), "{order:?}");
        }
    }

    #[test]
    fn a_cut_or_asked_for_report_as_the_first_of_a_run_is_no_fork() {
        // A comes to 20; B begins and repeats a range first; then the last of A comes late.
        let mut runs = Runs::default();
        see(&mut runs, A, 0, 1, 15);
        assert!(!see(&mut runs, B, 20, 1, 8).reused);
        assert!(!see(&mut runs, A, 0, 1, 20).reused);
        assert!(!runs.contested());
    }

    #[test]
    fn a_run_after_one_that_was_never_heard_of_may_hide_a_copy() {
        let mut runs = Runs::default();
        let unheard = |runs: &mut Runs, id, after, given| {
            let began = given - 1;
            let run = Some(Run { id, began, after });
            let sight = runs.see(run, 1, given, now());
            assert!(!sight.reused);
            sight.unheard
        };
        assert!(!unheard(&mut runs, 1, 9, 3), "nothing is known yet");
        assert!(!unheard(&mut runs, 2, 1, 5));
        assert!(unheard(&mut runs, 4, 3, 8), "nothing came of 3");
        assert!(!unheard(&mut runs, 4, 3, 9), "once is enough");
        assert!(!unheard(&mut runs, 5, 4, 11));
        assert!(!unheard(&mut runs, 6, 0, 13), "it does not say");
    }

    #[test]
    fn two_machines_that_take_turns_are_a_fork() {
        let mut runs = Runs::default();
        see(&mut runs, A, 0, 1, 20);
        assert!(see(&mut runs, B, 10, 1, 11).reused);
        assert!(see(&mut runs, A, 0, 1, 21).reused);
        assert!(see(&mut runs, B, 10, 1, 12).reused);
        assert!(!runs.forked(), "a late report could have done that");
        see(&mut runs, A, 0, 1, 22);
        assert!(runs.forked());
    }

    #[test]
    fn machines_that_register_one_after_the_other_are_a_fork() {
        let mut runs = Runs::default();
        see(&mut runs, A, 0, 1, 20);
        see(&mut runs, B, 10, 1, 11);
        see(&mut runs, B, 10, 2, 11);
        let late = see(&mut runs, A, 0, 1, 21);
        assert!(late.other_run && !late.reused, "in another epoch");
        see(&mut runs, A, 0, 3, 22);
        see(&mut runs, B, 10, 2, 12);
        see(&mut runs, A, 0, 3, 23);
        assert!(runs.forked());
    }

    #[test]
    fn a_copy_from_before_all_that_is_remembered_is_not_taken_for_late() {
        let mut runs = Runs::default();
        for run in 0..6 {
            assert!(!see(&mut runs, 1 + run, 10 * run, 1, 10 * run + 5).reused);
        }
        assert!(see(&mut runs, 90, 2, 1, 3).reused);
    }

    #[test]
    fn a_machine_that_goes_back_to_its_copy_every_day_is_none() {
        let mut runs = Runs::default();
        for day in 0..30_i64 {
            let id = 100 + day.unsigned_abs();
            let epoch = 1 + u32::try_from(day).unwrap();
            let now = Timestamp::from_second(86_400 * day).unwrap();
            for epoch in [epoch, epoch + 1] {
                let run = Some(Run {
                    id,
                    began: 10,
                    after: 0,
                });
                runs.see(run, epoch, 11, now);
            }
            assert!(!runs.forked(), "day {day}");
        }
    }

    #[test]
    fn an_image_on_many_machines_is_a_fork() {
        let mut runs = Runs::default();
        for id in 1..=9 {
            assert!(!runs.forked());
            see(&mut runs, id, 10, 1, 11);
        }
        assert!(runs.forked());
    }

    #[test]
    fn processes_that_share_a_database_report_in_runs_of_their_own() {
        let daemon = Run::next(None, Some(7), 5, 70);
        assert_eq!((daemon.id, daemon.began, daemon.after), (70, 5, 7));
        assert_eq!(Run::next(Some(daemon), Some(70), 9, 71), daemon);
        let command = Run::next(None, Some(70), 20, 72);
        let again = Run::next(Some(daemon), Some(72), 22, 73);
        let mut runs = Runs::default();
        for (run, last) in [(daemon, 19), (command, 21), (again, 25), (daemon, 20)] {
            assert!(!runs.see(Some(run), 1, last, now()).reused);
        }
        assert!(!runs.contested());
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let mut runs = Runs::default();
        assert_eq!(Runs::read(&runs.to_bytes(), 1, 9), runs);
        see(&mut runs, A, 0, 1, 3);
        see(&mut runs, B, 3, 1, 5);
        let read = Runs::read(&runs.to_bytes(), 1, 8);
        assert!(
            read.knows(
                Some(Run {
                    id: B,
                    began: 3,
                    after: 0
                }),
                1,
                8
            ),
            "a lone run"
        );
        see(&mut runs, 3, 2, 1, 4);
        assert_eq!(Runs::read(&runs.to_bytes(), 1, 8), runs, "contested");
        assert_eq!(Runs::read(&[1, 2, 3], 1, 8), Runs::default());
    }
}
