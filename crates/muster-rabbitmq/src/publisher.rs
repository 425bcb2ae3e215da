//! Sending messages so that "yes" means the broker has them on disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, Connection};
use muster_runtime::faults::{self, Control};
use muster_runtime::{Backoff, Tasks};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::message::{Headers, properties};
use crate::{Config, Error, MAX_BODY, connection};

/// How long a caller waits for room in the window.
const WAIT_FOR_ROOM: Duration = Duration::from_secs(2);
/// How long a caller waits for a connection that is just being made.
const WAIT_FOR_CONNECTION: Duration = Duration::from_secs(1);
/// How often the state of the connection is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long the end waits for confirms.
const DRAIN: Duration = Duration::from_secs(5);

/// Sends messages over one connection. Clones share it and its window.
#[derive(Debug, Clone)]
pub struct Publisher {
    requests: mpsc::Sender<Request>,
    window: Arc<Semaphore>,
    connected: watch::Receiver<bool>,
    patience: Duration,
}

#[derive(Debug)]
struct Request {
    exchange: String,
    key: String,
    body: Bytes,
    headers: Headers,
    reply: oneshot::Sender<Result<(), Error>>,
    permit: OwnedSemaphorePermit,
}

impl Publisher {
    /// Connects, and keeps connecting until `tasks` stop.
    ///
    /// # Errors
    /// When the configuration is invalid or the first connection fails, so that a wrong address
    /// stops a process at its start.
    pub async fn start(config: &Config, tasks: &Tasks) -> Result<Self, Error> {
        let link = Link::open(config).await?;
        Ok(Self::supervised(config, Some(link), tasks))
    }

    /// As [`Publisher::start`], for a process that has other work while the broker is away: the
    /// first connection is made in the background, and until then `publish` answers
    /// [`Error::Unavailable`].
    ///
    /// # Errors
    /// When the configuration is invalid.
    pub fn start_disconnected(config: &Config, tasks: &Tasks) -> Result<Self, Error> {
        config.address()?;
        Ok(Self::supervised(config, None, tasks))
    }

    fn supervised(config: &Config, link: Option<Link>, tasks: &Tasks) -> Self {
        crate::describe::describe();
        let window = usize::from(config.window);
        // The semaphore bounds the channel: there is always room for who holds a permit.
        let (sender, requests) = mpsc::channel(window);
        let (tell, connected) = watch::channel(link.is_some());
        let supervisor = Supervisor {
            config: config.clone(),
            requests,
            tell,
        };
        let token = tasks.token();
        tasks.spawn("amqp-publisher", supervisor.run(link, token));
        Self {
            requests: sender,
            window: Arc::new(Semaphore::new(window)),
            connected,
            patience: config.confirm_timeout.saturating_add(WAIT_FOR_ROOM),
        }
    }

    /// Sends one message to a queue. `Ok` means that the queue holds it on stable storage.
    ///
    /// # Errors
    /// On [`Error::Busy`], [`Error::Full`], [`Error::Unroutable`] and [`Error::TooLarge`] the
    /// broker does not have the message; on any other error that is unknown. In every case but
    /// `TooLarge` the caller keeps the message and sends it again later.
    pub async fn publish(&self, queue: &str, body: Bytes, headers: Headers) -> Result<(), Error> {
        self.publish_to("", queue, body, headers).await
    }

    /// Sends one message through an exchange. `Ok` means that every queue it was routed to, and
    /// at least one, holds it on stable storage.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub async fn publish_to(
        &self,
        exchange: &str,
        key: &str,
        body: Bytes,
        headers: Headers,
    ) -> Result<(), Error> {
        let bytes = body.len();
        if bytes > MAX_BODY {
            return Err(Error::TooLarge { bytes });
        }
        let room = Arc::clone(&self.window).acquire_owned();
        let Ok(Ok(permit)) = tokio::time::timeout(WAIT_FOR_ROOM, room).await else {
            return Err(count("busy", Error::Busy));
        };
        let mut connected = self.connected.clone();
        // The guard that `wait_for` returns must not live across an await.
        let up = async { connected.wait_for(|up| *up).await.is_ok() };
        if !tokio::time::timeout(WAIT_FOR_CONNECTION, up)
            .await
            .unwrap_or(false)
        {
            return Err(count("unavailable", Error::Unavailable("not connected")));
        }
        let (reply, answer) = oneshot::channel();
        let request = Request {
            exchange: exchange.to_owned(),
            key: key.to_owned(),
            body,
            headers,
            reply,
            permit,
        };
        if self.requests.try_send(request).is_err() {
            return Err(count("unavailable", Error::Unavailable("stopping")));
        }
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(count(
                "unknown",
                Error::Unavailable("the connection was lost"),
            )),
            Err(_) => Err(count("unknown", Error::Unavailable("no confirm in time"))),
        }
    }

    /// Whether there is a connection right now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }
}

fn count(outcome: &'static str, error: Error) -> Error {
    metrics::counter!("muster_amqp_published_total", "outcome" => outcome).increment(1);
    error
}

/// A connection with its confirming channel.
struct Link {
    connection: Connection,
    channel: Channel,
}

