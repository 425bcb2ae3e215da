//! The way to the site server: one channel, one generated client per service, and the loops that
//! every list and every watch need.

use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use muster_proto::catalog::{
    sync_service_client::SyncServiceClient, update_service_client::UpdateServiceClient,
};
use muster_proto::client::client_service_client::ClientServiceClient;
use muster_proto::collection::collection_service_client::CollectionServiceClient;
use muster_proto::content::package_service_client::PackageServiceClient;
use muster_proto::deployment::deployment_service_client::DeploymentServiceClient;
use muster_proto::report::report_service_client::ReportServiceClient;
use muster_proto::site::site_service_client::SiteServiceClient;
use muster_proto::state::backlog_service_client::BacklogServiceClient;
use muster_runtime::grpc::{Channel, ChannelOptions, channel};
use muster_runtime::tls::ClientTls;
use muster_runtime::{Backoff, Role, status};
use rustls_pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::transport::Uri;

use crate::config::Context;
use crate::failure::{CONNECTION_CLOSED, Failure, Kind, certificate_refused, is_connection};

/// Items asked for at once; the site allows as many for every list.
const PAGE: u32 = 1_000;
/// More items than any list of a site has: a server that never ends must not fill our memory.
const MAX_ITEMS: usize = 2_000_000;
/// How long a watch tries to find a site server that went away, and one that never answered.
const RECONNECT: Duration = Duration::from_secs(120);
const FIRST_CONNECT: Duration = Duration::from_secs(5);
/// How long finding out about a closed connection may take.
const PROBE: Duration = Duration::from_secs(5);

/// A site server, ready to be called. Nothing is connected before the first call.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    channel: Channel,
    context: Context,
}

macro_rules! services {
    ($($name:ident: $client:ident),+ $(,)?) => {
        impl Site {
            $(
                pub(crate) fn $name(&self) -> $client<Channel> {
                    $client::new(self.channel.clone())
                }
            )+
        }
    };
}

services! {
    backlog: BacklogServiceClient,
    clients: ClientServiceClient,
    collections: CollectionServiceClient,
    deployments: DeploymentServiceClient,
    packages: PackageServiceClient,
    reports: ReportServiceClient,
    sites: SiteServiceClient,
    syncs: SyncServiceClient,
    updates: UpdateServiceClient,
}

impl Site {
    /// The site of a context; a call may take as long as `timeout`.
    pub(crate) fn new(context: &Context, timeout: Duration) -> Result<Self, Failure> {
        let options = ChannelOptions {
            request_timeout: timeout,
            server_role: Some(Role::SiteServer),
            ..ChannelOptions::default()
        };
        let channel = channel(&context.site_server, &context.tls(), &options)?;
        Ok(Self {
            channel,
            context: context.clone(),
        })
    }

    /// A server that refuses our certificate closes the connection, and its reason is lost
    /// between the layers of a channel. So after such an end we look at it without one.
    pub(crate) async fn explain(&self, failure: Failure) -> Failure {
        if failure.reason != CONNECTION_CLOSED {
            return failure;
        }
        match tokio::time::timeout(PROBE, probe(&self.context)).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                certificate_refused(status::chain(&error))
            }
            _ => failure,
        }
    }
}

/// Shakes hands and waits for the first bytes, or for the alert that comes in their place.
async fn probe(context: &Context) -> io::Result<()> {
    let tls = ClientTls::new(&context.tls()).map_err(io::Error::other)?;
    let uri: Uri = context.site_server.parse().map_err(io::Error::other)?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let socket = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
    let mut stream = TlsConnector::from(tls.current())
        .connect(name, socket)
        .await?;
    stream.read_u8().await.map(drop)
}

/// Fetches page after page until there is none, or `limit` items are there (0: no limit).
/// `fetch` takes a page's size and token and answers items and the next token.
pub(crate) async fn pages<T>(
    limit: u32,
    mut fetch: impl AsyncFnMut(u32, String) -> Result<(Vec<T>, String), Status>,
) -> Result<Vec<T>, Failure> {
    let limit = if limit == 0 {
        usize::MAX
    } else {
        limit as usize
    };
    let (mut items, mut token) = (Vec::new(), String::new());
    loop {
        let size = u32::try_from(limit - items.len()).unwrap_or(PAGE).min(PAGE);
        let (page, next) = fetch(size, token.clone()).await?;
        items.extend(page);
        if items.len() >= limit || next.is_empty() {
            items.truncate(limit);
            return Ok(items);
        }
        if next == token || items.len() > MAX_ITEMS {
            return Err(Failure::new(
                Kind::General,
                "ENDLESS_LIST",
                "the list does not end",
            ));
        }
        token = next;
    }
}

/// Patience for a site server that restarts while somebody watches.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    lost_since: Option<Instant>,
    backoff: Backoff,
}

impl Patience {
    /// Little patience: nothing has been heard yet.
    pub(crate) fn new() -> Self {
        Self {
            limit: FIRST_CONNECT,
            lost_since: None,
            backoff: fresh(),
        }
    }

    /// An answer came: the patience is full.
    pub(crate) fn refill(&mut self) {
        *self = Self {
            limit: RECONNECT,
            ..Self::new()
        };
    }

    /// Waits a moment before the next attempt; gives the failure back when it is not the
    /// connection, or when it has been away for too long.
    pub(crate) async fn wait(&mut self, status: Status) -> Result<(), Failure> {
        let since = *self.lost_since.get_or_insert_with(Instant::now);
        if !is_connection(&status) || since.elapsed() > self.limit {
            return Err(status.into());
        }
        tokio::time::sleep(self.backoff.next_delay()).await;
        Ok(())
    }
}

fn fresh() -> Backoff {
    Backoff::new(Duration::from_millis(250), Duration::from_secs(5))
}

/// Runs a command with its time limit.
pub(crate) async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let Some(limit) = limit else {
        return work.await;
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let text = format!("not done after {}", humantime::format_duration(limit));
        Err(Failure::new(Kind::Timeout, "TIMEOUT", text).hint("`--timeout 5m` waits longer"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pages_end_at_the_limit_or_at_the_last_page() {
        let list = |limit| {
            pages(limit, async |size, token: String| {
                let from: u32 = token.parse().unwrap_or(0);
                let to = (from + size).min(1_234);
                let next = if to < 1_234 {
                    to.to_string()
                } else {
                    String::new()
                };
                Ok(((from..to).collect(), next))
            })
        };
        assert_eq!(list(0).await.unwrap().len(), 1_234);
        assert_eq!(list(700).await.unwrap().len(), 700);
        assert_eq!(list(3).await.unwrap(), [0, 1, 2]);
    }

    #[tokio::test]
    async fn a_list_that_repeats_a_page_is_left() {
        let list = pages(0, async |_, _| Ok((vec![1], "again".to_owned())));
        assert_eq!(list.await.unwrap_err().reason, "ENDLESS_LIST");
    }
}
