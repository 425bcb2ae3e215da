//! `update_lists`, `update_list_members`.

use deadpool_postgres::GenericClient;
use muster_domain::SiteCode;
use muster_domain::ids::UpdateListId;
use muster_proto::catalog as pb;
use tokio_postgres::Row;

use super::named::{self, Named, by_name};
use super::{execute, id, number, query, query_one, time};
use crate::app::Error;
use crate::domain::page::Page;

/// Makes a list of updates that exist; returns its number and how many updates it has.
pub(crate) async fn add(
    db: &impl GenericClient,
    name: &str,
    description: &str,
    updates: &[i32],
) -> Result<(i32, u64), Error> {
    const SQL: &str = "
        INSERT INTO update_lists (update_list_id, name, description) VALUES ($1, $2, $3)
        RETURNING update_list_no";
    const MEMBERS: &str = "
        INSERT INTO update_list_members (update_list_no, update_no)
        SELECT $1, update_no FROM updates WHERE update_no = ANY ($2)";
    let id = UpdateListId::generate().0;
    let list_no: i32 = query_one(db, SQL, &[&id, &name, &description])
        .await?
        .get(0);
    let members = execute(db, MEMBERS, &[&list_no, &updates]).await?;
    Ok((list_no, members))
}

/// By name, or by id as text.
pub(crate) async fn find(
    db: &impl GenericClient,
    own: SiteCode,
    name: &str,
) -> Result<Option<Named>, Error> {
    const SQL: &str = by_name!("update_lists", "update_list_no", "update_list_id");
    named::find(db, own, SQL, "update list", name).await
}

pub(crate) async fn members(db: &impl GenericClient, list_no: i32) -> Result<Vec<i32>, Error> {
    const SQL: &str = "
        SELECT update_no FROM update_list_members WHERE update_list_no = $1 ORDER BY update_no";
    Ok(query(db, SQL, &[&list_no])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect())
}

/// Number, label and updates of each list.
pub(crate) async fn all(db: &impl GenericClient) -> Result<Vec<(i32, String, Vec<i32>)>, Error> {
    const SQL: &str = "
        SELECT l.update_list_no, concat_ws('/', l.owner_site_code, l.name) AS name, ARRAY(
                   SELECT m.update_no FROM update_list_members m
                   WHERE m.update_list_no = l.update_list_no) AS updates
        FROM update_lists l";
    let row = |row: &Row| {
        (
            row.get("update_list_no"),
            row.get("name"),
            row.get("updates"),
        )
    };
    Ok(query(db, SQL, &[]).await?.iter().map(row).collect())
}

pub(crate) async fn is_used(db: &impl GenericClient, list_no: i32) -> Result<bool, Error> {
    const SQL: &str = "
        SELECT EXISTS (SELECT FROM deployments WHERE update_list_no = $1)
            OR EXISTS (SELECT FROM packages WHERE update_list_no = $1)";
    Ok(query_one(db, SQL, &[&list_no]).await?.get(0))
}

pub(crate) async fn delete(db: &impl GenericClient, list_no: i32) -> Result<(), Error> {
    const SQL: &str = "DELETE FROM update_lists WHERE update_list_no = $1";
    execute(db, SQL, &[&list_no]).await?;
    Ok(())
}

const COLUMNS: &str = "
    SELECT l.update_list_id, l.name, l.description, l.created_at,
           COALESCE(l.owner_site_code, $1) AS owner,
           (SELECT count(*)::int4 FROM update_list_members m
            WHERE m.update_list_no = l.update_list_no) AS updates
    FROM update_lists l ";

fn list_of(row: &Row) -> pb::UpdateList {
    pb::UpdateList {
        update_list_id: id(row, "update_list_id"),
        name: row.get("name"),
        description: row.get("description"),
        created_at: time(row, "created_at"),
        update_count: number(row, "updates"),
        owner_site_code: row.get("owner"),
    }
}

pub(crate) async fn show(
    db: &impl GenericClient,
    own: SiteCode,
    list_no: i32,
) -> Result<pb::UpdateList, Error> {
    static SQL: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| [COLUMNS, "WHERE l.update_list_no = $2"].concat());
    let params: super::Params<'_> = &[&own.as_str(), &list_no];
    Ok(list_of(&query_one(db, &SQL, params).await?))
}

pub(crate) async fn list(
    db: &impl GenericClient,
    own: SiteCode,
    page: Page,
) -> Result<Vec<pb::UpdateList>, Error> {
    static SQL: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        [COLUMNS, "ORDER BY l.name, owner LIMIT $2 OFFSET $3"].concat()
    });
    let params: super::Params<'_> = &[&own.as_str(), &page.probe(), &page.offset];
    let rows = query(db, &SQL, params).await?;
    Ok(rows.iter().map(list_of).collect())
}
