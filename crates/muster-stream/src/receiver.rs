//! The site's end of a stream: how far a client's reports have been recorded, what a further one
//! changes about that, and what is wanted of the client. A report may come twice, late, or before
//! the one it follows: urgent ones overtake.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::runs::{Run, Runs};
use crate::{MAX_RANGES, SerialRange, Wanted, Wish};

/// Reports that wait for a gap to close; what does not fit is asked for again.
pub const MAX_EARLY: usize = 16;
/// So often ranges are asked for before everything is.
const TRIES_OF_RANGES: u16 = 2;
/// So often whoever is in an epoch that is over is asked to register.
const TRIES_OF_STALE: u16 = 3;

/// Which report it is, without what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its epoch.
    pub epoch: u32,
    /// From 1 to `last`.
    pub first: u64,
    /// Its last serial.
    pub last: u64,
    /// The last serial that had been given when it was packed, at least `last`: what it leaves out
    /// may have changed again up to there.
    pub given: u64,
    /// It replaces everything.
    pub full: bool,
    /// `None` from clients that do not say.
    pub run: Option<Run>,
}

/// A report that came too early.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Early<P> {
    /// Its serials.
    pub range: SerialRange,
    /// What the receiver keeps of it.
    pub part: P,
}

/// When something that is missing is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// First: it may only be late.
    pub after: Duration,
    /// Added to that, at most.
    pub jitter: Duration,
    /// Then again after these, the last one for ever.
    pub pauses: Vec<Duration>,
}

impl Default for Retry {
    /// The pauses are those of the source (semantics.md 2.2).
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            after: Duration::from_secs(120),
            jitter: Duration::from_secs(180),
            pauses: vec![2 * HOUR, 8 * HOUR, 24 * HOUR],
        }
    }
}

/// The circumstances of a report.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// The site's clock.
    pub now: Timestamp,
    /// When to ask.
    pub retry: &'a Retry,
    /// A fresh random number.
    pub random: u64,
}

impl Moment<'_> {
    /// When something that is missing from now on is asked for first.
    #[must_use]
    pub fn first_ask(&self) -> Timestamp {
        #[expect(clippy::cast_precision_loss, reason = "a share of minutes")]
        let share = (self.random >> 11) as f64 / (1_u64 << 53) as f64;
        self.now + signed(self.retry.after + self.retry.jitter.mul_f64(share))
    }
}

/// How far a stream has been recorded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receiver<P> {
    /// The epoch the site gave last.
    pub epoch: u32,
    /// A FULL report of this epoch was recorded.
    pub has_full: bool,
    /// Everything up to here is recorded.
    pub contiguous: u64,
    /// The last serial seen at all.
    pub highest: u64,
    /// Reports that came too early, at most [`MAX_EARLY`].
    pub early: Vec<Early<P>>,
    /// Whether `early` is not what was stored any more.
    pub early_changed: bool,
    /// Since when something is missing.
    pub gap_since: Option<Timestamp>,
    /// Everything is wanted.
    pub wants_full: bool,
    /// Whoever is in this epoch has to register.
    pub register: Option<u32>,
    /// The last runs of the client's program.
    pub runs: Runs,
    /// Since when the identity is known to live twice.
    pub forked_at: Option<Timestamp>,
    /// When the client is to be asked; `None` when nothing is wanted.
    pub ask_at: Option<Timestamp>,
    /// How often it was asked since nothing was wanted.
    pub tries: u16,
}

impl<P> Default for Receiver<P> {
    /// Nothing of the epoch 0, which is never given.
    fn default() -> Self {
        Self {
            epoch: 0,
            has_full: false,
            contiguous: 0,
            highest: 0,
            early: Vec::new(),
            early_changed: false,
            gap_since: None,
            wants_full: false,
            register: None,
            runs: Runs::default(),
            forked_at: None,
            ask_at: None,
            tries: 0,
        }
    }
}

/// What a report is to its stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<P> {
    /// Of an epoch before the last registration: nothing in it counts any more.
    Stale,
    /// Of an epoch that the site never gave, or does not remember.
    NeverGiven,
    /// Recorded before.
    Repeat,
    /// Replaces everything; then these parts that had waited for it apply in order.
    Full(Vec<P>),
    /// Follows what is held; then these parts that had waited for it apply in order.
    Next(Vec<P>),
    /// Something before it is missing: what needs an order waits.
    Early,
}

impl<P> Taken<P> {
    /// The same with each part as something else; what cannot be is left out.
    pub fn filter_map<Q>(self, part: impl FnMut(P) -> Option<Q>) -> Taken<Q> {
        match self {
            Self::Stale => Taken::Stale,
            Self::NeverGiven => Taken::NeverGiven,
            Self::Repeat => Taken::Repeat,
            Self::Full(parts) => Taken::Full(parts.into_iter().filter_map(part).collect()),
            Self::Next(parts) => Taken::Next(parts.into_iter().filter_map(part).collect()),
            Self::Early => Taken::Early,
        }
    }
}

