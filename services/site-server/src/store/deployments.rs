//! `deployments` with their updates and how far they are.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_domain::{DeploymentId, SiteCode};
use muster_proto::deployment as pb;
use muster_proto::policy::Verbosity;
use tokio_postgres::Row;

use super::collections::ALL_SYSTEMS;
use super::named::{self, Named, by_name};
use super::{execute, id, query, query_one, query_opt, time};
use crate::app::Error;
use crate::domain::page::Page;

/// A deployment that is to be made.
#[derive(Debug)]
pub(crate) struct New {
    pub(crate) name: String,
    pub(crate) collection_no: i32,
    pub(crate) update_list_no: Option<i32>,
    pub(crate) updates: Vec<i32>,
    pub(crate) available_at: Timestamp,
    pub(crate) deadline_at: Option<Timestamp>,
    pub(crate) suppress_restart: bool,
    pub(crate) verbosity: Verbosity,
}

pub(crate) async fn add(db: &impl GenericClient, new: &New) -> Result<i32, Error> {
    const SQL: &str = "
        INSERT INTO deployments (deployment_id, name, collection_no, update_list_no, available_at,
                                 deadline_at, suppress_restart, verbosity)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING deployment_no";
    const UPDATES: &str = "
        INSERT INTO deployment_updates (deployment_no, update_no) SELECT $1, unnest($2::int4[])";
    let params: super::Params<'_> = &[
        &DeploymentId::generate().0,
        &new.name,
        &new.collection_no,
        &new.update_list_no,
        &new.available_at,
        &new.deadline_at,
        &new.suppress_restart,
        &(new.verbosity as i16),
    ];
    let deployment_no: i32 = query_one(db, SQL, params).await?.get(0);
    execute(db, UPDATES, &[&deployment_no, &new.updates]).await?;
    Ok(deployment_no)
}

/// A deployment that somebody named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) deployment_no: i32,
    pub(crate) collection_no: i32,
}

/// By name, or by id as text.
pub(crate) async fn find(
    db: &impl GenericClient,
    own: SiteCode,
    name: &str,
) -> Result<Option<Named>, Error> {
    const SQL: &str = by_name!("deployments", "deployment_no", "deployment_id");
    named::find(db, own, SQL, "deployment", name).await
}

/// As [`find`], with the collection that it is for.
pub(crate) async fn find_with_collection(
    db: &impl GenericClient,
    own: SiteCode,
    name: &str,
) -> Result<Option<Found>, Error> {
    const SQL: &str = "SELECT collection_no FROM deployments WHERE deployment_no = $1";
    let Some(named) = find(db, own, name).await? else {
        return Ok(None);
    };
    let deployment_no = named.number;
    let row = query_opt(db, SQL, &[&deployment_no]).await?;
    Ok(row.map(|row| Found {
        deployment_no,
        collection_no: row.get("collection_no"),
    }))
}

/// When nothing has this name.
pub(crate) fn unknown(name: &str) -> Error {
    let message = format!("there is no deployment {name:?}");
    Error::not_found("UNKNOWN_DEPLOYMENT", message)
}

/// Numbers of all deployments.
pub(crate) async fn numbers(db: &impl GenericClient) -> Result<Vec<i32>, Error> {
    const SQL: &str = "SELECT deployment_no FROM deployments ORDER BY deployment_no";
    let rows = query(db, SQL, &[]).await?;
    Ok(rows.iter().map(|row| row.get("deployment_no")).collect())
}

/// Removes a deployment and what clients said of it; its counters go with it. The caller sees to
/// it that no report is recorded meanwhile.
pub(crate) async fn delete(db: &impl GenericClient, deployment_no: i32) -> Result<(), Error> {
    const TABLES: [&str; 3] = [
        "DELETE FROM update_enforcement_states WHERE deployment_no = $1",
        "DELETE FROM deployment_states WHERE deployment_no = $1",
        "DELETE FROM deployments WHERE deployment_no = $1",
    ];
    for sql in TABLES {
        execute(db, sql, &[&deployment_no]).await?;
    }
    Ok(())
}

