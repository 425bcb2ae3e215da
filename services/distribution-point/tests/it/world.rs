//! What the stories happen in: an archive, a software update point, a distribution point, and the
//! certificates of everybody.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use distribution_point::{Config, DistributionPoint};
use muster_proto::catalog::catalog_service_server::{CatalogService, CatalogServiceServer};
use muster_proto::catalog::{
    ArchiveFile, ArchiveSuite, FileRef, GetArchiveSnapshotRequest, GetArchiveSnapshotResponse,
    GetArtifactRequest, GetArtifactResponse, GetGenerationRequest, GetGenerationResponse,
    StreamUpdatesRequest, StreamUpdatesResponse,
};
use muster_proto::content::content_service_client::ContentServiceClient;
use muster_proto::content::{
    EnsureContentRequest, FileState, FileStatus, PublishSuitesRequest, SuitePublication,
};
use muster_runtime::auth::{Caller, Table};
use muster_runtime::config::TlsConfig;
use muster_runtime::grpc::{
    Channel, ChannelOptions, Handle, Limits, Server, ServerConfig, channel,
};
use muster_runtime::{Role, Tasks};
use muster_testkit::{TestCa, eventually};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_stream::Iter;
use tonic::{Request, Response, Status};

pub(crate) const KEY: &str = "0123456789abcdef";

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub(crate) struct World {
    pub(crate) ca: TestCa,
    pub(crate) archive: Archive,
    pub(crate) artifacts: Artifacts,
    folder: tempfile::TempDir,
    point: Option<DistributionPoint>,
    update_point: Handle,
}

impl World {
    pub(crate) async fn start() -> Self {
        let ca = TestCa::new();
        let artifacts = Artifacts::default();
        let config = ServerConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            tls: ca.issue(Role::SoftwareUpdatePoint, "sup1"),
            limits: Limits::default(),
        };
        let update_point = Server::new(config, TABLE)
            .descriptors(muster_proto::DESCRIPTORS)
            .add_service(CatalogServiceServer::new(artifacts.clone()))
            .start()
            .await
            .unwrap();
        let mut world = Self {
            archive: Archive::start().await,
            folder: tempfile::tempdir().unwrap(),
            point: None,
            ca,
            artifacts,
            update_point,
        };
        world.restart().await;
        world
    }

    /// Stops the distribution point, if it runs, and starts it on the same folder.
    pub(crate) async fn restart(&mut self) {
        if let Some(point) = self.point.take() {
            point.stop().await;
        }
        let config = config(&self.ca, self.data_dir());
        self.point = Some(distribution_point::start(config).await.unwrap());
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn point(&self) -> &DistributionPoint {
        self.point.as_ref().unwrap()
    }

    pub(crate) fn grpc(&self, role: Role) -> ContentServiceClient<Channel> {
        let tls = self.ca.issue(role, "caller");
        let options = ChannelOptions {
            server_role: Some(Role::DistributionPoint),
            ..Default::default()
        };
        let url = format!("https://{}", self.point().addr());
        ContentServiceClient::new(channel(&url, &tls, &options).unwrap())
    }

    /// The status of files, as asked for once.
    pub(crate) async fn ensure(&self, files: Vec<FileRef>) -> Vec<FileStatus> {
        let request = EnsureContentRequest { files };
        let answer = self.grpc(Role::SiteServer).ensure_content(request).await;
        answer.unwrap().into_inner().files
    }

    /// Asks until a file is held or failed.
    pub(crate) async fn settled(&self, file: &FileRef) -> FileStatus {
        let mut last = FileStatus::default();
        eventually(async || {
            last = self.ensure(vec![file.clone()]).await.remove(0);
            matches!(last.state(), FileState::Available | FileState::Failed)
        })
        .await;
        last
    }

    /// Puts bytes into the archive and into the distribution point.
    pub(crate) async fn hold(&self, path: &str, bytes: &Bytes) -> String {
        self.archive.put(path, bytes.clone());
        let status = self.settled(&self.archive.file(path, bytes)).await;
        assert_eq!(status.state(), FileState::Available, "{status:?}");
        hex(&sha256(bytes))
    }

    pub(crate) async fn publish(&self, files: &[(&str, Bytes)]) -> Result<(), Status> {
        let suite = ArchiveSuite {
            suite: "bookworm".to_owned(),
            archive_uri: self.archive.uri(),
            files: files
                .iter()
                .map(|(path, bytes)| ArchiveFile {
                    path: (*path).to_owned(),
                    sha256: sha256(bytes).to_vec().into(),
                    size: bytes.len() as u64,
                })
                .collect(),
            ..Default::default()
        };
        let request = PublishSuitesRequest {
            software_update_point: format!("https://{}", self.update_point.addr()),
            suites: vec![SuitePublication {
                key: KEY.to_owned(),
                suite: Some(suite),
            }],
        };
        self.grpc(Role::SiteServer)
            .publish_suites(request)
            .await
            .map(drop)
    }

    /// An HTTPS client with the certificate of a role.
    pub(crate) fn http(&self, role: Role) -> reqwest::Client {
        self.http_with(Some(&self.ca.issue(role, "fetcher")))
    }

    pub(crate) fn http_with(&self, tls: Option<&TlsConfig>) -> reqwest::Client {
        let ca = std::fs::read(self.ca.authority().path()).unwrap();
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()]);
        if let Some(tls) = tls {
            let mut pem = std::fs::read(&tls.cert).unwrap();
            pem.extend(std::fs::read(&tls.key).unwrap());
            builder = builder.identity(reqwest::Identity::from_pem(&pem).unwrap());
        }
        builder.build().unwrap()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.point().content_addr())
    }
}

