//! When a client reports next. Every client has a point of its own in the interval, so that a
//! herd that came at once (a patch day, a restart of everything) does not come at once again.

use std::time::Duration;

use muster_domain::ClientId;

/// How long until the client's next routine report: its point in the interval, at least half an
/// interval and at most one and a half from now. `now` is the time since 1970.
pub(crate) fn next_report_in(client: ClientId, interval: Duration, now: Duration) -> Duration {
    let length = interval.as_millis().max(1);
    // The random part of an id (UUID version 7) is its second half.
    let (_, random) = client.0.as_u64_pair();
    let point = u128::from(random) % length;
    let ahead = (point + length - now.as_millis() % length) % length;
    let wait = if ahead * 2 < length {
        ahead + length
    } else {
        ahead
    };
    Duration::from_millis(u64::try_from(wait).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUARTER: Duration = Duration::from_secs(900);

    #[test]
    fn a_herd_is_spread_over_the_interval_and_stays_spread() {
        let clients: Vec<ClientId> = (0..10_000).map(|_| ClientId::generate()).collect();
        let now = Duration::from_secs(1_764_000_123);
        let mut minutes = [0; 15];
        for client in &clients {
            let wait = next_report_in(*client, QUARTER, now);
            assert!(wait * 2 >= QUARTER && wait * 2 < QUARTER * 3, "{wait:?}");
            let at = now + wait;
            minutes[usize::try_from(at.as_secs() / 60 % 15).unwrap()] += 1;
            // Who comes at its point is told to come at it again.
            let next = next_report_in(*client, QUARTER, at);
            assert_eq!(next, QUARTER);
        }
        assert!(
            minutes.iter().all(|count| (500..850).contains(count)),
            "{minutes:?}"
        );
    }

    #[test]
    fn an_interval_of_nothing_is_no_panic() {
        let wait = next_report_in(ClientId::generate(), Duration::ZERO, Duration::from_secs(5));
        assert!(wait <= Duration::from_millis(1));
    }
}
