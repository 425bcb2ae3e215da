//! How often clients should report: the normal interval, longer while the site has a backlog.

use std::time::Duration;

/// What is seen of one queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// When it is empty if everything goes on as it does; `None` while it does not shrink.
    pub(crate) drain: Option<Duration>,
    /// How long its oldest message has waited.
    pub(crate) oldest: Duration,
    /// Which part of what it may hold it holds, from 0 to 1.
    pub(crate) fullness: f64,
}

/// The interval that clients are told. What takes less than a normal interval to record is no
/// reason to wait; beyond that, clients report once in the time that the backlog takes. A queue
/// that fills up counts as well, before it refuses anything.
pub(crate) fn report_interval(
    normal: Duration,
    longest: Duration,
    queues: impl IntoIterator<Item = Load>,
) -> Duration {
    let longest = longest.max(normal);
    let asked = queues.into_iter().map(|queue| {
        let by_time = match queue.drain {
            Some(drain) => drain,
            // What came a moment ago is no backlog, even when it is more than was processed.
            None if queue.oldest < normal / 10 => Duration::ZERO,
            None => longest,
        };
        // From a quarter to three quarters.
        let full = ((queue.fullness - 0.25) * 2.0).clamp(0.0, 1.0);
        by_time.max(longest.mul_f64(full))
    });
    let asked = asked.max().unwrap_or_default().clamp(normal, longest);
    // In steps, so that what clients are told does not change with every look.
    let step = (normal / 4).as_secs_f64().max(0.001);
    let steps = ((asked - normal).as_secs_f64() / step).ceil();
    (normal + Duration::from_secs_f64(steps * step)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn told(drain: Option<u32>, oldest: u32, fullness: f64) -> Duration {
        let quiet = Load {
            drain: Some(Duration::ZERO),
            oldest: Duration::ZERO,
            fullness: 0.0,
        };
        let load = Load {
            drain: drain.map(|minutes| minutes * MINUTE),
            oldest: oldest * MINUTE,
            fullness,
        };
        report_interval(15 * MINUTE, 120 * MINUTE, [quiet, load])
    }

    #[test]
    fn the_interval_grows_with_the_time_that_the_backlog_takes_and_no_further_than_the_longest() {
        assert_eq!(told(Some(0), 0, 0.0), 15 * MINUTE);
        assert_eq!(
            told(Some(14), 30, 0.0),
            15 * MINUTE,
            "done before the next report"
        );
        assert_eq!(told(Some(30), 30, 0.0), 30 * MINUTE);
        assert!(told(Some(31), 30, 0.0) > 31 * MINUTE, "in steps");
        assert_eq!(told(Some(100_000), 30, 0.0), 120 * MINUTE);
    }

    #[test]
    fn a_queue_that_does_not_shrink_counts_when_something_has_waited_in_it() {
        assert_eq!(told(None, 1, 0.0), 15 * MINUTE);
        assert_eq!(told(None, 2, 0.0), 120 * MINUTE);
    }

    #[test]
    fn a_queue_that_fills_up_stretches_the_interval_before_it_is_full() {
        assert_eq!(told(Some(1), 0, 0.2), 15 * MINUTE);
        assert_eq!(told(Some(1), 0, 0.5), 60 * MINUTE);
        assert_eq!(told(Some(1), 0, 1.0), 120 * MINUTE);
    }

    #[test]
    fn odd_settings_are_no_panic() {
        let none: [Load; 0] = [];
        assert_eq!(report_interval(MINUTE, Duration::ZERO, none), MINUTE);
        let stuck = Load {
            drain: None,
            oldest: MINUTE,
            fullness: 9.0,
        };
        let told = report_interval(Duration::ZERO, MINUTE, [stuck]);
        assert_eq!(told, MINUTE);
    }
}
