//! The disk of an enrolled machine is copied, and both go on: real agents over pretend machines,
//! a real management point, broker, site server and database, all in this process.
#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client_agent::enrol::{Enrolment, enrol};
use client_agent::provider::Provider;
use client_agent::provider::simulated::{Script, Simulated};
use client_agent::{Agent, Options, Trigger};
use muster_postgres::Pool;
use muster_proto::catalog::scan_service_server::{ScanService, ScanServiceServer};
use muster_proto::catalog::{
    GetScanMetadataRequest, GetScanMetadataResponse, ScanLeaf, ScanSuite, ScanUpdate,
};
use muster_proto::client as pb;
use muster_proto::client::client_service_client::ClientServiceClient;
use muster_runtime::Role;
use muster_runtime::auth::{Caller, Table};
use muster_runtime::config::TlsConfig;
use muster_runtime::grpc::{ChannelOptions, Server, ServerConfig, channel};
use muster_testkit::eventually;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};

const OLD: &str = "1.0-1";
const NEW: &str = "1.1-1";
const UPDATES: [(u32, &str); 2] = [(7, "bash"), (9, "zsh")];

/// A software update point with two updates.
struct Catalog;

#[tonic::async_trait]
impl ScanService for Catalog {
    async fn get_scan_metadata(
        &self,
        request: Request<GetScanMetadataRequest>,
    ) -> Result<Response<GetScanMetadataResponse>, Status> {
        let update = |(update_no, package): (u32, &str)| ScanUpdate {
            update_no,
            revision: 1,
            source_package: package.into(),
            version: NEW.into(),
            leaves: vec![ScanLeaf {
                package: package.into(),
                ..Default::default()
            }],
            max_run_time_minutes: 60,
            ..Default::default()
        };
        if request.get_ref().base_generation > 0 {
            return Ok(Response::new(GetScanMetadataResponse {
                generation: 1,
                ..Default::default()
            }));
        }
        Ok(Response::new(GetScanMetadataResponse {
            generation: 1,
            updates: UPDATES.map(update).to_vec(),
            suites: vec![ScanSuite {
                codename: "bookworm-security".into(),
                ..Default::default()
            }],
            ..Default::default()
        }))
    }
}

const SCANS: Table = &[(
    "/muster.catalog.v1.ScanService/GetScanMetadata",
    &[Caller::Role(Role::Client)],
)];

fn tls(folder: &Path, name: &str) -> TlsConfig {
    TlsConfig {
        ca: folder.join("ca/ca.pem"),
        cert: folder.join(format!("certs/{name}.pem")),
        key: folder.join(format!("certs/{name}.key")),
    }
}

fn free() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, muster_testkit::free_port()).into()
}

fn documented(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../deploy/config/{name}.toml"))
}

fn machine(seed: u64) -> Arc<Simulated> {
    let script = Script {
        seed,
        host_name: format!("machine-{seed}"),
        ..Script::default()
    };
    let packages = UPDATES.map(|(_, package)| (package.to_owned(), OLD.to_owned()));
    Arc::new(Simulated::new(script, packages))
}

