//! Fetches wanted files, one per worker, tries again what may pass, and looks into packages.

use std::time::{Duration, Instant};

use muster_runtime::Backoff;

use crate::app::{self, Failure, Point, Source, Step, Upstream};
use crate::domain::digest::Digest;

/// Longest delay between two attempts.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// How long a file is waited for that the parent's distribution point is fetching, and how often it is
/// looked for there.
const COMING: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_secs(2);

/// One worker: takes wanted files until the process stops. What came of a file that it is at
/// stays on disk.
pub(crate) async fn fetch_wanted(point: &Point, upstream: &Upstream) {
    let token = point.token();
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            next = point.jobs.next() => {
                let Some((digest, source)) = next else { continue };
                tokio::select! {
                    () = token.cancelled() => return,
                    () = fetch(point, upstream, digest, &source) => {}
                }
            }
        }
    }
}

/// Attempts until the file is held, or cannot be had.
async fn fetch(point: &Point, upstream: &Upstream, digest: Digest, source: &Source) {
    let config = &point.config.fetch;
    let mut backoff = Backoff::new(config.retry_after, MAX_DELAY);
    let begin = Instant::now();
    loop {
        let failures = backoff.failures();
        let fetched = app::fetch_content(point, upstream, digest, source, failures).await;
        let Err(failure) = fetched else { break };
        if matches!(failure, Failure::Coming) && begin.elapsed() < COMING {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        metrics::counter!("muster_content_fetch_errors_total", "reason" => failure.word())
            .increment(1);
        let detail = failure.to_string();
        let path = source.path.as_str();
        if failure.may_pass() && backoff.failures() + 1 < config.attempts {
            tracing::info!(content.sha256 = %digest, path, error = detail, "fetch put off");
            backoff.wait().await;
            continue;
        }
        tracing::warn!(content.sha256 = %digest, path, error = detail, "fetch failed");
        point.jobs.set(
            &digest,
            Step::Failed {
                detail,
                at: Instant::now(),
            },
        );
        return;
    }
    app::read_facts(point, digest, source).await;
    // Nobody wants it any more: removed while it came.
    if !point.jobs.remove(&digest)
        && let Err(error) = point.content.withdraw(digest).await
    {
        let error = muster_runtime::status::chain(&error);
        tracing::warn!(content.sha256 = %digest, error, "cannot remove an unwanted file");
    }
}
