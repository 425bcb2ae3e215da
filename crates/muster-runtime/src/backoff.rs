//! How long to wait before trying again: exponential with full jitter, so that thousands of
//! callers that failed together do not come back together.

use std::time::Duration;

use tonic_types::StatusExt;

/// The delays of one caller that keeps failing.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// Delays grow from `base` by doubling and never pass `cap`.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            failures: 0,
        }
    }

    /// The delay after one more failure: anything between nothing and the current ceiling
    /// (full jitter), and the ceiling doubles.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self
            .base
            .saturating_mul(2_u32.saturating_pow(self.failures.min(31)))
            .min(self.cap)
            .max(Duration::from_millis(1));
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(rand::random_range(0.0..=1.0))
    }

    /// The delay after a call failed with `status`. When the server said how long to wait
    /// (`RetryInfo`), the caller waits at least that, plus jitter.
    pub fn after(&mut self, status: &tonic::Status) -> Duration {
        let jitter = self.next_delay();
        // Capped, so that a hostile or broken peer cannot silence us for ever.
        let asked = status
            .get_details_retry_info()
            .and_then(|info| info.retry_delay);
        asked
            .unwrap_or_default()
            .min(self.cap.saturating_mul(10))
            .saturating_add(jitter)
    }

    /// Waits for [`Self::next_delay`].
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }

    /// Something worked: start again from `base`.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// How often it failed since the last success.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Kind, status_after};

    #[test]
    fn delays_grow_to_the_cap_and_no_further() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for n in 0..200_u32 {
            let ceiling = Duration::from_millis(100).saturating_mul(1 << n.min(10));
            assert!(backoff.next_delay() <= ceiling.min(Duration::from_secs(5)));
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }

    #[test]
    fn a_caller_waits_at_least_as_long_as_the_server_asks() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(5));
        let status = status_after(Kind::Exhausted, "BUSY", "busy", Duration::from_secs(7));
        let delay = backoff.after(&status);
        assert!(
            delay >= Duration::from_secs(7) && delay < Duration::from_secs(8),
            "{delay:?}"
        );
    }

    #[test]
    fn a_server_cannot_silence_a_caller_for_ever() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(5));
        let year = Duration::from_secs(365 * 24 * 3600);
        assert!(
            backoff.after(&status_after(Kind::Unavailable, "X", "x", year))
                < Duration::from_secs(56)
        );
    }
}
