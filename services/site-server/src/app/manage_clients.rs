//! Clients as administrators see them, and the tokens that new ones enrol with.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use muster_compliance::ClientStates;
use muster_domain::ClientId;
use muster_proto::client as pb;
use muster_proto::convert;
use uuid::Uuid;

use super::enrol_client::hash_token;
use super::links::clients as told;
use super::links::{self, objects};
use super::{Error, Site, choose_clients, deployment_states, directory, matrix};
use crate::domain::page::Page;
use crate::domain::settle::Moves;
use crate::store::{
    self, client_moves, clients, collections, compliance, identities, sites, streams,
};

/// Most tokens that one call makes.
const MAX_TOKENS: u32 = 1_000;

/// One page of clients.
pub(crate) async fn list_clients(
    site: &Site,
    request: &pb::ListClientsRequest,
) -> Result<pb::ListClientsResponse, Error> {
    let page = Page::read(request.page_size, &request.page_token)?;
    let own = site.config.site_code;
    let owners = choose_clients::owners(site, &request.site_code).await?;
    let db = site.db().await?;
    let collection = match request.collection_id.as_ref() {
        [] => None,
        bytes => Some(by_id(&db, bytes).await?),
    };
    let collection = collection.filter(|number| *number != collections::ALL_SYSTEMS);
    let named = &request.host_name;
    let (mut found, total) = clients::list(&db, named, collection, (own, &owners), page).await?;
    let next_page_token = page.cut(&mut found);
    Ok(pb::ListClientsResponse {
        clients: found,
        next_page_token,
        total,
    })
}

/// The number of a collection by its id on the wire.
pub(crate) async fn by_id(
    db: &impl deadpool_postgres::GenericClient,
    bytes: &[u8],
) -> Result<i32, Error> {
    let id = Uuid::from_slice(bytes)
        .map_err(|_| Error::invalid("INVALID_ID", "a collection id has 16 bytes"))?;
    let found = collections::by_ids(db, &[id]).await?;
    let unknown = || Error::not_found("UNKNOWN_COLLECTION", "there is no such collection");
    found.first().map(|it| it.number).ok_or_else(unknown)
}

/// The one client with this id as text or this host name.
pub(crate) async fn find(
    db: &impl deadpool_postgres::GenericClient,
    name: &str,
) -> Result<clients::Known, Error> {
    match clients::by_name(db, name.trim()).await?.as_slice() {
        [] => Err(Error::not_found(
            "UNKNOWN_CLIENT",
            format!("there is no client {name:?}"),
        )),
        [client] => Ok(*client),
        _ => Err(Error::conflict(
            "AMBIGUOUS_NAME",
            format!("several clients have the host name {name:?}: use the id"),
        )),
    }
}

/// One client, by id or host name.
pub(crate) async fn get_client(
    site: &Site,
    request: &pb::GetClientRequest,
) -> Result<pb::GetClientResponse, Error> {
    let db = site.db().await?;
    let client = find(&db, &request.name).await?;
    let mut answer = pb::GetClientResponse {
        client: Some(clients::show(&db, site.config.site_code, client.client_no).await?),
        collections: clients::collections(&db, client.client_no).await?,
        stream: Some(streams::show(&db, client.client_no).await?),
        ..Default::default()
    };
    identities::show(&db, client.client_no, &mut answer).await?;
    let moves = client_moves::of(&db, &[client.client_id.0]).await?;
    answer.r#move = moves.values().next().map(client_moves::Move::shown);
    Ok(answer)
}

/// Deletes a client: it is refused from now on, and what it said is taken out of every count.
pub(crate) async fn delete_client(
    site: &Site,
    administrator: &str,
    request: &pb::DeleteClientRequest,
) -> Result<(), Error> {
    let client_id = ClientId::from_slice(&request.client_id)?;
    if !remove(site, client_id, true).await? {
        return Err(Error::not_found(
            "UNKNOWN_CLIENT",
            format!("there is no client {client_id}"),
        ));
    }
    tracing::info!(audit = true, administrator, client.id = %client_id, "client deleted");
    Ok(())
}

