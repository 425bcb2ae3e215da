//! Whether the software update point above has another generation than we.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::start_sync::start_sync;
use super::{Error, Point};
use crate::domain::sync::{Kind, Phase};
use crate::store::parent::{Parent, ParentError};

/// Reasons that may be gone at the next look; anything else waits as long as the schedule does.
const PASSING: [&str; 5] = [
    "NO_PARENT",
    "PARENT_UNAVAILABLE",
    "OVERTAKEN",
    "STOPPING",
    "INTERRUPTED",
];

/// Starts a synchronisation when it has.
pub(crate) async fn look_at_parent(point: &Arc<Point>, parent: &Parent) -> Result<(), Error> {
    let last = point.progress.borrow().clone();
    if let Some(last) = last {
        let pause = SignedDuration::try_from(point.schedule.retry_after).unwrap_or_default();
        let lasting = last.phase == Phase::Failed && !PASSING.contains(&last.reason.as_str());
        let recent = last
            .ended_at
            .is_none_or(|ended| Timestamp::now() < ended + pause);
        if !last.phase.is_final() || (lasting && recent) {
            return Ok(());
        }
    }
    let offered = match parent.connect().await {
        Ok(upstream) => upstream.offered,
        Err(ParentError::None) => {
            tracing::debug!("this site has no parent");
            return Ok(());
        }
        Err(error) => {
            metrics::counter!("muster_sup_parent_unavailable_total").increment(1);
            tracing::warn!(%error, "the parent's catalog cannot be looked at");
            return Ok(());
        }
    };
    let held = point.catalog();
    if offered.generation > 0
        && (offered.generation != held.generation || offered.stamp[..] != held.stamp[..])
    {
        let kind = if held.generation == 0 {
            Kind::Full
        } else {
            Kind::Delta
        };
        start_sync(point, kind).await?;
    }
    Ok(())
}
