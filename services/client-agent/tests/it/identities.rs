//! A machine whose disk was copied: the site separates the copies, and each ends as one client,
//! whatever is killed when.

use std::path::Path;
use std::sync::Arc;

use client_agent::provider::Provider;
use client_agent::provider::simulated::{Script, Simulated};
use client_agent::{Agent, Error, Options, Trigger};
use muster_domain::ClientId;
use muster_proto::state::{Report, ReportKind};
use sha2::{Digest, Sha256};

use crate::world::{NEW, OLD, World, copy};

/// Another machine, which has the new `bash` already.
fn another() -> Arc<Simulated> {
    let script = Script {
        seed: 77,
        ..Script::default()
    };
    let packages = [("bash", NEW), ("zsh", OLD), ("dash", OLD)];
    let packages = packages.map(|(name, version)| (name.to_owned(), version.to_owned()));
    Arc::new(Simulated::new(script, packages))
}

fn open(dir: &Path, machine: &Arc<Simulated>) -> Agent {
    Agent::open(dir, Arc::clone(machine) as _, Options::default()).unwrap()
}

fn remember_original(world: &World) {
    let id = world.machine.machine().machine_id.unwrap();
    world.site.known().identities.original = Sha256::digest(id).to_vec();
}

fn last_of(world: &World, client: ClientId) -> Report {
    let known = world.site.known();
    let mut reports = known.reports.iter().rev();
    let of_it = |it: &&Report| it.client_id == client.as_bytes().as_slice();
    reports.find(of_it).unwrap().clone()
}

#[tokio::test]
async fn machines_under_one_identity_are_separated_and_each_reports_everything() {
    let world = World::new().await;
    remember_original(&world);
    let original = world.agent();
    original.poll_policy().await.unwrap();
    original.scan(Trigger::User).await.unwrap();
    original.send_reports().await.unwrap();
    drop(original);
    let copied = world.dir.path().join("copied");
    copy(&world.dir.path().join("client"), &copied);
    let (original, clone) = (world.agent(), open(&copied, &another()));
    world.site.known().identities.forked = Some(world.client);

    clone.scan(Trigger::User).await.unwrap();
    clone.send_reports().await.unwrap();
    let cloned = clone.registration().unwrap();
    assert_ne!(cloned.client_id, world.client);
    let full = last_of(&world, cloned.client_id);
    assert_eq!((full.kind(), full.epoch), (ReportKind::Full, 1));

    world.machine.set_version("zsh", NEW);
    original.scan(Trigger::User).await.unwrap();
    original.send_reports().await.unwrap();
    let kept = original.registration().unwrap();
    assert_eq!((kept.client_id, kept.epoch), (world.client, 9));
    let full = last_of(&world, world.client);
    assert_eq!((full.kind(), full.epoch), (ReportKind::Full, 9));
    assert_eq!(world.site.known().identities.answers.len(), 2, "a key each");

    // Both go on as themselves, also after a restart.
    drop((original, clone));
    for (dir, client) in [(world.dir.path().join("client"), kept), (copied, cloned)] {
        let agent = open(&dir, &another());
        assert_eq!(agent.registration().unwrap(), client);
        agent.scan(Trigger::User).await.unwrap();
        agent.send_reports().await.unwrap();
        assert_eq!(last_of(&world, client.client_id).kind(), ReportKind::Delta);
    }
}

#[tokio::test]
async fn a_machine_whose_certificate_was_replaced_asks_for_one_of_its_own() {
    let world = World::new().await;
    remember_original(&world);
    let original = world.agent();
    let copied = world.dir.path().join("copied");
    copy(&world.dir.path().join("client"), &copied);
    original.renew_identity().await.unwrap();
    let clone = open(&copied, &another());
    // The policy that comes is not the clone's: the pretend site has but one.
    assert!(matches!(
        clone.poll_policy().await,
        Err(Error::PolicyRefused(_))
    ));
    assert_ne!(clone.registration().unwrap().client_id, world.client);
}

#[tokio::test]
async fn killed_at_any_point_of_a_renewal_a_client_is_one_or_the_other() {
    let world = World::new().await;
    remember_original(&world);
    let machine = another();
    let mut crashes = 0;
    for writes in 0.. {
        let dir = world.dir.path().join(format!("run-{writes}"));
        copy(&world.dir.path().join("client"), &dir);
        let agent = open(&dir, &machine);
        agent.store().crash_after(writes);
        let ended = agent.renew_identity().await;
        drop(agent);
        if let Err(error) = &ended {
            assert!(matches!(error, Error::Crashed), "{error}");
            crashes += 1;
        }
        let answers = world.site.known().identities.answers.len();
        let agent = open(&dir, &machine);
        if agent.registration().unwrap().client_id == world.client {
            agent.renew_identity().await.unwrap();
            let again = world.site.known().identities.answers.len();
            assert_eq!(
                again, answers,
                "it asked with another key, killed at {writes}"
            );
        }
        // The pretend site holds the report against the certificate.
        agent.scan(Trigger::User).await.unwrap();
        agent.send_reports().await.unwrap();
        let client = agent.registration().unwrap().client_id;
        assert_ne!(client, world.client);
        assert_eq!(
            last_of(&world, client).kind(),
            ReportKind::Full,
            "killed at {writes}"
        );
        if ended.is_ok() {
            break;
        }
    }
    assert!(crashes >= 2, "{crashes} places to be killed at");
}

#[tokio::test]
async fn an_answer_that_was_lost_is_given_again() {
    let world = World::new().await;
    remember_original(&world);
    let agent = open(&world.dir.path().join("client"), &another());
    world.site.known().identities.answer_lost = true;
    agent.renew_identity().await.unwrap_err();
    assert_eq!(agent.registration().unwrap().client_id, world.client);
    agent.renew_identity().await.unwrap();
    assert_eq!(world.site.known().identities.answers.len(), 1);
    agent.scan(Trigger::User).await.unwrap();
    agent.send_reports().await.unwrap();
}
