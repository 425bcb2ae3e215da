//! Gathers reports of many clients into few messages, one lane per queue, and tells each client
//! what the broker said about the message its report was in.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use muster_proto::state::{ReportBatch, ReportEnvelope};
use muster_rabbitmq::{Headers, Publisher, topology};
use muster_runtime::Tasks;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::app::Error;
use crate::config::{Collect, Config};
use crate::domain::report::Lane;

/// Bytes of one message at most: below what the broker's side takes, with room for the envelopes.
const MAX_MESSAGE: usize = 3 * 1024 * 1024;
/// Calls that wait in one lane.
const QUEUE: usize = 4_096;
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

/// Takes reports in. Bounded in calls and in bytes; who finds it full is told so at once.
#[derive(Debug)]
pub(crate) struct Collector {
    lanes: HashMap<Lane, mpsc::Sender<Handed>>,
    bytes: Arc<Semaphore>,
}

/// Reports of one call, and who waits for the answer.
#[derive(Debug)]
struct Handed {
    reports: Vec<ReportEnvelope>,
    size: usize,
    reply: oneshot::Sender<Result<(), Error>>,
    /// Gives the bytes back when the broker has answered.
    _room: OwnedSemaphorePermit,
}

impl Collector {
    /// Collects for the exchange of the site.
    ///
    /// # Errors
    /// When the broker's configuration cannot be used; a broker that is away is no error.
    pub(crate) fn start(config: &Config, tasks: &Tasks) -> Result<Self, muster_rabbitmq::Error> {
        let publisher = Publisher::start_disconnected(&config.rabbitmq, tasks)?;
        let exchange = topology::state_exchange(&config.site_code);
        let broker = Arc::new(StateExchange {
            publisher,
            exchange,
        });
        Ok(Self::with_broker(config, broker, tasks))
    }

    fn with_broker<B: Broker>(config: &Config, broker: Arc<B>, tasks: &Tasks) -> Self {
        let shards = (0..config.state_shards).map(|n| (Lane::Shard(n), n.to_string()));
        let urgent = [(Lane::Urgent, topology::URGENT.to_owned())];
        let lanes = shards.chain(urgent).map(|(lane, key)| {
            let (sender, receiver) = mpsc::channel(QUEUE);
            let run = run(
                receiver,
                key,
                config.collect.clone(),
                Arc::clone(&broker),
                tasks.clone(),
            );
            tasks.spawn("collect-reports", run);
            (lane, sender)
        });
        let bytes = Arc::new(Semaphore::new(config.collect.max_bytes as usize));
        Self {
            lanes: lanes.collect(),
            bytes,
        }
    }

    /// Hands reports over; `Ok` when the broker has confirmed the messages they went out in.
    pub(crate) async fn hand_over(
        &self,
        lane: Lane,
        reports: Vec<ReportEnvelope>,
    ) -> Result<(), Error> {
        let size: usize = reports.iter().map(Message::encoded_len).sum();
        let permits = u32::try_from(size).map_err(|_| full())?;
        let room = Arc::clone(&self.bytes)
            .try_acquire_many_owned(permits)
            .map_err(|_| full())?;
        let (reply, answer) = oneshot::channel();
        let handed = Handed {
            reports,
            size,
            reply,
            _room: room,
        };
        let sender = self.lanes.get(&lane).ok_or(Error::Stopping)?;
        sender.try_send(handed).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => full(),
            mpsc::error::TrySendError::Closed(_) => Error::Stopping,
        })?;
        answer.await.unwrap_or(Err(Error::Stopping))
    }
}

fn full() -> Error {
    metrics::counter!("muster_reports_put_off_total").increment(1);
    Error::CollectorFull
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
        let (batch, too_much) = gather(first, &mut handed, &limits).await;
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

/// The first and what comes within the time, as much as one message takes. What did not fit any
/// more begins the next message.
async fn gather(
    first: Handed,
    handed: &mut mpsc::Receiver<Handed>,
    limits: &Collect,
) -> (Vec<Handed>, Option<Handed>) {
    let until = Instant::now() + limits.max_wait;
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
        if !handed.reply.is_closed() {
            reports.extend(handed.reports);
            waiting.push((handed.reply, handed._room));
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
    let result = broker
        .publish(key, body, Headers { traceparent, count })
        .await;
    let outcome = if result.is_ok() {
        "confirmed"
    } else {
        "failed"
    };
    metrics::counter!("muster_reports_total", "outcome" => outcome).increment(count.into());
    metrics::histogram!("muster_reports_per_message").record(f64::from(count));
    let result = result.map_err(Arc::new);
    for (reply, _room) in waiting {
        // Nobody waits any more: the reports come again.
        let _ = reply.send(result.clone().map_err(Error::Broker));
    }
}

#[cfg(test)]
mod tests;
