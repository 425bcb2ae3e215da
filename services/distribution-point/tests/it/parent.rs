//! Content of a site below: from the parent's distribution point first, verified again.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use distribution_point::DistributionPoint;
use muster_proto::catalog::FileRef;
use muster_proto::content::content_service_client::ContentServiceClient;
use muster_proto::content::{EnsureContentRequest, FileState, FileStatus};
use muster_proto::link::upstream_service_server::{UpstreamService, UpstreamServiceServer};
use muster_proto::link::{
    GetRolesRequest, GetRolesResponse, GetUpstreamRequest, GetUpstreamResponse,
};
use muster_runtime::Role;
use muster_runtime::auth::{Caller, Table};
use muster_runtime::grpc::{ChannelOptions, Handle, Limits, Server, ServerConfig, channel};
use muster_runtime::status::{Kind, status};
use muster_testkit::{TestCa, eventually};
use tonic::{Request, Response, Status};

use super::world::{self, World, hex, sha256};

const TABLE: Table = &[(
    "/muster.link.v1.UpstreamService/GetUpstream",
    &[Caller::Role(Role::DistributionPoint)],
)];

type Answer = Arc<Mutex<Option<GetUpstreamResponse>>>;

struct SiteServer(Answer);

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

/// A distribution point of a site below the world's.
struct Below {
    ca: TestCa,
    point: DistributionPoint,
    _folder: tempfile::TempDir,
    _site_server: Handle,
}

impl Below {
    async fn start(world: &World, from_archive: bool) -> Self {
        let lent = world.ca.issue(Role::ChildSite, "S11");
        let text = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
        let answer = GetUpstreamResponse {
            site_code: "P01".to_owned(),
            roles: Some(GetRolesResponse {
                software_update_points: Vec::new(),
                distribution_points: vec![format!("https://{}", world.point().content_addr())],
            }),
            ca: text(&lent.ca),
            certificate: text(&lent.cert),
            key: text(&lent.key),
        };
        let (ca, folder) = (TestCa::of_site("S11"), tempfile::tempdir().unwrap());
        let server = ServerConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            tls: ca.issue(Role::SiteServer, "site-server"),
            limits: Limits::default(),
        };
        let service = SiteServer(Arc::new(Mutex::new(Some(answer))));
        let site_server = Server::new(server, TABLE)
            .add_service(UpstreamServiceServer::new(service))
            .start()
            .await
            .unwrap();
        let mut config = world::config(&ca, folder.path());
        config.site_code = "S11".to_owned();
        config.fetch.attempts = 5;
        config.parent.site_server = Some(format!("https://{}", site_server.addr()));
        config.parent.from_archive = from_archive;
        Self {
            point: distribution_point::start(config).await.unwrap(),
            ca,
            _folder: folder,
            _site_server: site_server,
        }
    }

    /// Asks until a file is held or failed.
    async fn settled(&self, file: &FileRef) -> FileStatus {
        let tls = self.ca.issue(Role::SiteServer, "caller");
        let url = format!("https://{}", self.point.addr());
        let channel = channel(&url, &tls, &ChannelOptions::default()).unwrap();
        let service = ContentServiceClient::new(channel);
        let mut last = FileStatus::default();
        eventually(async || {
            let request = EnsureContentRequest {
                files: vec![file.clone()],
            };
            let answer = service.clone().ensure_content(request).await.unwrap();
            last = answer.into_inner().files.remove(0);
            matches!(last.state(), FileState::Available | FileState::Failed)
        })
        .await;
        last
    }
}

fn body(seed: u8) -> Bytes {
    vec![seed; 300_000].into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_parent_holds_comes_from_there_and_the_archive_is_not_asked() {
    let world = World::start().await;
    world.hold("pool/a.deb", &body(1)).await;
    let asked = world.archive.asked().len();
    let below = Below::start(&world, false).await;
    let file = world.archive.file("pool/a.deb", &body(1));
    let status = below.settled(&file).await;
    assert_eq!(
        (status.state(), status.bytes_fetched),
        (FileState::Available, 300_000),
        "{status:?}"
    );
    assert_eq!(world.archive.asked().len(), asked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_parent_has_not_got_comes_from_the_archive_where_that_is_allowed() {
    let world = World::start().await;
    world.archive.put("pool/b.deb", body(2));
    let file = world.archive.file("pool/b.deb", &body(2));
    let alone = Below::start(&world, false).await;
    let status = alone.settled(&file).await;
    assert_eq!(status.state(), FileState::Failed);
    assert!(status.detail.starts_with("NOT_AT_PARENT"), "{status:?}");
    assert!(world.archive.asked().is_empty());
    let below = Below::start(&world, true).await;
    let status = below.settled(&file).await;
    assert_eq!(status.state(), FileState::Available, "{status:?}");
    assert_eq!(world.archive.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn altered_bytes_of_the_parent_are_refused() {
    let world = World::start().await;
    let name = world.hold("pool/c.deb", &body(3)).await;
    assert_eq!(name, hex(&sha256(&body(3))));
    let held = find(world.data_dir(), &name);
    // A content file may be read-only: a new one takes its place.
    std::fs::remove_file(&held).unwrap();
    std::fs::write(&held, body(4)).unwrap();
    let file = world.archive.file("pool/c.deb", &body(3));
    let below = Below::start(&world, false).await;
    let status = below.settled(&file).await;
    assert_eq!(status.state(), FileState::Failed);
    assert!(status.detail.starts_with("HASH_MISMATCH"), "{status:?}");
    let below = Below::start(&world, true).await;
    let status = below.settled(&file).await;
    assert_eq!(status.state(), FileState::Available, "{status:?}");
}

/// The file with this name below a folder.
fn find(folder: &std::path::Path, name: &str) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .file_name()
                .is_some_and(|it| it.to_string_lossy().contains(name))
            {
                return path;
            }
        }
    }
    panic!("{name} is not there");
}
