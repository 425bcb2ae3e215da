//! Accepts connections and serves each one, within bounds of number and time.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use muster_runtime::tls::{AcceptLimits, Alpn, ClientAuth, Connection, ServerTls, incoming};
use muster_runtime::{Identity, Role, Tasks};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

use super::answer::{Allowed, Transfers, answer};
use crate::app::Point;

/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for the requests of a connection that reached its age.
const AGE_GRACE: Duration = Duration::from_secs(60);
/// How often an idle HTTP/2 connection is asked whether it lives, and how long it may take.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Headers of one request: bytes over HTTP/2, buffer over HTTP/1.1, and how many.
const MAX_HEADERS: u32 = 16 * 1024;
const MAX_BUFFER: usize = 64 * 1024;
const MAX_HEADER_COUNT: usize = 64;
/// Streams a peer may open and reset at once before its connection is closed.
const MAX_RESETS: usize = 50;

/// The content port could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot listen on {addr}")]
    Bind { addr: SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(#[from] muster_runtime::tls::Error),
}

/// Opens the content port and serves it until `tasks` stop. Returns the address that was bound.
pub(crate) async fn listen(point: &Arc<Point>, tasks: &Tasks) -> Result<SocketAddr, Error> {
    let (limits, wanted) = (&point.config.limits, point.config.content_listen);
    let tls = ServerTls::new(&point.config.tls, ClientAuth::Required, Alpn::Http2AndHttp1)?;
    let bind = |source| Error::Bind {
        addr: wanted,
        source,
    };
    let listener = TcpListener::bind(wanted).await.map_err(bind)?;
    let addr = listener.local_addr().map_err(bind)?;
    let accept = AcceptLimits {
        connections: limits.connections,
        handshake: HANDSHAKE,
    };
    // Our connections are tasks, which end with all others.
    let uncut = CancellationToken::new();
    let mut connections = incoming(listener, Arc::new(tls), accept, tasks, &uncut);
    let (point, own) = (Arc::clone(point), tasks.clone());
    let transfers: Transfers = Arc::new(Semaphore::new(limits.transfers));
    tasks.spawn("content-accept", async move {
        while let Some(connection) = connections.next().await {
            let Ok(connection) = connection else { continue };
            let (point, transfers) = (Arc::clone(&point), Arc::clone(&transfers));
            let token = own.token();
            own.spawn("content-connection", async move {
                serve(point, transfers, connection, token.cancelled_owned()).await;
            });
        }
    });
    tracing::info!(%addr, "content port open");
    Ok(addr)
}

async fn serve(
    point: Arc<Point>,
    transfers: Transfers,
    connection: Connection,
    stopping: impl Future<Output = ()>,
) {
    let limits = point.config.limits.clone();
    let allowed = allowed(
        connection.peer().identity.as_deref(),
        &point.config.site_code,
    );
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(MAX_BUFFER)
        .max_headers(MAX_HEADER_COUNT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(MAX_HEADERS)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    let service = service_fn(move |request| {
        let (point, transfers) = (Arc::clone(&point), Arc::clone(&transfers));
        async move { Ok::<_, Infallible>(answer(&point, &transfers, allowed, &request).await) }
    });
    let connection = builder.serve_connection(TokioIo::new(connection), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = either(tokio::time::sleep(limits.connection_age), stopping) => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(AGE_GRACE, connection).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        // A client that went away, mostly.
        tracing::debug!(error, "connection ended");
    }
}

async fn either(first: impl Future<Output = ()>, second: impl Future<Output = ()>) {
    tokio::select! {
        () = first => {}
        () = second => {}
    }
}

/// Clients of this site, its other distribution points, and those of the sites below, which have
/// certificates of our authority.
fn allowed(caller: Option<&Identity>, site: &str) -> Allowed {
    match caller {
        Some(caller) if caller.site == site => match caller.role {
            Role::Client | Role::DistributionPoint => Allowed::Here,
            Role::ChildSite => Allowed::Below,
            Role::SiteServer
            | Role::ManagementPoint
            | Role::SoftwareUpdatePoint
            | Role::MessageBroker
            | Role::Database
            | Role::Administrator => Allowed::Nothing,
        },
        Some(_) | None => Allowed::Nothing,
    }
}
