//! `collections`, `collection_members`. "All systems" has no rows of members: everybody is in it.

use deadpool_postgres::GenericClient;
use muster_domain::SiteCode;
use muster_domain::ids::CollectionId;
use muster_proto::collection as pb;
use tokio_postgres::Row;
use uuid::Uuid;

use super::named::{self, Named, by_name};
use super::{execute, id, number, query, query_one, query_opt, time};
use crate::app::Error;
use crate::domain::page::Page;

/// The number of "All systems".
pub(crate) const ALL_SYSTEMS: i32 = 1;

pub(crate) async fn add(
    db: &impl GenericClient,
    name: &str,
    description: &str,
) -> Result<i32, Error> {
    const SQL: &str = "
        INSERT INTO collections (collection_id, name, description) VALUES ($1, $2, $3)
        RETURNING collection_no";
    let id = CollectionId::generate().0;
    Ok(query_one(db, SQL, &[&id, &name, &description])
        .await?
        .get(0))
}

/// By name, or by id as text.
pub(crate) async fn find(
    db: &impl GenericClient,
    own: SiteCode,
    name: &str,
) -> Result<Option<Named>, Error> {
    const SQL: &str = by_name!("collections", "collection_no", "collection_id");
    named::find(db, own, SQL, "collection", name).await
}

/// The collections with these ids; shorter than `ids` when one does not exist.
pub(crate) async fn by_ids(db: &impl GenericClient, ids: &[Uuid]) -> Result<Vec<Named>, Error> {
    const SQL: &str = "
        SELECT collection_no, collection_id, name, owner_site_code FROM collections
        WHERE collection_id = ANY ($1)";
    let rows = query(db, SQL, &[&ids]).await?;
    let named = |row: &Row| Named {
        number: row.get("collection_no"),
        id: row.get("collection_id"),
        name: row.get("name"),
        owner: row.get("owner_site_code"),
    };
    Ok(rows.iter().map(named).collect())
}

pub(crate) async fn change_members(
    db: &impl GenericClient,
    collection_no: i32,
    add: &[i32],
    remove: &[i32],
) -> Result<u64, Error> {
    const ADD: &str = "
        INSERT INTO collection_members (collection_no, client_no)
        SELECT $1, unnest($2::int4[]) ON CONFLICT DO NOTHING";
    const REMOVE: &str = "
        DELETE FROM collection_members WHERE collection_no = $1 AND client_no = ANY ($2)";
    let added = execute(db, ADD, &[&collection_no, &add]).await?;
    let removed = execute(db, REMOVE, &[&collection_no, &remove]).await?;
    Ok(added + removed)
}

/// The label of a deployment to this collection, if there is one.
pub(crate) async fn deployed_by(
    db: &impl GenericClient,
    collection_no: i32,
) -> Result<Option<String>, Error> {
    const SQL: &str = "
        SELECT concat_ws('/', owner_site_code, name) FROM deployments
        WHERE collection_no = $1 ORDER BY 1 LIMIT 1";
    let row = query_opt(db, SQL, &[&collection_no]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// Number, label and members of each collection that is not built in.
pub(crate) async fn all(db: &impl GenericClient) -> Result<Vec<(i32, String, Vec<i32>)>, Error> {
    const SQL: &str = "
        SELECT c.collection_no, concat_ws('/', c.owner_site_code, c.name) AS name, ARRAY(
                   SELECT m.client_no FROM collection_members m
                   WHERE m.collection_no = c.collection_no ORDER BY m.client_no) AS members
        FROM collections c WHERE NOT c.built_in";
    let row = |row: &Row| {
        (
            row.get("collection_no"),
            row.get("name"),
            row.get("members"),
        )
    };
    Ok(query(db, SQL, &[]).await?.iter().map(row).collect())
}

pub(crate) async fn delete(db: &impl GenericClient, collection_no: i32) -> Result<(), Error> {
    const SQL: &str = "DELETE FROM collections WHERE collection_no = $1";
    execute(db, SQL, &[&collection_no]).await?;
    Ok(())
}

const COLUMNS: &str = "
    SELECT c.collection_no, c.collection_id, c.name, c.description, c.created_at, c.built_in,
           CASE WHEN c.built_in THEN '' ELSE COALESCE(c.owner_site_code, $1) END AS owner,
           (CASE WHEN c.built_in
            THEN (SELECT count(*) FROM clients WHERE deleted_at IS NULL)
            ELSE (SELECT count(*) FROM collection_members m
                  WHERE m.collection_no = c.collection_no)
            END)::int4 AS members
    FROM collections c ";

fn collection(row: &Row) -> pb::Collection {
    pb::Collection {
        collection_id: id(row, "collection_id"),
        name: row.get("name"),
        description: row.get("description"),
        created_at: time(row, "created_at"),
        member_count: number(row, "members"),
        built_in: row.get("built_in"),
        owner_site_code: row.get("owner"),
    }
}

pub(crate) async fn show(
    db: &impl GenericClient,
    own: SiteCode,
    collection_no: i32,
) -> Result<pb::Collection, Error> {
    static SQL: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| [COLUMNS, "WHERE c.collection_no = $2"].concat());
    let params: super::Params<'_> = &[&own.as_str(), &collection_no];
    Ok(collection(&query_one(db, &SQL, params).await?))
}

pub(crate) async fn list(
    db: &impl GenericClient,
    own: SiteCode,
    page: Page,
) -> Result<Vec<pb::Collection>, Error> {
    static SQL: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        [
            COLUMNS,
            "ORDER BY NOT c.built_in, c.name, owner LIMIT $2 OFFSET $3",
        ]
        .concat()
    });
    let params: super::Params<'_> = &[&own.as_str(), &page.probe(), &page.offset];
    let rows = query(db, &SQL, params).await?;
    Ok(rows.iter().map(collection).collect())
}
