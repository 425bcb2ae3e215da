//! How often somebody may knock: a bucket of tokens for each address of strangers and for each
//! client. Time comes in as an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// The buckets of everybody, as many as are remembered at most.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    burst: f64,
    per_second: f64,
    most: usize,
    buckets: HashMap<K, Bucket>,
    /// When it was last looked for buckets that need not be remembered.
    swept_at: Option<Instant>,
}

/// The least time between two such looks: they go through all buckets.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl<K: Eq + Hash> Buckets<K> {
    pub(crate) fn new(burst: u32, per_minute: u32, most: usize) -> Self {
        let per_second = f64::from(per_minute.max(1)) / 60.0;
        Self {
            burst: f64::from(burst.max(1)),
            per_second,
            most,
            buckets: HashMap::new(),
            swept_at: None,
        }
    }

    /// Whether somebody who is not remembered yet can be.
    pub(crate) fn has_room_for(&mut self, from: &K, now: Instant) -> bool {
        if self.buckets.len() < self.most || self.buckets.contains_key(from) {
            return true;
        }
        let due = |at| now.saturating_duration_since(at) >= SWEEP;
        if self.swept_at.is_none_or(due) {
            self.swept_at = Some(now);
            self.forget_full(now);
        }
        self.buckets.len() < self.most
    }

    /// Takes a token. When there is none: how long until there is one.
    pub(crate) fn take(&mut self, from: K, now: Instant) -> Result<(), Duration> {
        if !self.has_room_for(&from, now) {
            return Err(self.time_for(1.0));
        }
        let full = self.burst;
        let (burst, rate) = (self.burst, self.per_second);
        let bucket = self.buckets.entry(from).or_insert(Bucket {
            tokens: full,
            at: now,
        });
        bucket.tokens = filled(bucket, now, burst, rate);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            let missing = 1.0 - bucket.tokens;
            return Err(self.time_for(missing));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }

    /// A full bucket is like none.
    fn forget_full(&mut self, now: Instant) {
        let (burst, rate) = (self.burst, self.per_second);
        self.buckets
            .retain(|_, bucket| filled(bucket, now, burst, rate) < burst);
    }

    fn time_for(&self, tokens: f64) -> Duration {
        Duration::from_secs_f64(tokens / self.per_second)
    }
}

fn filled(bucket: &Bucket, now: Instant, burst: f64, rate: f64) -> f64 {
    let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
    passed.mul_add(rate, bucket.tokens).min(burst)
}

/// Whoever has one IPv6 address has the whole /64.
pub(crate) fn network(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V4(addr) => IpAddr::V4(addr),
        IpAddr::V6(addr) => {
            let prefix = addr.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(prefix))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn after_the_burst_there_is_one_per_interval_and_for_each_address_alone() {
        let (mut buckets, start) = (Buckets::new(3, 60, 10), Instant::now());
        for _ in 0..3 {
            buckets.take(v4(1), start).unwrap();
        }
        assert_eq!(buckets.take(v4(1), start), Err(Duration::from_secs(1)));
        buckets.take(v4(2), start).unwrap();
        let later = start + Duration::from_secs(1);
        buckets.take(v4(1), later).unwrap();
        assert!(buckets.take(v4(1), later).is_err());
        let much_later = start + Duration::from_secs(3600);
        for _ in 0..3 {
            buckets.take(v4(1), much_later).unwrap();
        }
        assert!(
            buckets.take(v4(1), much_later).is_err(),
            "the burst does not pile up"
        );
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let of = |addr: &str| network(addr.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }

    #[test]
    fn the_memory_is_bounded() {
        let (mut buckets, now) = (Buckets::new(1, 60, 1_000), Instant::now());
        for n in 0..1_000 {
            buckets.take(v4(n), now).unwrap();
        }
        assert!(!buckets.has_room_for(&v4(u32::MAX), now));
        assert!(buckets.take(v4(u32::MAX), now).is_err());
        buckets
            .take(v4(u32::MAX), now + Duration::from_secs(2))
            .unwrap();
        assert_eq!(buckets.buckets.len(), 1);
    }
}
