//! Which sites there are, on its way to the neighbours and from them.

use deadpool_postgres::Transaction;
use muster_proto::link as pb;

use super::{Error, Neighbour, Site};
use crate::domain::report::Refused;

/// Takes what is dirty for a neighbour, `limit` at most.
pub(crate) async fn take(
    _site: &Site,
    _tx: &Transaction<'_>,
    _peer: Neighbour,
    _limit: usize,
) -> Result<Vec<pb::SiteRecord>, Error> {
    Ok(Vec::new())
}

/// Does what a neighbour said; the inner error refuses its batch.
pub(crate) async fn apply(
    _site: &Site,
    _tx: &Transaction<'_>,
    _peer: Neighbour,
    _sites: &[pb::SiteRecord],
) -> Result<Result<(), Refused>, Error> {
    Ok(Ok(()))
}

/// Marks everything that a neighbour is to have.
pub(crate) async fn all_dirty(_tx: &Transaction<'_>, _peer: Neighbour) -> Result<(), Error> {
    Ok(())
}
