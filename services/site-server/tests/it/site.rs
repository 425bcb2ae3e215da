//! One running site server with a database and a virtual host of its own.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use muster_domain::{ClientId, UpdateNo, states::Detection};
use muster_postgres::Pool;
use muster_proto::client as pb;
use muster_proto::client::client_gateway_service_client::ClientGatewayServiceClient;
use muster_proto::client::client_service_client::ClientServiceClient;
use muster_proto::state;
use muster_rabbitmq::{Headers, Publisher};
use muster_runtime::Tasks;
use muster_runtime::config::{AdminConfig, TelemetryConfig, TlsConfig};
use muster_runtime::grpc::{Channel, ChannelOptions, Limits, channel};
use muster_runtime::tls::ca::signing_request;
use muster_testkit::postgres::TestDatabase;
use muster_testkit::rabbit::TestVhost;
use prost::Message;
use site_server::{
    CaConfig, ClientSettings, Config, DistributionPoint, Handle, LinksConfig, Pause, Roles,
    TrendConfig,
};

use crate::roles::Others;

pub(crate) struct Site {
    pub(crate) handle: Option<Handle>,
    pub(crate) config: Config,
    pub(crate) pool: Pool,
    pub(crate) others: Others,
    publisher: Publisher,
    folder: tempfile::TempDir,
    _tasks: Tasks,
    database: TestDatabase,
    vhost: TestVhost,
}

/// A client that enrolled.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) id: ClientId,
    pub(crate) epoch: u32,
    pub(crate) answer: pb::EnrolResponse,
}

/// All that a site server needs before it starts.
pub(crate) struct Ground {
    pub(crate) config: Config,
    pub(crate) others: Others,
    folder: tempfile::TempDir,
    database: TestDatabase,
    vhost: TestVhost,
}

impl Ground {
    pub(crate) async fn new() -> Self {
        Self::of("P01").await
    }

