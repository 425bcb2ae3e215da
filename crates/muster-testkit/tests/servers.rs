//! The kit itself, against the servers of the test run.
#![allow(missing_docs)]

use muster_runtime::tls::Role;
use muster_testkit::{TestCa, postgres, rabbit};

#[tokio::test]
async fn two_databases_are_two_and_both_are_durable() {
    let (one, two) = (postgres::database().await, postgres::database().await);
    assert_ne!(one.config.dbname, two.config.dbname);
    for config in [&one.config, &two.schema("public")] {
        let pool = muster_postgres::connect(config).await.unwrap();
        let client = pool.get().await.unwrap();
        client
            .batch_execute("CREATE TABLE clients (n integer)")
            .await
            .unwrap();
    }
    // Dropped while a connection is open.
    let pool = muster_postgres::connect(&one.config).await.unwrap();
    let name = one.config.dbname.clone();
    drop(one);
    let client = muster_postgres::connect(&two.config)
        .await
        .unwrap()
        .get()
        .await
        .unwrap();
    let left = "SELECT count(*) FROM pg_database WHERE datname = $1";
    let left: i64 = client.query_one(left, &[&name]).await.unwrap().get(0);
    assert_eq!(left, 0);
    drop(pool);
}

#[tokio::test]
async fn a_virtual_host_takes_a_login_and_is_gone_afterwards() {
    let vhost = rabbit::vhost().await;
    assert!(vhost.config.uri.ends_with(vhost.name()));
    vhost.close_connections().await;
    drop(vhost);
}

#[test]
fn a_certificate_names_its_role() {
    let ca = TestCa::new();
    let files = ca.issue(Role::ManagementPoint, "mp");
    assert!(files.cert.is_file() && files.key.is_file() && files.ca.is_file());
    assert!(ca.folder().join("ca").is_dir());
    assert_eq!(ca.authority().site(), "P01");
}
