//! `site.<CODE>.state.<n>`: batches of reports from management points. A batch is acknowledged
//! when its transaction has committed; when it cannot be recorded now, it goes back to the queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use muster_rabbitmq::{Batch, Declare, Delivery, consume_declared, topology};
use muster_runtime::admin::Readiness;
use muster_runtime::status::{HasKind, chain};
use muster_runtime::{Backoff, Tasks, faults, telemetry};
use tracing::Instrument;

use crate::app::open_batch::Arrived;
use crate::app::record_states::record_states;
use crate::app::{Error, Site};

/// Makes the queues and consumes them until `tasks` stop; `readiness` says when that is so. While
/// the broker is away this goes on in the background.
///
/// # Errors
/// When the broker refuses us, or the configuration names none.
pub(crate) async fn consume(
    site: &Arc<Site>,
    tasks: &Tasks,
    readiness: Readiness,
) -> Result<(), muster_rabbitmq::Error> {
    let queues = topology::state_queues(site.config.site_code.as_str(), site.config.state_shards);
    let mut waiting: VecDeque<String> = queues.into();
    match begin(site, tasks, &mut waiting).await {
        Ok(()) => {
            readiness.set(true);
            return Ok(());
        }
        Err(error) if !error.kind().is_retryable() => return Err(error),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "the broker is away, waiting for it");
        }
    }
    let (site, inner, stop) = (Arc::clone(site), tasks.clone(), tasks.token());
    tasks.spawn("wait-for-broker", async move {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            tokio::select! {
                () = backoff.wait() => {}
                () = stop.cancelled() => return,
            }
            match begin(&site, &inner, &mut waiting).await {
                Ok(()) => return readiness.set(true),
                Err(error) => tracing::warn!(error = %chain(&error), "the broker is still away"),
            }
        }
    });
    Ok(())
}

/// Starts a consumer for each queue that has none yet.
async fn begin(
    site: &Arc<Site>,
    tasks: &Tasks,
    waiting: &mut VecDeque<String>,
) -> Result<(), muster_rabbitmq::Error> {
    let config = &site.config.rabbitmq;
    let (code, shards) = (site.config.site_code, site.config.state_shards);
    topology::declare_states(config, code.as_str(), shards).await?;
    let at = config.clone();
    let declare: Declare = Arc::new(move || {
        let config = at.clone();
        Box::pin(async move { topology::declare_states(&config, code.as_str(), shards).await })
    });
    while let Some(queue) = waiting.front() {
        let site = Arc::clone(site);
        let handler = move |batch| handle(Arc::clone(&site), batch);
        let (batch, declare) = (Batch::default(), Arc::clone(&declare));
        consume_declared(config, queue, batch, tasks, declare, handler).await?;
        waiting.pop_front();
    }
    Ok(())
}

async fn handle(site: Arc<Site>, batch: Vec<Delivery>) -> Result<(), Error> {
    let Some(first) = batch.first() else {
        return Ok(());
    };
    let (queue, sent_at) = (Arc::clone(&first.queue), first.sent_at);
    let span = tracing::info_span!(
        "record_states",
        otel.kind = "consumer",
        messaging.destination = %queue,
        messages = batch.len()
    );
    if let Some(parent) = &first.headers.traceparent {
        telemetry::set_parent(&span, parent);
    }
    let arrived: Vec<Arrived> = batch.into_iter().map(arrived).collect();
    let started = std::time::Instant::now();
    async {
        let recorded = record_states(&site, &arrived).await?;
        tracing::debug!(?recorded, "batch recorded");
        Ok::<(), Error>(())
    }
    .instrument(span)
    .await?;
    faults::point("site.record.before_ack");
    metrics::histogram!("muster_state_batch_seconds").record(started.elapsed().as_secs_f64());
    site.rates.processed(&queue, arrived.len(), sent_at);
    Ok(())
}

fn arrived(delivery: Delivery) -> Arrived {
    let user = delivery.user.as_deref().unwrap_or("nobody");
    Arrived {
        origin: format!("queue {}, broker user {user}", delivery.queue).into(),
        // The broker refuses a user-id that is not the connection's own.
        trusted: delivery.user.is_some(),
        body: delivery.body,
    }
}
