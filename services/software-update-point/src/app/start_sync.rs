//! Starts a synchronisation in the background, or joins the one that runs; records how it ends.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use jiff::Timestamp;

use super::error::Cause;
use super::sync_catalog::sync_catalog;
use super::take_over_catalog::take_over_catalog;
use super::{Error, Point};
use crate::domain::sync::{Kind, Phase, RejectedStanza, Sync};
use crate::store;

/// The synchronisation that was started, or the one that runs already.
pub(crate) async fn start_sync(point: &Arc<Point>, kind: Kind) -> Result<Sync, Error> {
    let _one_at_a_time = point.starting.lock().await;
    if let Some(running) = point
        .progress
        .borrow()
        .clone()
        .filter(|sync| !sync.phase.is_final())
    {
        return Ok(running);
    }
    let sync = {
        let db = point
            .pool
            .get()
            .await
            .map_err(muster_postgres::Error::from)?;
        store::syncs::begin(&db, kind, Timestamp::now()).await?
    };
    metrics::gauge!("muster_sup_sync_phase").set(f64::from(sync.phase.code()));
    point.progress.send_replace(Some(sync.clone()));
    let (point, running) = (Arc::clone(point), sync.clone());
    let tasks = point.tasks.clone();
    tasks.spawn("sync", async move {
        run(&point, running).await;
    });
    Ok(sync)
}

async fn run(point: &Point, mut sync: Sync) {
    tracing::info!(sync_no = sync.sync_no, kind = ?sync.kind, "synchronisation started");
    let token = point.tasks.token();
    let outcome = {
        // A panic must end the synchronisation too, or no other could ever start.
        let work = async {
            match &point.parent {
                Some(parent) => take_over_catalog(point, parent, &mut sync).await,
                None => sync_catalog(point, &mut sync).await,
            }
        };
        let work = AssertUnwindSafe(work).catch_unwind();
        tokio::select! {
            outcome = work => outcome,
            () = token.cancelled() => Ok(Err(Cause::Stopping.at("the synchronisation"))),
        }
    };
    let mut rejected: Vec<RejectedStanza> = Vec::new();
    match outcome {
        Ok(Ok(found)) => {
            rejected = found;
            sync.phase = Phase::Done;
            tracing::info!(sync_no = sync.sync_no, counts = ?sync.counts, detail = sync.detail, "synchronisation done");
            #[allow(clippy::cast_precision_loss, reason = "a gauge")]
            metrics::gauge!("muster_sup_last_success_timestamp_seconds")
                .set(Timestamp::now().as_second() as f64);
        }
        Ok(Err(failure)) => {
            sync.phase = Phase::Failed;
            failure.reason().clone_into(&mut sync.reason);
            // The text for people has the causes of our own failures too.
            sync.detail = muster_runtime::status::chain(&failure)
                .chars()
                .take(1_000)
                .collect();
            tracing::error!(
                sync_no = sync.sync_no,
                reason = sync.reason,
                error = sync.detail,
                "synchronisation failed"
            );
        }
        Err(_) => {
            sync.phase = Phase::Failed;
            "INTERNAL".clone_into(&mut sync.reason);
            "the synchronisation panicked".clone_into(&mut sync.detail);
            tracing::error!(sync_no = sync.sync_no, "synchronisation panicked");
        }
    }
    if sync.phase == Phase::Failed {
        sync.generation = point.catalog().generation;
        metrics::counter!("muster_sup_sync_failures_total").increment(1);
    }
    sync.ended_at = Some(Timestamp::now());
    metrics::counter!("muster_sup_syncs_total").increment(1);
    metrics::counter!("muster_sup_stanzas_total").increment(sync.counts.stanzas);
    metrics::counter!("muster_sup_stanzas_rejected_total").increment(sync.counts.stanzas_rejected);
    metrics::gauge!("muster_sup_sync_phase").set(f64::from(sync.phase.code()));
    if let Err(error) = record_end(point, &sync, &rejected).await {
        tracing::error!(%error, sync_no = sync.sync_no, "the end of the synchronisation could not be recorded");
    }
    point.progress.send_replace(Some(sync));
    point.nudge.notify_one();
}

async fn record_end(
    point: &Point,
    sync: &Sync,
    rejected: &[RejectedStanza],
) -> Result<(), muster_postgres::Error> {
    let mut db = point.pool.get().await?;
    let tx = db.transaction().await?;
    store::syncs::end(&tx, sync, rejected).await?;
    tx.commit().await?;
    Ok(())
}
