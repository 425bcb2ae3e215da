//! What one client can make a site keep.

use bytes::Bytes;
use muster_domain::states::Detection::{Installed, Required};
use muster_proto::state as pb;
use muster_testkit::eventually;
use prost::Message;

use crate::deployments::{BASH, with_catalog};
use crate::roles::update;
use crate::site::Site;

fn need(update_no: u32, packages: &[&str]) -> pb::LeafNeed {
    let packages = packages.iter().map(|name| (*name).to_owned()).collect();
    pb::LeafNeed {
        update_no,
        packages,
    }
}

#[tokio::test]
async fn needs_and_states_that_come_before_the_catalog_count_when_it_has_come() {
    const LATER: u32 = 7;
    let site = with_catalog().await;
    let client = site.enrol("host-1").await;
    let mut report = client.full(1, &[(BASH, Installed), (LATER, Required)]);
    report.compliance.as_mut().unwrap().needs = vec![
        need(BASH, &["bash", "nonsense"]),
        need(LATER, &["curl", "more-nonsense"]),
    ];
    site.report(&[report]).await;
    eventually(async || site.contiguous(&client).await == 1).await;
    let needs = "SELECT count(*) FROM update_leaf_needs";
    assert_eq!(site.count(needs).await, 3, "what may come is kept");
    assert_eq!(site.wrong_counters().await, 0);

    let later = muster_proto::catalog::Update {
        generation: 2,
        ..update(LATER, "curl", &["curl", "libcurl4"])
    };
    site.others.world.lock().unwrap().catalog.push(later);
    eventually(async || site.count(needs).await == 2).await;
    let required = "SELECT required::int8 FROM update_counters WHERE update_no = 7";
    assert_eq!(site.count(required).await, 1);
    assert_eq!(site.wrong_counters().await, 0);
}

#[tokio::test]
async fn numbers_far_beyond_the_catalog_are_kept_aside_and_counted_nowhere() {
    let site = with_catalog().await;
    let client = site.enrol("host-1").await;
    let report = client.full(1, &[(BASH, Installed), (2_000_000_000, Required)]);
    site.report(&[report]).await;
    let refused = "SELECT count(*) FROM quarantine WHERE reason LIKE 'UNKNOWN_UPDATE: %'";
    eventually(async || site.count(refused).await == 1).await;
    assert_eq!(site.contiguous(&client).await, 0);
    assert_eq!(site.count("SELECT count(*) FROM update_counters").await, 0);
}

#[tokio::test]
async fn an_origin_that_sends_only_nonsense_fills_its_own_quarantine_and_no_more() {
    let site = Site::start().await;
    let (client, other) = (site.enrol("host-1").await, site.enrol("host-2").await);
    let nonsense = |client: &crate::site::Client, n: u32| pb::ReportEnvelope {
        report: Bytes::from(format!("\u{ff} nonsense {n}")),
        client_id: Bytes::copy_from_slice(client.id.as_bytes()),
        ..Default::default()
    };
    let mut reports: Vec<_> = (0..1_010).map(|n| nonsense(&client, n)).collect();
    reports.push(nonsense(&client, 5));
    reports.push(nonsense(&other, 5));
    site.publish("0", pb::ReportBatch { reports }.encode_to_vec())
        .await;
    eventually(async || site.count("SELECT count(*) FROM quarantine").await == 1_001).await;
    let rest = "SELECT sum(messages)::int8 FROM quarantine_overflow";
    assert_eq!(site.count(rest).await, 10);
    let twice = "SELECT count(*) FROM quarantine WHERE attempts = 2";
    assert_eq!(site.count(twice).await, 1);
}
