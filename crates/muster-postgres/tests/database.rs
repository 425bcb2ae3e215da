//! Against a real, private PostgreSQL.
#![allow(clippy::unwrap_used)] // a failure here is a failure of the test

use std::time::Duration;

use muster_local::packages::{self, Install};
use muster_local::postgres::Durability;
use muster_local::{Interrupt, Postgres, State};
use muster_postgres::refinery::{Migration, Runner};
use muster_postgres::{Config, Error, GenericClient, Lease, connect, is_retryable, lease, migrate};
use muster_runtime::Tasks;
use muster_runtime::status::{HasKind, Kind};

const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    postgres: Postgres,
    config: Config,
    _folder: tempfile::TempDir,
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
            _folder: folder,
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
