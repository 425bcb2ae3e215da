//! `report_stream_rows`: how far each client's reports have been recorded. Where only the marks
//! moved on, they are in the client's log; readers in SQL use the view `report_streams`.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{execute, query};
use crate::app::Error;
use crate::domain::settle::Known;
use crate::domain::stream::Stream;

/// What is known of these clients. Unknown ids are left out.
pub(crate) async fn load(
    db: &impl GenericClient,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, Known)>, Error> {
    const SQL: &str = "
        SELECT c.client_no, c.client_id, c.deleted_at IS NOT NULL AS deleted, s.epoch, s.has_full,
               s.contiguous_serial, s.highest_serial, s.early_reports, s.gap_since, s.wants_full,
               EXISTS (SELECT FROM client_compliance_rows r WHERE r.client_no = c.client_no)
                   AS has_row,
               (SELECT count(*) FROM client_compliance_log l WHERE l.client_no = c.client_no)::int4
                   AS logged
        FROM clients c JOIN report_streams s USING (client_no)
        WHERE c.client_id = ANY ($1)";
    let known = |row: &Row| {
        let known = Known {
            client_no: row.get("client_no"),
            deleted: row.get("deleted"),
            has_row: row.get("has_row"),
            logged: super::number(row, "logged"),
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
        (row.get("client_id"), known)
    };
    Ok(query(db, SQL, &[&ids]).await?.iter().map(known).collect())
}

/// Writes the marks of clients of which the log does not say all.
pub(crate) async fn keep(
    db: &impl GenericClient,
    changed: &[(i32, &Stream)],
    now: Timestamp,
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE report_stream_rows AS held SET
            (has_full, contiguous_serial, highest_serial, gap_since, wants_full, last_report_at) =
            (fresh.has_full, fresh.contiguous_serial, fresh.highest_serial, fresh.gap_since,
             fresh.wants_full, $7)
        FROM unnest($1::int4[], $2::boolean[], $3::int8[], $4::int8[], $5::timestamptz[],
                    $6::boolean[]) AS fresh
            (client_no, has_full, contiguous_serial, highest_serial, gap_since, wants_full)
        WHERE held.client_no = fresh.client_no";
    // Rare, and an array of arrays does not fit into unnest.
    const EARLY: &str = "
        UPDATE report_stream_rows SET early_reports = $2
        WHERE client_no = $1 AND early_reports <> $2";
    if changed.is_empty() {
        return Ok(());
    }
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
