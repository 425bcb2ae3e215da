//! A trace leaves the process and goes on behind a gRPC call. Alone in its file: the subscriber
//! is the whole process's.
#![allow(clippy::unwrap_used)] // a failure here is a failure of the test

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use muster_runtime::auth::{Caller, Table};
use muster_runtime::config::TelemetryConfig;
use muster_runtime::grpc::{ChannelOptions, Limits, Server, ServerConfig, channel};
use muster_runtime::tls::ca::CertificateAuthority;
use muster_runtime::{Role, telemetry};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::{Service, ServiceExt};
use tracing::Instrument;

/// A collector: keeps the bytes of what is exported.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<u8>>>);

impl NamedService for Collector {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Service<Request<Body>> for Collector {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let kept = Arc::clone(&self.0);
        Box::pin(async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            kept.lock().unwrap().extend_from_slice(&body);
            Ok(Status::new(Code::Ok, "").into_http())
        })
    }
}

/// Answers with the trace it finds itself in.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Answer {
        Box::pin(async move {
            let mut response = Status::new(Code::Ok, "").into_http();
            let trace = telemetry::traceparent().unwrap();
            response
                .headers_mut()
                .insert("x-trace", trace.parse().unwrap());
            Ok(response)
        })
    }
}

const TABLE: Table = &[("/test.Echo/Trace", &[Caller::Role(Role::Client)])];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_holds_the_caller_and_the_server() {
    let collector = Collector::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let otlp_endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let routes = Routes::new(collector.clone());
    let tasks = muster_runtime::Tasks::new();
    let mut plain = tonic::transport::Server::builder();
    tasks.spawn(
        "collector",
        plain.add_routes(routes).serve_with_incoming(incoming),
    );
    let config = TelemetryConfig {
        otlp_endpoint,
        ..TelemetryConfig::default()
    };
    let guard = telemetry::start("trace-test", &config).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let ca = CertificateAuthority::create(folder.path(), "P01").unwrap();
    let certificate = |role, name: &str| {
        let issued = ca.issue(role, name, &["localhost"]).unwrap();
        issued.write(folder.path(), name, ca.path()).unwrap()
    };
    let config = ServerConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: certificate(Role::SiteServer, "site"),
        limits: Limits::default(),
    };
    let server = Server::new(config, TABLE)
        .add_service(Echo)
        .start()
        .await
        .unwrap();
    let url = format!("https://localhost:{}", server.addr().port());
    let tls = certificate(Role::Client, "c-1");
    let channel = channel(&url, &tls, &ChannelOptions::default()).unwrap();

    let (ours, theirs) = async {
        let request = Request::post("/test.Echo/Trace")
            .body(Body::empty())
            .unwrap();
        let response = channel.oneshot(request).await.unwrap();
        let theirs = response
            .headers()
            .get("x-trace")
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        (telemetry::traceparent().unwrap(), theirs)
    }
    .instrument(tracing::info_span!("what the caller does"))
    .await;
    assert_eq!(ours[..35], theirs[..35], "the same trace");
    assert_ne!(ours[36..], theirs[36..], "another span");

    server.stop(Duration::from_secs(5)).await;
    guard.stop().await;
    let exported = collector.0.lock().unwrap().clone();
    let exported = String::from_utf8_lossy(&exported);
    for part in ["trace-test", "what the caller does", "/test.Echo/Trace"] {
        assert!(exported.contains(part), "{part} was not exported");
    }
    tasks.stop(Duration::from_millis(100)).await;
}
