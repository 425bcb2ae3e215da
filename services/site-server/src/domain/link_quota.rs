//! How much of our time a neighbour may take: one that floods us, by mistake or on purpose, leaves room
//! for the others. Time comes in as an argument.

use std::time::Duration;

/// See the top of this file. What is used up comes back with time.
#[derive(Debug, Clone)]
pub(crate) struct Quota {
    share: f64,
    burst: f64,
    /// Seconds that may be used at once.
    left: f64,
}

impl Quota {
    /// So much of the time, and `burst` at once when nothing was used for a while. A share of 1 is no
    /// limit.
    pub(crate) fn new(share: f64, burst: Duration) -> Self {
        let burst = burst.as_secs_f64();
        Self {
            share: share.clamp(0.01, 1.0),
            burst,
            left: burst,
        }
    }

    /// `busy` was spent on the neighbour, `since` the last time that this was said. How long nothing
    /// more of it is taken in.
    pub(crate) fn spend(&mut self, busy: Duration, since: Duration) -> Option<Duration> {
        let come_back = since.as_secs_f64() * self.share;
        self.left = (self.left + come_back).min(self.burst) - busy.as_secs_f64();
        if self.left >= 0.0 || self.share >= 1.0 {
            return None;
        }
        Some(Duration::from_secs_f64(-self.left / self.share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds of work that get in within `time`, in turns of `turn`, when there is always more.
    fn taken(quota: &mut Quota, turn: Duration, time: Duration) -> Duration {
        let (mut now, mut busy) = (Duration::ZERO, Duration::ZERO);
        let mut since = turn;
        while now < time {
            now += turn;
            busy += turn;
            let rest = quota.spend(turn, since).unwrap_or_default();
            now += rest;
            since = turn + rest;
        }
        busy
    }

    #[test]
    fn a_flood_gets_its_share_and_a_burst_is_free() {
        let second = Duration::from_secs(1);
        let turn = Duration::from_millis(50);
        let mut quota = Quota::new(0.5, 60 * second);
        assert_eq!(taken(&mut quota, turn, 100 * second), 100 * second);
        let busy = taken(&mut quota, turn, 1_000 * second).as_secs_f64();
        assert!((500.0..=525.0).contains(&busy), "{busy}");
        // After a quiet hour a burst is free again.
        assert_eq!(quota.spend(turn, 3_600 * second), None);
        let busy = taken(&mut quota, turn, 50 * second);
        assert_eq!(busy, 50 * second);
        // However long one turn was.
        let rest = Quota::new(0.25, second).spend(11 * second, Duration::ZERO);
        assert_eq!(rest, Some(40 * second));
    }

    #[test]
    fn a_whole_share_is_no_limit() {
        let hour = Duration::from_secs(3_600);
        assert_eq!(Quota::new(1.0, Duration::ZERO).spend(hour, hour), None);
    }
}
