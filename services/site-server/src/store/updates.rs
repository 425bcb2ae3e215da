//! `updates` with their counts, for people.

use std::sync::LazyLock;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_proto::catalog as pb;
use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::collections::ALL_SYSTEMS;
use super::{execute, large, number, query, query_opt, time};
use crate::app::Error;
use crate::domain::facts::Facts;
use crate::domain::names::cleaned;
use crate::domain::update_page::{Key, UpdatePage};

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

/// Which updates a filter finds.
const MATCHING: &str = "
    FROM updates u LEFT JOIN update_counter_rows k USING (update_no)
    WHERE (cardinality($1::int2[]) = 0 OR u.classification = ANY ($1))
      AND ($2 = '' OR u.product = $2)
      AND ($3 = '' OR u.suite = $3)
      AND ($4 = '' OR u.source_package = $4)
      AND ($5 = '' OR starts_with(u.source_package, $5))
      AND (NOT $6 OR k.required > 0)
      AND ($7 OR u.superseded_by = '{}')
      AND ($8 OR NOT u.expired)
      AND ($9 = '' OR $9 = ANY (u.cve_ids))
      AND ($10::int4 IS NULL OR u.update_no IN (
           SELECT unnest(cc.required) FROM client_compliance cc
           WHERE $10 = $11 OR EXISTS (SELECT FROM collection_members m
                 WHERE m.collection_no = $10 AND m.client_no = cc.client_no)))
      AND ($12::int4[] IS NULL OR u.update_no = ANY ($12)) ";

/// One row per update of the page. What is the same for all of them is counted once. A client whose catalog is older than the update has no data
/// for it: `informed` counts those that have.
const COLUMNS: &str = "
    fleet AS MATERIALIZED (SELECT count(*)::int4 AS clients FROM clients WHERE deleted_at IS NULL),
    generations AS MATERIALIZED (
        SELECT GREATEST(r.catalog_generation, l.catalog_generation) AS catalog_generation,
               count(*)::int4 AS clients
        FROM client_compliance_rows r LEFT JOIN (
             SELECT client_no, max(catalog_generation) AS catalog_generation
             FROM client_compliance_log GROUP BY 1) AS l USING (client_no)
        GROUP BY 1)
    SELECT u.update_no, u.update_id, u.revision, u.generation, u.title,
           left(u.description, 256) AS description, u.classification, u.severity, u.product,
           u.suite, u.source_package, u.source_version, u.cve_ids, u.released_at, u.supersedes,
           u.superseded_by, u.expired, u.expired_at, u.max_run_time_minutes,
           u.needs_exclusive_handling,
           page.required, COALESCE(k.installed, 0) AS installed, COALESCE(k.unknown, 0) AS unknown,
           fleet.clients,
           (SELECT COALESCE(sum(g.clients), 0)::int4 FROM generations g
            WHERE g.catalog_generation >= u.first_generation) AS informed
    FROM page JOIN updates u USING (update_no) LEFT JOIN update_counter_rows k USING (update_no)
    CROSS JOIN fleet ";

/// A page is chosen by its narrow keys first; only its rows are read in full.
fn statement(behind: &str, order: &str) -> String {
    format!(
        "WITH page AS MATERIALIZED (
             SELECT u.update_no, COALESCE(k.required, 0) AS required {MATCHING}
               AND ($14::int4 IS NULL OR {behind}) ORDER BY {order} LIMIT $13),
         {COLUMNS} ORDER BY {order}"
    )
}

static BY_NUMBER: LazyLock<String> =
    LazyLock::new(|| statement("u.update_no > $14", "u.update_no"));
static BY_REQUIRED: LazyLock<String> = LazyLock::new(|| {
    statement(
        "(-COALESCE(k.required, 0), u.update_no) > (-$15::int4, $14)",
        "COALESCE(k.required, 0) DESC, u.update_no",
    )
});
static BY_RELEASED: LazyLock<String> = LazyLock::new(|| {
    statement(
        "(COALESCE(u.released_at, '-infinity'), u.update_no)
             < (COALESCE($15::timestamptz, '-infinity'), $14)",
        "COALESCE(u.released_at, '-infinity') DESC, u.update_no DESC",
    )
});
static BY_SOURCE: LazyLock<String> = LazyLock::new(|| {
    statement(
        "(u.source_package, u.update_no) > ($15::text, $14)",
        "u.source_package, u.update_no",
    )
});
static COUNT: LazyLock<String> =
    LazyLock::new(|| format!("SELECT count(*)::int4 AS total {MATCHING}"));

