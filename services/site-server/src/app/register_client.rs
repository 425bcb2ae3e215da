//! A client whose own state was lost or restored starts again with a new epoch.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use muster_domain::ClientId;
use muster_proto::client as pb;
use muster_stream::Moment;

use super::enrol_client::machine;
use super::links::clients as told;
use super::{Error, Site, record_states};
use crate::store::clients;

/// A client cannot remember an epoch that was never given; a site restored from a backup may
/// have forgotten some.
const MAX_EPOCH: u32 = 1_000_000_000;

/// Gives the client's next epoch. All its states are then taken from its next FULL report.
pub(crate) async fn register_client(
    site: &Site,
    client_id: ClientId,
    request: &pb::RegisterRequest,
    address: Option<IpAddr>,
) -> Result<pb::RegisterResponse, Error> {
    let known_epoch = i32::try_from(request.known_epoch.min(MAX_EPOCH)).unwrap_or(0);
    let machine = request.machine.as_ref().map(machine).transpose()?;
    // Its reports wait until this is done.
    let mut known = site.known_clients.lock([client_id.0]).await;
    let client = clients::by_id(&site.db().await?, client_id).await?;
    let client = client.ok_or_else(blocked)?;
    if client.deleted || !client.own {
        return Err(blocked());
    }
    record_states::prepare(site, &mut known, &BTreeSet::from([client_id.0])).await?;
    let stream = known.get(client_id.0).map(|known| &known.stream);
    let runs = stream.map_or_else(Vec::new, |stream| stream.runs.to_bytes());
    let retry = site.config.retry();
    let moment = Moment {
        now: Timestamp::now(),
        retry: &retry,
        random: rand::random(),
    };
    let asking = (runs.as_slice(), moment.first_ask());
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let epoch =
        clients::raise_epoch(&tx, client.client_no, known_epoch, machine.as_ref(), asking).await?;
    let marked = told::mark(site, &tx, &[client.client_no]).await?;
    // Also when the answer to the commit is lost.
    known.forget(client_id.0);
    tx.commit().await?;
    told::note_record(site, marked, client.client_no);
    tracing::info!(client.id = %client_id, epoch, "client registered");
    Ok(pb::RegisterResponse {
        epoch: epoch.unsigned_abs(),
        policy_keys: vec![site.policy_key.public()],
        locations: Some(site.locations(address)),
    })
}

/// Where a client finds its servers.
pub(crate) async fn get_locations(
    site: &Site,
    client_id: ClientId,
    address: Option<IpAddr>,
) -> Result<pb::Locations, Error> {
    let db = site.db().await?;
    match clients::by_id(&db, client_id).await? {
        Some(client) if !client.deleted && client.own => Ok(site.locations(address)),
        _ => Err(blocked()),
    }
}

/// The answer for a client that is deleted, or that this site never had.
pub(crate) fn blocked() -> Error {
    Error::denied("CLIENT_BLOCKED", "this client was deleted")
}
