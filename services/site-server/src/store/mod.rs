//! Doors out: SQL in, domain out; one file per group of tables. What a report or a list shows is
//! read straight into the message it is sent as.

pub(crate) mod backlog;
pub(crate) mod catalog;
pub(crate) mod client_moves;
pub(crate) mod clients;
pub(crate) mod collections;
pub(crate) mod compliance;
mod copy;
pub(crate) mod definitions;
pub(crate) mod deployment_states;
pub(crate) mod deployments;
pub(crate) mod dirty_clients;
pub(crate) mod error_reports;
pub(crate) mod evaluation_reports;
pub(crate) mod foreign_objects;
pub(crate) mod identities;
pub(crate) mod invitations;
pub(crate) mod link_digests;
pub(crate) mod links;
pub(crate) mod named;
pub(crate) mod objects;
pub(crate) mod packages;
pub(crate) mod policy;
pub(crate) mod quarantine;
pub(crate) mod replicas;
pub(crate) mod reports;
pub(crate) mod scan_reports;
pub(crate) mod sites;
pub(crate) mod states;
pub(crate) mod streams;
pub(crate) mod told_clients;
pub(crate) mod trend;
pub(crate) mod update_lists;
pub(crate) mod updates;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_proto::convert;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::app::Error;

pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Runs a statement that is prepared once per connection.
pub(crate) async fn query(
    db: &impl GenericClient,
    sql: &str,
    params: Params<'_>,
) -> Result<Vec<Row>, Error> {
    Ok(db.query(&db.prepare_cached(sql).await?, params).await?)
}

pub(crate) async fn query_one(
    db: &impl GenericClient,
    sql: &str,
    params: Params<'_>,
) -> Result<Row, Error> {
    Ok(db.query_one(&db.prepare_cached(sql).await?, params).await?)
}

pub(crate) async fn query_opt(
    db: &impl GenericClient,
    sql: &str,
    params: Params<'_>,
) -> Result<Option<Row>, Error> {
    Ok(db.query_opt(&db.prepare_cached(sql).await?, params).await?)
}

pub(crate) async fn execute(
    db: &impl GenericClient,
    sql: &str,
    params: Params<'_>,
) -> Result<u64, Error> {
    Ok(db.execute(&db.prepare_cached(sql).await?, params).await?)
}

/// A count or number of a row, which is never negative.
pub(crate) fn number(row: &Row, column: &str) -> u32 {
    u32::try_from(row.get::<_, i32>(column)).unwrap_or(0)
}

/// A large count of a row, which is never negative.
pub(crate) fn large(row: &Row, column: &str) -> u64 {
    u64::try_from(row.get::<_, i64>(column)).unwrap_or(0)
}

/// A time of a row that may be missing.
pub(crate) fn time(row: &Row, column: &str) -> Option<prost_types::Timestamp> {
    row.get::<_, Option<Timestamp>>(column)
        .map(convert::to_timestamp)
}

/// A UUID of a row, for the wire.
pub(crate) fn id(row: &Row, column: &str) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(row.get::<_, uuid::Uuid>(column).as_bytes())
}

/// Numbers of updates, for the database.
pub(crate) fn numbers(numbers: &[u32]) -> Result<Vec<i32>, Error> {
    numbers
        .iter()
        .map(|number| i32::try_from(*number).ok().filter(|number| *number > 0))
        .collect::<Option<_>>()
        .ok_or_else(|| Error::invalid("INVALID_FIELD", "an update number is out of range"))
}