impl<P> Receiver<P> {
    /// What a report is that changes nothing at all; `None` for one that has to be taken.
    #[must_use]
    pub fn judge(&self, header: &Header) -> Option<Taken<P>> {
        let nothing = self.standing(header)?;
        let known = self.runs.knows(header.run, header.epoch, header.given);
        (known && !matches!(nothing, Taken::NeverGiven)).then_some(nothing)
    }

    fn standing(&self, header: &Header) -> Option<Taken<P>> {
        if header.epoch != self.epoch {
            let stale = header.epoch < self.epoch;
            return Some(if stale {
                Taken::Stale
            } else {
                Taken::NeverGiven
            });
        }
        let asked_for = header.last == self.contiguous && self.wants_full;
        let news = header.last > self.contiguous || (header.full && (asked_for || !self.has_full));
        (!news).then_some(Taken::Repeat)
    }

    /// Takes a report in. `park` gives what has to be kept of one that came too early, unless that is
    /// too much. Whatever the answer, states that carry a serial each are newest-wins by
    /// (epoch, serial) and need no order.
    pub fn take(
        &mut self,
        header: &Header,
        park: impl FnOnce() -> Option<P>,
        moment: &Moment<'_>,
    ) -> Taken<P> {
        self.look_at_run(header, moment);
        let taken = match self.standing(header) {
            Some(Taken::NeverGiven) => {
                self.wants_registration(header.epoch, moment);
                Taken::NeverGiven
            }
            Some(nothing) => nothing,
            None if header.full => self.take_full(header),
            None => self.take_delta(header, park),
        };
        if matches!(taken, Taken::Full(_) | Taken::Next(_) | Taken::Early) {
            self.highest = self.highest.max(header.last);
            let gap = self.highest > self.contiguous;
            self.gap_since = gap.then(|| self.gap_since.unwrap_or(moment.now));
        }
        self.schedule(moment);
        taken
    }

    fn look_at_run(&mut self, header: &Header, moment: &Moment<'_>) {
        if header.epoch > self.epoch {
            // Of a life that this database knows nothing of.
            return;
        }
        let sight = self
            .runs
            .see(header.run, header.epoch, header.given, moment.now);
        let stale = header.epoch < self.epoch;
        if sight.reused || (stale && sight.other_run) {
            self.wants_registration(header.epoch, moment);
        }
        // Until then nobody knows whether the machine went back in between.
        self.wants_full |= sight.unheard && !stale;
        if self.forked_at.is_none() && self.runs.forked() {
            self.forked_at = Some(moment.now);
            self.ask_at = Some(moment.now);
            self.tries = 0;
        }
    }

    /// Whoever is in this epoch counts what the site cannot tell apart.
    fn wants_registration(&mut self, epoch: u32, moment: &Moment<'_>) {
        if self.register == Some(epoch) || self.forked_at.is_some() {
            return;
        }
        self.register = Some(epoch);
        let ask_at = moment.first_ask();
        self.ask_at = Some(self.ask_at.map_or(ask_at, |held| held.min(ask_at)));
        self.tries = 0;
    }

    fn take_full(&mut self, header: &Header) -> Taken<P> {
        self.has_full = true;
        self.wants_full = false;
        self.contiguous = header.last;
        // What is still missing after this is a new gap with a time of its own.
        self.gap_since = None;
        Taken::Full(self.close_gap())
    }

    fn take_delta(&mut self, header: &Header, park: impl FnOnce() -> Option<P>) -> Taken<P> {
        if self.has_full && header.first <= self.contiguous + 1 {
            self.contiguous = header.last;
            return Taken::Next(self.close_gap());
        }
        let range = SerialRange {
            first: header.first,
            last: header.last,
        };
        if self.early.iter().any(|early| early.range == range) {
            return Taken::Repeat;
        }
        if self.early.len() < MAX_EARLY
            && let Some(part) = park()
        {
            self.early.push(Early { range, part });
            self.early_changed = true;
        }
        Taken::Early
    }

    /// Takes out of the waiting reports those that follow now.
    fn close_gap(&mut self) -> Vec<P> {
        if self.early.is_empty() {
            return Vec::new();
        }
        self.early_changed = true;
        let mut waiting = std::mem::take(&mut self.early);
        waiting.sort_by_key(|early| early.range);
        let mut parts = Vec::new();
        for early in waiting {
            if early.range.last <= self.contiguous {
                continue;
            }
            if early.range.first <= self.contiguous + 1 {
                self.contiguous = early.range.last;
                parts.push(early.part);
            } else {
                self.early.push(early);
            }
        }
        parts
    }

    fn schedule(&mut self, moment: &Moment<'_>) {
        let wanted = self.wants_full
            || self.gap_since.is_some()
            || self.register.is_some()
            || self.forked_at.is_some();
        if !wanted {
            (self.ask_at, self.tries) = (None, 0);
        } else if self.ask_at.is_none() {
            (self.ask_at, self.tries) = (Some(moment.first_ask()), 0);
        }
    }

