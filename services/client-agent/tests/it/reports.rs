//! What reaches the site, and what stays until it does.

use std::time::Duration;

use client_agent::{Agent, Error, Trigger, daemon};
use muster_domain::states::{DeploymentEnforcement, Detection};
use muster_proto::policy::Policy;
use muster_proto::state::{Report, ReportKind, SerialRange, Wish, WishKind};
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
async fn a_restored_database_is_seen_though_it_has_caught_up_with_its_mark() {
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
    world.machine.set_version("bash", NEW);
    agent.scan(Trigger::User).await.unwrap();
    agent.send_reports().await.unwrap();
    drop(agent);
    std::fs::copy(&copy, &db).unwrap();

    // More has changed since the copy than the site was told after it.
    let agent = world.agent();
    for (package, version) in [("zsh", NEW), ("bash", "1.0-2"), ("zsh", "1.0-2")] {
        world.machine.set_version(package, version);
        agent.scan(Trigger::User).await.unwrap();
    }
    agent.send_reports().await.unwrap();
    let last = world.site.known().reports.last().cloned().unwrap();
    assert_eq!((last.kind(), last.epoch), (ReportKind::Full, 2));
    assert_eq!(world.site.detection(BASH), Some(Detection::Required));
}

/// Sends what there is, then something more that the site answers with this wish. Gives the reports
/// that came after it.
async fn answered_with(world: &World, agent: &Agent, kind: WishKind) -> Vec<Report> {
    for version in ["1.0-2", NEW, "1.0-2", NEW] {
        world.machine.set_version("bash", version);
        agent.scan(Trigger::User).await.unwrap();
        agent.send_reports().await.unwrap();
    }
    let reports = world.site.known().reports.clone();
    let [.., before, missing, _] = reports.as_slice() else {
        panic!()
    };
    let range = SerialRange {
        first: before.first_serial,
        last: missing.last_serial,
    };
    world.site.known().wish = Some(Wish {
        kind: kind.into(),
        epoch: 1,
        ranges: if kind == WishKind::Ranges {
            vec![range]
        } else {
            vec![]
        },
    });
    world.machine.set_version("zsh", NEW);
    agent.scan(Trigger::User).await.unwrap();
    agent.send_reports().await.unwrap();
    let after = world.site.known().reports.split_off(reports.len() + 1);
    assert_eq!(agent.send_reports().await.unwrap().reports, 0);
    after
}

#[tokio::test]
async fn what_the_site_misses_is_told_again_by_its_serials() {
    let world = World::new().await;
    let agent = world.agent();
    agent.poll_policy().await.unwrap();
    agent.scan(Trigger::User).await.unwrap();
    let after = answered_with(&world, &agent, WishKind::Ranges).await;
    let [again] = after.as_slice() else {
        panic!("{after:?}")
    };
    assert_eq!((again.kind(), again.epoch), (ReportKind::Delta, 1));
    // All that happened in it was superseded: it closes the gap with nothing in it.
    assert!(again.compliance.is_none() && again.last_serial >= again.first_serial);
}

#[tokio::test]
async fn a_wish_for_everything_or_for_a_registration_is_followed_at_once() {
    for (kind, epoch) in [(WishKind::Full, 1), (WishKind::Register, 2)] {
        let world = World::new().await;
        let agent = world.agent();
        agent.poll_policy().await.unwrap();
        agent.scan(Trigger::User).await.unwrap();
        let after = answered_with(&world, &agent, kind).await;
        let [full] = after.as_slice() else {
            panic!("{after:?}")
        };
        assert_eq!((full.kind(), full.epoch), (ReportKind::Full, epoch));
        assert_eq!(world.site.detection(ZSH), Some(Detection::Installed));
    }
}

#[tokio::test]
async fn a_wish_that_comes_with_policy_is_followed_by_the_next_reports() {
    for (kind, epoch) in [
        (WishKind::Ranges, 1),
        (WishKind::Full, 1),
        (WishKind::Register, 2),
    ] {
        let world = World::new().await;
        let agent = world.agent();
        agent.poll_policy().await.unwrap();
        for version in [NEW, "1.0-2"] {
            world.machine.set_version("bash", version);
            agent.scan(Trigger::User).await.unwrap();
            agent.send_reports().await.unwrap();
        }
        let sent = std::mem::take(&mut world.site.known().reports);
        let missing = SerialRange {
            first: sent.last().unwrap().first_serial,
            last: sent.last().unwrap().last_serial,
        };
        // What was not sent yet makes the answer depend on more than the range.
        world.machine.set_version("zsh", NEW);
        agent.scan(Trigger::User).await.unwrap();
        world.site.known().polled_wish = Some(Wish {
            kind: kind.into(),
            epoch: 1,
            ranges: (kind == WishKind::Ranges)
                .then_some(missing)
                .into_iter()
                .collect(),
        });
        agent.poll_policy().await.unwrap();
        agent.send_reports().await.unwrap();
        let reports = world.site.known().reports.clone();
        assert!(reports.iter().all(|report| report.epoch == epoch));
        if kind != WishKind::Ranges {
            assert_eq!(reports[0].kind(), ReportKind::Full);
            continue;
        }
        let [again, news] = reports.as_slice() else {
            panic!("{reports:?}")
        };
        assert_eq!(
            (again.first_serial, again.last_serial),
            (missing.first, missing.last)
        );
        assert_eq!(again.given_serial, news.last_serial);
        assert_eq!(
            (news.first_serial, news.given_serial),
            (missing.last + 1, 0)
        );
    }
}

