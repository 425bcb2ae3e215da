//! `site.<CODE>.state.<n>`: batches of reports from management points. A batch is acknowledged
//! when its transaction has committed; when it cannot be recorded now, it goes back to the queue.

use std::sync::Arc;

use muster_rabbitmq::{Batch, Delivery, topology};
use muster_runtime::{Tasks, telemetry};
use tracing::Instrument;

use crate::app::record_states::{Arrived, record_states};
use crate::app::{Error, Site};

/// Makes the queues and consumes them until `tasks` stop.
pub(crate) async fn consume(site: &Arc<Site>, tasks: &Tasks) -> Result<(), muster_rabbitmq::Error> {
    let (config, code) = (&site.config.rabbitmq, site.config.site_code.to_string());
    let shards = site.config.state_shards;
    topology::declare_states(config, &code, shards).await?;
    for queue in topology::state_queues(&code, shards) {
        let site = Arc::clone(site);
        let handler = move |batch| handle(Arc::clone(&site), batch);
        muster_rabbitmq::consume(config, &queue, Batch::default(), tasks, handler).await?;
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
    metrics::histogram!("muster_state_batch_seconds").record(started.elapsed().as_secs_f64());
    site.rates.processed(&queue, arrived.len(), sent_at);
    Ok(())
}

fn arrived(delivery: Delivery) -> Arrived {
    let user = delivery.user.as_deref().unwrap_or("nobody");
    Arrived {
        origin: format!("queue {}, broker user {user}", delivery.queue),
        // The broker refuses a user-id that is not the connection's own.
        trusted: delivery.user.is_some(),
        body: delivery.body,
    }
}
