//! Gathers reports of many clients into few messages, one lane per queue, and tells each client
//! what the broker said about the message its report was in.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use muster_proto::state::ReportBatch;
use muster_rabbitmq::{Headers, Publisher, topology};
use muster_runtime::{Tasks, faults};
use prost::Message;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use crate::app::{Error, Handed, Inboxes};
use crate::config::{Collect, Config};
use crate::domain::report::Lane;

/// Bytes of one message at most: below what the broker's side takes, with room for the envelopes.
const MAX_MESSAGE: usize = 3 * 1024 * 1024;
/// Messages of one lane under way to the broker.
const UNDER_WAY: usize = 32;

/// Where messages go.
pub(crate) trait Broker: Send + Sync + 'static {
    /// `Ok`: the broker has it on stable storage.
    fn publish(
        &self,
        key: &str,
        body: Bytes,
        headers: Headers,
    ) -> impl Future<Output = Result<(), muster_rabbitmq::Error>> + Send;
}

/// The exchange of a site's states.
#[derive(Debug)]
pub(crate) struct StateExchange {
    publisher: Publisher,
    exchange: String,
}

impl Broker for StateExchange {
    async fn publish(
        &self,
        key: &str,
        body: Bytes,
        headers: Headers,
    ) -> Result<(), muster_rabbitmq::Error> {
        self.publisher
            .publish_to(&self.exchange, key, body, headers)
            .await
    }
}

/// Makes messages of what is handed over, for the exchange of the site.
///
/// # Errors
/// When the broker's configuration cannot be used; a broker that is away is no error.
pub(crate) fn collect_reports(
    config: &Config,
    inboxes: Inboxes,
    tasks: &Tasks,
) -> Result<(), muster_rabbitmq::Error> {
    let publisher = Publisher::start_disconnected(&config.rabbitmq, tasks)?;
    let exchange = topology::state_exchange(&config.site_code);
    let broker = StateExchange {
        publisher,
        exchange,
    };
    collect_for(config, inboxes, &Arc::new(broker), tasks);
    Ok(())
}

fn collect_for<B: Broker>(config: &Config, inboxes: Inboxes, broker: &Arc<B>, tasks: &Tasks) {
    for (lane, inbox) in inboxes {
        let key = match lane {
            Lane::Shard(number) => number.to_string(),
            Lane::High => topology::HIGH.to_owned(),
            Lane::Urgent => topology::URGENT.to_owned(),
        };
        let (limits, broker) = (config.collect.clone(), Arc::clone(broker));
        tasks.spawn(
            "collect-reports",
            run(inbox, key, limits, broker, tasks.clone()),
        );
    }
}

/// One lane: gathers, and lets messages go without waiting for the confirm of the one before.
async fn run<B: Broker>(
    mut handed: mpsc::Receiver<Handed>,
    key: String,
    limits: Collect,
    broker: Arc<B>,
    tasks: Tasks,
) {
    let (token, key) = (tasks.token(), Arc::<str>::from(key));
    let under_way = Arc::new(Semaphore::new(UNDER_WAY));
    let mut left_over = None;
    loop {
        let first = match left_over.take() {
            Some(first) => first,
            None => tokio::select! {
                first = handed.recv() => match first {
                    Some(first) => first,
                    None => return,
                },
                // What was handed over before is still sent; nothing new comes in.
                () = token.cancelled(), if !handed.is_closed() => {
                    handed.close();
                    continue;
                }
            },
        };
        // While nothing is on its way, waiting gathers nothing that the next message would not.
        let alone = under_way.available_permits() == UNDER_WAY;
        let (batch, too_much) = gather(first, &mut handed, &limits, alone).await;
        left_over = too_much;
        let Ok(permit) = Arc::clone(&under_way).acquire_owned().await else {
            return;
        };
        let (broker, key) = (Arc::clone(&broker), Arc::clone(&key));
        tasks.spawn("publish-reports", async move {
            send(&*broker, &key, batch).await;
            drop(permit);
        });
    }
}

/// The first and what comes within the time, as much as one message takes; what is there already,
/// when it is `alone`. What did not fit any more begins the next message.
async fn gather(
    first: Handed,
    handed: &mut mpsc::Receiver<Handed>,
    limits: &Collect,
    alone: bool,
) -> (Vec<Handed>, Option<Handed>) {
    let wait = if alone {
        Duration::ZERO
    } else {
        limits.max_wait
    };
    let until = Instant::now() + wait;
    let (mut reports, mut bytes) = (first.reports.len(), first.size);
    let mut batch = vec![first];
    while reports < limits.max_reports {
        let Ok(Some(next)) = timeout_at(until, handed.recv()).await else {
            break;
        };
        if bytes + next.size > MAX_MESSAGE || reports + next.reports.len() > limits.max_reports {
            return (batch, Some(next));
        }
        reports += next.reports.len();
        bytes += next.size;
        batch.push(next);
    }
    (batch, None)
}

/// Publishes one message and passes on what the broker said.
async fn send<B: Broker>(broker: &B, key: &str, batch: Vec<Handed>) {
    let (mut reports, mut waiting) = (Vec::new(), Vec::new());
    for handed in batch {
        // A caller who has given up sends its reports again.
        if !handed.caller.has_given_up() {
            reports.extend(handed.reports);
            waiting.push(handed.caller);
        }
    }
    if waiting.is_empty() {
        return;
    }
    let count = u32::try_from(reports.len()).unwrap_or(u32::MAX);
    let traceparent = reports
        .iter()
        .map(|it| &it.traceparent)
        .find(|it| !it.is_empty())
        .cloned();
    let body = Bytes::from(ReportBatch { reports }.encode_to_vec());
    faults::point("mp.before_publish");
    let result = broker
        .publish(key, body, Headers { traceparent, count })
        .await;
    faults::point("mp.after_confirm");
    let outcome = if result.is_ok() {
        "confirmed"
    } else {
        "failed"
    };
    metrics::counter!("muster_reports_total", "outcome" => outcome).increment(count.into());
    metrics::histogram!("muster_reports_per_message").record(f64::from(count));
    let result = result.map_err(Arc::new);
    for caller in waiting {
        caller.answer(result.clone().map_err(Error::Broker));
    }
}

#[cfg(test)]
mod tests;
