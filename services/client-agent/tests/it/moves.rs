//! A client that is to be another site's: it goes there, and whatever fails or is killed meanwhile, it is the
//! client of one of the two.

use std::path::Path;
use std::sync::Arc;

use client_agent::{Agent, Error, Options, Trigger};
use muster_proto::policy::{MoveOrder, Policy};
use muster_proto::state::ReportKind;

use crate::site::Site;
use crate::world::{World, copy};

/// The other site, and a client of the first one that is told to go there.
async fn worlds() -> (World, tempfile::TempDir, Site) {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let other = Site::start_as(dir.path(), "P02").await;
    // It may have changed less often so far.
    for _ in 0..3 {
        world.deploy(-10, Some(-5));
    }
    let order = MoveOrder {
        move_no: 1,
        site_code: "P02".into(),
        management_points: vec![other.management_point().to_owned()],
        authority: authority(&other).into(),
    };
    let policy = Policy {
        r#move: Some(order),
        ..world.policy(-10, Some(-5))
    };
    world.site.set_policy(world.client, policy);
    other.known().catalog = world.site.known().catalog.clone();
    other.set_policy(world.client, world.policy(-10, Some(-5)));
    (world, dir, other)
}

fn authority(site: &Site) -> Vec<u8> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    CertificateDer::from_pem_file(site.ca.path())
        .unwrap()
        .to_vec()
}

fn open(dir: &Path, world: &World) -> Agent {
    Agent::open(dir, Arc::clone(&world.machine) as _, Options::default()).unwrap()
}

#[tokio::test]
async fn a_client_goes_where_its_policy_says_and_tells_everything_there() {
    let (world, _dir, other) = worlds().await;
    let agent = world.agent();
    agent.scan(Trigger::User).await.unwrap();
    agent.send_reports().await.unwrap();
    agent.poll_policy().await.unwrap();
    drop(agent);
    for _ in 0..2 {
        let agent = world.agent();
        let now = agent.registration().unwrap();
        assert_eq!(
            (now.client_id, &*now.site_code, now.epoch),
            (world.client, "P02", 2)
        );
        assert_eq!(agent.policy().unwrap().unwrap().site_code, "P02");
        agent.scan(Trigger::User).await.unwrap();
        agent.send_reports().await.unwrap();
        agent.poll_policy().await.unwrap();
    }
    let known = other.known();
    let first = &known.reports[0];
    assert_eq!((first.kind(), first.epoch), (ReportKind::Full, 2));
    assert_eq!(known.arrivals, 1);
    assert_eq!(
        known.held.detections.len(),
        world.site.known().held.detections.len()
    );
}

#[tokio::test]
async fn a_client_that_is_refused_or_gets_no_answer_stays_where_it_is() {
    let (world, _dir, other) = worlds().await;
    let agent = world.agent();
    other.known().arrivals_refused = true;
    agent.poll_policy().await.unwrap();
    agent.scan(Trigger::User).await.unwrap();
    agent.send_reports().await.unwrap();
    assert_eq!(agent.registration().unwrap().site_code, "P01");
    other.known().arrivals_refused = false;
    // The other site has it, and it does not know. Its own site lets it go.
    other.known().identities.answer_lost = true;
    agent.poll_policy().await.unwrap();
    assert_eq!(agent.registration().unwrap().site_code, "P01");
    world.site.known().blocked = true;
    other.known().identities.answer_lost = true;
    let lost = agent.poll_policy().await.unwrap_err();
    assert_eq!(
        lost.reason().as_deref(),
        Some("BROKER_AWAY"),
        "it goes on trying"
    );
    agent.poll_policy().await.unwrap();
    assert_eq!(agent.registration().unwrap().site_code, "P02");
    assert_eq!(other.known().arrivals, 3);
    // A move that was taken back is forgotten with the policy that said it.
    let (world, _dir, other) = worlds().await;
    other.known().arrivals_refused = true;
    let agent = world.agent();
    agent.poll_policy().await.unwrap();
    world.deploy(-10, Some(-5));
    other.known().arrivals_refused = false;
    agent.poll_policy().await.unwrap();
    assert_eq!(agent.registration().unwrap().site_code, "P01");
}

#[tokio::test]
async fn killed_at_any_point_of_a_move_a_client_is_one_sites() {
    let (world, _dir, other) = worlds().await;
    let mut crashes = 0;
    for writes in 0.. {
        let dir = world.dir.path().join(format!("run-{writes}"));
        copy(&world.dir.path().join("client"), &dir);
        let agent = open(&dir, &world);
        agent.store().crash_after(writes);
        let ended = agent.poll_policy().await;
        drop(agent);
        if let Err(error) = &ended {
            assert!(matches!(error, Error::Crashed), "{error}");
            crashes += 1;
        }
        let agent = open(&dir, &world);
        let site = agent.registration().unwrap().site_code;
        assert!(
            ended.is_err() || site == "P02",
            "killed at {writes}: {site}"
        );
        // Whichever it is, that one takes its reports.
        agent.scan(Trigger::User).await.unwrap();
        agent.send_reports().await.unwrap();
        agent.poll_policy().await.unwrap();
        assert_eq!(agent.registration().unwrap().site_code, "P02");
        agent.send_reports().await.unwrap();
        let known = other.known();
        let last = known
            .reports
            .iter()
            .rev()
            .find(|it| it.kind() == ReportKind::Full);
        assert_eq!(last.unwrap().epoch, agent.registration().unwrap().epoch);
        drop(known);
        if ended.is_ok() {
            break;
        }
    }
    assert!(crashes >= 3, "{crashes} places to be killed at");
}
