//! What the stories happen in.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use management_point::ManagementPoint;
use muster_domain::ClientId;
use muster_local::packages::{self, Install};
use muster_local::rabbit::{Listener, Management, User};
use muster_local::{Interrupt, Rabbit, State};
use muster_proto::client::client_gateway_service_server::{
    ClientGatewayService, ClientGatewayServiceServer,
};
use muster_proto::client::{
    EnrolClientRequest, EnrolClientResponse, EnrolResponse, GetClientLocationsRequest,
    GetClientLocationsResponse, GetClientPolicyRequest, GetClientPolicyResponse,
    GetDirectionsRequest, GetDirectionsResponse, RegisterClientRequest, RegisterClientResponse,
    RegisterResponse, RenewClientIdentityRequest, RenewClientIdentityResponse,
    RenewIdentityResponse,
};
use muster_proto::policy::policy_service_client::PolicyServiceClient;
use muster_proto::state::state_service_client::StateServiceClient;
use muster_proto::state::{ReportBatch, ReportEnvelope};
use muster_rabbitmq::{Batch, Monitor, consume, topology};
use muster_runtime::auth::{Caller, Table};
use muster_runtime::config::TlsConfig;
use muster_runtime::grpc::{
    Channel, ChannelOptions, Handle, Limits, Server, ServerConfig, channel_without_certificate,
};
use muster_runtime::status::{Kind, status};
use muster_runtime::{Role, Tasks};
use muster_testkit::{TestCa, eventually};
use prost::Message;
use tonic::{Request, Response, Status};

const STOP: Duration = Duration::from_secs(5);

pub(crate) struct World {
    pub(crate) ca: TestCa,
    pub(crate) rabbit: Rabbit,
    pub(crate) site: Site,
    point: Option<ManagementPoint>,
    site_addr: SocketAddr,
    site_server: Option<Handle>,
    _folder: tempfile::TempDir,
}

impl World {
    pub(crate) async fn start() -> Self {
        let ca = TestCa::new();
        let folder = tempfile::tempdir().unwrap();
        let broker = ca.issue(Role::MessageBroker, "broker");
        let state = folder.path().join("state");
        let rabbit = tokio::task::spawn_blocking(move || start_broker(&state, broker));
        let rabbit = rabbit.await.unwrap();
        let mut world = Self {
            site_addr: ([127, 0, 0, 1], muster_testkit::free_port()).into(),
            ca,
            rabbit,
            site: Site::default(),
            point: None,
            site_server: None,
            _folder: folder,
        };
        // The management point comes first: nobody it needs has to be there.
        world.point = Some(world.start_point().await);
        topology::declare_states(&world.broker("site"), "P01", 2)
            .await
            .unwrap();
        world.start_site().await;
        world
    }

