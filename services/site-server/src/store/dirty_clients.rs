//! `dirty_clients`: clients of which the parent is to hear. A mark is taken off by its number, in
//! the transaction that numbers what it asked for: nothing here looks for "all after the last one".

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::{execute, query, query_one};
use crate::app::Error;

/// A mark and its clients.
pub(crate) type Mark = (i64, Vec<i32>);

/// Marks clients in the transaction that changes them.
pub(crate) async fn mark(db: &impl GenericClient, clients: &[i32]) -> Result<i64, Error> {
    const SQL: &str = "INSERT INTO dirty_clients (client_nos) VALUES ($1) RETURNING mark_no";
    Ok(query_one(db, SQL, &[&clients]).await?.get("mark_no"))
}

/// Marks all clients, `at_once` with one mark.
pub(crate) async fn mark_all(db: &impl GenericClient, at_once: i32) -> Result<Vec<Mark>, Error> {
    const SQL: &str = "
        INSERT INTO dirty_clients (client_nos)
        SELECT array_agg(client_no ORDER BY client_no)
        FROM (SELECT client_no, (row_number() OVER (ORDER BY client_no) - 1) / $1 AS part
              FROM clients) AS numbered
        GROUP BY part ORDER BY part
        RETURNING mark_no, client_nos";
    let at_once = i64::from(at_once);
    Ok(query(db, SQL, &[&at_once])
        .await?
        .iter()
        .map(read)
        .collect())
}

/// All marks.
pub(crate) async fn all(db: &impl GenericClient) -> Result<Vec<Mark>, Error> {
    const SQL: &str = "SELECT mark_no, client_nos FROM dirty_clients ORDER BY mark_no";
    Ok(query(db, SQL, &[]).await?.iter().map(read).collect())
}

/// Marks that were made a while ago.
pub(crate) async fn old(
    db: &impl GenericClient,
    seconds: f64,
    limit: i64,
) -> Result<Vec<Mark>, Error> {
    const SQL: &str = "
        SELECT mark_no, client_nos FROM dirty_clients
        WHERE marked_at < now() - make_interval(secs => $1) ORDER BY mark_no LIMIT $2";
    let rows = query(db, SQL, &[&seconds, &limit]).await?;
    Ok(rows.iter().map(read).collect())
}

fn read(row: &Row) -> Mark {
    (row.get("mark_no"), row.get("client_nos"))
}

/// Takes marks off.
pub(crate) async fn remove(db: &impl GenericClient, marks: &[i64]) -> Result<(), Error> {
    const SQL: &str = "DELETE FROM dirty_clients WHERE mark_no = ANY ($1)";
    if !marks.is_empty() {
        execute(db, SQL, &[&marks]).await?;
    }
    Ok(())
}

/// As [`remove`], for marks that others take the place of: since when the oldest stood.
pub(crate) async fn replace(
    db: &impl GenericClient,
    marks: &[i64],
) -> Result<Option<Timestamp>, Error> {
    const SQL: &str = "
        WITH gone AS (
            DELETE FROM dirty_clients WHERE mark_no = ANY ($1) RETURNING marked_at)
        SELECT min(marked_at) AS oldest FROM gone";
    Ok(query_one(db, SQL, &[&marks]).await?.get("oldest"))
}

/// As [`mark`], in the place of marks that stood since then.
pub(crate) async fn mark_since(
    db: &impl GenericClient,
    clients: &[i32],
    since: Option<Timestamp>,
) -> Result<i64, Error> {
    const SQL: &str = "
        INSERT INTO dirty_clients (client_nos, marked_at) VALUES ($1, COALESCE($2, now()))
        RETURNING mark_no";
    let row = query_one(db, SQL, &[&clients, &since]).await?;
    Ok(row.get("mark_no"))
}

/// Takes all marks off: there is no parent any more.
pub(crate) async fn remove_all(db: &impl GenericClient) -> Result<(), Error> {
    const SQL: &str = "DELETE FROM dirty_clients";
    execute(db, SQL, &[]).await?;
    Ok(())
}
