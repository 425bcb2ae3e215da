//! A distribution point: keeps content named by its SHA-256 and serves it to clients, over
//! `/content/<sha256>` and as an apt archive of the vendor's signed files.
//!
//! In reading order: [`config`] what it is told; `domain` its rules; `store` its disk; `app` what
//! the site server asks of it; `tasks` what it does by itself; `grpc` the site server's door;
//! `http` the clients' door.

mod app;
pub mod config;
mod describe;
mod domain;
mod grpc;
mod http;
mod store;
mod tasks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use muster_proto::content::content_service_server::ContentServiceServer;
use muster_runtime::Tasks;
use muster_runtime::admin::{self, Readiness};
use muster_runtime::grpc::{Handle, Limits, Server, ServerConfig};

pub use config::Config;

use crate::app::{Parents, Point, Upstream};

/// Time for calls in hand at the end, and then for transfers and tasks.
const STOP_CALLS: Duration = Duration::from_secs(4);
const STOP_TASKS: Duration = Duration::from_secs(5);

/// A running distribution point.
#[derive(Debug)]
pub struct DistributionPoint {
    grpc: Handle,
    content_addr: SocketAddr,
    admin_addr: SocketAddr,
    readiness: Readiness,
    tasks: Tasks,
}

/// Opens the store and all ports. When this returns, everybody can call.
///
/// # Errors
/// When the data folder, a certificate or an address cannot be used.
pub async fn start(config: Config) -> anyhow::Result<DistributionPoint> {
    describe::describe();
    let (tasks, readiness) = (Tasks::new(), Readiness::new());
    let server = ServerConfig {
        listen: config.listen,
        tls: config.tls.clone(),
        limits: Limits::default(),
    };
    let site_server = config.parent.site_server.as_deref();
    let parents = Parents::new(site_server, &config.tls, &config.fetch)?;
    let upstream = Upstream::new(&config.fetch, parents)?;
    let point = Arc::new(Point::open(config, tasks.clone()).await?);
    for _ in 0..point.config.fetch.concurrency.max(1) {
        let (point, upstream) = (Arc::clone(&point), upstream.clone());
        tasks.spawn("fetch-content", async move {
            tasks::fetch_wanted(&point, &upstream).await
        });
    }
    let scrubbed = Arc::clone(&point);
    tasks.every("scrub-content", point.config.scrub.every, None, move || {
        let point = Arc::clone(&scrubbed);
        async move { tasks::scrub_content(&point).await }
    });
    let admin_addr = admin::serve(&point.config.admin, readiness.clone(), &tasks).await?;
    let content_addr = http::listen(&point, &tasks).await?;
    let grpc = Server::new(server, grpc::access::TABLE)
        .descriptors(muster_proto::DESCRIPTORS)
        .add_service(ContentServiceServer::new(grpc::Door { point }))
        .start()
        .await?;
    readiness.set(true);
    Ok(DistributionPoint {
        grpc,
        content_addr,
        admin_addr,
        readiness,
        tasks,
    })
}

impl DistributionPoint {
    /// Where the site server calls.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.grpc.addr()
    }

    /// Where clients fetch.
    #[must_use]
    pub const fn content_addr(&self) -> SocketAddr {
        self.content_addr
    }

    /// Probes and metrics.
    #[must_use]
    pub const fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Takes no new work, finishes what is in hand within 9 seconds; clients resume the rest.
    pub async fn stop(self) {
        self.readiness.set(false);
        self.grpc.stop(STOP_CALLS).await;
        self.tasks.stop(STOP_TASKS).await;
    }
}
