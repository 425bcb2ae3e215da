//! `updates` with their counts, for people.

use std::sync::LazyLock;

use deadpool_postgres::GenericClient;
use muster_proto::catalog as pb;
use tokio_postgres::Row;

use super::collections::ALL_SYSTEMS;
use super::{large, number, query, query_opt, time};
use crate::app::Error;
use crate::domain::names::cleaned;
use crate::domain::page::Page;

/// Which updates; the collection of the filter comes as its number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) wire: pb::UpdateFilter,
    pub(crate) required_in: Option<i32>,
    /// Only these.
    pub(crate) numbers: Option<Vec<i32>>,
}

/// Bytes of a description that lists show; [`description`] has all of it.
const IN_LISTS: usize = 256;

/// One row per update. A client whose catalog is older than the update has no data for it:
/// `informed` counts those that have.
const COLUMNS: &str = "
    WITH fleet AS (SELECT count(*)::int4 AS clients FROM clients WHERE deleted_at IS NULL),
    generations AS (
        SELECT catalog_generation, count(*)::int4 AS clients FROM client_compliance GROUP BY 1)
    SELECT u.*, COALESCE(k.installed, 0) AS installed, COALESCE(k.required, 0) AS required,
           COALESCE(k.unknown, 0) AS unknown, fleet.clients,
           (SELECT COALESCE(sum(g.clients), 0)::int4 FROM generations g
            WHERE g.catalog_generation >= u.first_generation) AS informed,
           count(*) OVER ()::int4 AS total
    FROM updates u CROSS JOIN fleet LEFT JOIN update_counters k USING (update_no)
    WHERE (cardinality($1::int2[]) = 0 OR u.classification = ANY ($1))
      AND ($2 = '' OR u.product = $2)
      AND ($3 = '' OR u.suite = $3)
      AND ($4 = '' OR u.source_package = $4)
      AND ($5 = '' OR starts_with(u.source_package, $5))
      AND (NOT $6 OR k.required > 0)
      AND ($7 OR cardinality(u.superseded_by) = 0)
      AND ($8 OR NOT u.expired)
      AND ($9 = '' OR $9 = ANY (u.cve_ids))
      AND ($10::int4 IS NULL OR u.update_no IN (
           SELECT unnest(cc.required) FROM client_compliance cc
           WHERE $10 = $11 OR EXISTS (SELECT FROM collection_members m
                 WHERE m.collection_no = $10 AND m.client_no = cc.client_no)))
      AND ($12::int4[] IS NULL OR u.update_no = ANY ($12)) ";

const PAGE: &str = " LIMIT $13 OFFSET $14";

static BY_NUMBER: LazyLock<String> =
    LazyLock::new(|| [COLUMNS, "ORDER BY u.update_no", PAGE].concat());
static BY_REQUIRED: LazyLock<String> =
    LazyLock::new(|| [COLUMNS, "ORDER BY required DESC, u.update_no", PAGE].concat());
static BY_RELEASED: LazyLock<String> = LazyLock::new(|| {
    [
        COLUMNS,
        "ORDER BY u.released_at DESC NULLS LAST, u.update_no DESC",
        PAGE,
    ]
    .concat()
});
static BY_SOURCE: LazyLock<String> =
    LazyLock::new(|| [COLUMNS, "ORDER BY u.source_package, u.update_no", PAGE].concat());

/// Updates with their counts, and how many there are in all.
pub(crate) async fn list(
    db: &impl GenericClient,
    filter: &Filter,
    sort: pb::UpdateSort,
    page: Page,
) -> Result<(Vec<pb::UpdateSummary>, u32), Error> {
    let sql = match sort {
        pb::UpdateSort::Unspecified | pb::UpdateSort::Number => &BY_NUMBER,
        pb::UpdateSort::RequiredDescending => &BY_REQUIRED,
        pb::UpdateSort::ReleasedDescending => &BY_RELEASED,
        pb::UpdateSort::SourcePackage => &BY_SOURCE,
    };
    let wire = &filter.wire;
    let classifications: Vec<i16> = wire
        .classifications
        .iter()
        .filter_map(|id| i16::try_from(*id).ok())
        .collect();
    let (exact, prefix) = match wire.source_package.strip_suffix('*') {
        Some(prefix) => ("", prefix),
        None => (wire.source_package.as_str(), ""),
    };
    let rows = query(
        db,
        sql,
        &[
            &classifications,
            &wire.product,
            &wire.suite,
            &exact,
            &prefix,
            &wire.required_only,
            &wire.include_superseded,
            &wire.include_expired,
            &wire.cve_id,
            &filter.required_in,
            &ALL_SYSTEMS,
            &filter.numbers,
            &page.probe(),
            &page.offset,
        ],
    )
    .await?;
    let total = rows.first().map_or(0, |row| number(row, "total"));
    Ok((rows.iter().map(summary).collect(), total))
}

