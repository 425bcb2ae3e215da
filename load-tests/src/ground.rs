//! What benchmarks and scenarios stand on: one site of real processes (PostgreSQL, RabbitMQ, a
//! site server, a management point), each with the configuration it has in production, and what
//! they have used of the machine.
//!
//! Clients are enrolled by bulk insert: a token and a handshake for each of a hundred thousand is
//! no part of what is measured. So is the catalog, as rows that a software update point would
//! have brought. Everything after that is what management points and clients do.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::StreamExt;
use muster_local::packages::{self, Install};
use muster_local::rabbit::User;
use muster_local::site::{Plan, Setting};
use muster_local::{Interrupt, Service, Site, State, http, state};
use muster_postgres::Pool;
use muster_rabbitmq::{Headers, Publisher};
use muster_runtime::config::TlsConfig;
use muster_runtime::grpc::{Channel, ChannelOptions, channel};
use muster_runtime::tls::ca::CertificateAuthority;
use muster_runtime::{Role, Tasks};
use uuid::Uuid;

use crate::fleet::{Member, SHARDS, UPDATES};
use crate::relay::Relay;
use crate::scrape::Metrics;
use crate::usage::{self, Memory, Usage};

/// The site's code.
pub const SITE: &str = "P01";
/// Updates beyond those that fleets begin with: what a Patch Tuesday brings.
pub const NEW_UPDATES: usize = 29;
/// How long recording may take before a run is given up.
const PATIENCE: Duration = Duration::from_secs(600);
/// A virtual host where limits have queues of their own.
const PEER: &str = "peer";

/// Where the programs are and where a run may write.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// The folder with the built services; that of this program when not given
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// A folder for servers and their data, removed at the end; below .muster when not given
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl Place {
    pub(crate) fn programs(&self) -> Result<PathBuf> {
        if let Some(programs) = &self.programs {
            return Ok(programs.clone());
        }
        let own = std::env::current_exe()?;
        let folder = own.parent().context("this program is in no folder")?;
        Ok(folder.to_path_buf())
    }

    pub(crate) fn state(&self) -> PathBuf {
        let own = || workspace().join(format!(".muster/load-{}", std::process::id()));
        self.state.clone().unwrap_or_else(own)
    }
}

pub(crate) fn workspace() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// A site for one run.
pub struct Ground {
    /// The site's database, as the site server's own user.
    pub pool: Pool,
    /// The site's broker, as a management point.
    pub publisher: Publisher,
    /// What runs beside the measurement; stopped with it.
    pub tasks: Tasks,
    // Options only so that they can be taken for the end.
    site: Option<Site>,
    folder: PathBuf,
}

impl Ground {
    /// Starts a new site with these differences from the documented configuration.
    ///
    /// # Errors
    /// When a server does not start; the error shows the end of its log.
    pub async fn start(place: &Place, settings: Vec<Setting>) -> Result<Self> {
        let (programs, folder) = (place.programs()?, place.state());
        let at = folder.clone();
        let start = move || -> Result<Site> {
            let servers = packages::ensure(Install::No, &|_| {})?;
            let plan = Plan {
                can_be_parent: false,
                code: SITE.to_owned(),
                name: "Benchmark".to_owned(),
                programs,
                templates: workspace().join("deploy/config"),
                settings,
            };
            let state = State::open(&at, Interrupt::default())?;
            let services = [Service::SiteServer, Service::ManagementPoint];
            Site::start_some(&state, &servers, plan, &services, &|_| {})
        };
        let site = tokio::task::spawn_blocking(start).await??;
        let pool = database(&site).await?;
        let tasks = Tasks::new();
        let broker = broker(&site, Service::ManagementPoint.name(), SITE);
        let publisher = Publisher::start(&broker, &tasks).await?;
        Ok(Self {
            pool,
            publisher,
            tasks,
            site: Some(site),
            folder,
        })
    }

