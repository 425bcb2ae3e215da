//! What goes wrong, and when: drawn from a seed, so that the same seed gives the same faults.

use muster_local::Service;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// The end of a service at a failpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strike {
    /// Who.
    pub service: Service,
    /// Where.
    pub point: &'static str,
    /// When the place is reached for this time.
    pub nth: u64,
}

/// Which service a failpoint is in, and how often it is reached before the process may end: what
/// happens rarely ends at once.
#[must_use]
pub fn owner(point: &str) -> Option<(Service, u64)> {
    match point {
        "site.counters.before_commit"
        | "site.counters.after_commit"
        | "site.quarantine.kept"
        | "site.resync.asked" => Some((Service::SiteServer, 1)),
        _ if point.starts_with("link.") => Some((Service::SiteServer, 2)),
        _ if point.starts_with("site.") => Some((Service::SiteServer, 6)),
        _ if point.starts_with("mp.") => Some((Service::ManagementPoint, 6)),
        _ if point.starts_with("dp.") => Some((Service::DistributionPoint, 1)),
        _ => None,
    }
}

/// Each of these places so many times, in an order that follows from the seed.
#[must_use]
pub fn strikes(points: &[&'static str], times: usize, seed: u64) -> Vec<Strike> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut strikes = Vec::new();
    for point in points {
        let Some((service, most)) = owner(point) else {
            continue;
        };
        strikes.extend((0..times).map(|_| Strike {
            service,
            point,
            nth: random.random_range(1..=most),
        }));
    }
    strikes.shuffle(&mut random);
    strikes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let points = ["mp.before_publish", "site.record.before_commit"];
        let first = strikes(&points, 20, 7);
        assert_eq!(first, strikes(&points, 20, 7));
        assert_ne!(first, strikes(&points, 20, 8));
        assert_eq!(first.len(), 40);
    }

    #[test]
    fn every_failpoint_of_a_server_has_an_owner() {
        for point in muster_runtime::faults::POINTS {
            assert_eq!(
                owner(point).is_none(),
                point.starts_with("agent."),
                "{point}"
            );
        }
    }
}
