//! `report_streams`: how far each client's reports have been recorded.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{execute, query};
use crate::app::Error;
use crate::domain::stream::Stream;

/// A client's stream, locked for this transaction.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) client_no: i32,
    pub(crate) client_id: Uuid,
    pub(crate) deleted: bool,
    pub(crate) stream: Stream,
}

/// Locks the streams of these clients, in ascending order: two transactions never wait for each
/// other. Unknown ids are left out.
pub(crate) async fn lock(db: &impl GenericClient, ids: &[Uuid]) -> Result<Vec<Held>, Error> {
    const SQL: &str = "
        SELECT c.client_no, c.client_id, c.deleted_at IS NOT NULL AS deleted, s.epoch, s.has_full,
               s.contiguous_serial, s.highest_serial, s.early_reports, s.gap_since, s.wants_full
        FROM clients c JOIN report_streams s USING (client_no)
        WHERE c.client_id = ANY ($1)
        ORDER BY c.client_no FOR UPDATE OF s";
    let held = |row: &Row| Held {
        client_no: row.get("client_no"),
        client_id: row.get("client_id"),
        deleted: row.get("deleted"),
        stream: Stream {
            epoch: row.get("epoch"),
            has_full: row.get("has_full"),
            contiguous: row.get("contiguous_serial"),
            highest: row.get("highest_serial"),
            early: row.get("early_reports"),
            early_changed: false,
            gap_since: row.get("gap_since"),
            wants_full: row.get("wants_full"),
        },
    };
    Ok(query(db, SQL, &[&ids]).await?.iter().map(held).collect())
}

/// Writes the marks of clients that sent something new.
pub(crate) async fn keep(
    db: &impl GenericClient,
    changed: &[(i32, &Stream)],
    now: Timestamp,
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE report_streams AS held SET
            (has_full, contiguous_serial, highest_serial, gap_since, wants_full, last_report_at) =
            (fresh.has_full, fresh.contiguous_serial, fresh.highest_serial, fresh.gap_since,
             fresh.wants_full, $7)
        FROM unnest($1::int4[], $2::boolean[], $3::int8[], $4::int8[], $5::timestamptz[],
                    $6::boolean[]) AS fresh
            (client_no, has_full, contiguous_serial, highest_serial, gap_since, wants_full)
        WHERE held.client_no = fresh.client_no";
    // Rare, and an array of arrays does not fit into unnest.
    const EARLY: &str = "
        UPDATE report_streams SET early_reports = $2
        WHERE client_no = $1 AND early_reports <> $2";
    let client_no: Vec<i32> = changed.iter().map(|(no, _)| *no).collect();
    let has_full: Vec<bool> = changed.iter().map(|(_, s)| s.has_full).collect();
    let contiguous: Vec<i64> = changed.iter().map(|(_, s)| s.contiguous).collect();
    let highest: Vec<i64> = changed.iter().map(|(_, s)| s.highest).collect();
    let gap_since: Vec<Option<Timestamp>> = changed.iter().map(|(_, s)| s.gap_since).collect();
    let wants_full: Vec<bool> = changed.iter().map(|(_, s)| s.wants_full).collect();
    let params: super::Params<'_> = &[
        &client_no,
        &has_full,
        &contiguous,
        &highest,
        &gap_since,
        &wants_full,
        &now,
    ];
    execute(db, SQL, params).await?;
    for (client_no, stream) in changed.iter().filter(|(_, stream)| stream.early_changed) {
        execute(db, EARLY, &[client_no, &stream.early]).await?;
    }
    Ok(())
}

/// Clients with a report missing in between, and clients that are asked for a FULL report: by
/// registration, or because something has been missing for longer than `resync_after` seconds.
pub(crate) async fn open(db: &impl GenericClient, resync_after: f64) -> Result<(u64, u64), Error> {
    const SQL: &str = "
        SELECT count(*) FILTER (WHERE s.gap_since IS NOT NULL) AS gaps,
               count(*) FILTER (WHERE s.wants_full
                                   OR s.gap_since < now() - make_interval(secs => $1)) AS resyncs
        FROM report_streams s JOIN clients c USING (client_no)
        WHERE c.deleted_at IS NULL";
    let row = super::query_one(db, SQL, &[&resync_after]).await?;
    Ok((super::large(&row, "gaps"), super::large(&row, "resyncs")))
}
