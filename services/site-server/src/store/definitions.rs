//! What is ours among collections, update lists, packages and deployments, as it travels to other
//! sites: encoded from the rows each time, so that nobody has to keep two truths.

use std::collections::HashMap;

use bytes::Bytes;
use deadpool_postgres::GenericClient;
use muster_proto::link as pb;
use muster_proto::link::ObjectKind;
use prost::Message;
use tokio_postgres::Row;
use uuid::Uuid;

use super::objects::Key;
use super::{client_moves, query, time};
use crate::app::Error;

/// The definitions of these objects, as far as they are ours and not deleted.
pub(crate) async fn ours(
    db: &impl GenericClient,
    keys: &[Key],
) -> Result<HashMap<Key, Bytes>, Error> {
    let mut found = HashMap::with_capacity(keys.len());
    for kind in [
        ObjectKind::Collection,
        ObjectKind::UpdateList,
        ObjectKind::Package,
        ObjectKind::Deployment,
        ObjectKind::ClientMove,
    ] {
        let number = kind as i16;
        let of_kind = keys.iter().filter(|key| key.0 == number);
        let ids: Vec<Uuid> = of_kind.map(|key| key.1).collect();
        if ids.is_empty() {
            continue;
        }
        let definitions = match kind {
            ObjectKind::Collection => collections(db, &ids).await?,
            ObjectKind::UpdateList => lists(db, &ids).await?,
            ObjectKind::Package => packages(db, &ids).await?,
            ObjectKind::Deployment => deployments(db, &ids).await?,
            ObjectKind::ClientMove => client_moves::ours(db, &ids).await?,
            ObjectKind::Unspecified => Vec::new(),
        };
        found.extend(definitions.into_iter().map(|(id, it)| ((number, id), it)));
    }
    Ok(found)
}

type Definitions = Vec<(Uuid, Bytes)>;

fn encoded(row: &Row, definition: &impl Message) -> (Uuid, Bytes) {
    (row.get("id"), definition.encode_to_vec().into())
}

fn wire(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn updates(row: &Row) -> Vec<u32> {
    let numbers: Vec<i32> = row.get("updates");
    numbers.iter().map(|number| number.unsigned_abs()).collect()
}

async fn collections(db: &impl GenericClient, ids: &[Uuid]) -> Result<Definitions, Error> {
    const SQL: &str = "
        SELECT c.collection_id AS id, c.name, c.description, c.created_at,
               ARRAY(SELECT k.client_id FROM collection_members m JOIN clients k USING (client_no)
                     WHERE m.collection_no = c.collection_no ORDER BY k.client_id) AS members
        FROM collections c
        WHERE c.collection_id = ANY ($1) AND c.owner_site_code IS NULL AND NOT c.built_in";
    let definition = |row: &Row| {
        let members: Vec<Uuid> = row.get("members");
        let definition = pb::CollectionDefinition {
            name: row.get("name"),
            description: row.get("description"),
            created_at: time(row, "created_at"),
            client_ids: members.into_iter().map(wire).collect(),
        };
        encoded(row, &definition)
    };
    let rows = query(db, SQL, &[&ids]).await?;
    Ok(rows.iter().map(definition).collect())
}

async fn lists(db: &impl GenericClient, ids: &[Uuid]) -> Result<Definitions, Error> {
    const SQL: &str = "
        SELECT l.update_list_id AS id, l.name, l.description, l.created_at,
               ARRAY(SELECT m.update_no FROM update_list_members m
                     WHERE m.update_list_no = l.update_list_no ORDER BY 1) AS updates
        FROM update_lists l
        WHERE l.update_list_id = ANY ($1) AND l.owner_site_code IS NULL";
    let definition = |row: &Row| {
        let definition = pb::UpdateListDefinition {
            name: row.get("name"),
            description: row.get("description"),
            created_at: time(row, "created_at"),
            update_numbers: updates(row),
        };
        encoded(row, &definition)
    };
    let rows = query(db, SQL, &[&ids]).await?;
    Ok(rows.iter().map(definition).collect())
}

async fn packages(db: &impl GenericClient, ids: &[Uuid]) -> Result<Definitions, Error> {
    const SQL: &str = "
        SELECT p.package_id AS id, p.name, p.all_leaves, p.created_at, l.update_list_id,
               ARRAY(SELECT u.update_no FROM package_updates u
                     WHERE u.package_no = p.package_no ORDER BY 1) AS updates
        FROM packages p LEFT JOIN update_lists l USING (update_list_no)
        WHERE p.package_id = ANY ($1) AND p.owner_site_code IS NULL";
    let definition = |row: &Row| {
        let list: Option<Uuid> = row.get("update_list_id");
        let definition = pb::PackageDefinition {
            name: row.get("name"),
            all_leaves: row.get("all_leaves"),
            created_at: time(row, "created_at"),
            update_list_id: list.map(wire).unwrap_or_default(),
            update_numbers: updates(row),
        };
        encoded(row, &definition)
    };
    let rows = query(db, SQL, &[&ids]).await?;
    Ok(rows.iter().map(definition).collect())
}

async fn deployments(db: &impl GenericClient, ids: &[Uuid]) -> Result<Definitions, Error> {
    const SQL: &str = "
        SELECT d.deployment_id AS id, d.name, c.collection_id, l.update_list_id, d.created_at,
               d.available_at, d.deadline_at, d.suppress_restart, d.verbosity,
               ARRAY(SELECT u.update_no FROM deployment_updates u
                     WHERE u.deployment_no = d.deployment_no ORDER BY 1) AS updates
        FROM deployments d JOIN collections c USING (collection_no)
        LEFT JOIN update_lists l USING (update_list_no)
        WHERE d.deployment_id = ANY ($1) AND d.owner_site_code IS NULL";
    let definition = |row: &Row| {
        let list: Option<Uuid> = row.get("update_list_id");
        let definition = pb::DeploymentDefinition {
            name: row.get("name"),
            collection_id: wire(row.get("collection_id")),
            update_list_id: list.map(wire).unwrap_or_default(),
            update_numbers: updates(row),
            created_at: time(row, "created_at"),
            available_at: time(row, "available_at"),
            deadline_at: time(row, "deadline_at"),
            suppress_restart: row.get("suppress_restart"),
            verbosity: u32::from(row.get::<_, i16>("verbosity").unsigned_abs()),
        };
        encoded(row, &definition)
    };
    let rows = query(db, SQL, &[&ids]).await?;
    Ok(rows.iter().map(definition).collect())
}
