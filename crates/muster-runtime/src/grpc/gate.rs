//! What every call passes on its way to a handler, in this order: span, authorisation, admission,
//! deadline, count.

use std::collections::HashSet;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument, Span, field};

use crate::Identity;
use crate::auth::Rules;
use crate::status::{Kind, status, status_after};
use crate::telemetry;
use crate::tls::Peer;

/// What callers are asked to wait when the server is full.
const FULL_DELAY: Duration = Duration::from_secs(2);

/// Settings shared by all connections of a server.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) rules: Rules,
    pub(crate) streaming: HashSet<String>,
    pub(crate) admission: Arc<Semaphore>,
    pub(crate) timeout: Duration,
}

#[derive(Debug, Clone)]
pub(crate) struct GateLayer(pub(crate) Arc<Gate>);

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated {
            gate: Arc::clone(&self.0),
            inner,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Gated<S> {
    gate: Arc<Gate>,
    inner: S,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let started = Instant::now();
        let method = self.gate.rules.label(request.uri().path());
        let caller: Option<Arc<Identity>> = request
            .extensions()
            .get::<Peer>()
            .and_then(|peer| peer.identity.clone());
        let span = span(method, caller.as_deref(), &request);
        let checked = self
            .gate
            .rules
            .check(request.uri().path(), caller.as_deref());
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        // The clone keeps the service that `poll_ready` was asked about for this call.
        let ready = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, ready);
        let gate = Arc::clone(&self.gate);
        let inside = span.clone();
        Box::pin(
            async move {
                let response = match checked {
                    Ok(()) => admit(&gate, inner, request).await,
                    Err(status) => {
                        tracing::warn!(code = ?status.code(), "call denied");
                        status.into_http()
                    }
                };
                record(method, &inside, &response, started.elapsed());
                Ok(response)
            }
            .instrument(span),
        )
    }
}

async fn admit<S>(gate: &Gate, mut inner: S, request: Request<Body>) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    // A full server says so at once: waiting here would only hide the load from the caller.
    let Ok(_permit) = gate.admission.try_acquire() else {
        return status_after(
            Kind::Exhausted,
            "SERVER_BUSY",
            "too many calls at once",
            FULL_DELAY,
        )
        .into_http();
    };
    let lasts = gate.streaming.contains(request.uri().path());
    let call = inner.call(request);
    let result = if lasts {
        call.await
    } else {
        match tokio::time::timeout(gate.timeout, call).await {
            Ok(result) => result,
            Err(_) => return too_late().into_http(),
        }
    };
    match result {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// The call took too long. What it did is unknown, and the caller may repeat it.
fn too_late() -> Status {
    status(Kind::Unavailable, "TIMEOUT", "the call took too long")
}

fn span(method: &'static str, caller: Option<&Identity>, request: &Request<Body>) -> Span {
    let span = tracing::info_span!(
        "rpc",
        otel.name = method,
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.method = method,
        rpc.code = field::Empty,
        client.id = caller.map(|caller| caller.name.as_str()),
        client.role = caller.map(|caller| caller.role.as_str()),
    );
    let parent = request.headers().get(telemetry::TRACEPARENT);
    if let Some(parent) = parent.and_then(|value| value.to_str().ok()) {
        telemetry::set_parent(&span, parent);
    }
    span
}

fn record(method: &'static str, span: &Span, response: &Response<Body>, elapsed: Duration) {
    // An error is known from the headers; what happens inside a stream later is not.
    let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
    let name = code_name(code);
    if code != Code::Ok {
        // A field that comes later has the log parse all fields of the span and write them again:
        // a tenth of a short call.
        span.record("rpc.code", name);
    }
    metrics::counter!("muster_grpc_requests_total", "method" => method, "code" => name)
        .increment(1);
    metrics::histogram!("muster_grpc_request_seconds", "method" => method)
        .record(elapsed.as_secs_f64());
}

const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
