//! Loops that bring what is closer to what should be.

use std::sync::Arc;
use std::time::Duration;

use muster_runtime::status::chain;
use muster_runtime::{Backoff, Tasks};

use crate::app::{Site, backlog, distribute_content, follow_catalog};

/// How often distribution points are looked at while something is under way; a package or a new
/// need wakes the task at once.
const CONTENT: Duration = Duration::from_secs(2);
/// How often the queues are looked at.
const BACKLOG: Duration = Duration::from_secs(5);

/// Starts all of them.
pub(crate) fn start(site: &Arc<Site>, tasks: &Tasks) {
    let every = site.config.catalog_poll_interval;
    let (it, nudge) = (Arc::clone(site), Arc::clone(&site.catalog_wanted));
    let stop = tasks.token();
    tasks.every("follow-catalog", every, Some(nudge), move || {
        let (site, stop) = (Arc::clone(&it), stop.clone());
        async move {
            // A software update point that starts after us must not wait for the next period.
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));
            while let Err(error) = follow_catalog::follow_catalog(&site).await {
                tracing::warn!(error = %chain(&error), "cannot follow the catalog");
                tokio::select! {
                    () = backoff.wait() => {}
                    () = stop.cancelled() => return,
                }
            }
        }
    });
    let (it, nudge) = (Arc::clone(site), Arc::clone(&site.content_wanted));
    tasks.every("distribute-content", CONTENT, Some(nudge), move || {
        let site = Arc::clone(&it);
        async move { distribute_content::distribute_content(&site).await }
    });
    let it = Arc::clone(site);
    tasks.every("watch-backlog", BACKLOG, None, move || {
        let site = Arc::clone(&it);
        async move { backlog::watch_backlog(&site).await }
    });
}