/// A filter as the statements take it.
struct Columns<'a> {
    classifications: Vec<i16>,
    exact: &'a str,
    prefix: &'a str,
}

impl<'a> Columns<'a> {
    fn of(filter: &'a Filter) -> Self {
        let wire = &filter.wire;
        let (exact, prefix) = match wire.source_package.strip_suffix('*') {
            Some(prefix) => ("", prefix),
            None => (wire.source_package.as_str(), ""),
        };
        let numbers = wire.classifications.iter();
        Self {
            classifications: numbers.filter_map(|id| i16::try_from(*id).ok()).collect(),
            exact,
            prefix,
        }
    }

    fn params<'b>(&'b self, filter: &'b Filter) -> Vec<&'b (dyn ToSql + Sync)> {
        let wire = &filter.wire;
        vec![
            &self.classifications,
            &wire.product,
            &wire.suite,
            &self.exact,
            &self.prefix,
            &wire.required_only,
            &wire.include_superseded,
            &wire.include_expired,
            &wire.cve_id,
            &filter.required_in,
            &ALL_SYSTEMS,
            &filter.numbers,
        ]
    }
}

/// Updates with their counts: those of the page, and one more when another page follows.
pub(crate) async fn list(
    db: &impl GenericClient,
    filter: &Filter,
    page: &UpdatePage,
) -> Result<Vec<pb::UpdateSummary>, Error> {
    let columns = Columns::of(filter);
    let mut params = columns.params(filter);
    let (limit, number) = (page.probe(), page.after.as_ref().map(|place| place.number));
    params.extend([&limit as &(dyn ToSql + Sync), &number]);
    let (mut required, mut released, mut source) = (0, None::<Timestamp>, "");
    match page.after.as_ref().map(|place| &place.key) {
        Some(Key::Required(count)) => required = *count,
        Some(Key::Released(at)) => released = *at,
        Some(Key::Source(name)) => source = name,
        Some(Key::Number) | None => {}
    }
    let sql = match page.sort {
        pb::UpdateSort::Unspecified | pb::UpdateSort::Number => &BY_NUMBER,
        pb::UpdateSort::RequiredDescending => {
            params.push(&required);
            &BY_REQUIRED
        }
        pb::UpdateSort::ReleasedDescending => {
            params.push(&released);
            &BY_RELEASED
        }
        pb::UpdateSort::SourcePackage => {
            params.push(&source);
            &BY_SOURCE
        }
    };
    Ok(query(db, sql, &params).await?.iter().map(summary).collect())
}

/// How many updates a filter finds.
pub(crate) async fn count(db: &impl GenericClient, filter: &Filter) -> Result<u32, Error> {
    let columns = Columns::of(filter);
    let row = super::query_one(db, &COUNT, &columns.params(filter)).await?;
    Ok(number(&row, "total"))
}

/// Adds what files say to the updates they belong to: ids are united, the higher severity counts.
/// What the catalog says of either replaces it, see `catalog::keep`.
pub(crate) async fn learn(db: &impl GenericClient, facts: &[Facts]) -> Result<u64, Error> {
    const SQL: &str = "
        WITH said AS (
            SELECT decode(sha256, 'hex') AS sha256, severity, cve_ids
            FROM jsonb_to_recordset($1) AS said (sha256 text, severity int2, cve_ids text[])),
        merged AS (
            SELECT l.update_no, max(s.severity) AS severity,
                   COALESCE(array_agg(DISTINCT c.id) FILTER (WHERE c.id IS NOT NULL), '{}') AS ids
            FROM said s JOIN update_leaves l USING (sha256)
            LEFT JOIN LATERAL unnest(s.cve_ids) AS c (id) ON true
            GROUP BY l.update_no)
        UPDATE updates u SET
            severity = GREATEST(u.severity, m.severity),
            cve_ids = ARRAY(
                SELECT id FROM (SELECT DISTINCT unnest(u.cve_ids || m.ids) AS id) AS every
                ORDER BY left(id, 8), length(id), id)
        FROM merged m
        WHERE u.update_no = m.update_no
          AND (u.severity < m.severity OR NOT u.cve_ids @> m.ids)";
    if facts.is_empty() {
        return Ok(0);
    }
    let rows = facts.iter().map(|facts| {
        json!({
            "sha256": hex::encode(&facts.sha256),
            "severity": facts.severity as i32,
            "cve_ids": facts.cve_ids,
        })
    });
    execute(db, SQL, &[&Value::Array(rows.collect())]).await
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
