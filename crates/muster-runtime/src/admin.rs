//! The admin port of a process: `/healthz` (it lives), `/readyz` (it can serve) and `/metrics`
//! (Prometheus text).
//!
//! It is the one port in plain HTTP: the kubelet's probes and most scrapers bring no certificate
//! of ours. So it listens on loopback or the pod's own address, answers nothing but these three
//! paths, and none of them holds a secret or a client's name.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::config::AdminConfig;
use crate::{Tasks, telemetry};

/// How often the metrics recorder sorts what it collected, whether or not somebody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Whether the process can serve. Starts as "no"; clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Not ready yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says whether the process can serve from now on.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    /// Whether the process can serve.
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Opens the admin port and serves it until `tasks` stop. Returns the address that was bound.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    config: &AdminConfig,
    readiness: Readiness,
    tasks: &Tasks,
) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(config.listen).await?;
    let addr = listener.local_addr()?;
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(readiness);
    let token = tasks.token();
    tasks.spawn("admin", async move {
        axum::serve(listener, app)
            .with_graceful_shutdown(async move { token.cancelled().await })
            .await
    });
    tasks.every("metrics-upkeep", UPKEEP, None, || async {
        if let Some(handle) = telemetry::metrics_handle() {
            handle.run_upkeep();
        }
    });
    tracing::info!(%addr, "admin port open");
    Ok(addr)
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, &'static str) {
    if readiness.get() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

/// `muster_ready` is what `/readyz` says at this moment.
async fn metrics(State(readiness): State<Readiness>) -> impl IntoResponse {
    ::metrics::gauge!("muster_ready").set(if readiness.get() { 1.0 } else { 0.0 });
    let text = telemetry::metrics_handle()
        .map(|handle| handle.render())
        .unwrap_or_default();
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn fetch(addr: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_admin_port_tells_life_readiness_and_metrics_and_nothing_else() {
        let _telemetry = telemetry::start("test", &Default::default()).unwrap();
        let (tasks, readiness) = (Tasks::new(), Readiness::new());
        let addr = serve(&AdminConfig::default(), readiness.clone(), &tasks)
            .await
            .unwrap();
        assert!(fetch(addr, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(addr, "/readyz").await.starts_with("HTTP/1.1 503"));
        readiness.set(true);
        assert!(fetch(addr, "/readyz").await.starts_with("HTTP/1.1 200"));
        ::metrics::counter!("muster_test_total").increment(3);
        assert!(
            fetch(addr, "/metrics")
                .await
                .contains("muster_test_total 3")
        );
        assert!(fetch(addr, "/metrics").await.contains("muster_ready 1"));
        assert!(fetch(addr, "/etc/passwd").await.starts_with("HTTP/1.1 404"));
        assert!(tasks.stop(Duration::from_secs(5)).await.is_empty());
    }
}