    /// Of a site with another code.
    pub(crate) async fn of(code: &str) -> Self {
        muster_runtime::crypto::install();
        let folder = tempfile::tempdir().unwrap();
        let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        site_server::init(code, "Test site", folder.path(), &hosts).unwrap();
        let (database, vhost) = (
            muster_testkit::postgres::database().await,
            muster_testkit::rabbit::vhost().await,
        );
        let others = Others::start(folder.path()).await;
        let config = Config {
            site_code: code.parse().unwrap(),
            site_name: "Test site".into(),
            listen: (Ipv4Addr::LOCALHOST, muster_testkit::free_port()).into(),
            state_shards: 2,
            catalog_poll_interval: Duration::from_millis(200),
            resync_after: Duration::from_millis(800),
            resync_jitter: Duration::ZERO,
            resync_pauses: vec![Pause(Duration::from_secs(2))],
            report_interval_max: Duration::from_secs(7200),
            renewal_grace: Duration::from_secs(3600),
            content_check_interval: Duration::from_millis(100),
            policy_key: folder.path().join("keys/policy.key"),
            tls: tls(folder.path(), "site-server"),
            limits: Limits::default(),
            telemetry: TelemetryConfig::default(),
            admin: AdminConfig::default(),
            ca: CaConfig {
                cert: folder.path().join("ca/ca.pem"),
                key: folder.path().join("ca/ca.key"),
            },
            postgres: muster_postgres::Config {
                durable: false,
                ..database.schema("site")
            },
            rabbitmq: vhost.config.clone(),
            roles: Roles {
                software_update_point: others.software_update_point(),
                distribution_points: vec![DistributionPoint {
                    grpc: others.distribution_point(),
                    content: "https://dp.example:8443".into(),
                }],
                management_points: vec!["https://mp.example:8410".into()],
                software_update_points: vec!["https://sup.example:8420".into()],
            },
            secondary_sites: vec![],
            client_settings: ClientSettings::default(),
            trend: TrendConfig::default(),
            links: LinksConfig {
                cycle: Duration::from_millis(500),
                ..LinksConfig::default()
            },
        };
        Self {
            config,
            others,
            folder,
            database,
            vhost,
        }
    }
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With a configuration that differs.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let mut ground = Ground::new().await;
        change(&mut ground.config);
        let handle = site_server::start(ground.config.clone()).await.unwrap();
        Self::on(ground, Some(handle)).await
    }

    /// A site whose server somebody else runs.
    pub(crate) async fn on(ground: Ground, handle: Option<Handle>) -> Self {
        let Ground {
            config,
            others,
            folder,
            database,
            vhost,
        } = ground;
        let tasks = Tasks::new();
        let publisher = Publisher::start(&vhost.config, &tasks).await.unwrap();
        Self {
            handle,
            pool: muster_postgres::connect(&config.postgres).await.unwrap(),
            config,
            others,
            publisher,
            folder,
            _tasks: tasks,
            database,
            vhost,
        }
    }

    /// Ends all connections to its broker.
    pub(crate) async fn close_connections(&self) {
        self.vhost.close_connections().await;
    }

    /// A copy of the database of a site that is stopped.
    pub(crate) async fn back_up(&mut self) -> TestDatabase {
        self.pool.close();
        let copy = self.database.copy().await;
        self.pool = muster_postgres::connect(&self.config.postgres)
            .await
            .unwrap();
        copy
    }

    /// Puts a copy in the place of the database of a site that is stopped.
    pub(crate) async fn restore(&mut self, copy: TestDatabase) {
        self.config.postgres.dbname.clone_from(&copy.config.dbname);
        self.pool = muster_postgres::connect(&self.config.postgres)
            .await
            .unwrap();
        self.database = copy;
    }

    /// A channel with the certificate of this name.
    pub(crate) fn channel(&self, name: &str) -> Channel {
        let url = format!("https://127.0.0.1:{}", self.config.listen.port());
        channel(
            &url,
            &tls(self.folder.path(), name),
            &ChannelOptions::default(),
        )
        .unwrap()
    }

    pub(crate) fn gateway(&self) -> ClientGatewayServiceClient<Channel> {
        ClientGatewayServiceClient::new(self.channel("management-point"))
    }

    pub(crate) fn clients(&self) -> ClientServiceClient<Channel> {
        ClientServiceClient::new(self.channel("administrator"))
    }

    pub(crate) async fn tokens(&self, count: u32) -> Vec<String> {
        let request = pb::CreateEnrolmentTokensRequest {
            count,
            valid_for: Some(prost_types::Duration {
                seconds: 600,
                nanos: 0,
            }),
            collection_ids: vec![],
        };
        self.clients()
            .create_enrolment_tokens(request)
            .await
            .unwrap()
            .into_inner()
            .tokens
    }

    pub(crate) async fn enrol(&self, host_name: &str) -> Client {
        let token = self.tokens(1).await.remove(0);
        let csr = signing_request().unwrap().der;
        let answer = self.enrol_with(&token, &csr, host_name).await.unwrap();
        Client {
            id: ClientId::from_slice(&answer.client_id).unwrap(),
            epoch: answer.epoch,
            answer,
        }
    }

    pub(crate) async fn enrol_with(
        &self,
        token: &str,
        csr: &[u8],
        host_name: &str,
    ) -> Result<pb::EnrolResponse, tonic::Status> {
        let machine = pb::MachineFacts {
            host_name: host_name.into(),
            os_id: "debian".into(),
            os_version_id: "12".into(),
            architecture: "amd64".into(),
            ..Default::default()
        };
        let request = pb::EnrolRequest {
            token: token.into(),
            csr: Bytes::copy_from_slice(csr),
            machine: Some(machine),
            arrival: None,
        };
        let request = pb::EnrolClientRequest {
            request: Some(request),
            ..Default::default()
        };
        Ok(self
            .gateway()
            .enrol_client(request)
            .await?
            .into_inner()
            .response
            .unwrap())
    }

    pub(crate) async fn policy(
        &self,
        client: &Client,
        known_version: &[u8],
    ) -> Result<pb::GetClientPolicyResponse, tonic::Status> {
        let request = pb::GetClientPolicyRequest {
            client_id: Bytes::copy_from_slice(client.id.as_bytes()),
            known_version: Bytes::copy_from_slice(known_version),
            ..Default::default()
        };
        Ok(self
            .gateway()
            .get_client_policy(request)
            .await?
            .into_inner())
    }

    /// Publishes one message as a management point does.
    pub(crate) async fn publish(&self, key: &str, body: Vec<u8>) {
        let exchange = format!("site.{}.states", self.config.site_code);
        self.publisher
            .publish_to(&exchange, key, body.into(), Headers::current(1))
            .await
            .unwrap();
    }

    /// Publishes reports as one message.
    pub(crate) async fn report(&self, reports: &[state::Report]) {
        let envelopes = reports
            .iter()
            .map(|report| envelope(report, &report.client_id))
            .collect();
        let batch = state::ReportBatch { reports: envelopes };
        self.publish("0", batch.encode_to_vec()).await;
    }

    /// A number that SQL gives.
    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.pool
            .get()
            .await
            .unwrap()
            .query_one(sql, &[])
            .await
            .unwrap()
            .get(0)
    }

    /// The serial up to which a client's reports are recorded without a gap.
    pub(crate) async fn contiguous(&self, client: &Client) -> i64 {
        let sql = "SELECT contiguous_serial FROM report_streams JOIN clients USING (client_no)
                   WHERE client_id = $1";
        self.pool
            .get()
            .await
            .unwrap()
            .query_one(sql, &[&client.id.0])
            .await
            .unwrap()
            .get(0)
    }

    /// What the site holds of a client: installed, required, unknown.
    pub(crate) async fn held(&self, client: &Client) -> [Vec<i32>; 3] {
        let sql = "SELECT installed, required, unknown FROM client_compliance
                   JOIN clients USING (client_no) WHERE client_id = $1";
        let db = self.pool.get().await.unwrap();
        match db.query_opt(sql, &[&client.id.0]).await.unwrap() {
            Some(row) => [row.get(0), row.get(1), row.get(2)],
            None => Default::default(),
        }
    }

    /// Counters that are not what a recount of the clients' rows gives.
    pub(crate) async fn wrong_counters(&self) -> i64 {
        self.count(
            "WITH recount AS (
                 SELECT update_no, count(*) FILTER (WHERE state = 3) AS installed,
                        count(*) FILTER (WHERE state = 2) AS required,
                        count(*) FILTER (WHERE state = 0) AS unknown
                 FROM (SELECT unnest(installed) AS update_no, 3 AS state FROM client_compliance
                       UNION ALL SELECT unnest(required), 2 FROM client_compliance
                       UNION ALL SELECT unnest(unknown), 0 FROM client_compliance) AS s
                 GROUP BY 1)
             SELECT count(*) FROM update_counters k FULL JOIN recount r USING (update_no)
             WHERE (COALESCE(k.installed, 0), COALESCE(k.required, 0), COALESCE(k.unknown, 0)) <>
                   (COALESCE(r.installed, 0), COALESCE(r.required, 0), COALESCE(r.unknown, 0))",
        )
        .await
    }
}

