//! `updates`, `update_leaves`: taking over what the software update point says.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_proto::{catalog as pb, convert};
use serde_json::{Value, json};
use tokio_postgres::Row;

use super::{execute, query};
use crate::app::Error;
use crate::domain::names::cleaned;

/// Longest text that is kept of an update's description, in bytes.
const MAX_TEXT: usize = 16 * 1024;

/// All updates, with the generation in which each came.
pub(crate) async fn first_generations(db: &impl GenericClient) -> Result<Vec<(i32, i64)>, Error> {
    const SQL: &str = "SELECT update_no, first_generation FROM updates";
    let pair = |row: &Row| (row.get("update_no"), row.get("first_generation"));
    Ok(query(db, SQL, &[]).await?.iter().map(pair).collect())
}

/// The same for some.
pub(crate) async fn first_generations_of(
    db: &impl GenericClient,
    updates: &[i32],
) -> Result<Vec<(i32, i64)>, Error> {
    const SQL: &str = "
        SELECT update_no, first_generation FROM updates WHERE update_no = ANY ($1)";
    let pair = |row: &Row| (row.get("update_no"), row.get("first_generation"));
    let rows = query(db, SQL, &[&updates]).await?;
    Ok(rows.iter().map(pair).collect())
}

/// Keeps updates that are new or newer than what is held, with their leaves. One statement per
/// table for the whole batch; repeating changes nothing. Where the catalog is silent about severity
/// and CVE ids, what packages said stays (`updates::learn`).
pub(crate) async fn keep(db: &impl GenericClient, updates: &[pb::Update]) -> Result<(), Error> {
    const UPDATES: &str = "
        INSERT INTO updates AS held
            (update_no, update_id, revision, generation, first_generation, title, description,
             classification, severity, product, suite, source_package, source_version, cve_ids,
             released_at, supersedes, superseded_by, expired, expired_at, max_run_time_minutes,
             needs_exclusive_handling)
        SELECT update_no, update_id, revision, generation, generation, title, description,
               classification, severity, product, suite, source_package, source_version, cve_ids,
               released_at, supersedes, superseded_by, expired, expired_at,
               max_run_time_minutes, needs_exclusive_handling
        FROM jsonb_to_recordset($1) AS fresh
            (update_no int4, update_id text, revision int4, generation int8, title text,
             description text, classification int2, severity int2, product text, suite text,
             source_package text, source_version text, cve_ids text[], released_at timestamptz,
             supersedes int4[], superseded_by int4[], expired boolean, expired_at timestamptz,
             max_run_time_minutes int4, needs_exclusive_handling boolean)
        ON CONFLICT (update_no) DO UPDATE SET
            (update_id, revision, generation, title, description, classification, severity,
             product, suite, source_package, source_version, cve_ids, released_at, supersedes,
             superseded_by, expired, expired_at, max_run_time_minutes, needs_exclusive_handling) =
            (excluded.update_id, excluded.revision, excluded.generation, excluded.title,
             excluded.description, excluded.classification,
             CASE excluded.severity WHEN 0 THEN held.severity ELSE excluded.severity END,
             excluded.product, excluded.suite, excluded.source_package, excluded.source_version,
             CASE excluded.cve_ids WHEN '{}' THEN held.cve_ids ELSE excluded.cve_ids END,
             excluded.released_at, excluded.supersedes, excluded.superseded_by, excluded.expired,
             excluded.expired_at, excluded.max_run_time_minutes,
             excluded.needs_exclusive_handling)
        WHERE held.generation <= excluded.generation";
    const REMOVE: &str = "DELETE FROM update_leaves WHERE update_no = ANY ($1)";
    const LEAVES: &str = "
        INSERT INTO update_leaves (update_no, leaf_no, package, version, architecture,
                                   phased_percentage, sha256, size, path, archive_uri)
        SELECT * FROM unnest($1::int4[], $2::int4[], $3::text[], $4::text[], $5::text[],
                             $6::int2[], $7::bytea[], $8::int8[], $9::text[], $10::text[])";
    let rows = updates.iter().map(row).collect::<Result<Vec<_>, _>>()?;
    let numbers: Vec<i32> =
        super::numbers(&updates.iter().map(|u| u.update_no).collect::<Vec<_>>())?;
    execute(db, UPDATES, &[&Value::Array(rows)]).await?;
    execute(db, REMOVE, &[&numbers]).await?;
    let leaves = Leaves::from(updates)?;
    execute(
        db,
        LEAVES,
        &[
            &leaves.update_no,
            &leaves.leaf_no,
            &leaves.package,
            &leaves.version,
            &leaves.architecture,
            &leaves.phased,
            &leaves.sha256,
            &leaves.size,
            &leaves.path,
            &leaves.archive_uri,
        ],
    )
    .await?;
    Ok(())
}

