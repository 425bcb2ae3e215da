//! Against a real, private PostgreSQL.
#![allow(clippy::unwrap_used)] // a failure here is a failure of the test

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use muster_local::packages::{self, Install};
use muster_local::postgres::Durability;
use muster_local::rabbit::Listener;
use muster_local::{Interrupt, Postgres, State};
use muster_postgres::refinery::{Migration, Runner};
use muster_postgres::{Config, Error, GenericClient, Lease, connect, is_retryable, lease, migrate};
use muster_runtime::config::TlsConfig;
use muster_runtime::status::{HasKind, Kind};
use muster_runtime::tls::ca::CertificateAuthority;
use muster_runtime::{Role, Tasks};

const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    postgres: Postgres,
    config: Config,
    psql: PathBuf,
    folder: tempfile::TempDir,
}

impl World {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(&folder.path().join("state"), Interrupt::default()).unwrap();
        let programs = packages::ensure(Install::No, &|_| {}).unwrap();
        let postgres = Postgres::start(&state, &programs, Durability::On).unwrap();
        postgres.create_database("site").unwrap();
        let database = postgres
            .create_schema("site", "site_server", "site_server")
            .unwrap();
        let mut config = Config::new(
            database.socket_dir,
            database.port,
            database.name,
            database.user,
        );
        config.password_file = Some(database.password_file);
        config.schema = "site_server".to_owned();
        Self {
            postgres,
            config,
            psql: programs.postgres_bin.join("psql"),
            folder,
        }
    }
}

fn runner(count: usize) -> Runner {
    let all = [
        ("V1__words", "CREATE TABLE words (word text PRIMARY KEY)"),
        (
            "V2__more",
            "INSERT INTO words VALUES ('site'); SELECT pg_sleep(0.3)",
        ),
    ];
    let migrations: Vec<Migration> = all
        .iter()
        .take(count)
        .map(|(name, sql)| Migration::unapplied(name, sql).unwrap())
        .collect();
    Runner::new(&migrations)
}

/// One server for all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_finds_its_database_as_it_must_be() {
    let mut world = tokio::task::spawn_blocking(World::start).await.unwrap();
    migrations_run_once_however_many_processes_start(&world.config).await;
    a_session_has_the_settings_we_rely_on(&world.config).await;
    a_wrong_password_or_an_absent_server_stops_the_start(&world.config).await;
    one_process_holds_the_lease_and_yesterdays_holder_cannot_commit(&world.config).await;
    a_server_that_may_lose_data_is_refused(&world).await;
    a_killed_server_is_found_again(&mut world).await;
}

async fn migrations_run_once_however_many_processes_start(config: &Config) {
    migrate(config, runner(1)).await.unwrap();
    let (a, b, c) = tokio::join!(
        migrate(config, runner(2)),
        migrate(config, runner(2)),
        migrate(config, runner(2))
    );
    let applied: usize = [a, b, c]
        .map(|report| report.unwrap().applied_migrations().len())
        .iter()
        .sum();
    assert_eq!(applied, 1);
}

async fn a_session_has_the_settings_we_rely_on(config: &Config) {
    let pool = connect(config).await.unwrap();
    let client = pool.get().await.unwrap();
    let setting = async |name: &str| -> String {
        client
            .query_one("SELECT current_setting($1)", &[&name])
            .await
            .unwrap()
            .get(0)
    };
    assert_eq!(setting("search_path").await, "site_server");
    assert_eq!(setting("statement_timeout").await, "0");
    assert_eq!(setting("lock_timeout").await, "30s");
    assert_eq!(setting("TimeZone").await, "UTC");
    assert_eq!(setting("transaction_isolation").await, "read committed");
    assert_ne!(setting("application_name").await, "");
    let statement = client
        .prepare_cached("SELECT count(*) FROM words")
        .await
        .unwrap();
    assert_eq!(
        client
            .query_one(&statement, &[])
            .await
            .unwrap()
            .get::<_, i64>(0),
        1
    );
    let error = client
        .query("SELECT * FROM nothing", &[])
        .await
        .unwrap_err();
    assert!(!is_retryable(&error));
}