pub(crate) fn envelope(report: &state::Report, client_id: &[u8]) -> state::ReportEnvelope {
    state::ReportEnvelope {
        report: report.encode_to_vec().into(),
        client_id: Bytes::copy_from_slice(client_id),
        traceparent: String::new(),
        received_at: None,
    }
}

impl Client {
    /// A report of this client with nothing in it.
    pub(crate) fn report(&self, kind: state::ReportKind, first: u64, last: u64) -> state::Report {
        state::Report {
            client_id: Bytes::copy_from_slice(self.id.as_bytes()),
            epoch: self.epoch,
            first_serial: first,
            last_serial: last,
            kind: kind.into(),
            catalog_generation: 1,
            ..Default::default()
        }
    }

    pub(crate) fn full(&self, last: u64, states: &[(u32, Detection)]) -> state::Report {
        let compliance = Some(compliance(states));
        state::Report {
            compliance,
            ..self.report(state::ReportKind::Full, 1, last)
        }
    }

    pub(crate) fn delta(
        &self,
        first: u64,
        last: u64,
        states: &[(u32, Detection)],
    ) -> state::Report {
        let compliance = Some(compliance(states));
        state::Report {
            compliance,
            ..self.report(state::ReportKind::Delta, first, last)
        }
    }
}

pub(crate) fn compliance(states: &[(u32, Detection)]) -> state::Compliance {
    let packed = muster_compliance::packed::pack(states.iter().map(|(n, s)| (UpdateNo(*n), *s)));
    state::Compliance {
        update_numbers: packed.update_numbers,
        states: packed.states.into(),
        serial: 0,
        needs: vec![],
    }
}

pub(crate) fn tls(folder: &Path, name: &str) -> TlsConfig {
    let file = |end: &str| -> PathBuf { folder.join(format!("certs/{name}.{end}")) };
    TlsConfig {
        ca: folder.join("ca/ca.pem"),
        cert: file("pem"),
        key: file("key"),
    }
}
