//! A site server that answers with made-up data, remembers what it was asked, and fails on
//! names that say so: `missing`, `taken`, `in-use`, `denied`, `slow`.

mod deployments;
mod reports;
mod things;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use muster_proto::catalog::{
    sync_service_server::SyncServiceServer, update_service_server::UpdateServiceServer,
};
use muster_proto::client::client_service_server::ClientServiceServer;
use muster_proto::collection::collection_service_server::CollectionServiceServer;
use muster_proto::content::package_service_server::PackageServiceServer;
use muster_proto::deployment::deployment_service_server::DeploymentServiceServer;
use muster_proto::report::report_service_server::ReportServiceServer;
use muster_proto::site::site_service_server::SiteServiceServer;
use muster_proto::state::backlog_service_server::BacklogServiceServer;
use muster_runtime::Role;
use muster_runtime::auth::{Caller, Table};
use muster_runtime::config::TlsConfig;
use muster_runtime::grpc::{Handle, Server, ServerConfig};
use muster_runtime::status::{Kind, status};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The made-up site; clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fake {
    asked: Arc<Mutex<Vec<String>>>,
    /// How often each watch was opened.
    pub(crate) watches: Arc<Mutex<u32>>,
}

impl Fake {
    /// Remembers a request.
    fn ask(&self, request: &impl std::fmt::Debug) {
        self.asked.lock().unwrap().push(format!("{request:?}"));
    }

    /// The last request.
    pub(crate) fn asked(&self) -> String {
        self.asked
            .lock()
            .unwrap()
            .last()
            .cloned()
            .unwrap_or_default()
    }

    /// Counts a watch that was opened: 1 for the first.
    fn watch(&self) -> u32 {
        let mut watches = self.watches.lock().unwrap();
        *watches += 1;
        *watches
    }
}

/// Fails on the names that say so; `what` is what is named.
async fn check(what: &str, name: &str) -> Result<(), Status> {
    let reason: &'static str = match what {
        "site" => "UNKNOWN_SITE",
        "client" => "UNKNOWN_CLIENT",
        "update" => "UNKNOWN_UPDATE",
        "update list" => "UNKNOWN_UPDATE_LIST",
        "collection" => "UNKNOWN_COLLECTION",
        "package" => "UNKNOWN_PACKAGE",
        _ => "UNKNOWN_DEPLOYMENT",
    };
    match name {
        "missing" => Err(status(
            Kind::NotFound,
            reason,
            format!("no {what} \"missing\""),
        )),
        "taken" => {
            let details = ErrorDetails::with_error_info("ALREADY_EXISTS", "muster", []);
            let text = format!("there is a {what} \"taken\" already");
            Err(Status::with_error_details(
                Code::AlreadyExists,
                text,
                details,
            ))
        }
        "in-use" => Err(status(
            Kind::Conflict,
            "IN_USE",
            format!("{what} \"in-use\" is in use"),
        )),
        "denied" => Err(status(
            Kind::Denied,
            "NOT_ALLOWED",
            "this role may not call this method",
        )),
        "slow" => {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A time so many seconds ago, in the middle of a second so that a test is not at its edge.
fn ago(seconds: i64) -> Option<prost_types::Timestamp> {
    let length = SignedDuration::from_millis(seconds * 1_000 + 500);
    Some(muster_proto::convert::to_timestamp(
        Timestamp::now() - length,
    ))
}

/// A time that is always the same.
fn fixed(second: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: second,
        nanos: 0,
    })
}

/// A UUID of one repeated byte.
fn id(byte: u8) -> prost::bytes::Bytes {
    vec![byte; 16].into()
}

/// One page of `all`; the token is the number of the next item.
fn page<T: Clone>(all: &[T], size: u32, token: &str) -> (Vec<T>, String) {
    let from: usize = token.parse().unwrap_or(0);
    let to = all.len().min(from + size as usize);
    let next = if to < all.len() {
        to.to_string()
    } else {
        String::new()
    };
    (all[from..to].to_vec(), next)
}

/// Serves the site to administrators.
pub(crate) async fn serve(fake: &Fake, tls: TlsConfig, listen: SocketAddr) -> Handle {
    Server::new(
        ServerConfig {
            listen,
            tls,
            limits: Default::default(),
        },
        table(),
    )
    .descriptors(muster_proto::DESCRIPTORS)
    .add_service(SiteServiceServer::new(fake.clone()))
    .add_service(ClientServiceServer::new(fake.clone()))
    .add_service(UpdateServiceServer::new(fake.clone()))
    .add_service(SyncServiceServer::new(fake.clone()))
    .add_service(CollectionServiceServer::new(fake.clone()))
    .add_service(PackageServiceServer::new(fake.clone()))
    .add_service(DeploymentServiceServer::new(fake.clone()))
    .add_service(ReportServiceServer::new(fake.clone()))
    .add_service(BacklogServiceServer::new(fake.clone()))
    .start()
    .await
    .unwrap()
}

/// Every call, for administrators alone.
fn table() -> Table {
    const ADMINISTRATOR: &[Caller] = &[Caller::Role(Role::Administrator)];
    let pool = prost_reflect::DescriptorPool::decode(muster_proto::DESCRIPTORS).unwrap();
    let rows: Vec<(&'static str, &'static [Caller])> = pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|method| {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            (&*path.leak(), ADMINISTRATOR)
        })
        .collect();
    rows.leak()
}
