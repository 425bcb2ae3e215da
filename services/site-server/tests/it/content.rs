//! What distribution points have, refuse and lose.

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