    /// The site's processes, to kill and to start again.
    ///
    /// # Panics
    /// Never before [`Ground::stop`].
    #[allow(clippy::expect_used)]
    pub fn site(&mut self) -> &mut Site {
        self.site.as_mut().expect("the site is taken only to stop")
    }

    /// As [`Ground::site`], for a look.
    ///
    /// # Panics
    /// Never before [`Ground::stop`].
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn site_ref(&self) -> &Site {
        self.site.as_ref().expect("the site is taken only to stop")
    }

    /// The certificate of one of the names that `site-server init` knows.
    #[must_use]
    pub fn tls(&self, name: &str) -> TlsConfig {
        let site = self.site_ref();
        let (cert, key) = site.certificate(name);
        let ca = site.ca();
        TlsConfig { ca, cert, key }
    }

    /// The certificate of a client, made here.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn client_tls(&self, client: Uuid) -> Result<TlsConfig> {
        let ca = self.site_ref().ca();
        let authority = CertificateAuthority::load(ca.parent().unwrap_or(&ca))?;
        let name = client.to_string();
        let issued = authority.issue(Role::Client, &name, &[])?;
        Ok(issued.write(&self.folder, &name, authority.path())?)
    }

    /// Connections to the management point as another management point has them.
    ///
    /// # Errors
    /// When the certificate cannot be used.
    pub fn relay(&self, connections: usize) -> Result<Relay> {
        let url = self.site_ref().grpc(Service::ManagementPoint);
        Relay::new(&url, &self.tls("management-point"), connections)
    }

    /// The site server as an administrator reaches it, for clients of its services.
    ///
    /// # Errors
    /// When the certificate cannot be used.
    pub fn administrator(&self) -> Result<Channel> {
        let url = self.site_ref().grpc(Service::SiteServer);
        let options = ChannelOptions::default();
        Ok(channel(&url, &self.tls("administrator"), &options)?)
    }

    /// The site's broker as the site server reaches it.
    #[must_use]
    pub fn broker(&self) -> muster_rabbitmq::Config {
        broker(self.site_ref(), Service::SiteServer.name(), SITE)
    }

    /// A virtual host of the same broker where everything is allowed, for limits. Takes seconds.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn peer_broker(&self) -> Result<muster_rabbitmq::Config> {
        let site = self.site_ref();
        let all = || ".*".to_owned();
        // The certificate is that of the site server; the user is another.
        let user = User {
            name: PEER.to_owned(),
            configure: all(),
            write: all(),
            read: all(),
        };
        site.rabbit.define(PEER, &[user])?;
        let config = broker(site, Service::SiteServer.name(), PEER);
        let password_file = site.rabbit.password_file(PEER);
        Ok(muster_rabbitmq::Config {
            user: PEER.to_owned(),
            password_file,
            ..config
        })
    }

    /// Enrols all clients, without their certificates: `client_no` is the place in the fleet + 1.
    /// The catalog gets its updates, and the site server is started again to find both.
    ///
    /// # Errors
    /// When the database refuses, or the site server does not come back.
    pub async fn enrol(&mut self, fleet: &[Member]) -> Result<()> {
        self.site().terminate(Service::SiteServer)?;
        fill_catalog(&self.pool).await?;
        enrol(&self.pool, fleet).await?;
        tokio::task::block_in_place(|| self.site().restart(Service::SiteServer))
    }

    /// Publishes messages, as many at a time as a management point does.
    ///
    /// # Errors
    /// When the broker does not confirm one.
    pub async fn publish(&self, messages: Vec<(u16, Bytes, u32)>) -> Result<()> {
        let exchange = muster_rabbitmq::topology::state_exchange(SITE);
        let sent = futures::stream::iter(messages).map(|(shard, body, count)| {
            let exchange = &exchange;
            async move {
                let headers = Headers {
                    traceparent: None,
                    count,
                };
                self.publisher
                    .publish_to(exchange, &shard.to_string(), body, headers)
                    .await
            }
        });
        let mut sent = sent.buffer_unordered(64);
        while let Some(result) = sent.next().await {
            result.context("cannot publish")?;
        }
        Ok(())
    }

    /// Reports recorded so far.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn recorded(&self) -> Result<u64> {
        recorded(&self.pool).await
    }

    /// Waits until so many reports are recorded in all.
    ///
    /// # Errors
    /// When more are, or it takes too long.
    pub async fn wait_for(&self, reports: u64) -> Result<()> {
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

    /// Messages that wait in the state queues.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn waiting(&self, monitor: &muster_rabbitmq::Monitor) -> Result<u64> {
        let mut waiting = 0;
        for queue in muster_rabbitmq::topology::state_queues(SITE, SHARDS) {
            waiting += u64::from(monitor.queue_depth(&queue).await?.messages);
        }
        Ok(waiting)
    }

    /// Waits until the state queues are empty and acknowledged.
    ///
    /// # Errors
    /// When it takes too long.
    pub async fn drained(&self) -> Result<()> {
        let monitor = muster_rabbitmq::Monitor::new(&self.broker());
        let begin = Instant::now();
        loop {
            let waiting = self.waiting(&monitor).await?;
            if waiting == 0 {
                return Ok(());
            }
            ensure!(begin.elapsed() < PATIENCE, "{waiting} messages still wait");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Has the database write what it holds in memory. The files of its log that this frees are
    /// written again afterwards, as on any server that has run for a while: a new one is filled with
    /// zeros first, and every commit waits for that.
    ///
    /// # Errors
    /// When the database does not answer.
    pub fn checkpoint(&self) -> Result<()> {
        self.site_ref()
            .postgres
            .psql("postgres", "CHECKPOINT", &[])?;
        Ok(())
    }

    /// Bytes of WAL written so far.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn wal(&self) -> Result<f64> {
        let db = self.pool.get().await?;
        let row = db
            .query_one(
                "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8",
                &[],
            )
            .await?;
        Ok(row.get(0))
    }

    /// What a service says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self, service: Service) -> Result<Metrics> {
        metrics(self.site_ref(), service)
    }

    /// What each part has used of the processors so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            generator: usage::of(std::process::id()),
            ..of_site(self.site_ref())
        }
    }

    /// The most memory that each part has held, in MiB.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let site = self.site_ref();
        Memory {
            site_server: site.pid(Service::SiteServer).map_or(0.0, usage::peak),
            management_point: site.pid(Service::ManagementPoint).map_or(0.0, usage::peak),
            broker: site.rabbit.pid().map_or(0.0, usage::peak),
            generator: usage::peak(std::process::id()),
        }
    }

    /// Ends everything and removes its folder.
    ///
    /// # Errors
    /// When a process cannot be ended or the folder not removed.
    pub async fn stop(mut self) -> Result<()> {
        self.tasks.stop(Duration::from_secs(5)).await;
        self.pool.close();
        if let Some(mut site) = self.site.take() {
            tokio::task::spawn_blocking(move || site.stop()).await??;
        }
        state::remove(&self.folder, Duration::ZERO)?;
        Ok(())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // After an error: the folder goes with the processes, the error has the end of their logs.
        if let Some(site) = self.site.take() {
            drop(site);
            let _ = state::remove(&self.folder, Duration::ZERO);
        }
    }
}

