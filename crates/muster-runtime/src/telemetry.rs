//! Logs, traces and metrics of a process.
//!
//! Logs go to stderr, one JSON object per line. Traces go to an OTLP collector when the
//! configuration names one; their context rides along in gRPC metadata and AMQP headers as a W3C
//! `traceparent`. Metrics are collected in the process and shown on the admin port.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{LogFormat, TelemetryConfig};

/// Name of the metadata entry and AMQP header that carries the trace context.
pub const TRACEPARENT: &str = "traceparent";

/// Upper bounds of the buckets of every `*_seconds` histogram.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Never exported as traces: the exporter would trace itself.
const NOT_TRACED: &str =
    "info,h2=off,hyper=off,hyper_util=off,tonic=off,tower=off,opentelemetry=off,rustls=off";

/// How long the end of a process waits for the last traces.
const FLUSH: Duration = Duration::from_secs(5);

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

/// Telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log filter of the configuration is not an env-filter.
    #[error("invalid log filter {filter:?}")]
    Filter {
        /// The filter as written.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The trace exporter could not be set up.
    #[error("cannot set up the trace exporter")]
    Otlp(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The metrics recorder could not be set up.
    #[error("cannot set up the metrics recorder")]
    Metrics(#[from] BuildError),
}

/// Keeps telemetry running; flushes the last traces when stopped or dropped.
#[derive(Debug)]
#[must_use = "telemetry ends when the guard is dropped"]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

impl Guard {
    /// Sends what is left, within five seconds.
    pub async fn stop(mut self) {
        if let Some(provider) = self.provider.take() {
            // Shutdown blocks on the exporter, which needs this runtime.
            let flush = move || provider.shutdown_with_timeout(FLUSH);
            if let Ok(Err(error)) = tokio::task::spawn_blocking(flush).await {
                tracing::warn!(%error, "the last traces were not sent");
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take() {
            // Nobody is left to tell.
            let _ = provider.shutdown_with_timeout(FLUSH);
        }
    }
}

/// Starts logs, traces and metrics under the name of the service. Call it inside the tokio
/// runtime. A second call in one process (tests) keeps the first set-up.
///
/// # Errors
/// When the log filter or the trace endpoint is invalid.
pub fn start(service: &str, config: &TelemetryConfig) -> Result<Guard, Error> {
    install_metrics()?;
    let filter = EnvFilter::builder()
        .parse(&config.log)
        .map_err(|source| Error::Filter {
            filter: config.log.clone(),
            source,
        })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .with_filter(filter)
            .boxed(),
        LogFormat::Text => lines.with_filter(filter).boxed(),
    };
    let provider = match &config.otlp_endpoint {
        Some(endpoint) => Some(tracer_provider(service, endpoint)?),
        None => None,
    };
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("muster"))
            .with_filter(EnvFilter::new(NOT_TRACED))
    });
    let first = tracing_subscriber::registry()
        .with(lines)
        .with(traces)
        .try_init()
        .is_ok();
    Ok(Guard {
        provider: provider.filter(|_| first),
    })
}

fn tracer_provider(service: &str, endpoint: &str) -> Result<SdkTracerProvider, Error> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(FLUSH)
        .build()?;
    let resource = Resource::builder()
        .with_service_name(service.to_owned())
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

fn install_metrics() -> Result<(), Error> {
    if METRICS.get().is_none() {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?;
        // Somebody else's recorder (a test's) stays; then there is nothing for us to show.
        if let Ok(handle) = builder.install_recorder() {
            let _ = METRICS.set(handle);
        }
        describe();
    }
    Ok(())
}

/// The help texts of what every process counts.
fn describe() {
    metrics::describe_gauge!("muster_ready", "Whether the process can serve: 1 or 0.");
    metrics::describe_counter!(
        "muster_grpc_requests_total",
        "gRPC calls that were answered, by method and code."
    );
    metrics::describe_histogram!(
        "muster_grpc_request_seconds",
        "Time from a gRPC call to the head of its answer, by method."
    );
    metrics::describe_counter!(
        "muster_task_failures_total",
        "Background tasks that failed or panicked, by task."
    );
    metrics::describe_counter!(
        "muster_tls_handshake_failures_total",
        "TLS connections that were refused."
    );
}

/// The recorder behind `/metrics`, once [`start`] was called.
#[must_use]
pub fn metrics_handle() -> Option<&'static PrometheusHandle> {
    METRICS.get()
}

/// The W3C trace context of the current span, to be sent along with a request or a message.
/// `None` when this process keeps no traces.
#[must_use]
pub fn traceparent() -> Option<String> {
    let context = Span::current().context();
    if !context.span().span_context().is_valid() {
        return None;
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    carrier.remove(TRACEPARENT)
}

/// Makes `span` a child of the trace that came in as `traceparent`. Call it before the span is
/// entered. Anything that is not a trace context is ignored.
pub fn set_parent(span: &Span, traceparent: &str) {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&carrier);
    if context.span().span_context().is_valid() {
        // Fails without a trace layer, and then there is no trace to continue.
        let _ = span.set_parent(context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_goes_on_across_processes() {
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let span = tracing::info_span!("child");
            set_parent(&span, PARENT);
            let sent = span.in_scope(traceparent).unwrap();
            assert!(
                sent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"),
                "{sent}"
            );
            assert_ne!(sent, PARENT);
        });
    }

    #[test]
    fn nonsense_is_no_parent_and_no_span_means_no_header() {
        set_parent(&tracing::info_span!("x"), "00-zz\r\nx: y");
        assert_eq!(traceparent(), None);
    }

    #[test]
    fn a_wrong_filter_is_refused() {
        let config = TelemetryConfig {
            log: "info,,=[".to_owned(),
            ..Default::default()
        };
        assert!(matches!(start("test", &config), Err(Error::Filter { .. })));
    }
}
