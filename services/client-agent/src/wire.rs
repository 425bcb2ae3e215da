//! The agent's end of its connections. Servers come in order of preference; one that does not
//! answer is passed over for the next.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use muster_runtime::Role;
use muster_runtime::config::TlsConfig;
use muster_runtime::grpc::{Channel, ChannelOptions, channel};
use tonic::{Code, Status};

use crate::Error;

/// Largest answer taken, in bytes: a cold scan of a large machine is the largest.
pub(crate) const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Time for a call.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Time for TCP and TLS.
const CONNECT: Duration = Duration::from_secs(10);

/// Channels by address, made when first needed.
#[derive(Debug)]
pub(crate) struct Wire {
    tls: TlsConfig,
    channels: Mutex<HashMap<String, Channel>>,
}

impl Wire {
    /// With the client's certificate.
    #[must_use]
    pub(crate) fn new(tls: TlsConfig) -> Self {
        Self {
            tls,
            channels: Mutex::new(HashMap::new()),
        }
    }

    /// The files of our certificate.
    #[must_use]
    pub(crate) const fn tls(&self) -> &TlsConfig {
        &self.tls
    }

    /// Closes connections that nobody uses now. A fleet that reports every quarter of an hour
    /// must not hold a connection each in between.
    pub(crate) fn release(&self) {
        self.channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// A channel to one server, which must have the role.
    ///
    /// # Errors
    /// When the address or our certificate cannot be used.
    pub(crate) fn channel(&self, url: &str, role: Role) -> Result<Channel, Error> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(url) {
            return Ok(channel.clone());
        }
        let options = ChannelOptions {
            server_role: Some(role),
            ..options()
        };
        let channel = channel(url, &self.tls, &options)?;
        channels.insert(url.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// Limits of every channel of a client.
pub(crate) fn options() -> ChannelOptions {
    ChannelOptions {
        connect_timeout: CONNECT,
        request_timeout: TIMEOUT,
        concurrency: 4,
        server_role: None,
    }
}

/// Whether another server of the same role may have a better answer.
pub(crate) fn try_next(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
    )
}

/// Calls the servers in turn until one gives an answer that stands.
///
/// # Errors
/// The last server's error; [`Error::NoServer`] without servers.
pub(crate) async fn first<T, F>(
    wire: &Wire,
    urls: &[String],
    (role, what): (Role, &'static str),
    call: impl Fn(Channel) -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Status>>,
{
    let mut last = None;
    for url in urls {
        match call(wire.channel(url, role)?).await {
            Ok(answer) => return Ok(answer),
            Err(status) => {
                tracing::debug!(%url, code = ?status.code(), "call failed");
                let go_on = try_next(&status);
                last = Some(status);
                if !go_on {
                    break;
                }
            }
        }
    }
    Err(last.map_or(Error::NoServer(role.as_str()), Error::call(what)))
}
