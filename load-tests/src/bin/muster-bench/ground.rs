//! A site server in this process, on a database and a virtual host of its own.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::StreamExt;
use muster_domain::states::Detection;
use muster_postgres::Pool;
use muster_rabbitmq::{Headers, Publisher};
use muster_runtime::Tasks;
use muster_runtime::config::{AdminConfig, TelemetryConfig, TlsConfig};
use muster_runtime::grpc::Limits;
use muster_testkit::postgres::TestDatabase;
use muster_testkit::rabbit::TestVhost;
use site_server::{CaConfig, ClientSettings, Config, Handle, Roles};
use uuid::Uuid;

use crate::fleet::{Fleet, Member, SHARDS, uncell};

/// How long recording may take before a run is given up.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a benchmark stands on.
pub(crate) struct Ground {
    pub(crate) pool: Pool,
    pub(crate) publisher: Publisher,
    pub(crate) vhost: TestVhost,
    pub(crate) tasks: Tasks,
    pub(crate) folder: tempfile::TempDir,
    handle: Option<Handle>,
    _database: TestDatabase,
}

pub(crate) fn tls(folder: &Path, name: &str) -> TlsConfig {
    TlsConfig {
        ca: folder.join("ca/ca.pem"),
        cert: folder.join(format!("certs/{name}.pem")),
        key: folder.join(format!("certs/{name}.key")),
    }
}