fn broker(site: &Site, user: &str, vhost: &str) -> muster_rabbitmq::Config {
    let uri = format!("amqps://127.0.0.1:{}/{vhost}", site.rabbit.amqp_port());
    let (cert, key) = site.certificate(user);
    let ca = site.ca();
    muster_rabbitmq::Config {
        tls: Some(TlsConfig { ca, cert, key }),
        ..muster_rabbitmq::Config::new(uri, user, site.rabbit.password_file(user))
    }
}

/// The database of a site's server, as its own user.
pub(crate) async fn database(site: &Site) -> Result<Pool> {
    let name = format!("muster_{}", site.code().to_ascii_lowercase());
    // Asked for again, it only says where the database is.
    let database = site.postgres.create_schema(&name, "site", "site_server")?;
    let config = muster_postgres::Config {
        schema: "site".to_owned(),
        password_file: Some(database.password_file),
        ..muster_postgres::Config::new(
            &database.socket_dir,
            database.port,
            &database.name,
            &database.user,
        )
    };
    Ok(muster_postgres::connect(&config).await?)
}

/// The updates that a software update point would have brought.
pub(crate) async fn fill_catalog(pool: &Pool) -> Result<()> {
    const SQL: &str = "
        INSERT INTO updates (update_no, update_id, revision, generation, first_generation, title,
                             description, classification, severity, product, suite,
                             source_package, source_version, cve_ids, supersedes, superseded_by,
                             expired, max_run_time_minutes, needs_exclusive_handling)
        SELECT n, 'update-' || n, 1, 1, 1, 'Update ' || n, '', 1, 0, 'Debian 12', 'bookworm',
               'package-' || n, '1', '{}', '{}', '{}', false, 10, false
        FROM generate_series(1, $1::int4) AS n";
    let updates = i32::try_from(UPDATES + NEW_UPDATES)?;
    let db = pool.get().await?;
    db.execute(SQL, &[&updates]).await?;
    db.batch_execute("ANALYZE updates").await?;
    Ok(())
}

