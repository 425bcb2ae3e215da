//! The agent is killed before each of its writes, one after the other, and started again: the
//! machine and the site always end where they would have without it.

use std::sync::Arc;

use client_agent::provider::simulated::Simulated;
use client_agent::{Agent, Error, Mode, Options, Trigger};
use muster_domain::states::{Detection, UpdateEnforcement};

use crate::world::{BASH, NEW, World, ZSH, copy, machine};

async fn everything(agent: &Agent) -> Result<(), Error> {
    agent.poll_policy().await?;
    agent.scan(Trigger::Scheduled).await?;
    agent.send_reports().await?;
    agent.enforce(Mode::Due).await?;
    agent.send_reports().await?;
    Ok(())
}

#[tokio::test]
async fn killed_before_any_write_it_ends_where_it_would_have() {
    let world = World::new().await;
    let enrolled = world.dir.path().join("client");
    let mut crashes = 0;
    for writes in 0.. {
        let state = world.dir.path().join(format!("run-{writes}"));
        copy(&enrolled, &state);
        world.site.known().held = Default::default();
        let machine: Arc<Simulated> = Arc::new(machine());
        let open = || Agent::open(&state, Arc::clone(&machine) as _, Options::default()).unwrap();

        let agent = open();
        agent.store().crash_after(writes);
        let ended = everything(&agent).await;
        drop(agent);
        if ended.is_ok() {
            break;
        }
        assert!(matches!(ended, Err(Error::Crashed)), "{ended:?}");
        crashes += 1;

        everything(&open()).await.unwrap();
        for package in ["bash", "zsh"] {
            assert_eq!(
                machine.version(package).as_deref(),
                Some(NEW),
                "killed at {writes}"
            );
        }
        for update in [BASH, ZSH] {
            assert_eq!(
                world.site.detection(update),
                Some(Detection::Installed),
                "killed at {writes}"
            );
            let row = world
                .site
                .known()
                .held
                .updates
                .get(&(world.deployment, update))
                .copied();
            // Killed after the installation and before anything was written about it, the update
            // is simply found installed.
            if let Some((_, state, code)) = row {
                let done = i32::from(UpdateEnforcement::SuccessfullyInstalled.id());
                assert_eq!((state, code), (done, 0), "killed at {writes}");
            }
        }
        let states = world.site.deployment(world.deployment);
        assert_eq!(states, [1, 4, 2], "killed at {writes}");
    }
    assert!(crashes > 10, "{crashes} places to be killed at");
}

#[tokio::test]
async fn an_installation_that_was_cut_short_is_repaired_first() {
    let world = World::new().await;
    let agent = world.agent();
    agent.poll_policy().await.unwrap();
    agent.scan(Trigger::Scheduled).await.unwrap();
    world.machine.change(|script| {
        let minute = std::time::Duration::from_secs(60);
        script.install_takes = (minute, minute);
    });
    let cut = std::time::Duration::from_millis(500);
    let result = tokio::time::timeout(cut, agent.enforce(Mode::Due)).await;
    assert!(result.is_err(), "it is in the middle of the installation");
    drop(agent);

    world
        .machine
        .change(|script| script.install_takes = Default::default());
    let agent = world.agent();
    agent.enforce(Mode::Due).await.unwrap();
    agent.send_reports().await.unwrap();
    assert_eq!(world.machine.recoveries(), 1);
    assert_eq!(
        world.site.update(world.deployment, BASH).0,
        UpdateEnforcement::SuccessfullyInstalled
    );
}

#[tokio::test]
async fn a_damaged_intent_stops_installations_and_the_site_hears_of_it() {
    let world = World::new().await;
    let agent = world.agent();
    agent.poll_policy().await.unwrap();
    agent.scan(Trigger::Scheduled).await.unwrap();
    drop(agent);
    let db = rusqlite::Connection::open(world.dir.path().join("client/agent.db")).unwrap();
    let damaged = "INSERT INTO intents (started_at, job) VALUES ('then', x'00ff')";
    db.execute(damaged, []).unwrap();
    drop(db);
    let agent = world.agent();
    for _ in 0..2 {
        let error = agent.enforce(Mode::Due).await.unwrap_err();
        assert!(matches!(error, Error::Saved { what: "intent" }), "{error}");
    }
    agent.send_reports().await.unwrap();
    assert!(world.machine.runs().is_empty());
    assert!(!world.site.known().held.healthy.unwrap().1);
}

#[tokio::test]
async fn two_processes_do_not_install_at_once() {
    let world = World::new().await;
    let (first, second) = (world.agent(), world.agent());
    first.poll_policy().await.unwrap();
    first.scan(Trigger::Scheduled).await.unwrap();
    let second_of_delay = std::time::Duration::from_secs(1);
    world
        .machine
        .change(|script| script.install_takes = (second_of_delay, second_of_delay));
    let other = async {
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        second.enforce(Mode::User).await
    };
    let (done, refused) = tokio::join!(first.enforce(Mode::Due), other);
    assert_eq!(done.unwrap().installed.len(), 2);
    assert!(matches!(refused, Err(Error::Busy)));
}
