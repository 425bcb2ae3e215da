//! What distribution points have, refuse and lose.

use muster_proto::catalog as cat;
use muster_proto::catalog::update_service_client::UpdateServiceClient;
use muster_proto::content::package_service_client::PackageServiceClient;
use muster_proto::content::{CreatePackageRequest, DeletePackageRequest};
use muster_testkit::eventually;

use crate::deployments::{BASH, with_catalog};
use crate::site::Site;

const REVISION: &str = "SELECT revision FROM policy_revision";
const AVAILABLE: &str = "SELECT count(*) FROM distribution_states WHERE state = 3";

async fn package_of_bash(site: &Site, name: &str) {
    let request = CreatePackageRequest {
        name: name.into(),
        update_numbers: vec![BASH],
        all_leaves: true,
        ..Default::default()
    };
    let mut packages = PackageServiceClient::new(site.channel("administrator"));
    packages.create_package(request).await.unwrap();
}

#[tokio::test]
async fn policy_changes_when_suites_are_published_and_files_are_refused() {
    let site = with_catalog().await;
    site.others.world.lock().unwrap().refuses = true;
    let before = site.count(REVISION).await;
    package_of_bash(&site, "Files").await;
    eventually(async || site.count("SELECT count(*) FROM published_suites").await == 1).await;
    assert!(
        site.count(REVISION).await > before,
        "clients would never see the suite"
    );
    assert_eq!(site.count(AVAILABLE).await, 0);

    site.others.world.lock().unwrap().refuses = false;
    eventually(async || site.count(AVAILABLE).await == 1).await;
}

#[tokio::test]
async fn what_a_distribution_point_lost_is_fetched_again_and_hidden_meanwhile() {
    let site = with_catalog().await;
    package_of_bash(&site, "Files").await;
    package_of_bash(&site, "The same files").await;
    eventually(async || site.count(AVAILABLE).await == 1).await;
    let before = site.count(REVISION).await;

    // Its disk is replaced by an empty one, and something makes the site look.
    {
        let mut world = site.others.world.lock().unwrap();
        world.asked.clear();
        world.published.clear();
    }
    let request = DeletePackageRequest {
        name: "The same files".into(),
    };
    let mut packages = PackageServiceClient::new(site.channel("administrator"));
    packages.delete_package(request).await.unwrap();
    // The package left, the file left, and the file came.
    eventually(async || site.count(REVISION).await >= before + 3).await;
    eventually(async || site.count(AVAILABLE).await == 1).await;
    let world = site.others.world.lock().unwrap();
    assert!(
        world.published.contains("bookworm-security"),
        "suites are published again"
    );
}

async fn with_cve(site: &Site, cve: &str) -> Vec<cat::Update> {
    let filter = cat::UpdateFilter {
        cve_id: cve.into(),
        ..Default::default()
    };
    let request = cat::ListUpdatesRequest {
        filter: Some(filter),
        ..Default::default()
    };
    let mut updates = UpdateServiceClient::new(site.channel("administrator"));
    let found = updates.list_updates(request).await.unwrap().into_inner();
    let update = |found: cat::UpdateSummary| found.update.unwrap();
    found.updates.into_iter().map(update).collect()
}

#[tokio::test]
async fn what_packages_say_is_known_of_their_updates_and_outlives_a_silent_catalog() {
    let site = with_catalog().await;
    let ids = ["CVE-2025-9230", "CVE-2025-10000", "no id"];
    site.others.world.lock().unwrap().says = (ids.map(str::to_owned).into(), "high".to_owned());
    assert!(with_cve(&site, ids[0]).await.is_empty());
    package_of_bash(&site, "Files").await;
    eventually(async || with_cve(&site, ids[0]).await.len() == 1).await;
    let learned = &with_cve(&site, ids[1]).await[0];
    assert_eq!(learned.update_no, BASH);
    assert_eq!(learned.severity(), cat::Severity::Important);
    let own = format!("CVE-2026-{BASH:04}");
    assert_eq!(learned.cve_ids, [ids[0], ids[1], own.as_str()]);

    // A catalog that does not know of ids does not take them away; one that does is right.
    let again = async |generation, ids: &[&str]| {
        let mut next = crate::roles::update(BASH, "bash", &["bash"]);
        next.generation = generation;
        next.cve_ids = ids.iter().map(|id| (*id).to_owned()).collect();
        site.others.world.lock().unwrap().catalog.push(next);
        let known = "SELECT generation FROM catalog_state";
        eventually(async || site.count(known).await == i64::try_from(generation).unwrap()).await;
    };
    again(2, &[]).await;
    let kept = &with_cve(&site, ids[0]).await[0];
    assert_eq!(
        (kept.generation, kept.severity()),
        (2, cat::Severity::Important)
    );
    again(3, &["CVE-2027-0001"]).await;
    assert_eq!(with_cve(&site, "CVE-2027-0001").await[0].cve_ids.len(), 1);
}