/// All clients, without their certificates: `client_no` is the place in the fleet + 1.
pub(crate) async fn enrol(pool: &Pool, fleet: &[Member]) -> Result<()> {
    const CLIENTS: &str = "
        INSERT INTO clients (client_id, host_name, os_id, os_version_id, architecture,
                             agent_version, machine_id_hash, certificate_fingerprint,
                             certificate_ends_at, epoch)
        SELECT id, 'host-' || n, 'debian', '12', 'amd64', '1', '', '', now(), 1
        FROM unnest($1::uuid[]) WITH ORDINALITY AS c (id, n) ORDER BY n";
    const STREAMS: &str = "
        INSERT INTO report_stream_rows (client_no, epoch)
        SELECT client_no, 1 FROM clients ORDER BY client_no";
    let ids: Vec<Uuid> = fleet.iter().map(|member| member.id).collect();
    let db = pool.get().await?;
    db.execute(CLIENTS, &[&ids]).await?;
    db.execute(STREAMS, &[]).await?;
    db.batch_execute("ANALYZE clients; ANALYZE report_stream_rows")
        .await?;
    Ok(())
}

/// Reports that a site has recorded so far.
pub(crate) async fn recorded(pool: &Pool) -> Result<u64> {
    let db = pool.get().await?;
    let sql = db
        .prepare_cached("SELECT reports FROM recorded_totals")
        .await?;
    let row = db.query_one(&sql, &[]).await?;
    Ok(row.get::<_, i64>(0).unsigned_abs())
}

/// What the processes of a site have used so far.
pub(crate) fn of_site(site: &Site) -> Usage {
    Usage {
        site_server: site.pid(Service::SiteServer).map_or(0.0, usage::of),
        management_point: site.pid(Service::ManagementPoint).map_or(0.0, usage::of),
        broker: site.rabbit.pid().map_or(0.0, usage::of),
        postgres: site.postgres.pid().map_or(0.0, usage::of_family),
        generator: 0.0,
    }
}

/// What a service says of itself.
pub(crate) fn metrics(site: &Site, service: Service) -> Result<Metrics> {
    let url = format!("{}/metrics", site.admin(service));
    let ask = || http::get(&url, Duration::from_secs(5));
    let (status, text) = tokio::task::block_in_place(ask)?;
    ensure!(status == 200, "{url} answered {status}");
    Ok(Metrics::parse(&text))
}
