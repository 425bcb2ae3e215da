//! How full the queues are.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use muster_runtime::Tasks;
use tokio::sync::Mutex;

use crate::{Config, Error, connection};

/// Time for one question.
const ASK: Duration = Duration::from_secs(5);

/// What the broker says about a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Messages that wait; those that a consumer holds are not counted.
    pub messages: u32,
    /// Consumers.
    pub consumers: u32,
}

/// Asks the broker about queues, over a connection that is made when needed. Clones share it.
#[derive(Debug, Clone)]
pub struct Monitor {
    config: Config,
    link: Arc<Mutex<Option<(Connection, Channel)>>>,
}

impl Monitor {
    /// Connects at the first question.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            config: config.clone(),
            link: Arc::default(),
        }
    }

    /// How full a queue is.
    ///
    /// # Errors
    /// When the broker cannot be reached or the queue does not exist.
    pub async fn queue_depth(&self, queue: &str) -> Result<Depth, Error> {
        // Taken out for the time of the question: after any failure the channel is of no use.
        let mut link = self.link.lock().await;
        let (connection, channel) = match link.take() {
            Some((connection, channel)) if channel.status().connected() => (connection, channel),
            _ => {
                let connection = connection::open(&self.config, "monitor").await?;
                let channel = connection.create_channel().await?;
                (connection, channel)
            }
        };
        let options = QueueDeclareOptions::durable().passive();
        let question = channel.queue_declare(queue.into(), options, FieldTable::default());
        let answer = tokio::time::timeout(ASK, question)
            .await
            .map_err(|_| Error::Unavailable("it does not answer"))??;
        *link = Some((connection, channel));
        Ok(Depth {
            messages: answer.message_count(),
            consumers: answer.consumer_count(),
        })
    }

    /// Shows the depth of queues in the metrics `muster_amqp_queue_messages{queue}` and
    /// `muster_amqp_queue_consumers{queue}` until `tasks` stop.
    pub fn watch(&self, queues: Vec<String>, period: Duration, tasks: &Tasks) {
        crate::describe::describe();
        let monitor = self.clone();
        let queues = Arc::new(queues);
        tasks.every("amqp-monitor", period, None, move || {
            let (monitor, queues) = (monitor.clone(), Arc::clone(&queues));
            async move {
                for queue in queues.iter() {
                    let depth = monitor.queue_depth(queue).await?;
                    let label = || queue.clone();
                    metrics::gauge!("muster_amqp_queue_messages", "queue" => label())
                        .set(f64::from(depth.messages));
                    metrics::gauge!("muster_amqp_queue_consumers", "queue" => label())
                        .set(f64::from(depth.consumers));
                }
                Ok::<(), Error>(())
            }
        });
    }
}