/// Takes a client and everything that it said out of the site; `false` when it is not there. One of
/// another site is refused when it is `by_owner`.
pub(super) async fn remove(
    site: &Site,
    client_id: ClientId,
    by_owner: bool,
) -> Result<bool, Error> {
    // Its reports wait until this is done.
    let mut known = site.known_clients.lock([client_id.0]).await;
    let mut turn = directory::turn(site).await;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let client = clients::by_id(&tx, client_id).await?;
    let Some(client) = client.filter(|client| !client.deleted) else {
        return Ok(false);
    };
    if by_owner && !client.own {
        let text = format!("client {client_id} reports to another site, which alone can delete it");
        return Err(Error::conflict("OWNED_BY_OTHER_SITE", text));
    }
    let client_no = client.client_no;
    let rows = compliance::load(&tx, &[client_no]).await?;
    let mut moves = Moves::default();
    if let Some(row) = rows.get(&client_no) {
        moves.add(&row.states.differences(&ClientStates::default()));
    }
    let gone = store::deployment_states::remove_clients(&tx, &[client_no]).await?;
    compliance::move_counters(&tx, &moves, &gone.counters(), 0, 0).await?;
    let left = objects::members_left(&tx, &[client_no]).await?;
    clients::delete(&tx, client_no).await?;
    let marked = told::mark(site, &tx, &[client_no]).await?;
    identities::deny(&tx, client_no, false).await?;
    sites::raise_policy_revision(&tx).await?;
    // When the answer is lost, the matrix asks the database.
    known.doubt(client_id.0, client_no);
    turn.doubt();
    tx.commit().await?;
    matrix::remove_client(site, client_no);
    deployment_states::remove_client(site, client_no);
    objects::remember_members(&turn, &left);
    turn.remove_client(client_no);
    turn.settle();
    told::note_record(site, marked, client_no);
    links::wake(site);
    site.directions_changed.notify_one();
    Ok(true)
}

/// Makes one-use tokens. Only their hashes are kept.
pub(crate) async fn create_tokens(
    site: &Site,
    administrator: &str,
    request: &pb::CreateEnrolmentTokensRequest,
) -> Result<pb::CreateEnrolmentTokensResponse, Error> {
    if request.count == 0 || request.count > MAX_TOKENS {
        return Err(Error::invalid(
            "COUNT",
            format!("count must be 1 to {MAX_TOKENS}"),
        ));
    }
    let valid_for = request.valid_for.unwrap_or(prost_types::Duration {
        seconds: 0,
        nanos: 0,
    });
    if !(60..=30 * 24 * 3600).contains(&valid_for.seconds) {
        return Err(Error::invalid(
            "VALID_FOR",
            "valid_for must be 1 minute to 30 days",
        ));
    }
    let expires_at = Timestamp::now()
        .checked_add(convert::from_duration("valid_for", &valid_for)?)
        .map_err(|_| Error::invalid("VALID_FOR", "valid_for is too long"))?;
    let ids: Vec<Uuid> = request
        .collection_ids
        .iter()
        .map(|bytes| Uuid::from_slice(bytes))
        .collect::<Result<_, _>>()
        .map_err(|_| Error::invalid("INVALID_ID", "a collection id has 16 bytes"))?;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let found = collections::by_ids(&tx, &ids).await?;
    if found.len() < ids.len() {
        return Err(Error::not_found(
            "UNKNOWN_COLLECTION",
            "there is no such collection",
        ));
    }
    // Everybody is in "All systems" anyway.
    let joined = found
        .into_iter()
        .filter(|it| it.number != collections::ALL_SYSTEMS)
        .map(|it| Ok(it.ours("collection")?.number))
        .collect::<Result<Vec<i32>, Error>>()?;
    let tokens: Vec<String> = (0..request.count)
        .map(|_| {
            format!(
                "muster-{}",
                URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
            )
        })
        .collect();
    let hashes = tokens
        .iter()
        .map(|token| hash_token(token))
        .collect::<Result<Vec<_>, _>>()?;
    clients::add_tokens(&tx, &hashes, expires_at, &joined).await?;
    tx.commit().await?;
    tracing::info!(
        audit = true,
        administrator,
        count = request.count,
        "enrolment tokens made"
    );
    Ok(pb::CreateEnrolmentTokensResponse {
        tokens,
        expires_at: Some(convert::to_timestamp(expires_at)),
    })
}