impl Ground {
    pub(crate) async fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        site_server::init("P01", "Benchmark", folder.path(), &hosts)?;
        let (database, vhost) = (
            muster_testkit::postgres::database().await,
            muster_testkit::rabbit::vhost().await,
        );
        let config = Config {
            site_code: "P01".parse()?,
            site_name: "Benchmark".into(),
            listen: (Ipv4Addr::LOCALHOST, muster_testkit::free_port()).into(),
            state_shards: SHARDS,
            catalog_poll_interval: Duration::from_secs(3_600),
            content_check_interval: Duration::from_secs(3_600),
            resync_after: Duration::from_secs(120),
            resync_jitter: Duration::from_secs(180),
            resync_pauses: Vec::new(),
            policy_key: folder.path().join("keys/policy.key"),
            tls: tls(folder.path(), "site-server"),
            limits: Limits::default(),
            telemetry: TelemetryConfig::default(),
            admin: AdminConfig::default(),
            ca: CaConfig {
                cert: folder.path().join("ca/ca.pem"),
                key: folder.path().join("ca/ca.key"),
            },
            postgres: database.schema("site"),
            rabbitmq: vhost.config.clone(),
            roles: Roles {
                // Nobody is there: the catalog plays no part.
                software_update_point: "https://127.0.0.1:9".into(),
                distribution_points: Vec::new(),
                management_points: Vec::new(),
                software_update_points: Vec::new(),
            },
            client_settings: ClientSettings::default(),
        };
        let handle = site_server::start(config.clone()).await?;
        let pool = muster_postgres::connect(&config.postgres).await?;
        let tasks = Tasks::new();
        let publisher = Publisher::start(&vhost.config, &tasks).await?;
        Ok(Self {
            pool,
            publisher,
            vhost,
            tasks,
            folder,
            handle: Some(handle),
            _database: database,
        })
    }

    /// Enrols all clients, without their certificates: `client_no` is the place in the fleet + 1.
    pub(crate) async fn enrol(&self, fleet: &Fleet) -> Result<()> {
        const CLIENTS: &str = "
            INSERT INTO clients (client_id, host_name, os_id, os_version_id, architecture,
                                 agent_version, machine_id_hash, certificate_fingerprint,
                                 certificate_ends_at, epoch)
            SELECT id, 'host-' || n, 'debian', '12', 'amd64', '1', '', '', now(), 1
            FROM unnest($1::uuid[]) WITH ORDINALITY AS c (id, n) ORDER BY n";
        const STREAMS: &str = "
            INSERT INTO report_stream_rows (client_no, epoch)
            SELECT client_no, 1 FROM clients ORDER BY client_no";
        let db = self.pool.get().await?;
        let ids: Vec<Uuid> = fleet.members.iter().map(|member| member.id).collect();
        db.execute(CLIENTS, &[&ids]).await?;
        db.execute(STREAMS, &[]).await?;
        db.batch_execute("ANALYZE clients; ANALYZE report_stream_rows")
            .await?;
        Ok(())
    }

    /// Publishes messages, as many at a time as a management point does.
    pub(crate) async fn publish(&self, messages: Vec<(u16, Bytes, u32)>) -> Result<()> {
        let sent = futures::stream::iter(messages).map(|(shard, body, count)| async move {
            let headers = Headers {
                traceparent: None,
                count,
            };
            self.publisher
                .publish_to("site.P01.states", &shard.to_string(), body, headers)
                .await
        });
        let mut sent = sent.buffer_unordered(256);
        while let Some(result) = sent.next().await {
            result.context("cannot publish")?;
        }
        Ok(())
    }

    /// Reports recorded so far.
    pub(crate) async fn recorded(&self) -> Result<u64> {
        let db = self.pool.get().await?;
        let row = db
            .query_one("SELECT reports FROM recorded_totals", &[])
            .await?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }

    /// Waits until so many reports are recorded in all.
    pub(crate) async fn wait_for(&self, reports: u64) -> Result<()> {
        let begin = Instant::now();
        loop {
            let recorded = self.recorded().await?;
            if recorded >= reports {
                ensure!(recorded == reports, "{recorded} recorded, {reports} sent");
                return Ok(());
            }
            ensure!(
                begin.elapsed() < PATIENCE,
                "{recorded} of {reports} recorded after {} s",
                PATIENCE.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the state queues are empty and acknowledged.
    pub(crate) async fn drained(&self) -> Result<()> {
        let monitor = muster_rabbitmq::Monitor::new(&self.vhost.config);
        let begin = Instant::now();
        loop {
            let mut waiting = 0;
            for queue in muster_rabbitmq::topology::state_queues("P01", SHARDS) {
                waiting += u64::from(monitor.queue_depth(&queue).await?.messages);
            }
            if waiting == 0 {
                return Ok(());
            }
            ensure!(begin.elapsed() < PATIENCE, "{waiting} messages still wait");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Bytes of WAL written since `from`.
    pub(crate) async fn wal(&self) -> Result<f64> {
        let db = self.pool.get().await?;
        let row = db
            .query_one(
                "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8",
                &[],
            )
            .await?;
        Ok(row.get(0))
    }

    /// Compares what the site holds with the model: wrong clients, wrong counters.
    pub(crate) async fn wrong(&self, fleet: &[Member]) -> Result<(u64, u64)> {
        const ROWS: &str = "
            SELECT client_no, installed, required, unknown FROM client_compliance
            WHERE client_no > $1 AND client_no <= $1 + 2000 ORDER BY client_no";
        let db = self.pool.get().await?;
        let mut wrong = 0;
        for (at, page) in fleet.chunks(2_000).enumerate() {
            let first = i32::try_from(at * 2_000)?;
            let rows = db.query(ROWS, &[&first]).await?;
            let mut rows = rows.iter().peekable();
            for (member, number) in page.iter().zip(first + 1..) {
                let row = rows.next_if(|row| row.get::<_, i32>(0) == number);
                let held: [Vec<i32>; 3] = match row {
                    Some(row) => [row.get(1), row.get(2), row.get(3)],
                    None => Default::default(),
                };
                wrong += u64::from(held != columns(member));
            }
            wrong += u64::try_from(rows.count())?;
        }
        let mut model: std::collections::BTreeMap<i32, [i32; 3]> = Default::default();
        for member in fleet {
            for (at, numbers) in columns(member).iter().enumerate() {
                for number in numbers {
                    model.entry(*number).or_default()[at] += 1;
                }
            }
        }
        let counters = db
            .query(
                "SELECT update_no, installed, required, unknown FROM update_counters
                 WHERE (installed, required, unknown) <> (0, 0, 0)",
                &[],
            )
            .await?;
        let held: std::collections::BTreeMap<i32, [i32; 3]> = counters
            .iter()
            .map(|row| (row.get(0), [row.get(1), row.get(2), row.get(3)]))
            .collect();
        let differ = held.iter().filter(|(no, it)| model.get(no) != Some(it));
        let missing = model.keys().filter(|no| !held.contains_key(no));
        Ok((wrong, u64::try_from(differ.count() + missing.count())?))
    }

    pub(crate) async fn stop(mut self) {
        if let Some(handle) = self.handle.take() {
            handle.stop().await;
        }
        self.tasks.stop(Duration::from_secs(5)).await;
    }
}

fn columns(member: &Member) -> [Vec<i32>; 3] {
    let mut columns: [Vec<i32>; 3] = Default::default();
    for (number, state) in member.states.iter().map(|cell| uncell(*cell)) {
        let at = match state {
            Detection::Installed => 0,
            Detection::Required => 1,
            Detection::Unknown => 2,
            Detection::NotRequired => continue,
        };
        columns[at].push(i32::try_from(number.0).unwrap_or(0));
    }
    columns
}
