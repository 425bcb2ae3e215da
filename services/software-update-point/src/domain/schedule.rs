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
}

/// The settings of the schedule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) every: Duration,
    pub(crate) retry_after: Duration,
    pub(crate) at_start: bool,
}

/// When the next full synchronisation is due; `None` when nothing was ever synchronised and the
/// configuration waits for a person to begin. A failure is tried again after `retry_after`
/// (semantics.md 2.5: every hour).
pub(crate) fn next(rule: Rule, past: Past, now: Timestamp) -> Option<Timestamp> {
    let after = |time: Timestamp, wait: Duration| {
        let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
        time.checked_add(wait).unwrap_or(Timestamp::MAX)
    };
    let retry = past
        .last_failure
        .map(|failed| after(failed, rule.retry_after));
    match (past.last_full, retry) {
        (None, None) => rule.at_start.then_some(now),
        (None, Some(retry)) => Some(retry),
        (Some(done), None) => Some(after(done, rule.every)),
        (Some(_), Some(retry)) => Some(retry),
    }
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
            last_failure: None,
        };
        assert_eq!(next(RULE, done, at(5)), Some(at(7 * 24)));
        let failed = Past {
            last_full: None,
            last_failure: Some(at(1)),
        };
        assert_eq!(next(RULE, failed, at(5)), Some(at(2)));
        let failed = Past {
            last_full: Some(at(0)),
            last_failure: Some(at(7 * 24)),
        };
        assert_eq!(next(RULE, failed, at(7 * 24)), Some(at(7 * 24 + 1)));
    }
}