async fn a_wrong_password_or_an_absent_server_stops_the_start(config: &Config) {
    let wrong = Config {
        password_file: Some("/dev/null".into()),
        ..config.clone()
    };
    assert!(connect(&wrong).await.is_err());
    let absent = Config {
        port: 1,
        ..config.clone()
    };
    assert_eq!(
        connect(&absent).await.unwrap_err().kind(),
        Kind::Unavailable
    );
}

async fn one_process_holds_the_lease_and_yesterdays_holder_cannot_commit(config: &Config) {
    let (first_tasks, tasks) = (Tasks::new(), Tasks::new());
    let first = Lease::acquire(config, "site", &first_tasks)
        .await
        .unwrap()
        .unwrap();
    assert!(
        Lease::acquire(config, "site", &tasks)
            .await
            .unwrap()
            .is_none()
    );
    let other = Lease::acquire(config, "other", &tasks)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((first.fence(), other.fence()), (1, 1));

    let pool = connect(config).await.unwrap();
    let mut client = pool.get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    lease::check(&transaction, "site", first.fence())
        .await
        .unwrap();
    transaction.commit().await.unwrap();

    // The first process is cut off from the database.
    let lost = first.lost();
    assert!(first_tasks.stop(PATIENCE).await.is_empty());
    tokio::time::timeout(PATIENCE, lost.cancelled())
        .await
        .unwrap();
    let second = loop {
        match Lease::acquire(config, "site", &tasks).await.unwrap() {
            Some(lease) => break lease,
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    assert_eq!(second.fence(), 2);
    let transaction = client.transaction().await.unwrap();
    let stale = lease::check(&transaction, "site", first.fence()).await;
    assert!(matches!(stale, Err(Error::LeaseLost { fence: 1, .. })));
    drop((first, second, other));
    assert!(
        tasks.stop(PATIENCE).await.is_empty(),
        "a lease that is dropped ends its connection"
    );
}

async fn a_server_that_may_lose_data_is_refused(world: &World) {
    let set = |value: &str| {
        let script = format!("ALTER ROLE site_server SET synchronous_commit = {value};");
        tokio::task::block_in_place(|| world.postgres.psql("site", &script, &[]).unwrap());
    };
    set("off");
    let refused = connect(&world.config).await;
    assert!(
        matches!(&refused, Err(Error::NotDurable { name, .. }) if name == "synchronous_commit"),
        "{refused:?}"
    );
    let careless = Config {
        durable: false,
        ..world.config.clone()
    };
    assert!(connect(&careless).await.is_ok());
    set("on");
}

async fn a_killed_server_is_found_again(world: &mut World) {
    let pool = connect(&world.config).await.unwrap();
    let client = pool.get().await.unwrap();
    tokio::task::block_in_place(|| world.postgres.kill_9().unwrap());
    let error = client.query("SELECT 1", &[]).await.unwrap_err();
    assert!(is_retryable(&error), "{error:?}");
    drop(client);
    assert_eq!(
        Error::from(pool.get().await.unwrap_err()).kind(),
        Kind::Unavailable
    );
    tokio::task::block_in_place(|| world.postgres.restart().unwrap());
    let client = pool.get().await.unwrap();
    assert_eq!(
        client
            .query_one("SELECT 1", &[])
            .await
            .unwrap()
            .get::<_, i32>(0),
        1
    );
    tokio::task::block_in_place(|| world.postgres.stop().unwrap());
}

/// A server behind an address of loopback that no other test has.
struct Elsewhere {
    world: World,
    address: Ipv4Addr,
    /// As a service of the site has it.
    config: Config,
    ours: CertificateAuthority,
    foreign: CertificateAuthority,
}

impl Elsewhere {
    fn start() -> Self {
        let mut world = World::start();
        let folder = world.folder.path().join("certificates");
        let ours = CertificateAuthority::create(&folder.join("ours"), "P01").unwrap();
        let foreign = CertificateAuthority::create(&folder.join("foreign"), "P01").unwrap();
        let pid = std::process::id();
        let address = Ipv4Addr::from(0x7f64_0000 | (pid & 0xffff) | 1);
        let server = issue(&ours, Role::Database, &[&address.to_string()]);
        world.postgres.listen(address, &tls_of(&server)).unwrap();
        let mut config = world.config.clone();
        config.host = address.to_string().as_str().into();
        config.tls = Some(issue(&ours, Role::SiteServer, &[]));
        Self {
            world,
            address,
            config,
            ours,
            foreign,
        }
    }

    fn listen(&mut self, listener: &Listener) {
        let address = self.address;
        let postgres = &mut self.world.postgres;
        tokio::task::block_in_place(|| postgres.listen(address, listener).unwrap());
    }

    /// What another program is told that brings the right password and these words.
    fn psql(&self, words: &str) -> String {
        let password =
            std::fs::read_to_string(self.config.password_file.as_ref().unwrap()).unwrap();
        let words = format!("host={} dbname=site user=site_server {words}", self.address);
        let mut psql = Command::new(&self.world.psql);
        psql.args(["--no-psqlrc", "-Atc", "SELECT 'let in'", &words])
            .env_clear()
            .env("PGPASSWORD", password.trim());
        let output = tokio::task::block_in_place(|| psql.output().unwrap());
        let text = if output.status.success() {
            output.stdout
        } else {
            output.stderr
        };
        String::from_utf8(text).unwrap()
    }
}

/// Writes a certificate beside its authority's; an earlier one of the role is replaced.
fn issue(ca: &CertificateAuthority, role: Role, hosts: &[&str]) -> TlsConfig {
    let issued = ca.issue(role, role.as_str(), hosts).unwrap();
    let folder = ca.path().parent().unwrap();
    issued.write(folder, role.as_str(), ca.path()).unwrap()
}

fn tls_of(files: &TlsConfig) -> Listener {
    Listener::Tls {
        ca: files.ca.clone(),
        cert: files.cert.clone(),
        key: files.key.clone(),
    }
}

/// The words of an error and of what is behind it.
async fn refusal(config: &Config) -> String {
    let error = connect(config).await.expect_err("it was let in");
    muster_runtime::status::chain(&error)
}

/// One server for all of it, which is told to behave well and badly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_elsewhere_is_reached_over_mutual_tls_1_3_or_not_at_all() {
    muster_runtime::crypto::install();
    let mut there = tokio::task::spawn_blocking(Elsewhere::start).await.unwrap();
    pool_migrations_and_lease_are_encrypted(&there.config).await;
    nothing_but_tls_with_a_certificate_is_let_in(&there).await;
    a_server_of_another_authority_is_refused(&there).await;
    a_certificate_of_another_authority_is_refused(&there).await;
    a_server_of_another_name_is_refused(&mut there).await;
    an_older_tls_is_refused(&there).await;
    a_killed_server_elsewhere_is_found_again(&mut there).await;
    a_server_without_tls_is_refused(&mut there).await;
}

async fn pool_migrations_and_lease_are_encrypted(config: &Config) {
    const ENCRYPTED: &str = "
        SELECT count(*), count(*) FILTER (WHERE version = 'TLSv1.3' AND client_dn <> '')
        FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = current_user";
    migrate(config, runner(2)).await.unwrap();
    let pool = connect(config).await.unwrap();
    let tasks = Tasks::new();
    let lease = Lease::acquire(config, "site", &tasks)
        .await
        .unwrap()
        .unwrap();
    let mut client = pool.get().await.unwrap();
    let row = client.query_one(ENCRYPTED, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (2, 2));
    let transaction = client.transaction().await.unwrap();
    lease::check(&transaction, "site", lease.fence())
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    drop(lease);
    assert!(tasks.stop(PATIENCE).await.is_empty());
}

async fn nothing_but_tls_with_a_certificate_is_let_in(there: &Elsewhere) {
    let tls = there.config.tls.as_ref().unwrap();
    let (ca, cert, key) = (tls.ca.display(), tls.cert.display(), tls.key.display());
    let plain = there.psql("sslmode=disable");
    assert!(plain.contains("no encryption"), "{plain}");
    let nobody = there.psql(&format!("sslmode=verify-full sslrootcert={ca}"));
    assert!(nobody.contains("certificate"), "{nobody}");
    let old = there.psql(&format!(
        "sslmode=verify-full sslrootcert={ca} sslcert={cert} sslkey={key} ssl_max_protocol_version=TLSv1.2"
    ));
    assert!(old.contains("protocol version"), "{old}");
    // The control: with both, the same question has its answer.
    let good = format!("sslmode=verify-full sslrootcert={ca} sslcert={cert} sslkey={key}");
    assert_eq!(there.psql(&good).trim(), "let in");
    // And of our own: without certificates an address is not even asked.
    let bare = Config {
        tls: None,
        ..there.config.clone()
    };
    assert!(matches!(connect(&bare).await, Err(Error::Config(_))));
}

async fn a_server_of_another_authority_is_refused(there: &Elsewhere) {
    let mut config = there.config.clone();
    config.tls.as_mut().unwrap().ca = there.foreign.path().to_owned();
    let error = refusal(&config).await;
    assert!(error.contains("invalid peer certificate"), "{error}");
}

async fn a_certificate_of_another_authority_is_refused(there: &Elsewhere) {
    let stranger = issue(&there.foreign, Role::SiteServer, &[]);
    let mut config = there.config.clone();
    let tls = config.tls.as_mut().unwrap();
    (tls.cert, tls.key) = (stranger.cert, stranger.key);
    let error = refusal(&config).await;
    assert!(error.contains("UnknownCA"), "{error}");
}

async fn a_server_of_another_name_is_refused(there: &mut Elsewhere) {
    let other = issue(&there.ours, Role::Database, &["db.example"]);
    there.listen(&tls_of(&other));
    let error = refusal(&there.config).await;
    assert!(
        error.contains("NotValidForName") || error.contains("not valid for name"),
        "{error}"
    );
    let server = issue(&there.ours, Role::Database, &[&there.address.to_string()]);
    there.listen(&tls_of(&server));
    assert!(connect(&there.config).await.is_ok());
}

async fn an_older_tls_is_refused(there: &Elsewhere) {
    let set = |newest: &str| {
        let script = format!(
            "ALTER SYSTEM SET ssl_min_protocol_version = 'TLSv1.2';
             ALTER SYSTEM SET ssl_max_protocol_version = '{newest}';
             SELECT pg_reload_conf();"
        );
        tokio::task::block_in_place(|| {
            there.world.postgres.psql("postgres", &script, &[]).unwrap()
        });
    };
    set("TLSv1.2");
    // The server reads its settings a moment later.
    let refused = async {
        while connect(&there.config).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        refusal(&there.config).await
    };
    let error = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert!(
        error.contains("ProtocolVersion") || error.contains("TLS"),
        "{error}"
    );
    set("TLSv1.3");
    let accepted = async {
        while connect(&there.config).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, accepted).await.unwrap();
}

async fn a_killed_server_elsewhere_is_found_again(there: &mut Elsewhere) {
    let pool = connect(&there.config).await.unwrap();
    let client = pool.get().await.unwrap();
    tokio::task::block_in_place(|| there.world.postgres.kill_9().unwrap());
    let error = client.query("SELECT 1", &[]).await.unwrap_err();
    assert!(is_retryable(&error), "{error:?}");
    drop(client);
    let absent = Error::from(pool.get().await.unwrap_err());
    assert_eq!(absent.kind(), Kind::Unavailable);
    tokio::task::block_in_place(|| there.world.postgres.restart().unwrap());
    assert!(pool.get().await.is_ok());
}

async fn a_server_without_tls_is_refused(there: &mut Elsewhere) {
    there.listen(&Listener::Plain);
    assert_eq!(
        there.psql("sslmode=disable").trim(),
        "let in",
        "the server is there"
    );
    let error = refusal(&there.config).await;
    assert!(error.contains("does not support TLS"), "{error}");
}