fn row(update: &pb::Update) -> Result<Value, Error> {
    let time = |time: &Option<prost_types::Timestamp>| -> Option<String> {
        let time: Timestamp = convert::from_timestamp("released_at", time.as_ref()?).ok()?;
        Some(time.to_string())
    };
    Ok(json!({
        "update_no": update.update_no,
        "update_id": word(&update.update_id),
        "revision": i32::try_from(update.revision).unwrap_or(i32::MAX),
        "generation": update.generation,
        "title": cleaned(&update.title, 1_024),
        "description": cleaned(&update.description, MAX_TEXT),
        "classification": update.classification,
        "severity": update.severity,
        "product": word(&update.product),
        "suite": word(&update.suite),
        "source_package": word(&update.source_package),
        "source_version": word(&update.source_version),
        "cve_ids": update.cve_ids.iter().map(|id| word(id)).collect::<Vec<_>>(),
        "released_at": time(&update.released_at),
        "supersedes": super::numbers(&update.supersedes)?,
        "superseded_by": super::numbers(&update.superseded_by)?,
        "expired": update.expired,
        "expired_at": time(&update.expired_at),
        "max_run_time_minutes": i32::try_from(update.max_run_time_minutes).unwrap_or(i32::MAX),
        "needs_exclusive_handling": update.needs_exclusive_handling,
    }))
}

fn word(text: &str) -> String {
    cleaned(text, 1_024)
}

/// The leaves of a batch, by columns.
#[derive(Debug, Default)]
struct Leaves {
    update_no: Vec<i32>,
    leaf_no: Vec<i32>,
    package: Vec<String>,
    version: Vec<String>,
    architecture: Vec<String>,
    phased: Vec<i16>,
    sha256: Vec<Vec<u8>>,
    size: Vec<i64>,
    path: Vec<String>,
    archive_uri: Vec<String>,
}

impl Leaves {
    fn from(updates: &[pb::Update]) -> Result<Self, Error> {
        let bad = |what: &str, update: &pb::Update| {
            Error::invalid(
                "INVALID_CATALOG",
                format!("{}: {what} of a leaf", update.update_id),
            )
        };
        let mut columns = Self::default();
        for update in updates {
            let update_no = super::numbers(&[update.update_no])?[0];
            for (at, leaf) in update.leaves.iter().enumerate() {
                let file = leaf.file.as_ref().ok_or_else(|| bad("no file", update))?;
                if file.sha256.len() != 32 {
                    return Err(bad("hash", update));
                }
                columns.update_no.push(update_no);
                columns.leaf_no.push(i32::try_from(at).unwrap_or(i32::MAX));
                columns.package.push(word(&leaf.package));
                columns.version.push(word(&leaf.version));
                columns.architecture.push(word(&leaf.architecture));
                columns
                    .phased
                    .push(i16::try_from(leaf.phased_percentage).unwrap_or(100));
                columns.sha256.push(file.sha256.to_vec());
                columns
                    .size
                    .push(i64::try_from(file.size).map_err(|_| bad("size", update))?);
                columns.path.push(word(&file.path));
                columns.archive_uri.push(word(&file.archive_uri));
            }
        }
        Ok(columns)
    }
}

/// The highest number of an update in the catalog; 0 when it is empty.
pub(crate) async fn highest_update(db: &impl GenericClient) -> Result<i32, Error> {
    const SQL: &str = "SELECT COALESCE(max(update_no), 0) FROM updates";
    Ok(super::query_one(db, SQL, &[]).await?.get(0))
}

/// Whether a deployment names one of these updates.
pub(crate) async fn any_deployed(db: &impl GenericClient, updates: &[i32]) -> Result<bool, Error> {
    const SQL: &str = "
        SELECT EXISTS (SELECT FROM deployment_updates WHERE update_no = ANY ($1))";
    Ok(super::query_one(db, SQL, &[&updates]).await?.get(0))
}
