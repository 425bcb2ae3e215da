//! Doors in: open the message, call the use case, close the reply. One file per proto service.

mod access;
mod backlog_service;
mod client_gateway_service;
mod client_service;
mod collection_service;
mod deployment_service;
mod join_service;
mod package_service;
mod report_service;
mod site_service;
mod sync_service;
mod update_service;
mod upstream_service;

use std::sync::Arc;

use muster_proto::catalog::sync_service_server::SyncServiceServer;
use muster_proto::catalog::update_service_server::UpdateServiceServer;
use muster_proto::client::client_gateway_service_server::ClientGatewayServiceServer;
use muster_proto::client::client_service_server::ClientServiceServer;
use muster_proto::collection::collection_service_server::CollectionServiceServer;
use muster_proto::content::package_service_server::PackageServiceServer;
use muster_proto::deployment::deployment_service_server::DeploymentServiceServer;
use muster_proto::link::join_service_server::JoinServiceServer;
use muster_proto::link::upstream_service_server::UpstreamServiceServer;
use muster_proto::report::report_service_server::ReportServiceServer;
use muster_proto::site::site_service_server::SiteServiceServer;
use muster_proto::state::backlog_service_server::BacklogServiceServer;
use muster_runtime::grpc::{Handle, Server, ServerConfig};
use muster_runtime::{Tasks, auth};
use tonic::{Code, Request, Status};

use crate::app::{Error, Site};

/// Serves all doors.
pub(crate) async fn serve(
    site: &Arc<Site>,
    tasks: &Tasks,
) -> Result<Handle, muster_runtime::grpc::Error> {
    let config = ServerConfig {
        listen: site.config.listen,
        tls: site.config.tls.clone(),
        limits: site.config.limits.clone(),
    };
    let site = || Arc::clone(site);
    Server::new(config, access::TABLE)
        // For a site that joins: it has a token, and no certificate yet.
        .allow_without_certificate()
        .descriptors(muster_proto::DESCRIPTORS)
        .add_service(ClientGatewayServiceServer::new(
            client_gateway_service::Door(site()),
        ))
        .add_service(ClientServiceServer::new(client_service::Door(site())))
        .add_service(SyncServiceServer::new(sync_service::Door(
            site(),
            tasks.clone(),
        )))
        .add_service(UpdateServiceServer::new(update_service::Door(site())))
        .add_service(CollectionServiceServer::new(collection_service::Door(
            site(),
        )))
        .add_service(PackageServiceServer::new(package_service::Door(site())))
        .add_service(DeploymentServiceServer::new(deployment_service::Door(
            site(),
            tasks.clone(),
        )))
        .add_service(ReportServiceServer::new(report_service::Door(site())))
        .add_service(SiteServiceServer::new(site_service::Door(site())))
        .add_service(JoinServiceServer::new(join_service::Door(site())))
        .add_service(UpstreamServiceServer::new(upstream_service::Door(site())))
        .add_service(BacklogServiceServer::new(backlog_service::Door(site())))
        .start()
        .await
}

/// The answer for a failed use case.
fn status(error: Error) -> Status {
    let exists = matches!(error, Error::Exists { .. } | Error::SiteExists { .. });
    let status = muster_runtime::status::to_status(error);
    if exists {
        // The same reason and text under the code that gRPC has for it.
        let details = bytes::Bytes::copy_from_slice(status.details());
        return Status::with_details(Code::AlreadyExists, status.message(), details);
    }
    status
}

/// Who asks, for the audit: the name in the certificate.
fn administrator<T>(request: &Request<T>) -> Result<String, Status> {
    Ok(auth::identity(request)?.name.clone())
}
