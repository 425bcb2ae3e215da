//! The updates that came or changed after a generation, page by page.

use super::{Error, Point};
use crate::domain::update::StoredUpdate;
use crate::store;

/// The most updates of a page.
const PAGE: u32 = 500;

/// Where a stream is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor {
    after: (u64, u32),
    /// The generation in force when the stream began. What changes later is for the next stream.
    pub(crate) up_to: u64,
}

impl Cursor {
    /// Begins after a generation.
    pub(crate) fn new(point: &Point, after_generation: u64) -> Result<Self, Error> {
        let up_to = point.catalog().generation;
        if after_generation > up_to {
            return Err(Error::GenerationUnknown(after_generation));
        }
        Ok(Self {
            after: (after_generation, u32::MAX),
            up_to,
        })
    }

    /// The next page; empty at the end.
    pub(crate) async fn next(&mut self, point: &Point) -> Result<Vec<StoredUpdate>, Error> {
        let db = point
            .pool
            .get()
            .await
            .map_err(muster_postgres::Error::from)?;
        let page = store::updates::page(&db, self.after, self.up_to, PAGE).await?;
        if let Some(last) = page.last() {
            self.after = (last.generation, last.update_no);
        }
        Ok(page)
    }
}
