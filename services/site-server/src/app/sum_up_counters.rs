//! Adds what batches moved to the counters of updates, behind the batches; and before somebody
//! reads the rows rather than the view.

use muster_runtime::faults;

use super::{Error, Site};
use crate::store::compliance;

/// One round. Readers see the same sums before and after it.
pub(crate) async fn sum_up_counters(site: &Site) -> Result<(), Error> {
    let _alone = site.summing.lock().await;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    site.still_active(&tx).await?;
    let batches = compliance::sum_up(&tx).await?;
    if batches > 0 {
        faults::point("site.counters.before_commit");
        tx.commit().await?;
        faults::point("site.counters.after_commit");
        tracing::debug!(batches, "counters summed up");
    }
    Ok(())
}
