//! `recorded_totals`.

use deadpool_postgres::GenericClient;

use super::{execute, large, query_one};
use crate::app::Error;

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

/// Reports and states recorded so far.
pub(crate) async fn totals(db: &impl GenericClient) -> Result<(u64, u64), Error> {
    const SQL: &str = "SELECT reports, states FROM recorded_totals";
    let row = query_one(db, SQL, &[]).await?;
    Ok((large(&row, "reports"), large(&row, "states")))
}
