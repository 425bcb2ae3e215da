//! How long those who are turned away should stay away: as long as it takes to serve everybody
//! who was turned away lately, not a constant. Time and random numbers come in as arguments.

use std::time::{Duration, Instant};

/// What happened this long ago counts for little.
const WINDOW: Duration = Duration::from_secs(30);
/// Nobody is asked to stay away for less or for more.
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(300);

/// Calls that were served and turned away lately, older ones less.
#[derive(Debug)]
pub(crate) struct Pressure {
    served: f64,
    turned_away: f64,
    at: Instant,
}

impl Pressure {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            served: 0.0,
            turned_away: 0.0,
            at: now,
        }
    }

    /// A call was served.
    pub(crate) fn served(&mut self, now: Instant) {
        self.age(now);
        self.served += 1.0;
    }

    /// A call is turned away because this part of the room (0 to 1) is taken. Answers after what
    /// time it should come back; `random` is 0 to 1 and spreads those who come at once.
    pub(crate) fn turn_away(&mut self, taken: f64, random: f64, now: Instant) -> Duration {
        self.age(now);
        self.turned_away += 1.0;
        let per_second = (self.served / WINDOW.as_secs_f64()).max(0.1);
        let seconds = self.turned_away * taken.clamp(0.1, 1.0) / per_second;
        let seconds = seconds.clamp(LEAST.as_secs_f64(), MOST.as_secs_f64());
        Duration::from_secs_f64(seconds * (0.5 + random.clamp(0.0, 1.0) / 2.0)).max(LEAST)
    }

    fn age(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let left = (-passed / WINDOW.as_secs_f64()).exp();
        self.served *= left;
        self.turned_away *= left;
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned_away(count: u32, served: u32, random: f64) -> Duration {
        let now = Instant::now();
        let mut pressure = Pressure::new(now);
        (0..served).for_each(|_| pressure.served(now));
        let delays = (0..count).map(|_| pressure.turn_away(1.0, random, now));
        delays.last().unwrap_or_default()
    }

    #[test]
    fn the_more_are_turned_away_the_longer_each_stays_away_within_a_bound() {
        assert_eq!(turned_away(1, 3_000, 1.0), LEAST);
        // 100 calls per second are served: a thousand others need ten seconds.
        let second = Duration::from_secs(1);
        let ten = turned_away(1_000, 3_000, 1.0);
        assert!(ten > 9 * second && ten < 11 * second, "{ten:?}");
        assert_eq!(turned_away(100_000, 0, 1.0), MOST, "nothing is served");
        assert_eq!(
            turned_away(100_000, 0, 0.0),
            MOST / 2,
            "and they do not come at once"
        );
    }

    #[test]
    fn what_is_long_ago_does_not_count() {
        let now = Instant::now();
        let mut pressure = Pressure::new(now);
        for _ in 0..10_000 {
            pressure.turn_away(1.0, 1.0, now);
        }
        let later = now + WINDOW * 20;
        (0..300).for_each(|_| pressure.served(later));
        assert_eq!(pressure.turn_away(1.0, 1.0, later), LEAST);
    }
}
