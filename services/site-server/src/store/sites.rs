//! `sites`, `policy_revision`, `catalog_state`.

use std::collections::BTreeSet;

use deadpool_postgres::GenericClient;
use muster_domain::SiteCode;
use muster_proto::site as pb;

use super::{execute, large, number, query, query_one, time};
use crate::app::Error;

/// Makes this site's row, or renames it when the configuration has another name now.
pub(crate) async fn keep_own(
    db: &impl GenericClient,
    code: SiteCode,
    name: &str,
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO sites (site_code, name) VALUES ($1, $2)
        ON CONFLICT (site_code) DO UPDATE SET name = excluded.name
        WHERE sites.name <> excluded.name";
    execute(db, SQL, &[&code.as_str(), &name]).await?;
    Ok(())
}

/// The codes of a child and of all sites that it told us of.
pub(crate) async fn below(
    db: &impl GenericClient,
    child: SiteCode,
) -> Result<BTreeSet<String>, Error> {
    const SQL: &str = "SELECT site_code FROM sites WHERE via_site_code = $1";
    let rows = query(db, SQL, &[&child.as_str()]).await?;
    let told = rows.iter().map(|row| row.get("site_code"));
    Ok(told.chain([child.to_string()]).collect())
}

pub(crate) async fn list(db: &impl GenericClient) -> Result<Vec<pb::Site>, Error> {
    const SQL: &str = "
        SELECT site_code, name, COALESCE(parent_site_code, '') AS parent, created_at,
               (SELECT count(*)::int4 FROM clients WHERE deleted_at IS NULL) AS clients,
               (SELECT count(*)::int4 FROM updates) AS updates,
               (SELECT generation FROM catalog_state) AS generation
        FROM sites ORDER BY site_code";
    let site = |row: &tokio_postgres::Row| pb::Site {
        site_code: row.get("site_code"),
        name: row.get("name"),
        parent_site_code: row.get("parent"),
        created_at: time(row, "created_at"),
        clients: number(row, "clients"),
        updates: number(row, "updates"),
        catalog_generation: large(row, "generation"),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Ok(query(db, SQL, &[]).await?.iter().map(site).collect())
}

/// Says that clients may see another policy from now on.
pub(crate) async fn raise_policy_revision(db: &impl GenericClient) -> Result<i64, Error> {
    const SQL: &str = "UPDATE policy_revision SET revision = revision + 1 RETURNING revision";
    Ok(query_one(db, SQL, &[]).await?.get(0))
}

/// Raises the revision to at least this: clients refuse a lower one than they have seen.
pub(crate) async fn raise_policy_revision_to(
    db: &impl GenericClient,
    least: i64,
) -> Result<(), Error> {
    const SQL: &str = "UPDATE policy_revision SET revision = $1 WHERE revision < $1";
    execute(db, SQL, &[&least]).await?;
    Ok(())
}

/// The catalog generation that was taken over completely.
pub(crate) async fn catalog_generation(db: &impl GenericClient) -> Result<i64, Error> {
    const SQL: &str = "SELECT generation FROM catalog_state";
    Ok(query_one(db, SQL, &[]).await?.get(0))
}

pub(crate) async fn set_catalog_generation(
    db: &impl GenericClient,
    generation: i64,
) -> Result<(), Error> {
    const SQL: &str = "UPDATE catalog_state SET (generation, changed_at) = ($1, now())";
    execute(db, SQL, &[&generation]).await?;
    Ok(())
}
