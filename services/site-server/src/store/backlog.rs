//! The totals of what was recorded.

use deadpool_postgres::GenericClient;

use super::{large, query_one};
use crate::app::Error;

/// Reports and states recorded so far.
pub(crate) async fn totals(db: &impl GenericClient) -> Result<(u64, u64), Error> {
    const SQL: &str = "SELECT reports, states FROM recorded_totals";
    let row = query_one(db, SQL, &[]).await?;
    Ok((large(&row, "reports"), large(&row, "states")))
}
