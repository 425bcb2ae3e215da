//! Receiving messages in batches, and acknowledging a batch only after its handler said yes.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use muster_runtime::faults::{self, Control};
use muster_runtime::{Backoff, Tasks};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::describe::describe;
use crate::message::Delivery;
use crate::{Config, Error, connection};

/// When a batch is complete.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Messages at most.
    pub max: usize,
    /// Time from its first message on.
    pub wait: Duration,
    /// Time since its last message: when none follows for so long, none is worth waiting for.
    pub pause: Duration,
}

impl Default for Batch {
    /// 64 messages; as many as come within 5 ms, or without a pause of 1 ms. While a batch is
    /// handled the next one gathers by itself, so that batches grow with the load.
    fn default() -> Self {
        Self {
            max: 64,
            wait: Duration::from_millis(5),
            pause: Duration::from_millis(1),
        }
    }
}

/// How often the state of the connection is looked at while nothing arrives.
const LOOK: Duration = Duration::from_millis(500);

/// Makes what a consumer needs at the broker, as far as it is missing.
pub type Declare = Arc<dyn Fn() -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;

/// As [`consume`], and the queue is made again when it is gone, as after a broker lost everything:
/// `declare` is called before each further connection.
///
/// # Errors
/// As [`consume`].
pub async fn consume_declared<F, Fut, E>(
    config: &Config,
    queue: &str,
    batch: Batch,
    tasks: &Tasks,
    declare: Declare,
    handler: F,
) -> Result<(), Error>
where
    F: Fn(Vec<Delivery>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    start(config, queue, batch, tasks, Some(declare), handler).await
}

/// Consumes a queue until `tasks` stop; the batch in hand is finished first.
///
/// When the handler returns `Ok`, its batch is durable and is acknowledged as a whole. When it
/// fails or panics, the batch is held and handed over again after a growing delay with jitter: it
/// does not go back to the queue, because brokers from 4.0 on count returns and drop messages that
/// came back twenty times (reliability.md 2.1). Prefetch bounds what is held. A batch also comes
/// again after a lost connection, whatever became of it: the handler recognises what it has.
///
/// # Errors
/// When the configuration is invalid, the first connection fails or the queue does not exist, so
/// that a mistake stops a process at its start. Later failures are logged and retried for ever.
pub async fn consume<F, Fut, E>(
    config: &Config,
    queue: &str,
    batch: Batch,
    tasks: &Tasks,
    handler: F,
) -> Result<(), Error>
where
    F: Fn(Vec<Delivery>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    start(config, queue, batch, tasks, None, handler).await
}

async fn start<F, Fut, E>(
    config: &Config,
    queue: &str,
    batch: Batch,
    tasks: &Tasks,
    declare: Option<Declare>,
    handler: F,
) -> Result<(), Error>
where
    F: Fn(Vec<Delivery>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    let worker = Worker {
        config: config.clone(),
        queue: queue.into(),
        // A batch that is larger than what the broker hands out would never be complete.
        batch: Batch {
            max: batch.max.clamp(1, usize::from(config.prefetch)),
            ..batch
        },
        declare,
        handler,
        token: tasks.token(),
        backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(30)),
    };
    describe();
    let first = Link::open(config, queue).await?;
    tasks.spawn("amqp-consumer", worker.run(first));
    Ok(())
}

/// A connection with its channel and the stream of messages.
struct Link {
    connection: Connection,
    channel: Channel,
    consumer: lapin::Consumer,
}

impl Link {
    async fn open(config: &Config, queue: &str) -> Result<Self, Error> {
        let connection = connection::open(config, "consumer").await?;
        let channel = connection.create_channel().await?;
        channel
            .basic_qos(config.prefetch, BasicQosOptions::default())
            .await?;
        let options = BasicConsumeOptions::default();
        let table = FieldTable::default();
        let consumer = channel
            .basic_consume(queue.into(), "".into(), options, table)
            .await?;
        Ok(Self {
            connection,
            channel,
            consumer,
        })
    }

    fn is_up(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }
}

struct Worker<F> {
    config: Config,
    queue: Arc<str>,
    batch: Batch,
    declare: Option<Declare>,
    handler: F,
    token: CancellationToken,
    backoff: Backoff,
}

enum End {
    Stop,
    Lost(String),
}

