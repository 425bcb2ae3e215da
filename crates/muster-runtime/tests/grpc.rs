//! A server and its callers over real TLS: who gets in, and as whom.
#![allow(clippy::unwrap_used)] // a failure here is a failure of the test

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use muster_runtime::auth::{Caller, Table};
use muster_runtime::config::TlsConfig;
use muster_runtime::grpc::{
    ChannelOptions, Handle, Limits, Server, ServerConfig, channel, channel_without_certificate,
};
use muster_runtime::tls::ca::{self, CertificateAuthority};
use muster_runtime::{Identity, Role};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

const TABLE: Table = &[
    ("/test.Echo/Enrol", &[Caller::Anyone]),
    ("/test.Echo/Report", &[Caller::Role(Role::Client)]),
    ("/test.Echo/Slow", &[Caller::Role(Role::Client)]),
    ("/test.Echo/Watch", &[Caller::Role(Role::Client)]),
];

/// Answers every call with OK and the caller's name in a header; `Slow` takes for ever, and
/// `Watch` answers with a stream that never ends.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = futures::future::Either<
        Ready<Result<Response<Body>, Infallible>>,
        std::future::Pending<Result<Response<Body>, Infallible>>,
    >;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path().ends_with("Slow") {
            return futures::future::Either::Right(std::future::pending());
        }
        if request.uri().path().ends_with("Watch") {
            let endless =
                StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, Status>>());
            return futures::future::Either::Left(ready(Ok(Response::new(Body::new(endless)))));
        }
        let caller = request.extensions().get::<Arc<Identity>>();
        let name = caller.map_or_else(|| "nobody".to_owned(), |caller| caller.to_string());
        let mut response = Status::new(Code::Ok, "").into_http();
        response
            .headers_mut()
            .insert("x-caller", name.parse().unwrap());
        futures::future::Either::Left(ready(Ok(response)))
    }
}

struct World {
    folder: TempDir,
    ca: CertificateAuthority,
}

impl World {
    fn new() -> Self {
        muster_runtime::crypto::install();
        let folder = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::create(folder.path(), "P01").unwrap();
        Self { folder, ca }
    }

    fn certificate(&self, role: Role, name: &str) -> TlsConfig {
        let issued = self
            .ca
            .issue(role, name, &["localhost", "127.0.0.1"])
            .unwrap();
        issued
            .write(self.folder.path(), name, self.ca.path())
            .unwrap()
    }

    async fn server(&self, limits: Limits, open: bool) -> Handle {
        let tls = self.certificate(Role::ManagementPoint, "mp1");
        let listen = "127.0.0.1:0".parse().unwrap();
        let server = Server::new(
            ServerConfig {
                listen,
                tls,
                limits,
            },
            TABLE,
        )
        .add_service(Echo);
        let server = if open {
            server.allow_without_certificate()
        } else {
            server
        };
        server.start().await.unwrap()
    }
}

fn url(addr: SocketAddr) -> String {
    format!("https://localhost:{}", addr.port())
}

/// The code of the answer, and whom the server took us for.
async fn call(
    channel: muster_runtime::grpc::Channel,
    path: &str,
) -> Result<(Code, Option<String>), tonic::transport::Error> {
    let request = Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::empty())
        .unwrap();
    let response = channel.oneshot(request).await?;
    let status = Status::from_header_map(response.headers()).unwrap();
    let caller = response
        .headers()
        .get("x-caller")
        .map(|name| name.to_str().unwrap().to_owned());
    Ok((status.code(), caller))
}

fn options() -> ChannelOptions {
    ChannelOptions {
        connect_timeout: Duration::from_secs(5),
        ..ChannelOptions::default()
    }
}

