//! Loops that bring what is closer to what should be.

use std::sync::Arc;
use std::time::Duration;

use muster_runtime::status::chain;
use muster_runtime::{Backoff, Tasks};
use tokio::time::{Instant, sleep, sleep_until};

use crate::app::distribute_content::{self, Progress};
use crate::app::{
    Error, Site, backlog, follow_catalog, give_directions, keep_trend, leave_site, links,
    move_clients, sum_up_counters,
};

/// How often it is looked what distribution points should have; a package or a new need wakes the
/// task at once.
const CONTENT: Duration = Duration::from_secs(30);
/// How often files that are on their way are looked at.
const FETCHING: Duration = Duration::from_secs(2);
/// When a distribution point that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Between two looks at everything at least, however often the task is woken.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the queues are looked at.
const BACKLOG: Duration = Duration::from_secs(5);
/// How often it is looked what clients are to be told; a change that must not wait wakes the task.
const DIRECTIONS: Duration = Duration::from_secs(2);
/// How often neighbours are told how this site is.
const SITE: Duration = Duration::from_secs(60);
/// How often it is looked for what sites that left have left behind, and for clients that have moved.
const AWAY: Duration = Duration::from_secs(60);
/// How often what batches moved is added to the counters.
const COUNTERS: Duration = Duration::from_secs(5);

/// How often it is looked whether a snapshot of the reports is due.
const TREND: Duration = Duration::from_secs(30);

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
    let ours = tasks.clone();
    tasks.every("distribute-content", CONTENT, Some(nudge), move || {
        let (site, tasks) = (Arc::clone(&it), ours.clone());
        async move { distribute(&site, &tasks).await }
    });
    let it = Arc::clone(site);
    tasks.every("sum-up-counters", COUNTERS, None, move || {
        let site = Arc::clone(&it);
        async move { sum_up_counters::sum_up_counters(&site).await }
    });
    let it = Arc::clone(site);
    tasks.every("check-counters", site.config.links.sweep, None, move || {
        let site = Arc::clone(&it);
        async move { links::agree::check(&site).await }
    });
    let it = Arc::clone(site);
    tasks.every(
        "keep-trend",
        TREND.min(site.config.trend.interval),
        None,
        move || {
            let site = Arc::clone(&it);
            async move { keep_trend::keep_trend(&site, jiff::Timestamp::now()).await }
        },
    );
    let it = Arc::clone(site);
    tasks.every("refresh-site", SITE, None, move || {
        let site = Arc::clone(&it);
        async move { links::sites::refresh(&site).await }
    });
    let (it, nudge) = (Arc::clone(site), Arc::clone(&site.site_gone));
    tasks.every("clear-away", AWAY, Some(nudge), move || {
        let site = Arc::clone(&it);
        async move { leave_site::clear_away(&site).await }
    });
    let (it, nudge) = (Arc::clone(site), Arc::clone(&site.clients_moved));
    tasks.every("let-clients-go", AWAY, Some(nudge), move || {
        let site = Arc::clone(&it);
        async move { move_clients::let_clients_go(&site).await }
    });
    let it = Arc::clone(site);
    tasks.every("watch-backlog", BACKLOG, None, move || {
        let site = Arc::clone(&it);
        async move { backlog::watch_backlog(&site).await }
    });
    let (it, nudge) = (Arc::clone(site), Arc::clone(&site.directions_changed));
    tasks.every("gather-directions", DIRECTIONS, Some(nudge), move || {
        let site = Arc::clone(&it);
        async move { give_directions::gather_directions(&site).await }
    });
}

/// Looks at everything once, and then at the files that are on their way until they are there or
/// it is time to look at everything again.
async fn distribute(site: &Site, tasks: &Tasks) -> Result<(), Error> {
    let (started, stop) = (Instant::now(), tasks.token());
    let mut progress = distribute_content::distribute_content(site).await?;
    loop {
        let wait = match progress {
            Progress::Idle => break sleep_until(started + PAUSE).await,
            Progress::Failed => RETRY,
            Progress::UnderWay => FETCHING,
        };
        let woken = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = site.content_wanted.notified() => true,
            () = sleep(wait) => false,
        };
        if woken || progress == Progress::Failed || started.elapsed() >= CONTENT {
            sleep_until(started + PAUSE).await;
            // The next look at everything follows at once.
            site.content_wanted.notify_one();
            break;
        }
        progress = distribute_content::fetch_content(site).await;
    }
    Ok(())
}
