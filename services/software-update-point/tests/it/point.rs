//! A software update point that follows the test's archive, and callers of every role.

use std::path::{Path, PathBuf};

use muster_proto::catalog::catalog_service_client::CatalogServiceClient;
use muster_proto::catalog::scan_service_client::ScanServiceClient;
use muster_proto::catalog::sync_service_client::SyncServiceClient;
use muster_proto::catalog::{self as pb, SyncKind};
use muster_runtime::Role;
use muster_runtime::config::{AdminConfig, TelemetryConfig};
use muster_runtime::grpc::{Channel, ChannelOptions, channel};
use muster_testkit::TestCa;
use muster_testkit::postgres::{TestDatabase, database};
use software_update_point::{
    CheckValidUntil, Config, Fetch, Handle, ListedSource, Schedule, Source, SourceKind, Sources,
};
use tempfile::TempDir;

use crate::archive::Archive;

pub(crate) struct Point {
    pub(crate) archive: Archive,
    handle: Option<Handle>,
    config: Config,
    ca: TestCa,
    folder: TempDir,
    _database: TestDatabase,
}

/// Follows `suites` of an empty archive; nothing is synchronised before the test asks for it.
pub(crate) async fn start(suites: &[&str]) -> Point {
    muster_runtime::crypto::install();
    let (folder, ca, database) = (
        tempfile::tempdir().unwrap(),
        TestCa::new(),
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
        site_code: "P01".to_owned(),
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
            kind: SourceKind::Apt,
            sources: Sources::List(suites.iter().map(listed).collect()),
            root: PathBuf::from("/"),
            check_valid_until: CheckValidUntil::Fixed(true),
            architectures: vec!["amd64".to_owned()],
        },
        fetch: Fetch {
            text_bytes: 64 << 20,
            ..Fetch::default()
        },
    };
    let handle = software_update_point::start(config.clone()).await.unwrap();
    Point {
        archive,
        handle: Some(handle),
        config,
        ca,
        folder,
        _database: database,
    }
}

impl Point {
    pub(crate) fn channel(&self, role: Role) -> Channel {
        let addr = self.handle.as_ref().unwrap().addr();
        let name = if role == Role::Client {
            "0192f0c5-0000-7000-8000-000000000001"
        } else {
            "caller"
        };
        let tls = self.ca.issue(role, name);
        channel(&format!("https://{addr}"), &tls, &ChannelOptions::default()).unwrap()
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
        self.handle.take().unwrap().stop().await;
        self.handle = Some(
            software_update_point::start(self.config.clone())
                .await
                .unwrap(),
        );
    }

    pub(crate) fn data(&self) -> &Path {
        self.folder.path()
    }
}