#[tokio::test]
async fn a_lost_or_damaged_database_ends_in_a_new_epoch_and_a_full_report() {
    for (damage, with_mark) in [(0, true), (0, false), (1, true), (2, false), (3, true)] {
        let world = World::new().await;
        let agent = world.agent();
        agent.poll_policy().await.unwrap();
        agent.scan(Trigger::User).await.unwrap();
        agent.send_reports().await.unwrap();
        drop(agent);
        let folder = world.dir.path().join("client");
        let db = folder.join("agent.db");
        for end in ["agent.db-wal", "agent.db-shm"] {
            let _ = std::fs::remove_file(folder.join(end));
        }
        let mut bytes = std::fs::read(&db).unwrap();
        let seed: u64 = rand::random();
        let mut noise = seed | 1;
        let mut scribble = |page: usize| {
            for byte in &mut bytes[page * 4096..(page + 1) * 4096] {
                noise = noise
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                *byte = (noise >> 33) as u8;
            }
        };
        match damage {
            0 => std::fs::remove_file(&db).unwrap(),
            1 => scribble(0),
            _ => (1..4).for_each(&mut scribble),
        }
        if damage > 0 {
            std::fs::write(&db, &bytes).unwrap();
        }
        if !with_mark {
            std::fs::remove_file(folder.join("serial.mark")).unwrap();
        }

        world.machine.set_version("bash", NEW);
        let agent = world.agent();
        assert_eq!(agent.registration().unwrap().client_id, world.client);
        agent.poll_policy().await.unwrap();
        agent.scan(Trigger::User).await.unwrap();
        agent.send_reports().await.unwrap();
        let last = world.site.known().reports.last().cloned().unwrap();
        assert_eq!((last.kind(), last.epoch), (ReportKind::Full, 2));
        assert_eq!(world.site.detection(BASH), Some(Detection::Installed));
        let aside = folder.join("agent.db.damaged").exists();
        assert_eq!(aside, damage > 0, "seed {seed}");
    }
}

#[tokio::test]
async fn each_start_of_the_agent_is_a_run_that_begins_where_the_last_one_ended() {
    let world = World::new().await;
    let mut runs = Vec::new();
    for version in [NEW, "1.0-2"] {
        let agent = world.agent();
        agent.poll_policy().await.unwrap();
        for package in ["bash", "zsh"] {
            world.machine.set_version(package, version);
            agent.scan(Trigger::User).await.unwrap();
            agent.send_reports().await.unwrap();
        }
        let reports = std::mem::take(&mut world.site.known().reports);
        let of = |report: &Report| (report.run_id, report.run_began_after, report.run_after);
        assert!(reports.iter().all(|report| of(report) == of(&reports[0])));
        runs.push((of(&reports[0]), reports.last().unwrap().last_serial));
    }
    let [((first, began, none), sent), ((second, next, after), _)] = runs[..] else {
        panic!()
    };
    assert_eq!((began, next), (0, sent));
    assert_eq!((none, after), (0, first));
    assert!(first != 0 && second != 0 && first != second);
}

#[tokio::test]
async fn a_client_with_nothing_to_say_says_that_it_is_there() {
    let world = World::new().await;
    let agent = world.agent();
    agent.poll_policy().await.unwrap();
    agent.scan(Trigger::User).await.unwrap();
    agent.send_reports().await.unwrap();
    world.machine.advance(Duration::from_secs(60 * 59));
    assert_eq!(agent.send_reports().await.unwrap().reports, 0);
    world.machine.advance(Duration::from_secs(60 * 2));
    assert_eq!(agent.send_reports().await.unwrap().reports, 1);
    let beat = world.site.known().reports.last().cloned().unwrap();
    assert_eq!(beat.heartbeat.unwrap().serial, beat.last_serial);
    assert!(beat.compliance.is_none() && beat.health.is_none());
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
