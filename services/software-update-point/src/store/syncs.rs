//! The history of synchronisations.

use jiff::Timestamp;
use muster_postgres::{Error, GenericClient};
use tokio_postgres::Row;

use super::{to_i32, to_i64, to_u32, to_u64};
use crate::domain::schedule::Past;
use crate::domain::sync::{Counts, Kind, Phase, RejectedStanza, Sync};

/// Begins one and gives it its number.
pub(crate) async fn begin(
    db: &impl GenericClient,
    kind: Kind,
    now: Timestamp,
) -> Result<Sync, Error> {
    const SQL: &str = "
        INSERT INTO syncs (kind, phase, started_at) VALUES ($1, $2, $3) RETURNING sync_no";
    let phase = Phase::Started;
    let row = db
        .query_one(SQL, &[&kind.code(), &phase.code(), &now])
        .await?;
    Ok(Sync {
        sync_no: to_u64(row.try_get(0)?),
        kind,
        phase,
        started_at: now,
        ended_at: None,
        detail: String::new(),
        reason: String::new(),
        counts: Counts::default(),
        generation: 0,
    })
}

/// Records how one ended.
pub(crate) async fn end(
    db: &impl GenericClient,
    sync: &Sync,
    rejected: &[RejectedStanza],
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE syncs SET (phase, ended_at, detail, reason, stanzas, stanzas_rejected, updates_new,
            updates_modified, updates_expired, bytes_fetched, generation)
            = ($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
        WHERE sync_no = $1";
    const REJECTED: &str = "
        INSERT INTO rejected_stanzas (sync_no, item, suite, path, line, package, reason)
        SELECT $1, item, suite, path, line, package, reason
        FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[])
            WITH ORDINALITY AS r (suite, path, line, package, reason, item)";
    let counts = &sync.counts;
    let sync_no = to_i64(sync.sync_no);
    db.execute(
        SQL,
        &[
            &sync_no,
            &sync.phase.code(),
            &sync.ended_at,
            &sync.detail,
            &sync.reason,
            &to_i64(counts.stanzas),
            &to_i64(counts.stanzas_rejected),
            &to_i32(counts.updates_new),
            &to_i32(counts.updates_modified),
            &to_i32(counts.updates_expired),
            &to_i64(counts.bytes_fetched),
            &to_i64(sync.generation),
        ],
    )
    .await?;
    if !rejected.is_empty() {
        let suites: Vec<&str> = rejected.iter().map(|r| r.suite.as_str()).collect();
        let paths: Vec<&str> = rejected.iter().map(|r| r.path.as_str()).collect();
        let lines: Vec<i64> = rejected.iter().map(|r| to_i64(r.line)).collect();
        let packages: Vec<Option<&str>> = rejected.iter().map(|r| r.package.as_deref()).collect();
        let reasons: Vec<&str> = rejected.iter().map(|r| r.reason.as_str()).collect();
        db.execute(
            REJECTED,
            &[&sync_no, &suites, &paths, &lines, &packages, &reasons],
        )
        .await?;
    }
    Ok(())
}

/// Ends what a process left unfinished. Called at the start, when nothing can be running here.
pub(crate) async fn end_interrupted(db: &impl GenericClient, now: Timestamp) -> Result<u64, Error> {
    const SQL: &str = "
        UPDATE syncs SET (phase, ended_at, reason, detail)
            = (6703, $1, 'INTERRUPTED', 'the process ended before the synchronisation did')
        WHERE ended_at IS NULL";
    Ok(db.execute(SQL, &[&now]).await?)
}

const COLUMNS: &str = "
    SELECT sync_no, kind, phase, started_at, ended_at, detail, reason, stanzas, stanzas_rejected,
           updates_new, updates_modified, updates_expired, bytes_fetched, generation
    FROM syncs";

/// The newest ones first.
pub(crate) async fn newest(db: &impl GenericClient, limit: u32) -> Result<Vec<Sync>, Error> {
    let sql = format!("{COLUMNS} ORDER BY sync_no DESC LIMIT $1");
    let rows = db.query(&sql, &[&i64::from(limit)]).await?;
    rows.iter().map(sync).collect()
}

/// One of them.
pub(crate) async fn get(db: &impl GenericClient, sync_no: u64) -> Result<Option<Sync>, Error> {
    let sql = format!("{COLUMNS} WHERE sync_no = $1");
    db.query_opt(&sql, &[&to_i64(sync_no)])
        .await?
        .as_ref()
        .map(sync)
        .transpose()
}

/// What the schedule needs to know.
pub(crate) async fn past(db: &impl GenericClient) -> Result<Past, Error> {
    const SQL: &str = "
        SELECT (SELECT max(ended_at) FROM syncs WHERE phase = 6702 AND kind = 2),
               (SELECT ended_at FROM syncs WHERE sync_no = (
                    SELECT max(sync_no) FROM syncs WHERE ended_at IS NOT NULL) AND phase = 6703),
               (SELECT max(ended_at) FROM syncs),
               (SELECT min(valid_until) FROM suites WHERE NOT ignore_valid_until)";
    let row = db.query_one(SQL, &[]).await?;
    Ok(Past {
        last_full: row.try_get(0)?,
        last_failure: row.try_get(1)?,
        last_attempt: row.try_get(2)?,
        expires: row.try_get(3)?,
    })
}

fn sync(row: &Row) -> Result<Sync, Error> {
    Ok(Sync {
        sync_no: to_u64(row.try_get(0)?),
        kind: Kind::from_code(row.try_get(1)?),
        phase: Phase::from_code(row.try_get(2)?),
        started_at: row.try_get(3)?,
        ended_at: row.try_get(4)?,
        detail: row.try_get(5)?,
        reason: row.try_get(6)?,
        counts: Counts {
            stanzas: to_u64(row.try_get(7)?),
            stanzas_rejected: to_u64(row.try_get(8)?),
            updates_new: to_u32(row.try_get(9)?),
            updates_modified: to_u32(row.try_get(10)?),
            updates_expired: to_u32(row.try_get(11)?),
            bytes_fetched: to_u64(row.try_get(12)?),
        },
        generation: to_u64(row.try_get(13)?),
    })
}
