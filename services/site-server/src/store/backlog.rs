//! `quarantine`, `recorded_totals`.

use deadpool_postgres::GenericClient;
use muster_proto::state as pb;
use sha2::{Digest, Sha256};
use tokio_postgres::Row;

use super::{execute, large, query, query_one, time};
use crate::app::Error;
use crate::domain::page::Page;

/// Keeps bytes that could not be recorded. The same bytes from the same origin stay one row.
pub(crate) async fn quarantine(
    db: &impl GenericClient,
    origin: &str,
    reason: &str,
    body: &[u8],
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO quarantine AS held (origin, reason, body, body_hash) VALUES ($1, $2, $3, $4)
        ON CONFLICT (body_hash, origin) DO UPDATE SET attempts = held.attempts + 1";
    let hash = Sha256::digest(body);
    execute(db, SQL, &[&origin, &reason, &body, &hash.as_slice()]).await?;
    Ok(())
}

pub(crate) async fn list_quarantined(
    db: &impl GenericClient,
    page: Page,
) -> Result<Vec<pb::QuarantinedMessage>, Error> {
    const SQL: &str = "
        SELECT quarantine_no, received_at, origin, reason, substr(body, 1, 65536) AS body
        FROM quarantine ORDER BY quarantine_no DESC LIMIT $1 OFFSET $2";
    let message = |row: &Row| pb::QuarantinedMessage {
        quarantine_no: large(row, "quarantine_no"),
        received_at: time(row, "received_at"),
        origin: row.get("origin"),
        reason: row.get("reason"),
        body: row.get::<_, Vec<u8>>("body").into(),
    };
    Ok(query(db, SQL, &[&page.probe(), &page.offset])
        .await?
        .iter()
        .map(message)
        .collect())
}

/// Counts what was recorded.
pub(crate) async fn add_totals(
    db: &impl GenericClient,
    reports: i64,
    states: i64,
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE recorded_totals SET (reports, states) = (reports + $1, states + $2)";
    execute(db, SQL, &[&reports, &states]).await?;
    Ok(())
}

/// Reports and states recorded so far, and messages in quarantine.
pub(crate) async fn totals(db: &impl GenericClient) -> Result<(u64, u64, u64), Error> {
    const SQL: &str = "
        SELECT reports, states, (SELECT count(*) FROM quarantine) AS quarantined
        FROM recorded_totals";
    let row = query_one(db, SQL, &[]).await?;
    Ok((
        large(&row, "reports"),
        large(&row, "states"),
        large(&row, "quarantined"),
    ))
}