impl Link {
    async fn open(config: &Config) -> Result<Self, Error> {
        let connection = connection::open(config, "publisher").await?;
        let channel = connection.create_channel().await?;
        if !faults::without(Control::WithoutConfirms) {
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
        }
        Ok(Self {
            connection,
            channel,
        })
    }

    fn is_up(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }
}

/// The one owner of the connection.
struct Supervisor {
    config: Config,
    requests: mpsc::Receiver<Request>,
    tell: watch::Sender<bool>,
}

impl Supervisor {
    async fn run(mut self, first: Option<Link>, token: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut held = first;
        loop {
            let link = match held.take() {
                Some(link) => link,
                None => match self.connect(&mut backoff, &token).await {
                    Some(link) => link,
                    None => return,
                },
            };
            self.tell.send_replace(true);
            let end = self.serve(&link, &token).await;
            self.tell.send_replace(false);
            connection::close(&link.connection).await;
            match end {
                End::Stop => return,
                End::Lost(reason) => tracing::warn!(reason, "publisher lost the broker"),
            }
        }
    }

    /// Tries until there is a connection; `None` when asked to stop.
    async fn connect(&self, backoff: &mut Backoff, token: &CancellationToken) -> Option<Link> {
        loop {
            tokio::select! {
                () = token.cancelled() => return None,
                () = backoff.wait() => {}
            }
            match Link::open(&self.config).await {
                Ok(link) => {
                    backoff.reset();
                    metrics::counter!("muster_amqp_reconnects_total", "role" => "publisher")
                        .increment(1);
                    tracing::info!("publisher connected to the broker");
                    return Some(link);
                }
                Err(error) => tracing::warn!(
                    error = %muster_runtime::status::chain(&error),
                    failures = backoff.failures(),
                    "cannot connect the publisher to the broker"
                ),
            }
        }
    }

    /// Sends requests and passes confirms on until the connection is of no use; what is under
    /// way then is dropped, and its callers learn that the outcome is unknown. When asked to
    /// stop it sends what was handed over before, and waits a while for the confirms.
    async fn serve(&mut self, link: &Link, token: &CancellationToken) -> End {
        let mut under_way = FuturesUnordered::new();
        let mut look = tokio::time::interval(LOOK);
        let (mut stop_at, mut drained) = (None, false);
        loop {
            let late = stop_at.is_some_and(|at| Instant::now() >= at);
            if late || (drained && under_way.is_empty()) {
                return End::Stop;
            }
            tokio::select! {
                () = token.cancelled(), if stop_at.is_none() => {
                    self.requests.close();
                    stop_at = Some(Instant::now() + DRAIN);
                }
                request = self.requests.recv(), if !drained => match request {
                    Some(request) => under_way.push(send(&link.channel, &self.config, request)),
                    None => drained = true,
                },
                Some(answered) = under_way.next() => {
                    if !answered {
                        return End::Lost("no confirm");
                    }
                }
                _ = look.tick() => {
                    if !link.is_up() {
                        return End::Lost("connection closed");
                    }
                }
            }
        }
    }
}

enum End {
    Stop,
    Lost(&'static str),
}

/// Sends one message and tells its caller what became of it. Returns whether the broker
/// answered; when it did not, the caller learns it from the dropped reply.
async fn send(channel: &Channel, config: &Config, request: Request) -> bool {
    let Request {
        exchange,
        key,
        body,
        headers,
        reply,
        permit: _permit,
    } = request;
    if reply.is_closed() {
        return true; // The caller has given up, and will send it again.
    }
    let started = Instant::now();
    let publish = async {
        let options = BasicPublishOptions {
            mandatory: true,
            ..Default::default()
        };
        let properties = properties(&config.user, headers);
        channel
            .basic_publish(
                exchange.as_str().into(),
                key.as_str().into(),
                options,
                &body,
                properties,
            )
            .await?
            .await
    };
    let (outcome, result) = match tokio::time::timeout(config.confirm_timeout, publish).await {
        Ok(Ok(Confirmation::Ack(None))) => ("confirmed", Ok(())),
        // A message that cannot be routed is confirmed as well: only its return tells.
        Ok(Ok(Confirmation::Ack(Some(_)))) => {
            tracing::error!(exchange, key, "there is no such queue");
            ("unroutable", Err(Error::Unroutable { queue: key }))
        }
        Ok(Ok(Confirmation::Nack(_))) => ("full", Err(Error::Full { queue: key })),
        Ok(Ok(Confirmation::NotRequested)) if faults::without(Control::WithoutConfirms) => {
            ("confirmed", Ok(()))
        }
        Ok(Ok(Confirmation::NotRequested)) | Err(_) => return false,
        Ok(Err(error)) => {
            tracing::debug!(%error, exchange, key, "publish failed");
            return false;
        }
    };
    metrics::counter!("muster_amqp_published_total", "outcome" => outcome).increment(1);
    metrics::histogram!("muster_amqp_confirm_seconds").record(started.elapsed().as_secs_f64());
    // A caller who left in the meantime will send it again.
    let _ = reply.send(result);
    true
}
