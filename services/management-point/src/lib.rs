//! A management point: the clients' door to the site. Registration and policy are answered by
//! the site server; reports are safe in the broker before a client is told so.
//!
//! In reading order: [`config`] what it is told; `domain` its rules; `grpc` the doors; `app` what
//! each call does; `tasks` what makes messages of the reports that were handed over.

mod app;
pub mod config;
mod describe;
mod domain;
mod grpc;
mod tasks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use muster_proto::client::client_gateway_service_client::ClientGatewayServiceClient;
use muster_proto::client::registration_service_server::RegistrationServiceServer;
use muster_proto::policy::policy_service_server::PolicyServiceServer;
use muster_proto::state::state_service_server::StateServiceServer;
use muster_runtime::admin::{self, Readiness};
use muster_runtime::grpc::{ChannelOptions, Handle, Limits, Server, ServerConfig, channel};
use muster_runtime::{Role, Tasks};

pub use config::Config;

use crate::app::{Collector, Directions, Doorkeeper, Point, Turnstile};

/// Time for calls in hand at the end, and then for what they handed over.
const STOP_CALLS: Duration = Duration::from_secs(5);
const STOP_TASKS: Duration = Duration::from_secs(4);

/// A running management point.
#[derive(Debug)]
pub struct ManagementPoint {
    grpc: Handle,
    admin_addr: SocketAddr,
    readiness: Readiness,
    tasks: Tasks,
}

/// Opens all ports. Site server and broker may come up later; calls that need them are put off
/// until then.
///
/// # Errors
/// When a certificate, an address or the broker's configuration cannot be used.
pub async fn start(config: Config) -> anyhow::Result<ManagementPoint> {
    anyhow::ensure!(config.state_shards > 0, "state_shards must be at least 1");
    describe::describe();
    let (tasks, readiness) = (Tasks::new(), Readiness::new());
    let server = ServerConfig {
        listen: config.listen,
        tls: config.tls.clone(),
        limits: Limits::default(),
    };
    let options = ChannelOptions {
        server_role: Some(Role::SiteServer),
        ..Default::default()
    };
    let site =
        ClientGatewayServiceClient::new(channel(&config.site_server, &config.tls, &options)?);
    let (collector, inboxes) = Collector::new(&config);
    tasks::collect_reports(&config, inboxes, &tasks)?;
    let admin_addr = admin::serve(&config.admin, readiness.clone(), &tasks).await?;
    let point = Arc::new(Point {
        doorkeeper: Doorkeeper::new(&config.enrol),
        turnstile: Turnstile::new(&config.per_client),
        directions: Directions::default(),
        config,
        site,
        collector,
    });
    tasks::follow(&point, &tasks);
    let door = grpc::Door { point };
    let grpc = Server::new(server, grpc::access::TABLE)
        .allow_without_certificate()
        .descriptors(muster_proto::DESCRIPTORS)
        .add_service(RegistrationServiceServer::new(door.clone()))
        .add_service(PolicyServiceServer::new(door.clone()))
        .add_service(StateServiceServer::new(door))
        .start()
        .await?;
    readiness.set(true);
    Ok(ManagementPoint {
        grpc,
        admin_addr,
        readiness,
        tasks,
    })
}

impl ManagementPoint {
    /// Where clients call.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.grpc.addr()
    }

    /// Probes and metrics.
    #[must_use]
    pub const fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Takes no new call, lets the broker confirm what was handed over, within 9 seconds.
    pub async fn stop(self) {
        self.readiness.set(false);
        self.grpc.stop(STOP_CALLS).await;
        self.tasks.stop(STOP_TASKS).await;
    }
}
