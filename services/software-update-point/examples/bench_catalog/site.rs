//! A software update point in this process, and callers of it.

use std::path::PathBuf;

use muster_proto::catalog::sync_service_client::SyncServiceClient;
use muster_proto::catalog::{self as pb, SyncKind, SyncPhase};
use muster_runtime::Role;
use muster_runtime::config::{AdminConfig, TelemetryConfig, TlsConfig};
use muster_runtime::grpc::{ChannelOptions, channel};
use muster_testkit::TestCa;
use software_update_point::{
    CheckValidUntil, Config, Fetch, Handle, ListedSource, Schedule, Source, SourceKind, Sources,
};
use tempfile::TempDir;

use crate::archive::Archive;
use crate::suites::Suite;

pub(crate) struct Site {
    pub(crate) handle: Handle,
    pub(crate) client: TlsConfig,
    site_server: TlsConfig,
    _folder: TempDir,
    _ca: TestCa,
}

impl Site {
    /// With an empty catalog in a schema of its own.
    pub(crate) async fn start(
        postgres: &muster_postgres::Config,
        schema: &str,
        archive: &Archive,
        suites: &[Suite],
    ) -> anyhow::Result<Self> {
        let (folder, ca) = (tempfile::tempdir()?, TestCa::new());
        let listed = |suite: &Suite| ListedSource {
            uri: archive.uri(),
            suite: suite.name.to_owned(),
            components: suite
                .indexes
                .iter()
                .map(|(path, _)| path.split('/').next().unwrap_or_default().to_owned())
                .collect(),
            architectures: Vec::new(),
            signed_by: vec![archive.keyring().to_owned()],
        };
        let config = Config {
            site_code: "P01".to_owned(),
            listen: "127.0.0.1:0".parse()?,
            data_dir: folder.path().join("data"),
            tls: ca.issue(Role::SoftwareUpdatePoint, "software-update-point"),
            telemetry: TelemetryConfig::default(),
            admin: AdminConfig::default(),
            postgres: muster_postgres::Config {
                schema: schema.to_owned(),
                ..postgres.clone()
            },
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
                parent: Default::default(),
            },
            fetch: Fetch::default(),
        };
        let handle = software_update_point::start(config).await?;
        let client = ca.issue(Role::Client, "0192f0c5-0000-7000-8000-000000000001");
        let site_server = ca.issue(Role::SiteServer, "site-server");
        Ok(Self {
            handle,
            client,
            site_server,
            _folder: folder,
            _ca: ca,
        })
    }

    /// A full synchronisation; it must succeed.
    pub(crate) async fn full(&self) -> anyhow::Result<pb::Sync> {
        let url = format!("https://{}", self.handle.addr());
        let channel = channel(&url, &self.site_server, &ChannelOptions::default())?;
        let mut syncs = SyncServiceClient::new(channel);
        let request = pb::StartSyncRequest {
            kind: SyncKind::Full.into(),
        };
        let mut last = syncs
            .start_sync(request)
            .await?
            .into_inner()
            .sync
            .unwrap_or_default();
        let request = pb::WatchSyncRequest {
            sync_no: last.sync_no,
        };
        let mut stream = syncs.watch_sync(request).await?.into_inner();
        while let Some(message) = stream.message().await? {
            last = message.sync.unwrap_or_default();
        }
        anyhow::ensure!(last.phase() == SyncPhase::Done, "{last:?}");
        Ok(last)
    }
}
