//! What both kinds of bitmaps share: pages and counts of clients.

use std::borrow::Cow;
use std::ops::Bound;

use roaring::RoaringBitmap;

/// The most clients one page holds, whatever limit the caller names.
pub const MAX_PAGE: usize = 10_000;

/// The clients after `after`, ascending, at most `limit` and [`MAX_PAGE`].
pub fn page(clients: &RoaringBitmap, after: Option<u32>, limit: usize) -> Vec<u32> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    clients
        .range((from, Bound::Unbounded))
        .take(limit.min(MAX_PAGE))
        .collect()
}

/// The clients that also are in the collection; all of them without one.
pub(crate) fn within<'a>(
    clients: &'a RoaringBitmap,
    collection: Option<&RoaringBitmap>,
) -> Cow<'a, RoaringBitmap> {
    collection.map_or(Cow::Borrowed(clients), |members| {
        Cow::Owned(clients & members)
    })
}

/// How many of the clients are in the collection; all of them without one.
pub(crate) fn count_within(clients: &RoaringBitmap, collection: Option<&RoaringBitmap>) -> u32 {
    count(collection.map_or_else(
        || clients.len(),
        |members| clients.intersection_len(members),
    ))
}

/// A number of clients. Their numbers are positive `integer`s of the database: it fits.
pub(crate) fn count(clients: u64) -> u32 {
    u32::try_from(clients).unwrap_or(u32::MAX)
}
