//! How fast one direction of a link goes, and when it has caught up. Time comes in as an argument.

use std::collections::VecDeque;
use std::time::Duration;

/// Rates are taken over this time.
const WINDOW: Duration = Duration::from_secs(60);
/// Samples that are closer together say nothing more.
const APART: Duration = Duration::from_secs(1);
/// What takes longer is as good as never.
const YEAR: f64 = 365.0 * 86_400.0;

/// See the top of this file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    done: u64,
    now: Sample,
    samples: VecDeque<Sample>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    /// Since some beginning.
    at: Duration,
    done: u64,
    behind: u64,
}

impl Progress {
    /// Keys arrived in the receiver's database.
    pub(crate) fn done(&mut self, keys: u64) {
        self.done += keys;
    }

    /// So many keys are behind at this time.
    pub(crate) fn look(&mut self, at: Duration, behind: u64) {
        self.now = Sample {
            at,
            done: self.done,
            behind,
        };
        if self.samples.back().is_none_or(|it| at >= it.at + APART) {
            self.samples.push_back(self.now);
        }
        // The oldest is the last one that is not within the window.
        while self.samples.get(1).is_some_and(|it| it.at + WINDOW <= at) {
            self.samples.pop_front();
        }
    }

    /// Keys per second.
    pub(crate) fn rate(&self) -> f64 {
        let first = self.samples.front().copied().unwrap_or_default();
        per_second(
            to_f64(self.now.done) - to_f64(first.done),
            self.now.at - first.at,
        )
    }

    /// When nothing is behind if it goes on like this; `None` while it does not shrink, and when nothing
    /// is behind.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let first = self.samples.front().copied().unwrap_or_default();
        let shrinks = to_f64(first.behind) - to_f64(self.now.behind);
        let seconds = to_f64(self.now.behind) / per_second(shrinks, self.now.at - first.at);
        (seconds > 0.0 && seconds < YEAR).then(|| Duration::from_secs_f64(seconds))
    }
}

fn per_second(count: f64, time: Duration) -> f64 {
    if time.is_zero() {
        return 0.0;
    }
    count / time.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "a count of keys")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_backlog_that_shrinks_says_when_it_is_gone() {
        let mut progress = Progress::default();
        assert_eq!((progress.rate(), progress.time_left()), (0.0, None));
        progress.look(at(5), 1_000);
        assert_eq!((progress.rate(), progress.time_left()), (0.0, None));
        // 30 a second arrive, 10 a second are new.
        for second in 1..=10 {
            progress.done(30);
            progress.look(at(5 + second), 1_000 - 20 * second);
        }
        assert!((progress.rate() - 30.0).abs() < 1e-9);
        assert_eq!(progress.time_left(), Some(at(40)));
        progress.done(800);
        progress.look(at(16), 0);
        assert_eq!(progress.time_left(), None);
    }

    #[test]
    fn what_grows_or_stands_still_has_no_end_and_old_times_do_not_count() {
        let mut progress = Progress::default();
        progress.done(6_000);
        progress.look(at(0), 500);
        progress.look(at(30), 600);
        assert_eq!(progress.time_left(), None);
        for second in 31..=120 {
            progress.look(at(second), 600);
        }
        assert_eq!((progress.rate(), progress.time_left()), (0.0, None));
        progress.done(60);
        progress.look(at(120), 540);
        assert!((progress.rate() - 1.0).abs() < 0.05, "{}", progress.rate());
        assert_eq!(progress.time_left().unwrap().as_secs(), 540);
    }
}