/// The documented configuration for this folder, without a parent.
pub(crate) fn config(ca: &TestCa, data_dir: &Path) -> Config {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/config/distribution-point.toml"
    );
    let mut config: Config = muster_runtime::config::load(file).unwrap();
    let any = ([127, 0, 0, 1], 0).into();
    (config.listen, config.content_listen, config.admin.listen) = (any, any, any);
    config.data_dir = data_dir.to_owned();
    config.tls = ca.issue(Role::DistributionPoint, "dp1");
    config.fetch.attempts = 3;
    config.fetch.retry_after = Duration::from_millis(20);
    config.fetch.failed_for = Duration::from_millis(300);
    config.parent.site_server = None;
    config
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the archive does with a file.
#[derive(Clone)]
pub(crate) enum Trick {
    /// Serves it, with ranges.
    Honest,
    /// Ends after this many bytes, the first time; the length in the headers is right.
    CutOnceAt(usize),
    /// Has no ranges.
    Whole,
    /// Sends more than it should, in chunks of unknown total length.
    Endless,
    /// Answers with this status.
    Status(u16),
    /// Sends the client elsewhere.
    Redirect(String),
}

/// A vendor's archive over plain HTTP. It notes what it is asked for.
#[derive(Clone)]
pub(crate) struct Archive {
    addr: SocketAddr,
    files: Arc<Mutex<HashMap<String, (Bytes, Trick)>>>,
    asked: Arc<Mutex<Vec<String>>>,
    _tasks: Tasks,
}

