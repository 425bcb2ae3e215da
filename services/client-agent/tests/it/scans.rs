//! Bringing the catalog up to date.

use client_agent::Trigger;
use muster_domain::states::Detection;
use muster_proto::catalog::{GetScanMetadataResponse, ScanSuite};

use crate::world::{BASH, NEW, World, update};

fn generation(generation: u64) -> GetScanMetadataResponse {
    let suite = ScanSuite {
        codename: "bookworm-security".into(),
        ..Default::default()
    };
    GetScanMetadataResponse {
        generation,
        suites: vec![suite],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_cold_scan_names_what_is_installed_and_later_ones_only_what_is_new() {
    let world = World::new().await;
    let agent = world.agent();
    agent.poll_policy().await.unwrap();
    let found = agent.scan(Trigger::Scheduled).await.unwrap();
    assert!(found.online && found.evaluation.generation == 1);

    // Within the time to live nothing is asked, and a forced scan asks for the difference.
    assert!(!agent.scan(Trigger::Scheduled).await.unwrap().online);
    world.machine.set_version("tar", "1");
    assert!(agent.scan(Trigger::User).await.unwrap().online);
    let scans = world.site.known().scans.clone();
    assert_eq!(scans.len(), 2);
    assert_eq!(scans[0].packages, ["bash", "dash", "zsh"]);
    assert_eq!(
        (scans[1].base_generation, scans[1].packages.as_slice()),
        (1, &["tar".to_owned()][..])
    );
    assert_eq!(
        (scans[0].os_id.as_str(), scans[0].os_version_id.as_str()),
        ("debian", "12")
    );
}

#[tokio::test]
async fn a_difference_changes_only_what_it_names() {
    let world = World::new().await;
    let agent = world.agent();
    agent.poll_policy().await.unwrap();
    agent.scan(Trigger::User).await.unwrap();
    agent.send_reports().await.unwrap();
    world.site.known().difference = Some(GetScanMetadataResponse {
        updates: vec![update(12, "dash", NEW), update(13, "never-installed", NEW)],
        removed: vec![BASH],
        ..generation(2)
    });
    agent.scan(Trigger::User).await.unwrap();
    agent.send_reports().await.unwrap();
    assert_eq!(world.site.detection(12), Some(Detection::Required));
    assert_eq!(
        world.site.detection(13),
        None,
        "does not concern this machine"
    );
    assert_eq!(
        world.site.detection(BASH),
        Some(Detection::NotRequired),
        "it left the catalog"
    );
    let last = world.site.known().reports.last().cloned().unwrap();
    assert_eq!(last.catalog_generation, 2);
}

#[tokio::test]
async fn a_server_that_does_not_know_the_generation_makes_the_client_start_cold() {
    let world = World::new().await;
    let agent = world.agent();
    agent.poll_policy().await.unwrap();
    agent.scan(Trigger::User).await.unwrap();
    world.site.known().forgets_generations = true;
    world.site.known().catalog.generation = 5;
    let found = agent.scan(Trigger::User).await.unwrap();
    assert_eq!(found.evaluation.generation, 5);
    let bases: Vec<u64> = world
        .site
        .known()
        .scans
        .iter()
        .map(|s| s.base_generation)
        .collect();
    assert_eq!(bases, [0, 1, 0]);
}

#[tokio::test]
async fn a_scan_without_its_source_is_pending_retry_and_evaluates_what_is_at_hand() {
    let world = World::new().await;
    let agent = world.agent();
    agent.poll_policy().await.unwrap();
    agent.scan(Trigger::User).await.unwrap();
    // Another root's catalog answers with a suite it does not list.
    let mut broken = generation(2);
    broken.updates = vec![update(12, "dash", NEW)];
    broken.updates[0].suite = 4;
    world.site.known().difference = Some(broken);
    world.machine.set_version("bash", NEW);
    assert!(agent.scan(Trigger::User).await.is_err());
    agent.send_reports().await.unwrap();
    assert_eq!(world.site.detection(BASH), Some(Detection::Installed));
    let known = world.site.known();
    let scan = known
        .reports
        .iter()
        .rev()
        .find_map(|r| r.scan.clone())
        .unwrap();
    assert_eq!(scan.state, 4, "pending retry");
    assert_eq!(
        scan.error_code,
        muster_domain::error_code::SCAN_SOURCE_UNREACHABLE
    );
}
