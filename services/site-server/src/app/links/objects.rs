//! What administrators made, on its way to the neighbours and from them.

use deadpool_postgres::GenericClient;
use muster_proto::link as pb;
use uuid::Uuid;

use super::{Error, Neighbour, Site};
use crate::app::directory::Turn;
use crate::domain::report::Refused;

/// What [`apply`] did, for when it has committed.
#[derive(Debug, Default)]
pub(crate) struct Applied {}

/// Clients that joined collections, and that left some: collection and client.
#[derive(Debug, Default)]
pub(crate) struct Members {}

/// Takes what is dirty for a neighbour, in the order in which it is applied, `limit` at most.
pub(crate) async fn take(
    _site: &Site,
    _tx: &impl GenericClient,
    _peer: Neighbour,
    _limit: usize,
) -> Result<Vec<pb::Object>, Error> {
    Ok(Vec::new())
}

/// Whether states of deployments go: then nobody else may record any meanwhile.
pub(crate) fn deletes_deployments(_objects: &[pb::Object]) -> bool {
    false
}

/// Does what a neighbour said; the inner error refuses its batch.
pub(crate) async fn apply(
    _site: &Site,
    _tx: &impl GenericClient,
    _peer: Neighbour,
    _objects: &[pb::Object],
) -> Result<Result<Applied, Refused>, Error> {
    Ok(Ok(Applied::default()))
}

/// Takes over in memory what has been committed.
pub(crate) fn remember(_site: &Site, _turn: &Turn<'_>, _applied: &Applied) {}

/// Marks everything that a neighbour is to have.
pub(crate) async fn all_dirty(_tx: &impl GenericClient, _peer: Neighbour) -> Result<(), Error> {
    Ok(())
}

/// Clients appeared of whom collections may have said that they are members.
pub(crate) async fn members_arrived(
    _tx: &impl GenericClient,
    _clients: &[Uuid],
) -> Result<Members, Error> {
    Ok(Members::default())
}

/// Clients go.
pub(crate) async fn members_left(
    _tx: &impl GenericClient,
    _clients: &[i32],
) -> Result<Members, Error> {
    Ok(Members::default())
}

/// Takes over in memory what has been committed.
pub(crate) fn remember_members(_turn: &Turn<'_>, _members: &Members) {}