/// The collection that a deployment is for.
pub(crate) async fn collection(db: &impl GenericClient, deployment_no: i32) -> Result<i32, Error> {
    const SQL: &str = "SELECT collection_no FROM deployments WHERE deployment_no = $1";
    let gone = || Error::not_found("UNKNOWN_DEPLOYMENT", "the deployment was deleted");
    let row = query_opt(db, SQL, &[&deployment_no]).await?;
    Ok(row.ok_or_else(gone)?.get(0))
}

/// Most deployments that any client of a collection has.
pub(crate) async fn count_for(db: &impl GenericClient, collection_no: i32) -> Result<i64, Error> {
    const SQL: &str = "
        SELECT count(*) FROM deployments WHERE collection_no = $1 OR collection_no = $2";
    Ok(query_one(db, SQL, &[&collection_no, &ALL_SYSTEMS])
        .await?
        .get(0))
}

const COLUMNS: &str = "
    SELECT d.deployment_no, d.deployment_id, d.name, COALESCE(d.owner_site_code, $1) AS owner,
           concat_ws('/', c.owner_site_code, c.name) AS collection,
           concat_ws('/', l.owner_site_code, l.name) AS update_list, d.created_at, d.available_at,
           d.deadline_at,
           d.suppress_restart, d.verbosity,
           ARRAY(SELECT u.update_no FROM deployment_updates u
                 WHERE u.deployment_no = d.deployment_no ORDER BY u.update_no) AS updates
    FROM deployments d
    JOIN collections c USING (collection_no)
    LEFT JOIN update_lists l USING (update_list_no) ";

fn deployment(row: &Row) -> pb::Deployment {
    let updates: Vec<i32> = row.get("updates");
    pb::Deployment {
        deployment_id: id(row, "deployment_id"),
        name: row.get("name"),
        collection: row.get("collection"),
        update_list: row.get("update_list"),
        created_at: time(row, "created_at"),
        available_at: time(row, "available_at"),
        deadline_at: time(row, "deadline_at"),
        update_count: u32::try_from(updates.len()).unwrap_or(u32::MAX),
        suppress_restart: row.get("suppress_restart"),
        verbosity: row.get::<_, i16>("verbosity").into(),
        update_numbers: updates.iter().map(|number| number.unsigned_abs()).collect(),
        owner_site_code: row.get("owner"),
    }
}

pub(crate) async fn show(
    db: &impl GenericClient,
    own: SiteCode,
    deployment_no: i32,
) -> Result<pb::Deployment, Error> {
    static SQL: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| [COLUMNS, "WHERE d.deployment_no = $2"].concat());
    let params: super::Params<'_> = &[&own.as_str(), &deployment_no];
    Ok(deployment(&query_one(db, &SQL, params).await?))
}

pub(crate) async fn list(
    db: &impl GenericClient,
    own: SiteCode,
    page: Page,
) -> Result<Vec<pb::Deployment>, Error> {
    static SQL: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        [COLUMNS, "ORDER BY d.name, owner LIMIT $2 OFFSET $3"].concat()
    });
    let params: super::Params<'_> = &[&own.as_str(), &page.probe(), &page.offset];
    let rows = query(db, &SQL, params).await?;
    Ok(rows.iter().map(deployment).collect())
}

/// The name of a deployment that has updates of this package, if there is one.
pub(crate) async fn using_package_updates(
    db: &impl GenericClient,
    package_no: i32,
) -> Result<Option<String>, Error> {
    const SQL: &str = "
        SELECT concat_ws('/', d.owner_site_code, d.name) FROM deployments d
        JOIN deployment_updates u USING (deployment_no)
        JOIN package_updates p ON p.update_no = u.update_no
        WHERE p.package_no = $1 LIMIT 1";
    Ok(query_opt(db, SQL, &[&package_no])
        .await?
        .map(|row| row.get(0)))
}
