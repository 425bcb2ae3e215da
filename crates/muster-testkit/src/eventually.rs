//! Waiting for something that will be so.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long [`eventually`] waits. Far more than anything takes on a quiet machine: a test that
/// needs all of it has found something.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not after [`PATIENCE`]; the place named is the caller's.
#[track_caller]
pub fn eventually(condition: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    eventually_for(PATIENCE, condition)
}

/// Waits until `condition` holds, `patience` at most.
///
/// # Panics
/// When it does not; the place named is the caller's.
#[track_caller]
pub fn eventually_for(
    patience: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        let mut pause = Duration::from_millis(5);
        while !condition().await {
            assert!(
                start.elapsed() < patience,
                "not so after {patience:?}: {place}"
            );
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn eventually_looks_again_until_it_is_so() {
        let mut looks = 0;
        eventually(async || {
            looks += 1;
            looks == 4
        })
        .await;
        assert_eq!(looks, 4);
    }

    #[tokio::test]
    #[should_panic(expected = "eventually.rs")]
    async fn eventually_gives_up_and_names_the_place() {
        eventually_for(Duration::from_millis(30), async || false).await;
    }
}
