//! Everything that runs beside the requests of a process: named, counted, and waited for.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How a task ended. Lets a task return nothing, or a `Result` whose error is logged.
pub trait Outcome {
    /// The text of the failure, if it failed.
    fn failure(self) -> Option<String>;
}

impl Outcome for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: std::fmt::Display> Outcome for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| format!("{error:#}"))
    }
}

/// The background tasks of one service. Clones share the same set.
///
/// A task that fails or panics is logged and counted in `muster_task_failures_total{task}`; it
/// does not take the process with it. [`Tasks::stop`] tells all of them and waits.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
    running: Arc<Mutex<HashMap<u64, (&'static str, AbortHandle)>>>,
    next: Arc<AtomicU64>,
}

impl Tasks {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when [`Tasks::stop`] is called; tasks watch it and finish what is in hand.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// How many tasks are running.
    #[must_use]
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Starts a task. It must watch [`Tasks::token`] when it would otherwise never end.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Outcome,
    {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let running = Arc::clone(&self.running);
        // Held until the handle is in the map, so that a task that ends at once finds itself.
        let mut map = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = self.tracker.spawn(async move {
            let outcome = AssertUnwindSafe(task).catch_unwind().await;
            running
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&id);
            report(name, outcome);
        });
        map.insert(id, (name, handle.abort_handle()));
    }

    /// Starts work that repeats: at once, then every `period`, and earlier when `nudge` is
    /// notified. A run is never cut short by [`Tasks::stop`]; it is the last one. A run that
    /// fails or panics is logged and counted, and the next one comes as usual.
    pub fn every<F, Fut>(
        &self,
        name: &'static str,
        period: Duration,
        nudge: Option<Arc<Notify>>,
        mut run: F,
    ) where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future + Send,
        Fut::Output: Outcome + Send,
    {
        let token = self.token();
        self.spawn(name, async move {
            while !token.is_cancelled() {
                // Calling inside the async block keeps a panic of `run` itself in here too.
                let outcome = AssertUnwindSafe(async { run().await }).catch_unwind().await;
                report(name, outcome);
                let nudged = async {
                    match &nudge {
                        Some(nudge) => nudge.notified().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = token.cancelled() => {}
                    () = tokio::time::sleep(period) => {}
                    () = nudged => {}
                }
            }
        });
    }

    /// Tells all tasks to end and waits for them. What still runs after `timeout` is aborted;
    /// the names of those come back (empty: all ended by themselves).
    pub async fn stop(&self, timeout: Duration) -> Vec<&'static str> {
        self.token.cancel();
        self.tracker.close();
        if tokio::time::timeout(timeout, self.tracker.wait())
            .await
            .is_ok()
        {
            return Vec::new();
        }
        let late: Vec<(&'static str, AbortHandle)> = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain()
            .map(|(_, entry)| entry)
            .collect();
        for (name, handle) in &late {
            tracing::warn!(task = name, "did not end in time, aborted");
            handle.abort();
        }
        late.into_iter().map(|(name, _)| name).collect()
    }
}

fn report<T: Outcome>(name: &'static str, outcome: Result<T, Box<dyn Any + Send>>) {
    let failure = match outcome {
        Ok(outcome) => outcome.failure(),
        Err(panic) => Some(format!("panicked: {}", panic_text(panic.as_ref()))),
    };
    if let Some(error) = failure {
        metrics::counter!("muster_task_failures_total", "task" => name).increment(1);
        tracing::error!(task = name, error, "task failed");
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[tokio::test]
    async fn work_that_panics_is_tried_again() {
        let tasks = Tasks::new();
        let runs = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&runs);
        tasks.every("flaky", Duration::from_millis(1), None, move || {
            let run = seen.fetch_add(1, Ordering::SeqCst);
            async move { assert!(run > 0, "first run") }
        });
        tokio::time::timeout(Duration::from_secs(5), async {
            while runs.load(Ordering::SeqCst) < 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
        assert!(tasks.stop(Duration::from_secs(5)).await.is_empty());
    }

    #[tokio::test]
    async fn a_nudge_does_not_wait_for_the_period() {
        let tasks = Tasks::new();
        let (nudge, ran) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let seen = Arc::clone(&ran);
        let hour = Duration::from_secs(3600);
        tasks.every("nudged", hour, Some(Arc::clone(&nudge)), move || {
            seen.notify_one();
            async {}
        });
        ran.notified().await;
        nudge.notify_one();
        tokio::time::timeout(Duration::from_secs(5), ran.notified())
            .await
            .unwrap();
        assert!(tasks.stop(Duration::from_secs(5)).await.is_empty());
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_is_named_and_aborted() {
        let tasks = Tasks::new();
        tasks.spawn("stubborn", std::future::pending::<()>());
        assert_eq!(tasks.stop(Duration::from_millis(10)).await, ["stubborn"]);
    }
}