    /// Whether more than how far it has come is other than it was before: a store that keeps
    /// `contiguous` with each report keeps the rest only then.
    #[must_use]
    pub fn turned(&self, before: &Self) -> bool {
        let marks = |stream: &Self| {
            let open = stream.highest > stream.contiguous;
            let wants = (stream.wants_full, stream.register, stream.forked_at);
            let asks = (stream.gap_since, stream.ask_at, stream.tries);
            (stream.epoch, stream.has_full, open, wants, asks)
        };
        self.early_changed
            || self.highest > self.contiguous
            || marks(self) != marks(before)
            || self.runs.turned(&before.runs, self.highest)
    }

    /// What is missing between the reports that came, ascending: at most one more than may be
    /// asked for at once.
    #[must_use]
    pub fn missing(&self) -> Vec<SerialRange> {
        let mut waiting: Vec<SerialRange> = self.early.iter().map(|early| early.range).collect();
        waiting.sort_unstable();
        let end = SerialRange {
            first: self.highest.saturating_add(1),
            last: self.highest,
        };
        let mut missing = Vec::new();
        let mut next = self.contiguous + 1;
        for range in waiting.into_iter().chain([end]) {
            if range.first > next {
                missing.push(SerialRange {
                    first: next,
                    last: range.first - 1,
                });
            }
            next = next.max(range.last.saturating_add(1));
        }
        missing.truncate(MAX_RANGES + 1);
        missing
    }

    /// What the client is to be asked for now, if anything. It counts as asked, and has time to
    /// answer until it is asked again.
    pub fn ask(&mut self, moment: &Moment<'_>) -> Option<Wish> {
        if self.ask_at.is_none_or(|at| at > moment.now) {
            return None;
        }
        if self.tries >= TRIES_OF_STALE && self.register.is_some_and(|epoch| epoch != self.epoch) {
            // Most likely only a late report of a life that is over. Should it live all the same,
            // its next report is a stranger's.
            self.register = None;
            self.runs.forget_before(self.epoch);
            self.schedule(moment);
        }
        let wish = self.wanted(self.tries)?;
        let pauses = &moment.retry.pauses;
        let at = usize::from(self.tries).min(pauses.len().saturating_sub(1));
        let pause = pauses.get(at).copied().unwrap_or(moment.retry.after);
        self.ask_at = Some(moment.now + signed(pause));
        self.tries = self.tries.saturating_add(1);
        Some(wish)
    }

    /// What the client was asked for last and has not answered, and how often it was asked.
    #[must_use]
    pub fn asked(&self) -> Option<(Wish, u16)> {
        let before = self.tries.checked_sub(1)?;
        Some((self.wanted(before)?, self.tries))
    }

    /// What a client is told that comes by itself: what it is due to be asked for, or was and has
    /// not answered. It does not count as asked.
    #[must_use]
    pub fn wish(&self, now: Timestamp) -> Option<Wish> {
        if self.ask_at? <= now {
            self.wanted(self.tries)
        } else {
            self.asked().map(|(wish, _)| wish)
        }
    }

    /// What is wanted of a client that has been asked so often.
    fn wanted(&self, tries: u16) -> Option<Wish> {
        let current = |wanted| Wish {
            epoch: self.epoch,
            wanted,
        };
        if self.forked_at.is_some() {
            return Some(current(Wanted::RenewIdentity));
        }
        let reports = self.reports_wanted(tries).map(current);
        let registration = self.register.map(|epoch| Wish {
            epoch,
            wanted: Wanted::Register,
        });
        // Who is in this epoch has to be heard too while somebody in another one does not answer.
        let in_turn = self.register != Some(self.epoch) && tries % 2 == 1;
        if in_turn {
            reports.or(registration)
        } else {
            registration.or(reports)
        }
    }

    fn reports_wanted(&self, tries: u16) -> Option<Wanted> {
        if self.wants_full {
            return Some(Wanted::Full);
        }
        self.gap_since?;
        let missing = self.missing();
        let few =
            self.has_full && tries < TRIES_OF_RANGES && (1..=MAX_RANGES).contains(&missing.len());
        Some(if few {
            Wanted::Ranges(missing)
        } else {
            Wanted::Full
        })
    }

    /// An administrator wants everything, soon.
    pub fn demand_full(&mut self, now: Timestamp) {
        self.wants_full = true;
        self.ask_at = Some(now);
        self.tries = 0;
    }

    /// The client registered: a new epoch, of which nothing is recorded. Its runs stay known.
    pub fn registered(&mut self, epoch: u32, moment: &Moment<'_>) {
        let runs = std::mem::take(&mut self.runs);
        *self = Self {
            epoch,
            wants_full: true,
            early_changed: true,
            runs,
            forked_at: self.forked_at,
            ..Self::default()
        };
        self.schedule(moment);
    }
}

fn signed(duration: Duration) -> SignedDuration {
    // A year at most: times must stay within the calendar.
    const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);
    SignedDuration::try_from(duration.min(YEAR)).unwrap_or(SignedDuration::ZERO)
}

#[cfg(test)]
mod tests;
