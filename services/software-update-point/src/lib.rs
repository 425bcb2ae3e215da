//! The software update point: keeps the update catalog current and serves scan metadata.
//!
//! A synchronisation is `app/sync_catalog.rs`; what it may trust is decided in `app/fetch_suite.rs`,
//! what it changes in `domain/diff.rs`. A site below follows the one above: `app/take_over_catalog.rs`,
//! `domain/replica.rs`. What a client gets is decided in `domain/scan.rs`.
//! The catalog's tables are in `migrations/software-update-point/`.

mod app;
mod config;
mod describe;
mod domain;
mod grpc;
mod store;
mod tasks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use muster_proto::catalog::catalog_service_server::CatalogServiceServer;
use muster_proto::catalog::replica_service_server::ReplicaServiceServer;
use muster_proto::catalog::scan_service_server::ScanServiceServer;
use muster_proto::catalog::sync_service_server::SyncServiceServer;
use muster_runtime::admin::{self, Readiness};
use muster_runtime::grpc::{Limits, Server, ServerConfig};
use muster_runtime::{Tasks, grpc as runtime_grpc};
use tonic::codec::CompressionEncoding;

pub use config::{
    CheckValidUntil, Config, Fetch, ListedSource, MachineWord, ParentSource, Schedule, Source,
    SourceKind, Sources,
};

use crate::app::Point;
use crate::domain::schedule::Rule;
use crate::store::parent::Parent;
use crate::tasks::follow_parent::follow_parent;
use crate::tasks::refresh_catalog::refresh_catalog;
use crate::tasks::sync_on_schedule::sync_on_schedule;

#[allow(missing_docs, unreachable_pub, reason = "the macro writes it")]
mod schema {
    refinery::embed_migrations!("../../migrations/software-update-point");
}

/// How often the generation of the database is looked at.
const REFRESH: Duration = Duration::from_secs(5);
/// How often the schedule is looked at.
const SCHEDULE: Duration = Duration::from_secs(10);
/// How long calls and tasks may take to end.
const STOP: Duration = Duration::from_secs(10);

/// A running software update point.
#[derive(Debug)]
pub struct Handle {
    server: runtime_grpc::Handle,
    admin: SocketAddr,
    readiness: Readiness,
    tasks: Tasks,
    point: Arc<Point>,
}

impl Handle {
    /// Where it answers calls.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Where it answers probes and shows metrics.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// How many updates are in force in its catalog.
    #[must_use]
    pub fn updates(&self) -> usize {
        self.point.catalog().in_force()
    }

    /// Takes no new work, lets what is in hand end, and stops. A synchronisation that runs is given up;
    /// the catalog stays as it was.
    pub async fn stop(self) {
        self.readiness.set(false);
        self.server.stop(STOP).await;
        self.tasks.stop(STOP).await;
    }
}

/// Brings the tables up to date, loads the catalog, binds the ports and starts the tasks. When it
/// returns, calls are answered.
///
/// # Errors
/// When the database, the data folder, the certificates or an address cannot be used.
pub async fn start(config: Config) -> anyhow::Result<Handle> {
    muster_postgres::migrate(&config.postgres, schema::migrations::runner()).await?;
    let pool = muster_postgres::connect(&config.postgres).await?;
    describe::describe();
    let tasks = Tasks::new();
    muster_postgres::watch(&pool, "catalog", &tasks);
    let schedule = Rule {
        every: config.schedule.full_sync_every,
        retry_after: config.schedule.retry_after,
        // A parent is looked at all the time, and may not be there yet.
        at_start: config.schedule.sync_at_start && config.source.kind == SourceKind::Apt,
    };
    let parent = parent(&config)?;
    let poll_interval = config.source.parent.poll_interval;
    let (data_dir, source, fetch) = (&config.data_dir, config.source, config.fetch);
    let point = Point::new(
        pool.clone(),
        data_dir,
        parent,
        source,
        fetch,
        schedule,
        tasks.clone(),
    )?;
    let point = Arc::new(point);
    {
        let db = pool.get().await?;
        let interrupted = store::syncs::end_interrupted(&db, Timestamp::now()).await?;
        if interrupted > 0 {
            tracing::warn!(interrupted, "synchronisations were interrupted");
        }
    }
    point.refresh().await?;

    let readiness = Readiness::new();
    let admin = admin::serve(&config.admin, readiness.clone(), &tasks).await?;
    let server = ServerConfig {
        listen: config.listen,
        tls: config.tls,
        limits: Limits::default(),
    };
    let scan = ScanServiceServer::new(grpc::Scan(Arc::clone(&point)))
        .accept_compressed(CompressionEncoding::Zstd)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Gzip);
    let server = Server::new(server, grpc::access::ACCESS)
        .descriptors(muster_proto::DESCRIPTORS)
        .add_service(scan)
        .add_service(SyncServiceServer::new(grpc::Syncs(Arc::clone(&point))))
        .add_service(CatalogServiceServer::new(grpc::Catalog(Arc::clone(&point))))
        .add_service(ReplicaServiceServer::new(grpc::Replicas(Arc::clone(
            &point,
        ))))
        .start()
        .await?;

    let held = Arc::clone(&point);
    tasks.every("refresh-catalog", REFRESH, None, move || {
        refresh_catalog(Arc::clone(&held))
    });
    let held = Arc::clone(&point);
    let nudge = Arc::clone(&point.nudge);
    tasks.every("sync-on-schedule", SCHEDULE, Some(nudge), move || {
        sync_on_schedule(Arc::clone(&held))
    });
    if point.parent.is_some() {
        let held = Arc::clone(&point);
        tasks.every("follow-parent", poll_interval, None, move || {
            follow_parent(Arc::clone(&held))
        });
    }
    readiness.set(true);
    Ok(Handle {
        server,
        admin,
        readiness,
        tasks,
        point,
    })
}

/// The software update point above, when it is what is followed.
fn parent(config: &Config) -> anyhow::Result<Option<Parent>> {
    if config.source.kind == SourceKind::Apt {
        return Ok(None);
    }
    let site_server = config.source.parent.site_server.as_deref();
    let site_server =
        site_server.context("source.kind is \"parent\" without source.parent.site_server")?;
    Ok(Some(Parent::new(site_server, &config.tls)?))
}
