//! `quarantine`, `quarantine_audit`: messages that could not be recorded, and what became of them.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_proto::state as pb;
use sha2::{Digest, Sha256};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{execute, large, number, query, query_one, query_opt, time};
use crate::app::Error;
use crate::domain::page::Page;

/// Bytes to keep aside, and who vouched for them.
#[derive(Debug, Clone)]
pub(crate) struct Aside<'a> {
    pub(crate) origin: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) body: &'a [u8],
    /// An encoded `ReportBatch`, not one `Report`.
    pub(crate) whole_batch: bool,
    /// The broker vouched for the sender.
    pub(crate) trusted: bool,
    /// The client that the certificate named.
    pub(crate) client_id: Option<Uuid>,
}

/// A message that is tried again.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) received_at: Timestamp,
    pub(crate) origin: String,
    pub(crate) body: Vec<u8>,
    pub(crate) whole_batch: bool,
    pub(crate) trusted: bool,
    pub(crate) client_id: Option<Uuid>,
}

/// Which messages are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// These, ascending.
    Numbers(Vec<i64>),
    /// Those whose reason begins with this word.
    Reason(String),
}

/// Messages that are kept of one origin, and their bytes together.
const MAX_MESSAGES: i64 = 1_000;
const MAX_BYTES: i64 = 64 * 1024 * 1024;

/// Keeps bytes that could not be recorded. The same bytes from the same origin stay one row. An
/// origin that sent too many keeps only a count and the last hash of the rest: then `false`.
pub(crate) async fn keep(db: &impl GenericClient, aside: &Aside<'_>) -> Result<bool, Error> {
    const SQL: &str = "
        WITH again AS (
            UPDATE quarantine SET attempts = attempts + 1
            WHERE body_hash = $4 AND origin = $1 RETURNING 1),
        kept AS (
            INSERT INTO quarantine AS held
                (origin, reason, body, body_hash, whole_batch, trusted, client_id)
            SELECT $1::text, $2::text, $3::bytea, $4::bytea, $5::boolean, $6::boolean, $7::uuid
            FROM (SELECT count(*) AS messages, COALESCE(sum(length(body)), 0) AS bytes
                  FROM quarantine WHERE origin = $1) AS sent
            WHERE NOT EXISTS (SELECT FROM again)
              AND sent.messages < $8 AND sent.bytes + length($3::bytea) <= $9
            ON CONFLICT (body_hash, origin) DO UPDATE SET attempts = held.attempts + 1
            RETURNING 1)
        INSERT INTO quarantine_overflow AS held (origin, messages, last_hash, last_reason)
        SELECT $1::text, 1, $4::bytea, $2::text
        WHERE NOT EXISTS (SELECT FROM again) AND NOT EXISTS (SELECT FROM kept)
        ON CONFLICT (origin) DO UPDATE SET (messages, last_hash, last_reason, last_at) =
            (held.messages + 1, excluded.last_hash, excluded.last_reason, now())";
    let hash = Sha256::digest(aside.body);
    let params: super::Params<'_> = &[
        &aside.origin,
        &aside.reason,
        &aside.body,
        &hash.as_slice(),
        &aside.whole_batch,
        &aside.trusted,
        &aside.client_id,
        &MAX_MESSAGES,
        &MAX_BYTES,
    ];
    Ok(execute(db, SQL, params).await? == 0)
}

/// A message that was tried again stays, with the reason of this time.
pub(crate) async fn refuse_again(
    db: &impl GenericClient,
    quarantine_no: i64,
    reason: &str,
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE quarantine SET (reason, attempts, tried_at) = ($2, attempts + 1, now())
        WHERE quarantine_no = $1";
    execute(db, SQL, &[&quarantine_no, &reason]).await?;
    Ok(())
}

/// A message was redriven and is of no more use here. `false`: it is not here any more, so
/// somebody else did this first.
pub(crate) async fn settle(
    db: &impl GenericClient,
    quarantine_no: i64,
    administrator: &str,
) -> Result<bool, Error> {
    const SQL: &str = "
        WITH gone AS (DELETE FROM quarantine WHERE quarantine_no = $1 RETURNING *)
        INSERT INTO quarantine_audit (quarantine_no, action, administrator, received_at, origin,
                                      reason, body_hash, body_bytes, attempts)
        SELECT quarantine_no, 'redriven', $2, received_at, origin, reason, body_hash,
               length(body), attempts FROM gone";
    Ok(execute(db, SQL, &[&quarantine_no, &administrator]).await? == 1)
}