fn summary(row: &Row) -> pb::UpdateSummary {
    let (clients, informed) = (number(row, "clients"), number(row, "informed"));
    let (installed, required) = (number(row, "installed"), number(row, "required"));
    let known = installed + required;
    let not_required = informed.saturating_sub(known + number(row, "unknown"));
    let unsigned = |column: &str| {
        row.get::<_, Vec<i32>>(column)
            .iter()
            .map(|n| n.unsigned_abs())
            .collect()
    };
    pb::UpdateSummary {
        update: Some(pb::Update {
            update_no: number(row, "update_no"),
            update_id: row.get("update_id"),
            revision: number(row, "revision"),
            title: row.get("title"),
            description: cleaned(row.get("description"), IN_LISTS),
            classification: row.get::<_, i16>("classification").into(),
            severity: row.get::<_, i16>("severity").into(),
            product: row.get("product"),
            suite: row.get("suite"),
            source_package: row.get("source_package"),
            source_version: row.get("source_version"),
            cve_ids: row.get("cve_ids"),
            released_at: time(row, "released_at"),
            supersedes: unsigned("supersedes"),
            superseded_by: unsigned("superseded_by"),
            expired: row.get("expired"),
            expired_at: time(row, "expired_at"),
            leaves: Vec::new(),
            max_run_time_minutes: number(row, "max_run_time_minutes"),
            needs_exclusive_handling: row.get("needs_exclusive_handling"),
            generation: large(row, "generation"),
        }),
        installed,
        required,
        not_required,
        unknown: clients.saturating_sub(known + not_required),
    }
}

/// The number of an update by its id.
pub(crate) async fn number_of(
    db: &impl GenericClient,
    update_id: &str,
) -> Result<Option<i32>, Error> {
    const SQL: &str = "SELECT update_no FROM updates WHERE update_id = $1";
    Ok(query_opt(db, SQL, &[&update_id])
        .await?
        .map(|row| row.get(0)))
}

/// The whole description of an update.
pub(crate) async fn description(db: &impl GenericClient, update_no: i32) -> Result<String, Error> {
    const SQL: &str = "SELECT description FROM updates WHERE update_no = $1";
    Ok(super::query_one(db, SQL, &[&update_no]).await?.get(0))
}

/// Those of the numbers that no update has.
pub(crate) async fn unknown(db: &impl GenericClient, updates: &[i32]) -> Result<Vec<i32>, Error> {
    const SQL: &str = "
        SELECT n FROM unnest($1::int4[]) AS n
        WHERE NOT EXISTS (SELECT FROM updates WHERE update_no = n) LIMIT 10";
    Ok(query(db, SQL, &[&updates])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect())
}

/// The binary packages of an update.
pub(crate) async fn leaves(
    db: &impl GenericClient,
    update_no: i32,
) -> Result<Vec<pb::Leaf>, Error> {
    const SQL: &str = "SELECT * FROM update_leaves WHERE update_no = $1 ORDER BY leaf_no";
    let leaf = |row: &Row| pb::Leaf {
        package: row.get("package"),
        version: row.get("version"),
        architecture: row.get("architecture"),
        phased_percentage: u32::try_from(row.get::<_, i16>("phased_percentage")).unwrap_or(100),
        file: Some(pb::FileRef {
            sha256: row.get::<_, Vec<u8>>("sha256").into(),
            size: large(row, "size"),
            path: row.get("path"),
            archive_uri: row.get("archive_uri"),
        }),
    };
    Ok(query(db, SQL, &[&update_no])
        .await?
        .iter()
        .map(leaf)
        .collect())
}
