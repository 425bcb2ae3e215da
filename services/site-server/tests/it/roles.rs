//! The other roles of the site, as small as they can be: a software update point with a catalog
//! of two updates, and a distribution point that needs two calls to fetch a file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use muster_proto::catalog as cat;
use muster_proto::catalog::catalog_service_server::{CatalogService, CatalogServiceServer};
use muster_proto::content as con;
use muster_proto::content::content_service_server::{ContentService, ContentServiceServer};
use muster_runtime::Role;
use muster_runtime::auth::{Caller, Table};
use muster_runtime::grpc::{Handle, Limits, Server, ServerConfig};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::site::tls;

pub(crate) const ARCHIVE: &str = "https://archive.example/debian/";

const SITE: &[Caller] = &[Caller::Role(Role::SiteServer)];
const TABLE: Table = &[
    ("/muster.catalog.v1.CatalogService/GetGeneration", SITE),
    ("/muster.catalog.v1.CatalogService/StreamUpdates", SITE),
    ("/muster.catalog.v1.CatalogService/GetArchiveSnapshot", SITE),
    ("/muster.catalog.v1.CatalogService/GetArtifact", SITE),
    ("/muster.content.v1.ContentService/EnsureContent", SITE),
    ("/muster.content.v1.ContentService/PublishSuites", SITE),
    ("/muster.content.v1.ContentService/RemoveContent", SITE),
];

/// What the others were told, and what they offer.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) catalog: Vec<cat::Update>,
    pub(crate) asked: BTreeMap<Vec<u8>, u32>,
    pub(crate) published: BTreeSet<String>,
    pub(crate) removed: BTreeSet<Vec<u8>>,
    /// What every file says: CVE ids, and how urgent its update is.
    pub(crate) says: (Vec<String>, String),
    /// The distribution point refuses to fetch.
    pub(crate) refuses: bool,
}

pub(crate) struct Others {
    pub(crate) world: Arc<Mutex<World>>,
    catalog: Handle,
    content: Handle,
}

impl Others {
    pub(crate) async fn start(folder: &Path) -> Self {
        let world = Arc::new(Mutex::new(World::default()));
        let config = |name| ServerConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            tls: tls(folder, name),
            limits: Limits::default(),
        };
        let catalog = Server::new(config("software-update-point"), TABLE)
            .descriptors(muster_proto::DESCRIPTORS)
            .add_service(CatalogServiceServer::new(Catalog(Arc::clone(&world))))
            .start()
            .await
            .unwrap();
        let content = Server::new(config("distribution-point"), TABLE)
            .descriptors(muster_proto::DESCRIPTORS)
            .add_service(ContentServiceServer::new(Content(Arc::clone(&world))))
            .start()
            .await
            .unwrap();
        Self {
            world,
            catalog,
            content,
        }
    }

    pub(crate) fn software_update_point(&self) -> String {
        format!("https://127.0.0.1:{}", self.catalog.addr().port())
    }

    pub(crate) fn distribution_point(&self) -> String {
        format!("https://127.0.0.1:{}", self.content.addr().port())
    }
}

pub(crate) fn update(update_no: u32, source: &str, leaves: &[&str]) -> cat::Update {
    let version = format!("1.{update_no}-1");
    let leaf = |(at, package): (usize, &&str)| cat::Leaf {
        package: (*package).into(),
        version: version.clone(),
        architecture: "amd64".into(),
        file: Some(cat::FileRef {
            sha256: vec![u8::try_from(update_no * 10).unwrap() + u8::try_from(at).unwrap(); 32]
                .into(),
            size: 1_000,
            path: format!("pool/main/{package}.deb"),
            archive_uri: ARCHIVE.into(),
        }),
        phased_percentage: 100,
    };
    cat::Update {
        update_no,
        update_id: format!("apt/debian/bookworm-security/{source}/{version}"),
        revision: 1,
        title: format!("{source} security update"),
        classification: cat::Classification::Security.into(),
        product: "Debian 12".into(),
        suite: "bookworm-security".into(),
        source_package: source.into(),
        source_version: version.clone(),
        cve_ids: vec![format!("CVE-2026-{update_no:04}")],
        released_at: Some(prost_types::Timestamp {
            seconds: 1_700_000_000,
            nanos: 0,
        }),
        leaves: leaves.iter().enumerate().map(leaf).collect(),
        max_run_time_minutes: 60,
        generation: 1,
        ..Default::default()
    }
}

struct Catalog(Arc<Mutex<World>>);

