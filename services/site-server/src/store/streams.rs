//! `report_stream_rows`: how far each client's reports have been recorded. Where only the marks
//! moved on, they are in the client's log; readers in SQL use the view `report_streams`.

use std::collections::HashSet;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_domain::ClientId;
use muster_proto::client as pb;
use muster_stream::{Runs, Wish};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{execute, query};
use crate::app::Error;
use crate::domain::report::{Stream, early};
use crate::domain::settle::Known;

/// What is known of these clients. Unknown ids are left out.
pub(crate) async fn load(
    db: &impl GenericClient,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, Known)>, Error> {
    const SQL: &str = "
        SELECT c.client_no, c.client_id, c.deleted_at IS NOT NULL AS deleted,
               c.via_site_code IS NULL AS own, c.via_site_code, s.epoch, s.has_full,
               s.contiguous_serial, s.highest_serial, s.early_reports, s.gap_since, s.wants_full,
               s.runs, s.register_epoch, s.forked_at, s.ask_at, s.ask_tries,
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
            own: row.get("own"),
            via: row
                .get::<_, Option<&str>>("via_site_code")
                .and_then(|it| it.parse().ok()),
            has_row: row.get("has_row"),
            logged: super::number(row, "logged"),
            stream: stream(row),
        };
        (row.get("client_id"), known)
    };
    Ok(query(db, SQL, &[&ids]).await?.iter().map(known).collect())
}

fn stream(row: &Row) -> Stream {
    let epoch = super::number(row, "epoch");
    let highest = super::large(row, "highest_serial");
    let waiting: Vec<Vec<u8>> = row.get("early_reports");
    let register: Option<i32> = row.get("register_epoch");
    let tries: i16 = row.get("ask_tries");
    Stream {
        epoch,
        has_full: row.get("has_full"),
        contiguous: super::large(row, "contiguous_serial"),
        highest,
        early: waiting.into_iter().filter_map(early).collect(),
        early_changed: false,
        gap_since: row.get("gap_since"),
        wants_full: row.get("wants_full"),
        register: register.map(i32::unsigned_abs),
        runs: Runs::read(row.get("runs"), epoch, highest),
        forked_at: row.get("forked_at"),
        ask_at: row.get("ask_at"),
        tries: tries.unsigned_abs(),
    }
}

/// Writes the marks of clients of which the log does not say all. `reported_at`: they have just
/// reported.
pub(crate) async fn keep(
    db: &impl GenericClient,
    changed: &[(i32, &Stream)],
    reported_at: Option<Timestamp>,
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE report_stream_rows AS held SET
            (has_full, contiguous_serial, highest_serial, gap_since, wants_full, runs,
             register_epoch, forked_at, ask_at, ask_tries, last_report_at) =
            (fresh.has_full, fresh.contiguous_serial, fresh.highest_serial, fresh.gap_since,
             fresh.wants_full, fresh.runs, fresh.register_epoch, fresh.forked_at, fresh.ask_at,
             fresh.ask_tries, COALESCE($12, held.last_report_at))
        FROM unnest($1::int4[], $2::boolean[], $3::int8[], $4::int8[], $5::timestamptz[],
                    $6::boolean[], $7::bytea[], $8::int4[], $9::timestamptz[],
                    $10::timestamptz[], $11::int2[]) AS fresh
            (client_no, has_full, contiguous_serial, highest_serial, gap_since, wants_full, runs,
             register_epoch, forked_at, ask_at, ask_tries)
        WHERE held.client_no = fresh.client_no";
    // Rare, and an array of arrays does not fit into unnest.
    const EARLY: &str = "
        UPDATE report_stream_rows SET early_reports = $2
        WHERE client_no = $1 AND early_reports <> $2";
    if changed.is_empty() {
        return Ok(());
    }
    fn column<'a, T>(changed: &'a [(i32, &Stream)], of: impl Fn(&'a Stream) -> T) -> Vec<T> {
        changed.iter().map(|(_, stream)| of(stream)).collect()
    }
    let client_no: Vec<i32> = changed.iter().map(|(no, _)| *no).collect();
    let has_full = column(changed, |s| s.has_full);
    let contiguous = column(changed, |s| s.contiguous.cast_signed());
    let highest = column(changed, |s| s.highest.cast_signed());
    let gap_since = column(changed, |s| s.gap_since);
    let wants_full = column(changed, |s| s.wants_full);
    let runs = column(changed, |s| s.runs.to_bytes());
    let register_epoch = column(changed, |s| s.register.map(u32::cast_signed));
    let forked_at = column(changed, |s| s.forked_at);
    let ask_at = column(changed, |s| s.ask_at);
    let tries = column(changed, |s| i16::try_from(s.tries).unwrap_or(i16::MAX));
    let params: super::Params<'_> = &[
        &client_no,
        &has_full,
        &contiguous,
        &highest,
        &gap_since,
        &wants_full,
        &runs,
        &register_epoch,
        &forked_at,
        &ask_at,
        &tries,
        &reported_at,
    ];
    execute(db, SQL, params).await?;
    for (client_no, stream) in changed.iter().filter(|(_, stream)| stream.early_changed) {
        let waiting: Vec<&Vec<u8>> = stream.early.iter().map(|early| &early.part).collect();
        execute(db, EARLY, &[client_no, &waiting]).await?;
    }
    Ok(())
}

