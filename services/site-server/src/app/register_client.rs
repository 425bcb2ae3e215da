//! A client whose own state was lost or restored starts again with a new epoch.

use muster_domain::ClientId;
use muster_proto::client as pb;

use super::enrol_client::machine;
use super::{Error, Site};
use crate::store::clients;

/// A client cannot remember an epoch that was never given; a site restored from a backup may
/// have forgotten some.
const MAX_EPOCH: u32 = 1_000_000_000;

/// Gives the client's next epoch. All its states are then taken from its next FULL report.
pub(crate) async fn register_client(
    site: &Site,
    client_id: ClientId,
    request: &pb::RegisterRequest,
) -> Result<pb::RegisterResponse, Error> {
    let known_epoch = i32::try_from(request.known_epoch.min(MAX_EPOCH)).unwrap_or(0);
    let machine = request.machine.as_ref().map(machine).transpose()?;
    // Its reports wait until this is done.
    let mut known = site.known_clients.lock([client_id.0]).await;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let client = clients::by_id(&tx, client_id).await?.ok_or_else(blocked)?;
    if client.deleted {
        return Err(blocked());
    }
    let epoch = clients::raise_epoch(&tx, client.client_no, known_epoch, machine.as_ref()).await?;
    // Also when the answer to the commit is lost.
    known.forget(client_id.0);
    tx.commit().await?;
    tracing::info!(client.id = %client_id, epoch, "client registered");
    Ok(pb::RegisterResponse {
        epoch: epoch.unsigned_abs(),
        policy_keys: vec![site.policy_key.public()],
        locations: Some(site.locations()),
    })
}

/// Where a client finds its servers.
pub(crate) async fn get_locations(
    site: &Site,
    client_id: ClientId,
) -> Result<pb::Locations, Error> {
    let db = site.db().await?;
    match clients::by_id(&db, client_id).await? {
        Some(client) if !client.deleted => Ok(site.locations()),
        _ => Err(blocked()),
    }
}

/// The answer for a client that is deleted, or that this site never had.
pub(crate) fn blocked() -> Error {
    Error::denied("CLIENT_BLOCKED", "this client was deleted")
}
