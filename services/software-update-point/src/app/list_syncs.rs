//! The history of synchronisations, and the one to watch.

use jiff::Timestamp;

use super::{Error, Point};
use crate::domain::schedule;
use crate::domain::sync::Sync;
use crate::store;

/// The newest ones first.
pub(crate) async fn list_syncs(point: &Point, limit: u32) -> Result<Vec<Sync>, Error> {
    let db = point
        .pool
        .get()
        .await
        .map_err(muster_postgres::Error::from)?;
    Ok(store::syncs::newest(&db, limit).await?)
}

/// One of them, as the history has it.
pub(crate) async fn get_sync(point: &Point, sync_no: u64) -> Result<Sync, Error> {
    let db = point
        .pool
        .get()
        .await
        .map_err(muster_postgres::Error::from)?;
    store::syncs::get(&db, sync_no)
        .await?
        .ok_or(Error::UnknownSync(sync_no))
}

/// When the next scheduled one is due, if one is.
pub(crate) async fn next_scheduled(point: &Point) -> Result<Option<Timestamp>, Error> {
    let db = point
        .pool
        .get()
        .await
        .map_err(muster_postgres::Error::from)?;
    let mut past = store::syncs::past(&db).await?;
    if point.parent.is_some() {
        // The parent looks for newer ones in time, and is looked at all the time.
        past.expires = None;
    }
    Ok(schedule::next(point.schedule, past, Timestamp::now()))
}