impl<F, Fut, E> Worker<F>
where
    F: Fn(Vec<Delivery>) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    async fn run(mut self, first: Link) {
        let mut link = first;
        let mut connecting = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        for generation in 1.. {
            let end = self.serve(&mut link, generation).await;
            connection::close(&link.connection).await;
            match end {
                End::Stop => return,
                End::Lost(reason) => {
                    tracing::warn!(queue = %self.queue, reason, "consumer lost the broker");
                }
            }
            link = loop {
                tokio::select! {
                    () = self.token.cancelled() => return,
                    () = connecting.wait() => {}
                }
                match self.open_again().await {
                    Ok(opened) => break opened,
                    Err(error) => tracing::warn!(
                        queue = %self.queue,
                        error = %muster_runtime::status::chain(&error),
                        failures = connecting.failures(),
                        "cannot connect the consumer to the broker"
                    ),
                }
            };
            connecting.reset();
            metrics::counter!("muster_amqp_reconnects_total", "role" => "consumer").increment(1);
            tracing::info!(queue = %self.queue, "consumer connected to the broker again");
        }
    }

    async fn open_again(&self) -> Result<Link, Error> {
        if let Some(declare) = &self.declare {
            declare().await?;
        }
        Link::open(&self.config, &self.queue).await
    }

    async fn serve(&mut self, link: &mut Link, generation: u64) -> End {
        loop {
            let deliveries = match self.collect(link, generation).await {
                Ok(deliveries) => deliveries,
                Err(end) => return end,
            };
            let Some(last) = deliveries.last().map(|delivery| delivery.tag) else {
                continue;
            };
            let messages = u64::try_from(deliveries.len()).unwrap_or(u64::MAX);
            if let Some(age) = deliveries.first().and_then(Delivery::age) {
                metrics::gauge!("muster_amqp_message_age_seconds", "queue" => self.label())
                    .set(age.as_secs_f64());
            }
            // The tag is one of this channel, and it carries nothing else.
            let options = BasicAckOptions { multiple: true };
            if faults::without(Control::AckBeforeCommit)
                && let Err(error) = link.channel.basic_ack(last, options).await
            {
                return End::Lost(error.to_string());
            }
            if let Err(end) = self.handle(link, &deliveries, messages).await {
                return end;
            }
            if faults::without(Control::AckBeforeCommit) {
                continue;
            }
            if let Err(error) = link.channel.basic_ack(last, options).await {
                return End::Lost(error.to_string());
            }
            faults::point("site.record.after_ack");
        }
    }

    /// Hands a batch to the handler until it says yes.
    async fn handle(
        &mut self,
        link: &Link,
        deliveries: &[Delivery],
        messages: u64,
    ) -> Result<(), End> {
        loop {
            let started = Instant::now();
            let handled = AssertUnwindSafe(async { (self.handler)(deliveries.to_vec()).await })
                .catch_unwind()
                .await;
            metrics::histogram!("muster_amqp_handle_seconds", "queue" => self.label())
                .record(started.elapsed().as_secs_f64());
            let error = match handled {
                Ok(Ok(())) => {
                    self.backoff.reset();
                    self.count("handled", messages);
                    return Ok(());
                }
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "the handler panicked".to_owned(),
            };
            self.count("held", messages);
            tracing::warn!(queue = %self.queue, messages, error, "batch is held and tried again");
            tokio::select! {
                // Nothing was promised for it: it goes back with the connection.
                () = self.token.cancelled() => return Err(End::Stop),
                () = self.backoff.wait() => {}
            }
            if !link.is_up() {
                return Err(End::Lost("connection closed".to_owned()));
            }
        }
    }

    /// Waits for one message, and for more until the batch is complete.
    async fn collect(&self, link: &mut Link, generation: u64) -> Result<Vec<Delivery>, End> {
        let mut deliveries: Vec<Delivery> = Vec::new();
        let mut deadline = None;
        while deliveries.len() < self.batch.max {
            let now = Instant::now();
            let until = deadline.map_or(now + LOOK, |at: Instant| at.min(now + self.batch.pause));
            let next = tokio::select! {
                // Nothing was promised for what is in hand: it goes back with the connection.
                () = self.token.cancelled() => return Err(End::Stop),
                next = link.consumer.next() => next,
                () = tokio::time::sleep_until(until) => {
                    if !link.is_up() {
                        return Err(End::Lost("connection closed".to_owned()));
                    }
                    if deadline.is_some() {
                        break;
                    }
                    continue;
                }
            };
            match next {
                Some(Ok(inner)) => {
                    deliveries.push(Delivery::new(inner, &self.queue, generation));
                    deadline.get_or_insert_with(|| Instant::now() + self.batch.wait);
                }
                Some(Err(error)) => return Err(End::Lost(error.to_string())),
                None => return Err(End::Lost("the queue was deleted".to_owned())),
            }
        }
        Ok(deliveries)
    }

    fn label(&self) -> String {
        self.queue.to_string()
    }

    fn count(&self, outcome: &'static str, messages: u64) {
        metrics::counter!("muster_amqp_consumed_total", "queue" => self.label(), "outcome" => outcome)
            .increment(messages);
    }
}