    async fn start_point(&self) -> ManagementPoint {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../deploy/config/management-point.toml"
        );
        let mut config: management_point::Config = muster_runtime::config::load(file).unwrap();
        config.listen = ([127, 0, 0, 1], 0).into();
        config.directions_interval = Duration::from_millis(50);
        config.admin.listen = ([127, 0, 0, 1], 0).into();
        config.site_server = format!("https://{}", self.site_addr);
        config.tls = self.ca.issue(Role::ManagementPoint, "mp1");
        config.rabbitmq = self.broker("mp");
        management_point::start(config).await.unwrap()
    }

    pub(crate) async fn start_site(&mut self) {
        let tls = self.ca.issue(Role::SiteServer, "site1");
        let config = ServerConfig {
            listen: self.site_addr,
            tls,
            limits: Limits::default(),
        };
        let server = Server::new(config, TABLE)
            .add_service(ClientGatewayServiceServer::new(self.site.clone()));
        self.site_server = Some(server.start().await.unwrap());
    }

    pub(crate) async fn stop_site(&mut self) {
        self.site_server.take().unwrap().stop(STOP).await;
    }

    pub(crate) async fn stop(mut self) {
        self.point.take().unwrap().stop().await;
        self.stop_site().await;
        tokio::task::block_in_place(|| self.rabbit.stop().unwrap());
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.point.as_ref().unwrap().addr())
    }

    pub(crate) fn stranger(&self) -> Channel {
        let ca = self.ca.issue(Role::Client, "unused").ca;
        channel_without_certificate(&self.url(), &ca, &options()).unwrap()
    }

    pub(crate) fn client(&self, client: ClientId) -> Channel {
        channel(
            self.url(),
            &self.ca.issue(Role::Client, &client.to_string()),
        )
    }

    pub(crate) fn services(
        &self,
        channel: Channel,
    ) -> (StateServiceClient<Channel>, PolicyServiceClient<Channel>) {
        (
            StateServiceClient::new(channel.clone()),
            PolicyServiceClient::new(channel),
        )
    }

    pub(crate) fn broker(&self, user: &str) -> muster_rabbitmq::Config {
        let uri = format!("amqps://127.0.0.1:{}/P01", self.rabbit.amqp_port());
        let password = self.rabbit.password_file(user);
        let mut config = muster_rabbitmq::Config::new(uri, user, password);
        config.tls = Some(self.ca.issue(Role::ManagementPoint, "broker-user"));
        config
    }

    pub(crate) fn queues(&self) -> Vec<String> {
        topology::state_queues("P01", 2)
    }

    /// Everything that is in the queues, and where it was.
    pub(crate) async fn take_all(&self) -> Vec<(String, ReportEnvelope)> {
        let (tasks, monitor) = (Tasks::new(), Monitor::new(&self.broker("site")));
        let seen: Arc<Mutex<Vec<_>>> = Arc::default();
        for queue in self.queues() {
            let sink = Arc::clone(&seen);
            consume(
                &self.broker("site"),
                &queue,
                Batch::default(),
                &tasks,
                move |deliveries| {
                    for delivery in deliveries {
                        let queue = delivery.queue.to_string();
                        let reports = ReportBatch::decode(delivery.body).unwrap().reports;
                        let mut seen = sink.lock().unwrap();
                        seen.extend(reports.into_iter().map(|it| (queue.clone(), it)));
                    }
                    async { Ok::<(), muster_rabbitmq::Error>(()) }
                },
            )
            .await
            .unwrap();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(tasks.stop(STOP).await.is_empty());
        for queue in self.queues() {
            eventually(async || monitor.queue_depth(&queue).await.unwrap().messages == 0).await;
        }
        std::mem::take(&mut *seen.lock().unwrap())
    }
}

fn start_broker(state: &std::path::Path, tls: TlsConfig) -> Rabbit {
    let state = State::open(state, Interrupt::default()).unwrap();
    let programs = packages::ensure(Install::No, &|_| {}).unwrap();
    let listener = Listener::Tls {
        ca: tls.ca,
        cert: tls.cert,
        key: tls.key,
    };
    let rabbit = Rabbit::start(&state, &programs, &listener, Management::Off).unwrap();
    let user = |name: &str, configure: &str, write: &str, read: &str| User {
        name: name.to_owned(),
        configure: configure.to_owned(),
        write: write.to_owned(),
        read: read.to_owned(),
    };
    let site = "^site\\.P01\\.";
    let users = [
        user("site", site, site, site),
        user("mp", "^$", "^site\\.P01\\.states$", "^$"),
    ];
    rabbit.define("P01", &users).unwrap();
    rabbit
}

fn options() -> ChannelOptions {
    ChannelOptions {
        server_role: Some(Role::ManagementPoint),
        ..Default::default()
    }
}

pub(crate) fn channel(url: String, tls: &TlsConfig) -> Channel {
    muster_runtime::grpc::channel(&url, tls, &options()).unwrap()
}

const MP: &[Caller] = &[Caller::Role(Role::ManagementPoint)];
const TABLE: Table = &[
    ("/muster.client.v1.ClientGatewayService/EnrolClient", MP),
    ("/muster.client.v1.ClientGatewayService/RegisterClient", MP),
    (
        "/muster.client.v1.ClientGatewayService/GetClientLocations",
        MP,
    ),
    ("/muster.client.v1.ClientGatewayService/GetClientPolicy", MP),
    ("/muster.client.v1.ClientGatewayService/GetDirections", MP),
    (
        "/muster.client.v1.ClientGatewayService/RenewClientIdentity",
        MP,
    ),
];