/// Moves marks on where nothing else of the client changed: most reports that say nothing of
/// updates. Narrow, and no indexed column changes, so that the row stays on its page.
pub(crate) async fn move_on(
    db: &impl GenericClient,
    moved: &[(i32, &Stream)],
    reported_at: Option<Timestamp>,
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE report_stream_rows AS held SET
            (contiguous_serial, highest_serial, last_report_at) =
            (fresh.contiguous_serial, fresh.highest_serial,
             COALESCE($4, held.last_report_at))
        FROM unnest($1::int4[], $2::int8[], $3::int8[]) AS fresh
            (client_no, contiguous_serial, highest_serial)
        WHERE held.client_no = fresh.client_no";
    if moved.is_empty() {
        return Ok(());
    }
    let client_no: Vec<i32> = moved.iter().map(|(no, _)| *no).collect();
    let serials = |of: fn(&Stream) -> u64| -> Vec<i64> {
        let serial = |(_, stream): &(i32, &Stream)| of(stream).cast_signed();
        moved.iter().map(serial).collect()
    };
    let contiguous = serials(|stream| stream.contiguous);
    let highest = serials(|stream| stream.highest);
    execute(db, SQL, &[&client_no, &contiguous, &highest, &reported_at]).await?;
    Ok(())
}

/// The clients that are to be asked for something, those that have waited longest first.
pub(crate) async fn to_ask(
    db: &impl GenericClient,
    now: Timestamp,
    limit: i64,
) -> Result<Vec<Uuid>, Error> {
    const SQL: &str = "
        SELECT c.client_id FROM report_stream_rows s JOIN clients c USING (client_no)
        WHERE s.ask_at <= $1 AND c.deleted_at IS NULL AND c.via_site_code IS NULL
        ORDER BY s.ask_at, client_no LIMIT $2";
    let rows = query(db, SQL, &[&now, &limit]).await?;
    Ok(rows.iter().map(|row| row.get("client_id")).collect())
}

/// A wish that a client has not answered yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) client_id: ClientId,
    pub(crate) wish: Wish,
    /// Grows by one each time the client is asked anew.
    pub(crate) ask: u16,
}

/// What one client is told when it comes by itself.
pub(crate) async fn wish(
    db: &impl GenericClient,
    client_no: i32,
    now: Timestamp,
) -> Result<Option<Wish>, Error> {
    const SQL: &str = "
        SELECT epoch, has_full, contiguous_serial, highest_serial, early_reports, gap_since,
               wants_full, runs, register_epoch, forked_at, ask_at, ask_tries
        FROM report_streams WHERE client_no = $1";
    let row = super::query_one(db, SQL, &[&client_no]).await?;
    Ok(stream(&row).wish(now))
}