fn open(dir: &Path, machine: &Arc<Simulated>) -> Agent {
    Agent::open(dir, Arc::clone(machine) as _, Options::default()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What a machine needs and has, by what is on it.
fn truth(machine: &Simulated) -> [Vec<i32>; 2] {
    let (mut installed, mut required) = (Vec::new(), Vec::new());
    for (update_no, package) in UPDATES {
        let fresh = machine.version(package).as_deref() == Some(NEW);
        let list = if fresh { &mut installed } else { &mut required };
        list.push(update_no.cast_signed());
    }
    [installed, required]
}

async fn held(pool: &Pool, agent: &Agent) -> [Vec<i32>; 2] {
    const SQL: &str = "SELECT installed, required FROM client_compliance
                       JOIN clients USING (client_no) WHERE client_id = $1";
    let id = agent.registration().unwrap().client_id.0;
    let db = pool.get().await.unwrap();
    match db.query_opt(SQL, &[&id]).await.unwrap() {
        Some(row) => [row.get(0), row.get(1)],
        None => Default::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_disk_ends_as_two_clients_and_each_says_what_is_so() {
    muster_runtime::crypto::install();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let hosts = ["127.0.0.1".to_owned()];
    site_server::init("P01", "Test site", folder, &hosts).unwrap();
    let database = muster_testkit::postgres::database().await;
    let vhost = muster_testkit::rabbit::vhost().await;
    let scans = ServerConfig {
        listen: free(),
        tls: tls(folder, "software-update-point"),
        limits: Default::default(),
    };
    let scans = Server::new(scans, SCANS)
        .descriptors(muster_proto::DESCRIPTORS)
        .add_service(ScanServiceServer::new(Catalog).send_compressed(CompressionEncoding::Zstd))
        .start()
        .await
        .unwrap();
    let url = |addr: SocketAddr| format!("https://{addr}");

    let mut config: site_server::Config =
        muster_runtime::config::load(documented("site-server")).unwrap();
    let point = free();
    config.listen = free();
    config.admin.listen = free();
    config.resync_after = Duration::from_millis(300);
    config.resync_jitter = Duration::ZERO;
    config.resync_pauses = vec![site_server::Pause(Duration::from_secs(1))];
    config.policy_key = folder.join("keys/policy.key");
    config.tls = tls(folder, "site-server");
    config.ca.cert = folder.join("ca/ca.pem");
    config.ca.key = folder.join("ca/ca.key");
    config.postgres = muster_postgres::Config {
        durable: false,
        ..database.schema("site")
    };
    config.rabbitmq = vhost.config.clone();
    config.roles.management_points = vec![url(point)];
    config.roles.software_update_points = vec![url(scans.addr())];
    config.roles.software_update_point = url(scans.addr());
    config.roles.distribution_points = Vec::new();
    let site = site_server::start(config.clone()).await.unwrap();

    let mut settings: management_point::Config =
        muster_runtime::config::load(documented("management-point")).unwrap();
    settings.listen = point;
    settings.admin.listen = free();
    settings.site_server = url(config.listen);
    settings.tls = tls(folder, "management-point");
    settings.rabbitmq = vhost.config.clone();
    settings.directions_interval = Duration::from_millis(100);
    let management_point = management_point::start(settings).await.unwrap();

    let admin = tls(folder, "administrator");
    let admin = channel(&url(config.listen), &admin, &ChannelOptions::default()).unwrap();
    let request = pb::CreateEnrolmentTokensRequest {
        count: 1,
        valid_for: Some(prost_types::Duration {
            seconds: 600,
            nanos: 0,
        }),
        ..Default::default()
    };
    let mut clients = ClientServiceClient::new(admin);
    let tokens = clients
        .create_enrolment_tokens(request)
        .await
        .unwrap()
        .into_inner()
        .tokens;

    let machines = [machine(1), machine(2)];
    let folders = [folder.join("original"), folder.join("copy")];
    let with = Enrolment {
        management_point: url(point),
        ca: folder.join("ca/ca.pem"),
        token: tokens[0].clone(),
    };
    let enrolled = enrol(&folders[0], &machines[0].machine(), &with)
        .await
        .unwrap();
    let original = open(&folders[0], &machines[0]);
    original.poll_policy().await.unwrap();
    original.scan(Trigger::User).await.unwrap();
    original.send_reports().await.unwrap();
    drop(original);
    copy(&folders[0], &folders[1]);
    let agents = [
        open(&folders[0], &machines[0]),
        open(&folders[1], &machines[1]),
    ];

    // Both go on, and something happens on each.
    let started = Instant::now();
    for round in 0.. {
        for (at, agent) in agents.iter().enumerate() {
            let version = if (round + at) % 2 == 0 { NEW } else { OLD };
            machines[at].set_version("zsh", version);
            machines[at].set_version("bash", if at == 0 { OLD } else { NEW });
            // A call may fall into the moment in which something is decided.
            let _ = agent.scan(Trigger::User).await;
            let _ = agent.send_reports().await;
        }
        let [first, second] = agents
            .each_ref()
            .map(|it| it.registration().unwrap().client_id);
        if first != second && started.elapsed() > Duration::from_secs(2) {
            break;
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "they are not separated"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let pool = muster_postgres::connect(&config.postgres).await.unwrap();
    for (agent, machine) in agents.iter().zip(&machines) {
        eventually(async || {
            let _ = agent.scan(Trigger::User).await;
            let _ = agent.send_reports().await;
            held(&pool, agent).await == truth(machine)
        })
        .await;
    }
    let ids = agents
        .each_ref()
        .map(|it| it.registration().unwrap().client_id);
    assert_eq!(ids[0], enrolled, "the machine that enrolled keeps the id");
    assert_ne!(ids[1], enrolled);
    let name = enrolled.to_string();
    let shown = clients
        .get_client(pb::GetClientRequest { name })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(shown.clone_ids, [ids[1].as_bytes().as_slice()]);
    for agent in agents {
        let again = open(agent.dir(), &machines[0]).registration().unwrap();
        assert_eq!(again, agent.registration().unwrap());
    }
    management_point.stop().await;
    site.stop().await;
    scans.stop(Duration::from_secs(2)).await;
}
