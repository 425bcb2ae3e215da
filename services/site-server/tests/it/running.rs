//! One active process per site, whatever happens to it and to what it stands on.

use std::time::Duration;

use muster_domain::states::Detection::Installed;
use muster_proto::state::GetBacklogRequest;
use muster_proto::state::backlog_service_client::BacklogServiceClient;
use muster_runtime::Tasks;
use muster_testkit::eventually;

use crate::site::{Ground, Site};

const END_LEASE: &str = "
    SELECT count(pg_terminate_backend(pid)) FROM pg_locks
    WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database
                                                WHERE datname = current_database())";

#[tokio::test]
async fn a_standby_waits_until_the_active_process_ends() {
    let mut site = Site::start().await;
    let config = site_server::Config {
        listen: ([127, 0, 0, 1], muster_testkit::free_port()).into(),
        ..site.config.clone()
    };
    let mut standby = std::pin::pin!(site_server::start(config));
    let early = tokio::time::timeout(Duration::from_millis(1_500), &mut standby).await;
    assert!(early.is_err(), "two site servers are active");
    site.handle.take().unwrap().stop().await;
    let standby = standby.await.unwrap();
    assert_eq!(site.count("SELECT fence FROM leases").await, 2);
    standby.stop().await;
}

#[tokio::test]
async fn a_process_that_lost_its_lease_starts_again_and_goes_on() {
    let ground = Ground::new().await;
    let tasks = Tasks::new();
    let (config, token) = (ground.config.clone(), tasks.token());
    tasks.spawn("site-server", async move {
        site_server::run(config, token.cancelled_owned())
            .await
            .map_err(|error| error.to_string())
    });
    let site = Site::on(ground, None).await;
    let at_work = async || {
        let mut service = BacklogServiceClient::new(site.channel("administrator"));
        match service.get_backlog(GetBacklogRequest {}).await {
            Ok(backlog) => backlog
                .get_ref()
                .queues
                .iter()
                .all(|queue| queue.consumers == 1),
            Err(_) => false,
        }
    };
    eventually(at_work).await;
    let client = site.enrol("host-1").await;
    site.report(&[client.full(1, &[(1, Installed)])]).await;
    eventually(async || site.contiguous(&client).await == 1).await;

    // As when the database was killed: the session that holds the lease is gone.
    assert_eq!(site.count(END_LEASE).await, 1);
    eventually(async || site.count("SELECT fence FROM leases").await == 2).await;
    site.report(&[client.delta(2, 2, &[(2, Installed)])]).await;
    eventually(async || site.contiguous(&client).await == 2).await;
    eventually(async || site.policy(&client, &[]).await.is_ok()).await;
    assert!(tasks.stop(Duration::from_secs(20)).await.is_empty());
}

#[tokio::test]
async fn a_process_that_was_overtaken_records_and_acknowledges_nothing() {
    let mut site = Site::start().await;
    let client = site.enrol("host-1").await;
    site.report(&[client.full(1, &[(1, Installed)])]).await;
    eventually(async || site.contiguous(&client).await == 1).await;

    // Another process was active for a moment, and the first one did not notice.
    assert_eq!(site.count(END_LEASE).await, 1);
    let config = site_server::Config {
        listen: ([127, 0, 0, 1], muster_testkit::free_port()).into(),
        ..site.config.clone()
    };
    let second = site_server::start(config.clone()).await.unwrap();
    second.stop().await;
    site.report(&[client.delta(2, 2, &[(2, Installed)])]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(site.contiguous(&client).await, 1);

    // What it held goes to its successor.
    site.handle.take().unwrap().stop().await;
    let third = site_server::start(config).await.unwrap();
    eventually(async || site.contiguous(&client).await == 2).await;
    assert_eq!(site.count("SELECT fence FROM leases").await, 3);
    third.stop().await;
}

#[tokio::test]
async fn a_restored_database_does_not_give_old_revisions_of_policy_again() {
    let mut site = Site::start().await;
    let revision = "SELECT revision FROM policy_revision";
    let before = site.count(revision).await;
    site.handle.take().unwrap().stop().await;
    let restore = "UPDATE policy_revision SET revision = 7 RETURNING revision";
    assert_eq!(site.count(restore).await, 7);
    let again = site_server::start(site.config.clone()).await.unwrap();
    assert!(site.count(revision).await >= before);
    again.stop().await;
}
