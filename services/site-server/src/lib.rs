//! The site server: owns the site database, and with it the state system, policy, collections and
//! deployments of one site.
//!
//! A report comes in at `bus/states.rs`, is recorded by `app/record_states.rs`, and is asked for
//! at `grpc/report_service.rs`. What clients should do goes out at
//! `grpc/client_gateway_service.rs`, computed by `app/get_policy.rs`.

mod app;
mod bus;
mod config;
mod describe;
mod domain;
mod grpc;
mod init;
mod store;
mod tasks;
#[cfg(test)]
mod testing;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use muster_postgres::Lease;
use muster_runtime::admin::{self, Readiness};
use muster_runtime::{Backoff, Tasks};

pub use config::{
    CaConfig, ClientSettings, Config, DistributionPoint, LinksConfig, Pause, Roles, SecondarySite,
    TrendConfig,
};
pub use init::init;

mod migrations {
    refinery::embed_migrations!("../../migrations/site-server");
}

/// A standby asks this often whether the lease is free.
const STANDBY: Duration = Duration::from_secs(2);
/// How long calls and tasks in hand may take at the end.
const PATIENCE: Duration = Duration::from_secs(6);

/// A running site server.
#[derive(Debug)]
pub struct Handle {
    addr: SocketAddr,
    admin: SocketAddr,
    server: muster_runtime::grpc::Handle,
    tasks: Tasks,
    readiness: Readiness,
    lease: Lease,
    site: Arc<app::Site>,
}

impl Handle {
    /// Where gRPC is served.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where probes and metrics are served.
    #[must_use]
    pub const fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Ends when another process has taken over this site: stop at once.
    pub async fn lost(&self) {
        self.lease.lost().cancelled().await;
    }

    /// Takes no new work, finishes what is in hand, and gives up the lease.
    pub async fn stop(self) {
        self.readiness.set(false);
        self.server.stop(PATIENCE).await;
        let late = self.tasks.stop(PATIENCE).await;
        app::backlog::forget_backlog(&self.site);
        drop(self.lease);
        tracing::info!(?late, "site server stopped");
    }
}

/// Runs a site server until `shutdown` ends. When the lease is lost (the database was restarted,
/// or another process took over), everything is stopped and started again from the beginning: as
/// a standby, if somebody else is active by then.
///
/// # Errors
/// When the first start fails (see [`start`]); later failures are retried for ever.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let mut shutdown = std::pin::pin!(shutdown);
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
    let mut first = true;
    loop {
        let started = tokio::select! {
            started = start(config.clone()) => started,
            () = &mut shutdown => return Ok(()),
        };
        match started {
            Ok(service) => {
                first = false;
                backoff.reset();
                let ended = tokio::select! {
                    () = &mut shutdown => true,
                    () = service.lost() => false,
                };
                service.stop().await;
                if ended {
                    return Ok(());
                }
                tracing::warn!("the lease of this site is lost, starting again");
            }
            Err(error) if first => return Err(error),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "cannot start again yet"),
        }
        tokio::select! {
            () = backoff.wait() => {}
            () = &mut shutdown => return Ok(()),
        }
    }
}

/// Starts a site server: migrates the database, waits for the lease of the site, serves gRPC,
/// consumes the state queues. A broker that is away is waited for in the background: policy and
/// reports are served meanwhile, but the process is not ready.
///
/// # Errors
/// When the database is not durable or cannot be reached, the broker refuses us, keys or
/// certificates are not those of this site, or an address is taken.
pub async fn start(config: Config) -> anyhow::Result<Handle> {
    muster_runtime::crypto::install();
    describe::describe();
    let tasks = Tasks::new();
    let started = start_with(config, &tasks).await;
    if started.is_err() {
        // What did start holds the ports that the next try needs.
        tasks.stop(PATIENCE).await;
    }
    started
}

async fn start_with(config: Config, tasks: &Tasks) -> anyhow::Result<Handle> {
    let readiness = Readiness::new();
    let admin = admin::serve(&config.admin, readiness.clone(), tasks)
        .await
        .context("cannot open the admin port")?;
    muster_postgres::migrate(&config.postgres, migrations::migrations::runner())
        .await
        .context("cannot migrate the site database")?;
    let pool = muster_postgres::connect(&config.postgres)
        .await
        .context("cannot use the site database")?;
    muster_postgres::watch(&pool, "site", tasks);
    let lease = lease(&config, tasks).await?;
    let fence = (lease.name().to_owned(), lease.fence());
    let site = Arc::new(app::Site::new(config, pool, fence)?);
    let (code, name) = (site.config.site_code, site.config.site_name.clone());
    let db = site.pool.get().await?;
    store::sites::keep_own(&db, code, &name).await?;
    let least = domain::policy::least_revision(jiff::Timestamp::now());
    store::sites::raise_policy_revision_to(&db, least).await?;
    drop(db);
    // Before any report comes in and before any is asked for.
    app::matrix::load(&site)
        .await
        .context("cannot read what clients said")?;
    app::directory::load(&site)
        .await
        .context("cannot read what reports name")?;
    app::deployment_states::load(&site)
        .await
        .context("cannot read what clients said of deployments")?;
    app::links::agree::check(&site)
        .await
        .context("cannot compare the counters with what clients said")?;
    app::links::load(&site)
        .await
        .context("cannot read of whom the parent site is to hear")?;
    // The server first: a management point that cannot reach us has no policy to give.
    let server = grpc::serve(&site, tasks)
        .await
        .context("cannot serve gRPC")?;
    if let Err(error) = bus::states::consume(&site, tasks, readiness.clone()).await {
        server.stop(PATIENCE).await;
        return Err(error.into());
    }
    bus::links::start(&site, tasks);
    tasks::start(&site, tasks);
    let addr = server.addr();
    tracing::info!(site.code = %code, site.name = name, %addr, "site server at work");
    Ok(Handle {
        addr,
        admin,
        server,
        tasks: tasks.clone(),
        readiness,
        lease,
        site,
    })
}

/// Waits until this process is the one active site server.
async fn lease(config: &Config, tasks: &Tasks) -> anyhow::Result<Lease> {
    let name = format!("site server {}", config.site_code);
    let mut told = false;
    loop {
        if let Some(lease) = Lease::acquire(&config.postgres, &name, tasks).await? {
            return Ok(lease);
        }
        if !told {
            tracing::info!("another site server is active, standing by");
            told = true;
        }
        tokio::time::sleep(STANDBY).await;
    }
}