/// What clients were asked for and have not answered, those that are due longest first.
pub(crate) async fn asked(db: &impl GenericClient, limit: i64) -> Result<Vec<Asked>, Error> {
    const SQL: &str = "
        SELECT c.client_id, s.epoch, s.has_full, s.contiguous_serial, s.highest_serial,
               s.early_reports, s.gap_since, s.wants_full, s.runs, s.register_epoch, s.forked_at,
               s.ask_at, s.ask_tries
        FROM report_streams s JOIN clients c USING (client_no)
        WHERE s.ask_at IS NOT NULL AND s.ask_tries > 0 AND c.deleted_at IS NULL
          AND c.via_site_code IS NULL
        ORDER BY s.ask_at, client_no LIMIT $1";
    let asked = |row: &Row| {
        let (wish, ask) = stream(row).asked()?;
        Some(Asked {
            client_id: ClientId(row.get("client_id")),
            wish,
            ask,
        })
    };
    let rows = query(db, SQL, &[&limit]).await?;
    Ok(rows.iter().filter_map(asked).collect())
}

/// Clients with a report missing in between, and clients that are asked for a FULL report: by
/// registration, or because something has been missing for longer than `resync_after` seconds.
/// Asked every few seconds: of the rows, because the view looks into the log of every client.
pub(crate) async fn open(db: &impl GenericClient, resync_after: f64) -> Result<(u64, u64), Error> {
    const SQL: &str = "
        SELECT count(*) FILTER (WHERE s.gap_since IS NOT NULL) AS gaps,
               count(*) FILTER (WHERE s.wants_full
                                   OR s.gap_since < now() - make_interval(secs => $1)) AS resyncs
        FROM report_stream_rows s JOIN clients c USING (client_no)
        WHERE c.deleted_at IS NULL AND c.via_site_code IS NULL
          AND (s.gap_since IS NOT NULL OR s.wants_full)";
    let row = super::query_one(db, SQL, &[&resync_after]).await?;
    Ok((super::large(&row, "gaps"), super::large(&row, "resyncs")))
}

/// An administrator wants everything of one client, of the members of a collection, or of all.
/// They are asked soon, anew if they were asked before. Answers their ids.
pub(crate) async fn want_full(
    db: &impl GenericClient,
    client_no: Option<i32>,
    collection_no: Option<i32>,
) -> Result<HashSet<Uuid>, Error> {
    const SQL: &str = "
        UPDATE report_stream_rows s SET (wants_full, ask_at) = (true, now())
        FROM clients c
        WHERE c.client_no = s.client_no AND c.deleted_at IS NULL AND c.via_site_code IS NULL
          AND ($1::int4 IS NULL OR c.client_no = $1)
          AND ($2::int4 IS NULL OR EXISTS (SELECT FROM collection_members m
               WHERE m.collection_no = $2 AND m.client_no = c.client_no))
        RETURNING c.client_id";
    let rows = query(db, SQL, &[&client_no, &collection_no]).await?;
    Ok(rows.iter().map(|row| row.get("client_id")).collect())
}

/// How far the reports of a client are recorded, for people.
pub(crate) async fn show(db: &impl GenericClient, client_no: i32) -> Result<pb::Stream, Error> {
    const SQL: &str = "
        SELECT contiguous_serial, highest_serial, gap_since, wants_full, forked_at, ask_at,
               ask_tries::int4 AS asks
        FROM report_streams WHERE client_no = $1";
    let row = super::query_one(db, SQL, &[&client_no]).await?;
    Ok(pb::Stream {
        contiguous_serial: super::large(&row, "contiguous_serial"),
        highest_serial: super::large(&row, "highest_serial"),
        gap_since: super::time(&row, "gap_since"),
        full_wanted: row.get("wants_full"),
        asks: super::number(&row, "asks"),
        ask_at: super::time(&row, "ask_at"),
        forked_at: super::time(&row, "forked_at"),
    })
}
