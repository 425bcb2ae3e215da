//! A site in memory with a database of its own, for tests of what no door leads to.

use std::net::Ipv4Addr;
use std::sync::Arc;

use muster_postgres::Lease;
use muster_runtime::Tasks;
use muster_testkit::postgres::TestDatabase;

use crate::app::{Site, deployment_states, directory, matrix};
use crate::config::{CaConfig, ClientSettings, Config, LinksConfig, Roles, TrendConfig};

/// Gone with its database when it is dropped.
pub(crate) struct TestSite {
    pub(crate) site: Arc<Site>,
    _lease: Lease,
    _tasks: Tasks,
    _folder: tempfile::TempDir,
    _database: TestDatabase,
}

/// A site that nobody serves and that is connected with its database only.
pub(crate) async fn site(code: &str) -> TestSite {
    muster_runtime::crypto::install();
    let folder = tempfile::tempdir().unwrap();
    crate::init(code, "Test site", folder.path(), &["localhost".to_owned()]).unwrap();
    let database = muster_testkit::postgres::database().await;
    let postgres = muster_postgres::Config {
        durable: false,
        ..database.schema("site")
    };
    muster_postgres::migrate(&postgres, crate::migrations::migrations::runner())
        .await
        .unwrap();
    let pool = muster_postgres::connect(&postgres).await.unwrap();
    let file = |name: &str| folder.path().join(name);
    let hour = std::time::Duration::from_secs(3600);
    let config = Config {
        site_code: code.parse().unwrap(),
        site_name: "Test site".into(),
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        state_shards: 2,
        catalog_poll_interval: hour,
        resync_after: hour,
        resync_jitter: hour,
        resync_pauses: vec![],
        report_interval_max: hour,
        renewal_grace: hour,
        content_check_interval: hour,
        policy_key: file("keys/policy.key"),
        tls: muster_runtime::config::TlsConfig {
            ca: file("ca/ca.pem"),
            cert: file("certs/site-server.pem"),
            key: file("certs/site-server.key"),
        },
        limits: Default::default(),
        telemetry: Default::default(),
        admin: Default::default(),
        ca: CaConfig {
            cert: file("ca/ca.pem"),
            key: file("ca/ca.key"),
        },
        postgres,
        rabbitmq: muster_rabbitmq::Config::new("amqp://127.0.0.1:1/none", "nobody", file("none")),
        roles: Roles {
            software_update_point: "https://127.0.0.1:1".into(),
            distribution_points: vec![],
            management_points: vec![],
            software_update_points: vec![],
        },
        secondary_sites: vec![],
        client_settings: ClientSettings::default(),
        trend: TrendConfig::default(),
        links: LinksConfig::default(),
    };
    let (code, name) = (config.site_code, config.site_name.clone());
    let tasks = Tasks::new();
    let lease = Lease::acquire(&config.postgres, "site server", &tasks).await;
    let lease = lease.unwrap().expect("nobody else has this database");
    let fence = (lease.name().to_owned(), lease.fence());
    let site = Site::new(config, pool, fence).unwrap();
    let db = site.pool.get().await.unwrap();
    crate::store::sites::keep_own(&db, code, &name)
        .await
        .unwrap();
    drop(db);
    matrix::load(&site).await.unwrap();
    directory::load(&site).await.unwrap();
    deployment_states::load(&site).await.unwrap();
    TestSite {
        site: Arc::new(site),
        _lease: lease,
        _tasks: tasks,
        _folder: folder,
        _database: database,
    }
}
