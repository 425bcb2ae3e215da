//! A software update point that follows the test's archive, and callers of every role.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use muster_proto::catalog::catalog_service_client::CatalogServiceClient;
use muster_proto::catalog::scan_service_client::ScanServiceClient;
use muster_proto::catalog::sync_service_client::SyncServiceClient;
use muster_proto::catalog::{self as pb, SyncKind};
use muster_proto::link::upstream_service_server::{UpstreamService, UpstreamServiceServer};
use muster_proto::link::{
    GetRolesRequest, GetRolesResponse, GetUpstreamRequest, GetUpstreamResponse,
};
use muster_runtime::Role;
use muster_runtime::auth::{Caller, Table};
use muster_runtime::config::{AdminConfig, TelemetryConfig};
use muster_runtime::grpc::{Channel, ChannelOptions, Limits, Server, ServerConfig, channel};
use muster_runtime::status::{Kind, status};
use muster_testkit::TestCa;
use muster_testkit::postgres::{TestDatabase, database};
use software_update_point::{
    CheckValidUntil, Config, Fetch, Handle, ListedSource, ParentSource, Schedule, Source,
    SourceKind, Sources,
};
use tempfile::TempDir;
use tonic::{Request, Response, Status};

use crate::archive::Archive;

pub(crate) struct Point {
    pub(crate) archive: Archive,
    handle: Option<Handle>,
    config: Config,
    ca: TestCa,
    folder: TempDir,
    #[allow(dead_code, reason = "goes away with the test")]
    database: TestDatabase,
}

/// Follows `suites` of an empty archive; nothing is synchronised before the test asks for it.
pub(crate) async fn start(suites: &[&str]) -> Point {
    start_as("P01", suites, None).await
}

async fn start_as(site_code: &str, suites: &[&str], site_server: Option<String>) -> Point {
    muster_runtime::crypto::install();
    let (folder, ca, database) = (
        tempfile::tempdir().unwrap(),
        TestCa::of_site(site_code),
        database().await,
    );
    let archive = Archive::start(folder.path()).await;
    let listed = |suite: &&str| ListedSource {
        uri: archive.uri(),
        suite: (*suite).to_owned(),
        components: vec!["main".to_owned()],
        architectures: Vec::new(),
        signed_by: vec![archive.keyring().to_owned()],
    };
    let config = Config {
        site_code: site_code.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        data_dir: folder.path().join("data"),
        tls: ca.issue(Role::SoftwareUpdatePoint, "software-update-point"),
        telemetry: TelemetryConfig::default(),
        admin: AdminConfig::default(),
        postgres: database.schema("catalog"),
        schedule: Schedule {
            sync_at_start: false,
            ..Schedule::default()
        },
        source: Source {
            kind: if site_server.is_some() {
                SourceKind::Parent
            } else {
                SourceKind::Apt
            },
            sources: Sources::List(suites.iter().map(listed).collect()),
            root: PathBuf::from("/"),
            check_valid_until: CheckValidUntil::Fixed(true),
            architectures: vec!["amd64".to_owned()],
            parent: ParentSource {
                site_server,
                // The first look finds no parent yet, and later ones are the test's.
                poll_interval: std::time::Duration::from_secs(3600),
                keyrings: Vec::new(),
            },
        },
        fetch: Fetch {
            text_bytes: 64 << 20,
            ..Fetch::default()
        },
    };
    Point {
        archive,
        handle: None,
        config,
        ca,
        folder,
        database,
    }
    .started()
    .await
}

/// A software update point of a site below, beside the site server that tells it of its parent.
pub(crate) struct Child {
    pub(crate) point: Point,
    upstream: Arc<Mutex<Option<GetUpstreamResponse>>>,
    _site_server: muster_runtime::grpc::Handle,
}

struct SiteServer(Arc<Mutex<Option<GetUpstreamResponse>>>);

#[tonic::async_trait]
impl UpstreamService for SiteServer {
    async fn get_upstream(
        &self,
        _: Request<GetUpstreamRequest>,
    ) -> Result<Response<GetUpstreamResponse>, Status> {
        let answer = self.0.lock().unwrap().clone();
        answer
            .map(Response::new)
            .ok_or_else(|| status(Kind::Conflict, "NO_PARENT", "this site has no parent"))
    }

    async fn get_roles(
        &self,
        _: Request<GetRolesRequest>,
    ) -> Result<Response<GetRolesResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

const TABLE: Table = &[(
    "/muster.link.v1.UpstreamService/GetUpstream",
    &[Caller::Role(Role::SoftwareUpdatePoint)],
)];

impl Child {
    /// One that believes the keys of this archive, and that nobody has told of its parent.
    pub(crate) async fn start(archive: &Archive) -> Self {
        let upstream = Arc::default();
        let ca = TestCa::of_site("S11");
        let server = ServerConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            tls: ca.issue(Role::SiteServer, "site-server"),
            limits: Limits::default(),
        };
        let service = UpstreamServiceServer::new(SiteServer(Arc::clone(&upstream)));
        let site_server = Server::new(server, TABLE)
            .add_service(service)
            .start()
            .await
            .unwrap();
        let address = format!("https://{}", site_server.addr());
        let mut point = start_as("S11", &[], Some(address)).await;
        // One authority for both.
        point.ca = ca;
        point.config.tls = point
            .ca
            .issue(Role::SoftwareUpdatePoint, "software-update-point");
        point.config.source.parent.keyrings = vec![archive.keyring().to_owned()];
        point.restart().await;
        Self {
            point,
            upstream,
            _site_server: site_server,
        }
    }

