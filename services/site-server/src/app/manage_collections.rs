//! Collections of clients by direct membership.

use deadpool_postgres::GenericClient;
use muster_proto::collection as pb;
use muster_proto::link::ObjectKind;

use super::links::{self, objects};
use super::manage_clients;
use super::{Error, Site, directory};
use crate::domain::names;
use crate::domain::page::Page;
use crate::store::collections::{self, ALL_SYSTEMS};
use crate::store::named::Named;
use crate::store::sites;

/// Most clients that one call names.
const MAX_CLIENTS: usize = 10_000;

/// The collection of this name; an empty name means "All systems".
pub(crate) async fn find(site: &Site, db: &impl GenericClient, name: &str) -> Result<Named, Error> {
    let name = if name.trim().is_empty() {
        "All systems"
    } else {
        name.trim()
    };
    let unknown = || {
        Error::not_found(
            "UNKNOWN_COLLECTION",
            format!("there is no collection {name:?}"),
        )
    };
    let found = collections::find(db, site.config.site_code, name).await?;
    found.ok_or_else(unknown)
}

async fn numbers(db: &impl GenericClient, clients: &[String]) -> Result<Vec<i32>, Error> {
    if clients.len() > MAX_CLIENTS {
        return Err(Error::invalid(
            "CLIENTS",
            format!("at most {MAX_CLIENTS} clients at once"),
        ));
    }
    let mut numbers = Vec::with_capacity(clients.len());
    for name in clients {
        numbers.push(manage_clients::find(db, name).await?.client_no);
    }
    Ok(numbers)
}

/// Makes a collection.
pub(crate) async fn create_collection(
    site: &Site,
    administrator: &str,
    request: &pb::CreateCollectionRequest,
) -> Result<pb::Collection, Error> {
    let name = names::name(&request.name)?;
    let description = names::description(&request.description)?;
    let mut turn = directory::turn(site).await;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let members = numbers(&tx, &request.clients).await?;
    let number = collections::add(&tx, &name, &description)
        .await
        .map_err(|error| error.taken("collection", &name))?;
    collections::change_members(&tx, number, &members, &[]).await?;
    objects::members_changed(&tx, &[number]).await?;
    let collection = collections::show(&tx, site.config.site_code, number).await?;
    turn.doubt();
    tx.commit().await?;
    turn.add_collection(number, &name, &members);
    turn.settle();
    links::wake(site);
    tracing::info!(
        audit = true,
        administrator,
        collection = name,
        "collection created"
    );
    Ok(collection)
}

/// One page of collections.
pub(crate) async fn list_collections(
    site: &Site,
    request: &pb::ListCollectionsRequest,
) -> Result<pb::ListCollectionsResponse, Error> {
    let page = Page::read(request.page_size, &request.page_token)?;
    let mut found = collections::list(&site.db().await?, site.config.site_code, page).await?;
    let next_page_token = page.cut(&mut found);
    Ok(pb::ListCollectionsResponse {
        collections: found,
        next_page_token,
    })
}

/// One collection.
pub(crate) async fn get_collection(
    site: &Site,
    request: &pb::GetCollectionRequest,
) -> Result<pb::Collection, Error> {
    let db = site.db().await?;
    let found = find(site, &db, &request.name).await?;
    collections::show(&db, site.config.site_code, found.number).await
}

/// Deletes a collection that nothing is deployed to.
pub(crate) async fn delete_collection(
    site: &Site,
    administrator: &str,
    request: &pb::DeleteCollectionRequest,
) -> Result<(), Error> {
    let mut turn = directory::turn(site).await;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let found = find(site, &tx, &request.name).await?;
    if found.number == ALL_SYSTEMS {
        let message = format!("{:?} is built in", found.name);
        return Err(Error::conflict("BUILT_IN", message));
    }
    let found = found.ours("collection")?;
    if let Some(deployment) = collections::deployed_by(&tx, found.number).await? {
        let message = format!("deployment {deployment:?} targets {:?}", found.name);
        return Err(Error::conflict("IN_USE", message));
    }
    collections::delete(&tx, found.number).await?;
    objects::deleted(&tx, ObjectKind::Collection, found.id).await?;
    turn.doubt();
    tx.commit().await?;
    turn.remove_collection(found.number);
    turn.settle();
    links::wake(site);
    tracing::info!(
        audit = true,
        administrator,
        collection = found.name,
        "collection deleted"
    );
    Ok(())
}

/// Adds and removes direct members. Policy changes with them.
pub(crate) async fn change_members(
    site: &Site,
    administrator: &str,
    request: &pb::ChangeMembersRequest,
) -> Result<pb::Collection, Error> {
    let mut turn = directory::turn(site).await;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let found = find(site, &tx, &request.name).await?;
    if found.number == ALL_SYSTEMS {
        let message = format!("everybody is in {:?}", found.name);
        return Err(Error::conflict("BUILT_IN", message));
    }
    let found = found.ours("collection")?;
    let add = numbers(&tx, &request.add_clients).await?;
    let remove = numbers(&tx, &request.remove_clients).await?;
    let changed = collections::change_members(&tx, found.number, &add, &remove).await?;
    if changed > 0 {
        sites::raise_policy_revision(&tx).await?;
        objects::members_changed(&tx, &[found.number]).await?;
    }
    let collection = collections::show(&tx, site.config.site_code, found.number).await?;
    turn.doubt();
    tx.commit().await?;
    turn.change_members(found.number, &add, &remove);
    turn.settle();
    links::wake(site);
    tracing::info!(
        audit = true,
        administrator,
        collection = found.name,
        changed,
        "members changed"
    );
    Ok(collection)
}