#[tokio::test]
async fn a_caller_is_who_its_certificate_says() {
    let world = World::new();
    let server = world.server(Limits::default(), false).await;
    let tls = world.certificate(Role::Client, "c-1");
    let channel = channel(&url(server.addr()), &tls, &options()).unwrap();
    let answer = call(channel.clone(), "/test.Echo/Report").await.unwrap();
    assert_eq!(
        answer,
        (Code::Ok, Some("muster://P01/client/c-1".to_owned()))
    );
    assert_eq!(
        call(channel, "/test.Echo/Other").await.unwrap().0,
        Code::PermissionDenied
    );
    server.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn another_role_is_denied_and_may_still_ask_for_health() {
    let world = World::new();
    let server = world.server(Limits::default(), false).await;
    let tls = world.certificate(Role::Administrator, "root");
    let channel = channel(&url(server.addr()), &tls, &options()).unwrap();
    let answer = call(channel.clone(), "/test.Echo/Report").await.unwrap();
    assert_eq!(answer, (Code::PermissionDenied, None));
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest {
        service: "test.Echo".to_owned(),
    };
    assert_eq!(health.check(request).await.unwrap().into_inner().status, 1);
    server.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn without_a_certificate_only_enrolment_is_open() {
    let world = World::new();
    let server = world.server(Limits::default(), true).await;
    let url = url(server.addr());
    let channel = channel_without_certificate(&url, world.ca.path(), &options()).unwrap();
    let answer = call(channel.clone(), "/test.Echo/Enrol").await.unwrap();
    assert_eq!(answer, (Code::Ok, Some("nobody".to_owned())));
    for path in [
        "/test.Echo/Report",
        "/test.Echo/Other",
        "/grpc.health.v1.Health/Check",
    ] {
        let answer = call(channel.clone(), path).await.unwrap();
        assert_eq!(answer, (Code::Unauthenticated, None), "{path}");
    }
    server.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_server_that_requires_certificates_refuses_the_connection_without_one() {
    let world = World::new();
    let server = world.server(Limits::default(), false).await;
    let url = url(server.addr());
    let channel = channel_without_certificate(&url, world.ca.path(), &options()).unwrap();
    assert!(call(channel, "/test.Echo/Enrol").await.is_err());
    server.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_by_both_ends() {
    let (world, other) = (World::new(), World::new());
    let server = world.server(Limits::default(), true).await;
    // The other site's client, which even trusts our authority.
    let mut tls = other.certificate(Role::Client, "c-1");
    tls.ca = world.ca.path().to_owned();
    let stranger = channel(&url(server.addr()), &tls, &options()).unwrap();
    assert!(call(stranger, "/test.Echo/Enrol").await.is_err());
    // Our client, led to a server that its authority does not know.
    let mut tls = world.certificate(Role::Client, "c-2");
    tls.ca = other.ca.path().to_owned();
    let misled = channel(&url(server.addr()), &tls, &options()).unwrap();
    assert!(call(misled, "/test.Echo/Enrol").await.is_err());
    server.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_client_insists_on_the_name_and_the_role_of_its_server() {
    let world = World::new();
    let server = world.server(Limits::default(), false).await;
    let tls = world.certificate(Role::Client, "c-1");
    let wrong = ChannelOptions {
        server_role: Some(Role::SiteServer),
        ..options()
    };
    let channel_to = |url: &str, options| channel(url, &tls, &options).unwrap();
    assert!(
        call(channel_to(&url(server.addr()), wrong), "/test.Echo/Report")
            .await
            .is_err()
    );
    let right = ChannelOptions {
        server_role: Some(Role::ManagementPoint),
        ..options()
    };
    assert!(
        call(channel_to(&url(server.addr()), right), "/test.Echo/Report")
            .await
            .is_ok()
    );
    let unnamed = format!("https://127.0.0.2:{}", server.addr().port());
    assert!(
        call(channel_to(&unnamed, options()), "/test.Echo/Report")
            .await
            .is_err()
    );
    for malformed in [
        "http://localhost:1",
        "localhost:1",
        "https://localhost:1/path",
        "",
    ] {
        assert!(channel(malformed, &tls, &options()).is_err(), "{malformed}");
    }
    server.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_certificate_signed_from_a_request_works_for_calls() {
    let world = World::new();
    let server = world.server(Limits::default(), false).await;
    let request = ca::signing_request().unwrap();
    let identity = Identity::new(Role::Client, "P01", "enrolled").unwrap();
    let signed = world
        .ca
        .sign_csr(&request.der, &identity, ca::CLIENT_VALIDITY)
        .unwrap();
    let (cert, key) = (
        world.folder.path().join("e.pem"),
        world.folder.path().join("e.key"),
    );
    std::fs::write(&cert, signed.pem).unwrap();
    std::fs::write(&key, request.key_pem).unwrap();
    let tls = TlsConfig {
        ca: world.ca.path().to_owned(),
        cert,
        key,
    };
    let channel = channel(&url(server.addr()), &tls, &options()).unwrap();
    assert_eq!(
        call(channel, "/test.Echo/Report").await.unwrap().1.unwrap(),
        identity.to_string()
    );
    server.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn tls_1_2_and_plaintext_get_nothing() {
    let world = World::new();
    let server = world.server(Limits::default(), false).await;
    let tls = world.certificate(Role::Client, "c-1");
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(&tls.ca).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut outcomes = Vec::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(&tls.cert).unwrap()],
                PrivateKeyDer::from_pem_file(&tls.key).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let socket = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("localhost").unwrap();
        outcomes.push(connector.connect(name, socket).await.is_ok());
    }
    assert_eq!(outcomes, [false, true], "TLS 1.2, TLS 1.3");

    let mut socket = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
    socket
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    // At most a TLS alert record (type 21), never HTTP.
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    server.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_call_has_a_deadline_and_a_full_server_says_so() {
    let world = World::new();
    let limits = Limits {
        calls: 1,
        call_timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    let server = world.server(limits, false).await;
    let tls = world.certificate(Role::Client, "c-1");
    let channel = channel(&url(server.addr()), &tls, &options()).unwrap();
    let slow = call(channel.clone(), "/test.Echo/Slow");
    let second = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        call(channel.clone(), "/test.Echo/Report").await
    };
    let (slow, second) = tokio::join!(slow, second);
    assert_eq!(slow.unwrap().0, Code::Unavailable);
    assert_eq!(second.unwrap().0, Code::ResourceExhausted);
    assert_eq!(
        call(channel, "/test.Echo/Report").await.unwrap().0,
        Code::Ok
    );
    server.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn streams_that_never_end_are_cut_in_time() {
    let world = World::new();
    let server = world.server(Limits::default(), false).await;
    let tls = world.certificate(Role::Client, "c-1");
    let channel = channel(&url(server.addr()), &tls, &options()).unwrap();
    let request = Request::post("/test.Echo/Watch")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::empty())
        .unwrap();
    let mut endless = channel.oneshot(request).await.unwrap().into_body();
    let began = std::time::Instant::now();
    let timeout = Duration::from_secs(2);
    let (ended, ()) = tokio::join!(
        tokio::time::timeout(timeout * 2, endless.frame()),
        server.stop(timeout)
    );
    assert!(began.elapsed() < timeout, "{:?}", began.elapsed());
    let ended = ended.expect("the client sees the end");
    assert!(
        ended.is_none_or(|frame| frame.is_err()),
        "and not as a success"
    );
}
