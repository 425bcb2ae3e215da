//! Starts full synchronisations when they are due.

use std::sync::Arc;

use jiff::Timestamp;

use crate::app::list_syncs::next_scheduled;
use crate::app::start_sync::start_sync;
use crate::app::{Error, Point};
use crate::domain::sync::Kind;

/// Looks whether one is due, and starts it. One that runs is joined, so looking often is harmless.
pub(crate) async fn sync_on_schedule(point: Arc<Point>) -> Result<(), Error> {
    match next_scheduled(&point).await? {
        Some(due) if due <= Timestamp::now() => {
            start_sync(&point, Kind::Full).await?;
        }
        Some(_) | None => {}
    }
    Ok(())
}