#[tonic::async_trait]
impl CatalogService for Catalog {
    async fn get_generation(
        &self,
        _: Request<cat::GetGenerationRequest>,
    ) -> Result<Response<cat::GetGenerationResponse>, Status> {
        let world = self.0.lock().unwrap();
        let generation = world
            .catalog
            .iter()
            .map(|update| update.generation)
            .max()
            .unwrap_or(0);
        Ok(Response::new(cat::GetGenerationResponse {
            generation,
            ..Default::default()
        }))
    }

    type StreamUpdatesStream = ReceiverStream<Result<cat::StreamUpdatesResponse, Status>>;

    async fn stream_updates(
        &self,
        request: Request<cat::StreamUpdatesRequest>,
    ) -> Result<Response<Self::StreamUpdatesStream>, Status> {
        let after = request.into_inner().after_generation;
        let updates: Vec<cat::Update> = {
            let world = self.0.lock().unwrap();
            world
                .catalog
                .iter()
                .filter(|update| update.generation > after)
                .cloned()
                .collect()
        };
        let reached = updates
            .iter()
            .map(|update| update.generation)
            .max()
            .unwrap_or(after);
        let (sender, receiver) = tokio::sync::mpsc::channel(64);
        for update in updates {
            let message = cat::StreamUpdatesResponse {
                updates: vec![update],
                generation_reached: 0,
            };
            sender.try_send(Ok(message)).unwrap();
        }
        let last = cat::StreamUpdatesResponse {
            updates: vec![],
            generation_reached: reached,
        };
        sender.try_send(Ok(last)).unwrap();
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_archive_snapshot(
        &self,
        _: Request<cat::GetArchiveSnapshotRequest>,
    ) -> Result<Response<cat::GetArchiveSnapshotResponse>, Status> {
        let suite = |suite: &str| cat::ArchiveSuite {
            suite: suite.into(),
            archive_uri: ARCHIVE.into(),
            components: vec!["main".into()],
            architectures: vec!["amd64".into()],
            files: vec![cat::ArchiveFile {
                path: "InRelease".into(),
                sha256: vec![9; 32].into(),
                size: 5,
            }],
            signed_by: String::new(),
            ignore_valid_until: false,
        };
        Ok(Response::new(cat::GetArchiveSnapshotResponse {
            generation: 1,
            suites: vec![suite("bookworm"), suite("bookworm-security")],
        }))
    }

    type GetArtifactStream = ReceiverStream<Result<cat::GetArtifactResponse, Status>>;

    async fn get_artifact(
        &self,
        _: Request<cat::GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        Err(Status::not_found("no artifacts here"))
    }
}

struct Content(Arc<Mutex<World>>);

#[tonic::async_trait]
impl ContentService for Content {
    async fn ensure_content(
        &self,
        request: Request<con::EnsureContentRequest>,
    ) -> Result<Response<con::EnsureContentResponse>, Status> {
        let mut world = self.0.lock().unwrap();
        if world.refuses {
            return Err(Status::unavailable("no files today"));
        }
        let says = world.says.clone();
        let status = |file: &cat::FileRef| {
            let asked = world.asked.entry(file.sha256.to_vec()).or_default();
            *asked += 1;
            let state = if *asked > 1 {
                con::FileState::Available
            } else {
                con::FileState::Fetching
            };
            con::FileStatus {
                sha256: file.sha256.clone(),
                state: state.into(),
                bytes_fetched: u64::from(*asked) * 500,
                cve_ids: says.0.clone(),
                urgency: says.1.clone(),
                ..Default::default()
            }
        };
        let files = request.get_ref().files.iter().map(status).collect();
        Ok(Response::new(con::EnsureContentResponse { files }))
    }

    async fn publish_suites(
        &self,
        request: Request<con::PublishSuitesRequest>,
    ) -> Result<Response<con::PublishSuitesResponse>, Status> {
        let suites = request.into_inner().suites;
        let names = suites.into_iter().map(|suite| suite.suite.unwrap().suite);
        self.0.lock().unwrap().published.extend(names);
        Ok(Response::new(con::PublishSuitesResponse {}))
    }

    async fn remove_content(
        &self,
        request: Request<con::RemoveContentRequest>,
    ) -> Result<Response<con::RemoveContentResponse>, Status> {
        let hashes = request.into_inner().sha256;
        self.0
            .lock()
            .unwrap()
            .removed
            .extend(hashes.iter().map(|hash| hash.to_vec()));
        Ok(Response::new(con::RemoveContentResponse { bytes_freed: 0 }))
    }
}