    /// One that has joined.
    pub(crate) async fn of(parent: &Point) -> Self {
        let child = Self::start(&parent.archive).await;
        child.join(parent);
        child
    }

    /// Its site has joined the parent's, or learned where that one is now.
    pub(crate) fn join(&self, parent: &Point) {
        let tls = parent.ca.issue(Role::ChildSite, "S11");
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        let roles = GetRolesResponse {
            software_update_points: vec![parent.address()],
            distribution_points: Vec::new(),
        };
        *self.upstream.lock().unwrap() = Some(GetUpstreamResponse {
            site_code: "P01".to_owned(),
            roles: Some(roles),
            ca: text(&tls.ca),
            certificate: text(&tls.cert),
            key: text(&tls.key),
        });
    }
}

impl Point {
    async fn started(mut self) -> Self {
        let handle = software_update_point::start(self.config.clone()).await;
        self.handle = Some(handle.unwrap());
        self
    }

    pub(crate) fn address(&self) -> String {
        format!("https://{}", self.handle.as_ref().unwrap().addr())
    }

    /// Its catalog's tables, for who changes what it says.
    pub(crate) async fn sql(&self, statement: &str) {
        let pool = muster_postgres::connect(&self.config.postgres)
            .await
            .unwrap();
        let changed = pool.get().await.unwrap().execute(statement, &[]).await;
        assert!(changed.unwrap() > 0, "{statement}");
    }

    pub(crate) fn config(&mut self) -> &mut Config {
        &mut self.config
    }

    /// Stops it; what it holds stays.
    pub(crate) async fn stop(&mut self) {
        self.handle.take().unwrap().stop().await;
    }

    /// Starts it again.
    pub(crate) async fn start(&mut self) {
        let handle = software_update_point::start(self.config.clone()).await;
        self.handle = Some(handle.unwrap());
    }

    pub(crate) fn channel(&self, role: Role) -> Channel {
        self.channel_to(self, role)
    }

    /// To another one, with a certificate of our authority, which is trusted, too.
    pub(crate) fn channel_to(&self, other: &Self, role: Role) -> Channel {
        let name = if role == Role::Client {
            "0192f0c5-0000-7000-8000-000000000001"
        } else {
            "caller"
        };
        let tls = self.ca.issue(role, name);
        channel(&other.address(), &tls, &ChannelOptions::default()).unwrap()
    }

    pub(crate) fn syncs(&self) -> SyncServiceClient<Channel> {
        SyncServiceClient::new(self.channel(Role::SiteServer))
    }

    pub(crate) fn catalog(&self) -> CatalogServiceClient<Channel> {
        CatalogServiceClient::new(self.channel(Role::SiteServer))
    }

    pub(crate) fn scans(&self) -> ScanServiceClient<Channel> {
        ScanServiceClient::new(self.channel(Role::Client))
    }

    /// Synchronises and gives the final state.
    pub(crate) async fn sync(&self, kind: SyncKind) -> pb::Sync {
        let mut syncs = self.syncs();
        let request = pb::StartSyncRequest { kind: kind.into() };
        let started = syncs
            .start_sync(request)
            .await
            .unwrap()
            .into_inner()
            .sync
            .unwrap();
        let request = pb::WatchSyncRequest {
            sync_no: started.sync_no,
        };
        let mut stream = syncs.watch_sync(request).await.unwrap().into_inner();
        let mut last = started;
        while let Some(message) = stream.message().await.unwrap() {
            last = message.sync.unwrap();
        }
        assert!(last.ended_at.is_some(), "{last:?}");
        last
    }

    pub(crate) async fn full(&self) -> pb::Sync {
        let sync = self.sync(SyncKind::Full).await;
        assert_eq!(sync.phase(), pb::SyncPhase::Done, "{sync:?}");
        sync
    }

    /// All updates that changed after a generation, and the generation reached.
    pub(crate) async fn updates(&self, after_generation: u64) -> (Vec<pb::Update>, u64) {
        let request = pb::StreamUpdatesRequest { after_generation };
        let mut stream = self
            .catalog()
            .stream_updates(request)
            .await
            .unwrap()
            .into_inner();
        let (mut updates, mut reached) = (Vec::new(), 0);
        while let Some(message) = stream.message().await.unwrap() {
            updates.extend(message.updates);
            reached = message.generation_reached;
        }
        (updates, reached)
    }

    pub(crate) async fn generation(&self) -> u64 {
        let answer = self
            .catalog()
            .get_generation(pb::GetGenerationRequest {})
            .await
            .unwrap();
        answer.into_inner().generation
    }

    /// Stops the process and starts another one on the same data.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    pub(crate) fn data(&self) -> &Path {
        self.folder.path()
    }
}
