//! When the next scheduled synchronisation is due.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// What the schedule needs to know of the past.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Past {
    /// When the last full synchronisation that succeeded ended.
    pub(crate) last_full: Option<Timestamp>,
    /// When the last attempt ended, if it failed.
    pub(crate) last_failure: Option<Timestamp>,
    /// When the last attempt of any kind ended.
    pub(crate) last_attempt: Option<Timestamp>,
    /// The earliest `Valid-Until` of the suites that are followed, where it counts.
    pub(crate) expires: Option<Timestamp>,
}

/// Suites are looked at again this long before they expire: clients refuse an expired one.
const BEFORE_EXPIRY: Duration = Duration::from_secs(2 * 86_400);

/// The settings of the schedule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) every: Duration,
    pub(crate) retry_after: Duration,
    pub(crate) at_start: bool,
}

/// When the next full synchronisation is due; `None` when nothing was ever synchronised and the
/// configuration waits for a person to begin. A failure is tried again after `retry_after`
/// (semantics.md 2.5: every hour). A suite that is about to expire does not wait for the
/// schedule; while its archive has nothing newer, it is looked at every `retry_after`.
pub(crate) fn next(rule: Rule, past: Past, now: Timestamp) -> Option<Timestamp> {
    let retry = past
        .last_failure
        .map(|failed| after(failed, rule.retry_after));
    match (past.last_full, retry) {
        (None, None) => rule.at_start.then_some(now),
        (_, Some(retry)) => Some(retry),
        (Some(done), None) => {
            let scheduled = after(done, rule.every);
            let expiring = past.expires.map(|at| {
                let pause = after(past.last_attempt.unwrap_or(done), rule.retry_after);
                before(at, BEFORE_EXPIRY).max(pause)
            });
            Some(expiring.map_or(scheduled, |expiring| expiring.min(scheduled)))
        }
    }
}

fn signed(time: Duration) -> SignedDuration {
    SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX)
}

fn after(time: Timestamp, wait: Duration) -> Timestamp {
    time.checked_add(signed(wait)).unwrap_or(Timestamp::MAX)
}

fn before(time: Timestamp, ahead: Duration) -> Timestamp {
    time.checked_sub(signed(ahead)).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule {
        every: Duration::from_secs(7 * 86_400),
        retry_after: Duration::from_secs(3600),
        at_start: true,
    };

    fn at(hours: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours)
    }

    #[test]
    fn the_first_one_starts_at_once_unless_a_person_is_to_begin() {
        let never = Past::default();
        assert_eq!(next(RULE, never, at(5)), Some(at(5)));
        assert_eq!(
            next(
                Rule {
                    at_start: false,
                    ..RULE
                },
                never,
                at(5)
            ),
            None
        );
    }

    #[test]
    fn success_waits_for_the_schedule_and_failure_for_an_hour() {
        let done = Past {
            last_full: Some(at(0)),
            ..Past::default()
        };
        assert_eq!(next(RULE, done, at(5)), Some(at(7 * 24)));
        let failed = Past {
            last_full: None,
            last_failure: Some(at(1)),
            ..Past::default()
        };
        assert_eq!(next(RULE, failed, at(5)), Some(at(2)));
        let failed = Past {
            last_full: Some(at(0)),
            last_failure: Some(at(7 * 24)),
            ..Past::default()
        };
        assert_eq!(next(RULE, failed, at(7 * 24)), Some(at(7 * 24 + 1)));
    }

    #[test]
    fn a_suite_that_is_about_to_expire_does_not_wait_for_the_schedule() {
        let day = 24;
        let done = Past {
            last_full: Some(at(0)),
            last_attempt: Some(at(0)),
            expires: Some(at(7 * day)),
            ..Past::default()
        };
        assert_eq!(next(RULE, done, at(1)), Some(at(5 * day)));
        // The archive had nothing newer: not again at once, but long before it is too late.
        let tried = Past {
            last_attempt: Some(at(5 * day)),
            ..done
        };
        assert_eq!(next(RULE, tried, at(5 * day)), Some(at(5 * day + 1)));
        // What lives long waits for the schedule, what lives short is looked at every hour.
        let long = Past {
            expires: Some(at(99 * day)),
            ..done
        };
        assert_eq!(next(RULE, long, at(1)), Some(at(7 * day)));
        let short = Past {
            expires: Some(at(day)),
            ..done
        };
        assert_eq!(next(RULE, short, at(0)), Some(at(1)));
        // A failure is tried again when failures are.
        let failed = Past {
            last_failure: Some(at(5 * day)),
            ..done
        };
        assert_eq!(next(RULE, failed, at(5 * day)), Some(at(5 * day + 1)));
    }
}