/// Removes messages for good, oldest first and at most `limit`; returns how many.
pub(crate) async fn remove(
    db: &impl GenericClient,
    selection: &Selection,
    administrator: &str,
    limit: i64,
) -> Result<u64, Error> {
    const SQL: &str = "
        WITH gone AS (
            DELETE FROM quarantine WHERE quarantine_no IN (
                SELECT quarantine_no FROM quarantine
                WHERE quarantine_no = ANY ($1) OR split_part(reason, ':', 1) = $2
                ORDER BY quarantine_no LIMIT $4)
            RETURNING *)
        INSERT INTO quarantine_audit (quarantine_no, action, administrator, received_at, origin,
                                      reason, body_hash, body_bytes, attempts)
        SELECT quarantine_no, 'dropped', $3, received_at, origin, reason, body_hash,
               length(body), attempts FROM gone";
    let (numbers, reason) = selection.columns();
    execute(db, SQL, &[&numbers, &reason, &administrator, &limit]).await
}

impl Selection {
    fn columns(&self) -> (&[i64], Option<&str>) {
        match self {
            Self::Numbers(numbers) => (numbers, None),
            Self::Reason(reason) => (&[], Some(reason)),
        }
    }
}

/// The numbers of messages with this reason, ascending, above `after`.
pub(crate) async fn numbers(
    db: &impl GenericClient,
    reason: &str,
    after: i64,
    limit: i64,
) -> Result<Vec<i64>, Error> {
    const SQL: &str = "
        SELECT quarantine_no FROM quarantine
        WHERE split_part(reason, ':', 1) = $1 AND quarantine_no > $2
        ORDER BY quarantine_no LIMIT $3";
    let rows = query(db, SQL, &[&reason, &after, &limit]).await?;
    Ok(rows.iter().map(|row| row.get("quarantine_no")).collect())
}

/// A message with all of its bytes.
pub(crate) async fn get(
    db: &impl GenericClient,
    quarantine_no: i64,
) -> Result<Option<Held>, Error> {
    const SQL: &str = "
        SELECT received_at, origin, body, whole_batch, trusted, client_id
        FROM quarantine WHERE quarantine_no = $1";
    let held = |row: Row| Held {
        received_at: row.get("received_at"),
        origin: row.get("origin"),
        body: row.get("body"),
        whole_batch: row.get("whole_batch"),
        trusted: row.get("trusted"),
        client_id: row.get("client_id"),
    };
    Ok(query_opt(db, SQL, &[&quarantine_no]).await?.map(held))
}

/// Why a message is here.
pub(crate) async fn reason(db: &impl GenericClient, quarantine_no: i64) -> Result<String, Error> {
    const SQL: &str = "SELECT reason FROM quarantine WHERE quarantine_no = $1";
    let row = query_opt(db, SQL, &[&quarantine_no]).await?;
    Ok(row.map(|row| row.get("reason")).unwrap_or_default())
}

/// A page of messages for people, newest first, with the first 64 KiB of each.
pub(crate) async fn list(
    db: &impl GenericClient,
    page: Page,
) -> Result<Vec<pb::QuarantinedMessage>, Error> {
    const SQL: &str = "
        SELECT quarantine_no, received_at, origin, reason, substr(body, 1, 65536) AS body,
               length(body) AS body_bytes, attempts, tried_at, whole_batch, client_id
        FROM quarantine ORDER BY quarantine_no DESC LIMIT $1 OFFSET $2";
    let rows = query(db, SQL, &[&page.probe(), &page.offset]).await?;
    Ok(rows.iter().map(message).collect())
}

/// One message for people, with the first MiB of it.
pub(crate) async fn show(
    db: &impl GenericClient,
    quarantine_no: i64,
) -> Result<Option<pb::QuarantinedMessage>, Error> {
    const SQL: &str = "
        SELECT quarantine_no, received_at, origin, reason, substr(body, 1, 1048576) AS body,
               length(body) AS body_bytes, attempts, tried_at, whole_batch, client_id
        FROM quarantine WHERE quarantine_no = $1";
    let row = query_opt(db, SQL, &[&quarantine_no]).await?;
    Ok(row.as_ref().map(message))
}

fn message(row: &Row) -> pb::QuarantinedMessage {
    let client_id: Option<Uuid> = row.get("client_id");
    pb::QuarantinedMessage {
        quarantine_no: large(row, "quarantine_no"),
        received_at: time(row, "received_at"),
        origin: row.get("origin"),
        reason: row.get("reason"),
        body: row.get::<_, Vec<u8>>("body").into(),
        body_bytes: number(row, "body_bytes").into(),
        attempts: number(row, "attempts"),
        tried_at: time(row, "tried_at"),
        whole_batch: row.get("whole_batch"),
        client_id: client_id.map_or_else(bytes::Bytes::new, |id| {
            bytes::Bytes::copy_from_slice(id.as_bytes())
        }),
    }
}

/// Messages in quarantine.
pub(crate) async fn count(db: &impl GenericClient) -> Result<u64, Error> {
    const SQL: &str = "SELECT count(*) AS quarantined FROM quarantine";
    Ok(large(&query_one(db, SQL, &[]).await?, "quarantined"))
}
