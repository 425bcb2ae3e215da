//! The client's end of a call.

use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderValue, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::body::Body;
use tonic::transport::Endpoint;
use tonic::transport::channel::{self, ResponseFuture};
use tower::{Service, service_fn};

use super::Error;
use crate::config::TlsConfig;
use crate::telemetry;
use crate::tls::ClientTls;
use crate::{Identity, Role};

/// How a channel behaves.
#[derive(Debug, Clone)]
pub struct ChannelOptions {
    /// Time for TCP and TLS.
    pub connect_timeout: Duration,
    /// Time until a call's answer begins. A client that sends a long stream needs a longer one.
    pub request_timeout: Duration,
    /// Calls in hand at once; further ones wait.
    pub concurrency: usize,
    /// The role the server must have, besides a certificate for its name.
    pub server_role: Option<Role>,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            concurrency: 1_000,
            server_role: None,
        }
    }
}

/// How often an idle connection is asked whether it lives, and how long it may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Headers of one answer, all together, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;

/// A channel to one server at `https://host:port`, with our certificate. Nothing is connected
/// before the first call, and a lost connection is made anew by the next one.
///
/// # Errors
/// When the address is malformed or the certificates cannot be used.
pub fn channel(url: &str, tls: &TlsConfig, options: &ChannelOptions) -> Result<Channel, Error> {
    connect(url, ClientTls::new(tls)?, options)
}

/// As [`channel()`], without a certificate of our own: for enrolment. The server is verified
/// against the authority in `ca` all the same.
///
/// # Errors
/// When the address is malformed or the authority's certificate cannot be used.
pub fn channel_without_certificate(
    url: &str,
    ca: &Path,
    options: &ChannelOptions,
) -> Result<Channel, Error> {
    connect(url, ClientTls::without_certificate(ca)?, options)
}

/// As [`channel()`], to a server of which only the fingerprint of its authority is known (SHA-256
/// of the certificate), without a certificate of our own: for a site that joins another.
///
/// # Errors
/// When the address is malformed.
pub fn channel_pinned(
    url: &str,
    authority: [u8; 32],
    options: &ChannelOptions,
) -> Result<Channel, Error> {
    connect(url, ClientTls::pinned(authority)?, options)
}

/// As [`channel()`], with certificates that are at hand instead of in files.
///
/// # Errors
/// When the address is malformed or the certificates cannot be used.
pub fn channel_with(url: &str, tls: ClientTls, options: &ChannelOptions) -> Result<Channel, Error> {
    connect(url, tls, options)
}

/// Whether a call failed because the server's certificate is not to be trusted: somebody else
/// answers there.
#[must_use]
pub fn is_foreign(status: &tonic::Status) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = next {
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let found = inner.or_else(|| error.downcast_ref::<rustls::Error>());
        if matches!(found, Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        next = error.source();
    }
    false
}

fn connect(url: &str, tls: ClientTls, options: &ChannelOptions) -> Result<Channel, Error> {
    let malformed = || Error::Endpoint(url.to_owned());
    let origin: Uri = url.parse().map_err(|_| malformed())?;
    let host = origin
        .host()
        .ok_or_else(malformed)?
        .trim_matches(['[', ']'])
        .to_owned();
    if origin.scheme() != Some(&Scheme::HTTPS) || origin.path() != "/" {
        return Err(malformed());
    }
    let port = origin.port_u16().unwrap_or(443);
    let name = ServerName::try_from(host.clone()).map_err(|_| malformed())?;

    // tonic would do its own TLS for https, without reloading and with older versions. So it
    // sees a plain address and our connector brings the encrypted stream; calls still say https.
    let mut plain = origin.clone().into_parts();
    plain.scheme = Some(Scheme::HTTP);
    let plain = Uri::from_parts(plain).map_err(|_| malformed())?;
    let endpoint = Endpoint::from(plain)
        .origin(origin)
        .connect_timeout(options.connect_timeout)
        .timeout(options.request_timeout)
        .concurrency_limit(options.concurrency)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(MAX_HEADERS);

    let tls = Arc::new(tls);
    let role = options.server_role;
    let connector = service_fn(move |_: Uri| {
        let (tls, name, host) = (
            TlsConnector::from(tls.current()),
            name.clone(),
            host.clone(),
        );
        async move {
            let socket = TcpStream::connect((host.as_str(), port)).await?;
            socket.set_nodelay(true)?;
            let stream = tls.connect(name, socket).await?;
            verify_role(&stream, role)?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    Ok(Channel {
        inner: endpoint.connect_with_connector_lazy(connector),
    })
}

fn verify_role(stream: &TlsStream<TcpStream>, wanted: Option<Role>) -> std::io::Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    let leaf = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first);
    let found = leaf
        .map(|leaf| Identity::from_certificate(leaf))
        .transpose();
    match found.map_err(std::io::Error::other)? {
        Some(identity) if identity.role == wanted => Ok(()),
        _ => Err(std::io::Error::other(format!(
            "the server is not a {wanted}"
        ))),
    }
}

/// A connection to a server, shared by its clones; generated clients take it as their transport:
/// `StateServiceClient::new(channel)`. Each call carries the trace context of the current span.
#[derive(Debug, Clone)]
pub struct Channel {
    inner: channel::Channel,
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let header = telemetry::traceparent().and_then(|text| HeaderValue::try_from(text).ok());
        if let Some(header) = header {
            request.headers_mut().insert(telemetry::TRACEPARENT, header);
        }
        self.inner.call(request)
    }
}
