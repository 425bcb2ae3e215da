//! What reaches the site, and what stays until it does.

use std::time::Duration;

use client_agent::{Error, Trigger, daemon};
use muster_domain::states::{DeploymentEnforcement, Detection};
use muster_proto::policy::Policy;
use muster_proto::state::ReportKind;
use tokio_util::sync::CancellationToken;

use crate::world::{BASH, NEW, World, ZSH};

#[tokio::test]
async fn a_report_stays_in_the_spool_until_it_is_acknowledged() {
    let world = World::new().await;
    let agent = world.agent();
    agent.poll_policy().await.unwrap();
    agent.scan(Trigger::User).await.unwrap();
    world.site.known().unavailable = Some(false);
    agent.send_reports().await.unwrap_err();
    drop(agent);

    let agent = world.agent();
    world.machine.set_version("bash", NEW);
    agent.scan(Trigger::User).await.unwrap();
    world.site.known().unavailable = None;
    assert_eq!(agent.send_reports().await.unwrap().reports, 1);
    assert_eq!(world.site.detection(BASH), Some(Detection::Installed));
    assert_eq!(world.site.detection(ZSH), Some(Detection::Required));
    assert_eq!(
        agent.send_reports().await.unwrap().reports,
        0,
        "nothing is sent twice"
    );
}

#[tokio::test]
async fn a_lost_acknowledgement_changes_nothing_at_the_site() {
    let world = World::new().await;
    let agent = world.agent();
    agent.poll_policy().await.unwrap();
    agent.scan(Trigger::User).await.unwrap();
    world.site.known().unavailable = Some(true);
    agent.send_reports().await.unwrap_err();
    let held = world.site.known().held.clone();
    world.site.known().unavailable = None;
    agent.send_reports().await.unwrap();
    assert_eq!(world.site.known().held, held);
    assert_eq!(world.site.known().reports.len(), 2);
}

#[tokio::test]
async fn the_site_gets_everything_again_when_it_asks() {
    let world = World::new().await;
    let agent = world.agent();
    agent.poll_policy().await.unwrap();
    agent.scan(Trigger::User).await.unwrap();
    agent.send_reports().await.unwrap();
    let held = world.site.known().held.clone();
    world.site.known().held = Default::default();
    world.site.known().full_wanted = true;
    agent.poll_policy().await.unwrap();
    agent.send_reports().await.unwrap();
    let known = world.site.known();
    assert_eq!(known.reports.last().unwrap().kind(), ReportKind::Full);
    assert_eq!(known.held.detections.len(), held.detections.len());
}

#[tokio::test]
async fn a_refused_policy_is_a_health_problem_and_the_old_one_stays() {
    let world = World::new().await;
    let agent = world.agent();
    agent.poll_policy().await.unwrap();
    agent.scan(Trigger::User).await.unwrap();
    let held = agent.policy().unwrap().unwrap();

    let mut altered = world.site.sign(
        world.client,
        Policy {
            revision: 99,
            ..Policy::default()
        },
    );
    altered.signature = vec![0; 64].into();
    world.site.known().policy = Some(altered);
    assert!(matches!(
        agent.poll_policy().await,
        Err(Error::PolicyRefused(_))
    ));
    assert_eq!(agent.policy().unwrap().unwrap(), held);
    agent.send_reports().await.unwrap();
    assert!(!world.site.known().held.healthy.unwrap().1);
    let problems = {
        let known = world.site.known();
        known
            .reports
            .last()
            .unwrap()
            .health
            .clone()
            .unwrap()
            .problems
    };
    assert!(problems[0].starts_with("POLICY_REFUSED"), "{problems:?}");

    world.deploy(-10, Some(-5));
    agent.poll_policy().await.unwrap();
    agent.send_reports().await.unwrap();
    assert!(
        world.site.known().held.healthy.unwrap().1,
        "a good policy heals it"
    );
}

#[tokio::test]
async fn a_restored_database_registers_again_and_its_states_count() {
    let world = World::new().await;
    let (db, copy) = (
        world.dir.path().join("client/agent.db"),
        world.dir.path().join("copy.db"),
    );
    let agent = world.agent();
    agent.poll_policy().await.unwrap();
    agent.scan(Trigger::User).await.unwrap();
    agent.send_reports().await.unwrap();
    drop(agent);
    std::fs::copy(&db, &copy).unwrap();

    let agent = world.agent();
    for (package, version) in [("bash", NEW), ("zsh", NEW), ("bash", "1.0-2")] {
        world.machine.set_version(package, version);
        agent.scan(Trigger::User).await.unwrap();
        agent.send_reports().await.unwrap();
    }
    assert_eq!(world.site.detection(BASH), Some(Detection::Required));
    drop(agent);
    std::fs::copy(&copy, &db).unwrap();

    // The copy's next serial is one that the site has seen with another state.
    world.machine.set_version("bash", NEW);
    let agent = world.agent();
    agent.scan(Trigger::User).await.unwrap();
    agent.send_reports().await.unwrap();
    assert_eq!(world.site.detection(BASH), Some(Detection::Installed));
    let last = world.site.known().reports.last().cloned().unwrap();
    assert_eq!((last.kind(), last.epoch), (ReportKind::Full, 2));
    let keys = agent.registration().unwrap().policy_keys;
    assert_eq!(keys, [world.site.policy_key()], "those of the enrolment");
    assert_eq!(agent.send_reports().await.unwrap().reports, 0);
}

#[tokio::test]
async fn the_daemon_learns_where_the_servers_are_now() {
    let world = World::new().await;
    let agent = world.agent();
    let moved = vec!["https://dp.archive.example:8444".to_owned()];
    world.site.move_distribution_points(moved.clone());
    let token = CancellationToken::new();
    let watch = async {
        for _ in 0..400 {
            if agent.locations().unwrap().distribution_points == moved {
                token.cancel();
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the agent never asked");
    };
    agent.poll_policy().await.unwrap();
    let (ended, ()) = tokio::join!(daemon::run(&agent, token.clone()), watch);
    ended.unwrap();
}

#[tokio::test]
async fn the_daemon_does_it_all_by_itself_and_stops_when_told() {
    let world = World::new().await;
    let agent = world.agent();
    let token = CancellationToken::new();
    let watch = async {
        let done = i32::from(DeploymentEnforcement::SuccessfullyInstalled.id());
        for _ in 0..400 {
            let found = {
                let known = world.site.known();
                known
                    .held
                    .deployments
                    .get(&world.deployment)
                    .map(|(_, states)| states[1])
            };
            if found == Some(done) {
                token.cancel();
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the deployment was not reported as installed");
    };
    let (ended, ()) = tokio::join!(daemon::run(&agent, token.clone()), watch);
    ended.unwrap();
    assert_eq!(world.machine.version("zsh").as_deref(), Some(NEW));
}

#[tokio::test]
async fn the_daemon_of_a_deleted_client_stops() {
    let world = World::new().await;
    world.site.known().blocked = true;
    let ended = daemon::run(&world.agent(), CancellationToken::new()).await;
    assert_eq!(
        ended.unwrap_err().reason().as_deref(),
        Some("CLIENT_BLOCKED")
    );
}
