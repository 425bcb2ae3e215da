//! A software update point as small as it can be: a catalog of numbered updates, so that reports
//! about them have names.

use anyhow::Result;
use muster_proto::catalog as cat;
use muster_proto::catalog::catalog_service_server::{CatalogService, CatalogServiceServer};
use muster_proto::catalog::scan_service_server::{ScanService, ScanServiceServer};
use muster_runtime::Role;
use muster_runtime::auth::{Caller, Table};
use muster_runtime::config::TlsConfig;
use muster_runtime::grpc::{Handle, Limits, Server, ServerConfig};
use tokio_stream::Iter;
use tonic::{Request, Response, Status};

const SITE: &[Caller] = &[Caller::Role(Role::SiteServer)];
const CLIENT: &[Caller] = &[Caller::Role(Role::Client)];
const TABLE: Table = &[
    ("/muster.catalog.v1.CatalogService/GetGeneration", SITE),
    ("/muster.catalog.v1.CatalogService/StreamUpdates", SITE),
    ("/muster.catalog.v1.CatalogService/GetArchiveSnapshot", SITE),
    ("/muster.catalog.v1.CatalogService/GetArtifact", SITE),
    ("/muster.catalog.v1.ScanService/GetScanMetadata", CLIENT),
];

/// Versions of every package: before its update, and of it.
pub const OLD: &str = "1.0-1";
/// See [`OLD`].
pub const NEW: &str = "1.1-1";

/// The one package of an update.
#[must_use]
pub fn package(update_no: u32) -> String {
    format!("package{update_no}")
}

/// Serves a catalog of updates 1 to `updates`, all of generation 1.
///
/// # Errors
/// When the port is taken.
pub async fn serve(port: u16, tls: TlsConfig, updates: u32) -> Result<Handle> {
    let config = ServerConfig {
        listen: ([127, 0, 0, 1], port).into(),
        tls,
        limits: Limits::default(),
    };
    let catalog = CatalogServiceServer::new(Catalog { updates });
    let scans = ScanServiceServer::new(Catalog { updates });
    let server = Server::new(config, TABLE)
        .descriptors(muster_proto::DESCRIPTORS)
        .add_service(catalog)
        .add_service(scans);
    Ok(server.start().await?)
}

struct Catalog {
    updates: u32,
}

fn update(update_no: u32) -> cat::Update {
    cat::Update {
        update_no,
        update_id: format!("apt/debian/faults/source{update_no}/1.0-1"),
        revision: 1,
        title: format!("update {update_no}"),
        classification: cat::Classification::Security.into(),
        product: "Debian 12".into(),
        suite: "faults".into(),
        source_package: format!("source{update_no}"),
        source_version: "1.0-1".into(),
        released_at: Some(prost_types::Timestamp {
            seconds: 1_700_000_000,
            nanos: 0,
        }),
        max_run_time_minutes: 60,
        generation: 1,
        ..Default::default()
    }
}

type Answers<T> = Iter<std::vec::IntoIter<Result<T, Status>>>;

#[tonic::async_trait]
impl CatalogService for Catalog {
    async fn get_generation(
        &self,
        _: Request<cat::GetGenerationRequest>,
    ) -> Result<Response<cat::GetGenerationResponse>, Status> {
        Ok(Response::new(cat::GetGenerationResponse {
            generation: 1,
            ..Default::default()
        }))
    }

    type StreamUpdatesStream = Answers<cat::StreamUpdatesResponse>;

    async fn stream_updates(
        &self,
        request: Request<cat::StreamUpdatesRequest>,
    ) -> Result<Response<Self::StreamUpdatesStream>, Status> {
        let fresh = request.into_inner().after_generation < 1;
        let updates = if fresh { self.updates } else { 0 };
        let answers = vec![
            Ok(cat::StreamUpdatesResponse {
                updates: (1..=updates).map(update).collect(),
                generation_reached: 0,
            }),
            Ok(cat::StreamUpdatesResponse {
                updates: Vec::new(),
                generation_reached: 1,
            }),
        ];
        Ok(Response::new(tokio_stream::iter(answers)))
    }

    async fn get_archive_snapshot(
        &self,
        _: Request<cat::GetArchiveSnapshotRequest>,
    ) -> Result<Response<cat::GetArchiveSnapshotResponse>, Status> {
        Ok(Response::new(cat::GetArchiveSnapshotResponse {
            generation: 1,
            suites: Vec::new(),
        }))
    }

    type GetArtifactStream = Answers<cat::GetArtifactResponse>;

    async fn get_artifact(
        &self,
        _: Request<cat::GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        Err(Status::not_found("no artifacts here"))
    }
}

#[tonic::async_trait]
impl ScanService for Catalog {
    async fn get_scan_metadata(
        &self,
        request: Request<cat::GetScanMetadataRequest>,
    ) -> Result<Response<cat::GetScanMetadataResponse>, Status> {
        let fresh = request.into_inner().base_generation < 1;
        let update = |update_no| cat::ScanUpdate {
            update_no,
            revision: 1,
            source_package: format!("source{update_no}"),
            version: NEW.to_owned(),
            leaves: vec![cat::ScanLeaf {
                package: package(update_no),
                ..Default::default()
            }],
            max_run_time_minutes: 60,
            ..Default::default()
        };
        let updates = if fresh { self.updates } else { 0 };
        let suite = cat::ScanSuite {
            codename: "faults".to_owned(),
            ..Default::default()
        };
        Ok(Response::new(cat::GetScanMetadataResponse {
            generation: 1,
            updates: (1..=updates).map(update).collect(),
            suites: if fresh { vec![suite] } else { Vec::new() },
            ..Default::default()
        }))
    }
}