impl Archive {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let archive = Self {
            addr: listener.local_addr().unwrap(),
            files: Arc::default(),
            asked: Arc::default(),
            _tasks: Tasks::new(),
        };
        let (own, tasks) = (archive.clone(), archive._tasks.clone());
        archive._tasks.spawn("archive", async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let own = own.clone();
                tasks.spawn("archive-connection", async move {
                    // The other end may hang up in the middle.
                    let _ = own.answer(&mut socket).await;
                });
            }
        });
        archive
    }

    pub(crate) fn uri(&self) -> String {
        format!("http://{}/debian", self.addr)
    }

    pub(crate) fn put(&self, path: &str, bytes: Bytes) {
        self.trick(path, bytes, Trick::Honest);
    }

    pub(crate) fn trick(&self, path: &str, bytes: Bytes, trick: Trick) {
        self.files
            .lock()
            .unwrap()
            .insert(format!("/debian/{path}"), (bytes, trick));
    }

    /// The reference that a signed index would give.
    pub(crate) fn file(&self, path: &str, bytes: &Bytes) -> FileRef {
        FileRef {
            sha256: sha256(bytes).to_vec().into(),
            size: bytes.len() as u64,
            path: path.to_owned(),
            archive_uri: self.uri(),
        }
    }

    /// Requests so far, `path range`.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    async fn answer(&self, socket: &mut tokio::net::TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let range = head
            .lines()
            .find_map(|line| line.strip_prefix("range: bytes="));
        self.asked
            .lock()
            .unwrap()
            .push(format!("{path} {}", range.unwrap_or("whole")));
        let found = self.files.lock().unwrap().get(&path).cloned();
        let (bytes, trick) = found.unwrap_or((Bytes::new(), Trick::Status(404)));
        let offset: usize = range
            .filter(|_| !matches!(trick, Trick::Whole))
            .and_then(|range| range.strip_suffix('-')?.parse().ok())
            .unwrap_or(0);
        let rest = bytes.slice(offset.min(bytes.len())..);
        let status = match &trick {
            Trick::Status(code) => format!("{code} x"),
            Trick::Redirect(to) => format!("302 x\r\nLocation: {to}"),
            _ if offset > 0 => format!(
                "206 x\r\nContent-Range: bytes {offset}-{}/{}",
                bytes.len() - 1,
                bytes.len()
            ),
            _ => "200 x".to_owned(),
        };
        let length = match trick {
            Trick::Endless => String::new(),
            _ => format!("Content-Length: {}\r\n", rest.len()),
        };
        let head = format!("HTTP/1.1 {status}\r\n{length}Connection: close\r\n\r\n");
        socket.write_all(head.as_bytes()).await?;
        match trick {
            Trick::CutOnceAt(at) => {
                self.put(path.strip_prefix("/debian/").unwrap(), bytes.clone());
                socket.write_all(&rest[..at]).await
            }
            Trick::Endless => loop {
                socket.write_all(&[0; 65_536]).await?;
            },
            _ => socket.write_all(&rest).await,
        }
    }
}

const TABLE: Table = &[(
    "/muster.catalog.v1.CatalogService/GetArtifact",
    &[Caller::Role(Role::DistributionPoint)],
)];

/// The artifacts of a software update point; what it sends need not be what was asked for.
#[derive(Clone, Default)]
pub(crate) struct Artifacts(Arc<Mutex<HashMap<Vec<u8>, Bytes>>>);

impl Artifacts {
    pub(crate) fn put(&self, bytes: &Bytes) {
        self.put_as(sha256(bytes), bytes);
    }

    pub(crate) fn put_as(&self, sha256: [u8; 32], bytes: &Bytes) {
        self.0
            .lock()
            .unwrap()
            .insert(sha256.to_vec(), bytes.clone());
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

type Answers<T> = Iter<std::vec::IntoIter<Result<T, Status>>>;

#[tonic::async_trait]
impl CatalogService for Artifacts {
    type StreamUpdatesStream = Answers<StreamUpdatesResponse>;
    type GetArtifactStream = Answers<GetArtifactResponse>;

    async fn get_artifact(
        &self,
        request: Request<GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        let wanted = request.into_inner().sha256;
        let bytes = self.0.lock().unwrap().get(wanted.as_ref()).cloned();
        let bytes = bytes.ok_or_else(|| Status::not_found("not held"))?;
        let parts: Vec<_> = bytes
            .chunks(1000)
            .map(|part| {
                Ok(GetArtifactResponse {
                    chunk: Bytes::copy_from_slice(part),
                })
            })
            .collect();
        Ok(Response::new(tokio_stream::iter(parts)))
    }

    async fn get_generation(
        &self,
        _: Request<GetGenerationRequest>,
    ) -> Result<Response<GetGenerationResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn stream_updates(
        &self,
        _: Request<StreamUpdatesRequest>,
    ) -> Result<Response<Self::StreamUpdatesStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_archive_snapshot(
        &self,
        _: Request<GetArchiveSnapshotRequest>,
    ) -> Result<Response<GetArchiveSnapshotResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
