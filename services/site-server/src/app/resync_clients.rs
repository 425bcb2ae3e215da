//! Asks clients for everything they hold, because an administrator wants it so.

use std::collections::HashSet;

use muster_proto::client as pb;
use uuid::Uuid;

use super::manage_clients::{by_id, find};
use super::{Error, Site};
use crate::store::{collections, streams};

/// Marks the clients; each hears of it at its next contact with a management point.
pub(crate) async fn resync_clients(
    site: &Site,
    administrator: &str,
    request: &pb::ResyncClientsRequest,
) -> Result<pb::ResyncClientsResponse, Error> {
    let (name, collection, all) = (&request.name, &request.collection_id, request.all);
    let given = [!name.is_empty(), !collection.is_empty(), all];
    if given.iter().filter(|it| **it).count() != 1 {
        return Err(Error::invalid(
            "SELECTION",
            "name a client, a collection, or all clients",
        ));
    }
    let db = site.db().await?;
    let (client, members) = if all {
        (None, None)
    } else if name.is_empty() {
        let number = by_id(&db, collection).await?;
        (
            None,
            Some(number).filter(|it| *it != collections::ALL_SYSTEMS),
        )
    } else {
        (Some(find(&db, name).await?.client_no), None)
    };
    drop(db);
    // Their reports wait until this is done, and find the marks as the database has them.
    let mut known = site.known_clients.lock_all().await;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    site.still_active(&tx).await?;
    let asked: HashSet<Uuid> = streams::want_full(&tx, client, members).await?;
    known.forget_those(&asked);
    tx.commit().await?;
    drop(known);
    site.directions_changed.notify_one();
    let clients = u32::try_from(asked.len()).unwrap_or(u32::MAX);
    tracing::info!(
        audit = true,
        administrator,
        clients,
        "full reports asked for"
    );
    Ok(pb::ResyncClientsResponse { clients })
}