/// A site server that does as it is told.
#[derive(Clone, Default)]
pub(crate) struct Site(Arc<Inner>);

#[derive(Default)]
struct Inner {
    calls: AtomicUsize,
    last: Mutex<Vec<u8>>,
    blocked: Mutex<HashSet<Vec<u8>>>,
    directions: Mutex<GetDirectionsResponse>,
    renewals: Mutex<Vec<RenewClientIdentityRequest>>,
}

impl Site {
    pub(crate) fn calls(&self) -> usize {
        self.0.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn last_client(&self) -> Vec<u8> {
        self.0.last.lock().unwrap().clone()
    }

    /// What management points are told from now on.
    pub(crate) fn direct(&self, change: impl FnOnce(&mut GetDirectionsResponse)) {
        let mut directions = self.0.directions.lock().unwrap();
        directions.version += 1;
        directions.denied_version += 1;
        change(&mut directions);
    }

    pub(crate) fn renewals(&self) -> Vec<RenewClientIdentityRequest> {
        self.0.renewals.lock().unwrap().clone()
    }

    pub(crate) fn block(&self, client: ClientId) {
        self.0
            .blocked
            .lock()
            .unwrap()
            .insert(client.as_bytes().to_vec());
    }

    fn note(&self, client: &[u8]) -> Result<(), Status> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        *self.0.last.lock().unwrap() = client.to_vec();
        if self.0.blocked.lock().unwrap().contains(client) {
            return Err(status(Kind::Denied, "CLIENT_BLOCKED", "deleted"));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl ClientGatewayService for Site {
    async fn enrol_client(
        &self,
        request: Request<EnrolClientRequest>,
    ) -> Result<Response<EnrolClientResponse>, Status> {
        self.note(b"")?;
        if request.into_inner().request.unwrap().token != "good" {
            return Err(status(Kind::Denied, "TOKEN_REFUSED", "no"));
        }
        let response = EnrolResponse {
            site_code: "P01".to_owned(),
            ..Default::default()
        };
        Ok(Response::new(EnrolClientResponse {
            response: Some(response),
        }))
    }

    async fn register_client(
        &self,
        request: Request<RegisterClientRequest>,
    ) -> Result<Response<RegisterClientResponse>, Status> {
        self.note(&request.into_inner().client_id)?;
        let response = RegisterResponse {
            epoch: 7,
            ..Default::default()
        };
        Ok(Response::new(RegisterClientResponse {
            response: Some(response),
        }))
    }

    async fn get_client_locations(
        &self,
        request: Request<GetClientLocationsRequest>,
    ) -> Result<Response<GetClientLocationsResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.address, "127.0.0.1", "where the client called from");
        self.note(&request.client_id)?;
        Ok(Response::new(GetClientLocationsResponse::default()))
    }

    async fn get_client_policy(
        &self,
        request: Request<GetClientPolicyRequest>,
    ) -> Result<Response<GetClientPolicyResponse>, Status> {
        self.note(&request.into_inner().client_id)?;
        let answer = GetClientPolicyResponse {
            send_full_report: true,
            ..Default::default()
        };
        Ok(Response::new(answer))
    }

    async fn renew_client_identity(
        &self,
        request: Request<RenewClientIdentityRequest>,
    ) -> Result<Response<RenewClientIdentityResponse>, Status> {
        self.0.renewals.lock().unwrap().push(request.into_inner());
        let response = Some(RenewIdentityResponse {
            epoch: 8,
            ..Default::default()
        });
        Ok(Response::new(RenewClientIdentityResponse { response }))
    }

    async fn get_directions(
        &self,
        _: Request<GetDirectionsRequest>,
    ) -> Result<Response<GetDirectionsResponse>, Status> {
        let directions = self.0.directions.lock().unwrap().clone();
        Ok(Response::new(directions))
    }
}
