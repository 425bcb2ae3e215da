//! A deployment while everything is killed, one after the other and more than once: it still
//! completes, with the same report as an undisturbed one.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use hierarchy_tests::{Stage, say, seed};
use muster_local::agents::{Agent, Fleet, Rights};
use muster_local::{Service, Site};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Agents,
    Part(Part),
}

/// A part of the site.
#[derive(Clone, Copy, Debug)]
enum Part {
    Service(Service),
    Postgres,
    Rabbit,
}

/// The agents come twice: at the start, and some seconds later, when packages are being installed.
const VICTIMS: [Victim; 8] = [
    Victim::Agents,
    Victim::Part(Part::Service(Service::ManagementPoint)),
    Victim::Part(Part::Service(Service::SiteServer)),
    Victim::Agents,
    Victim::Part(Part::Postgres),
    Victim::Part(Part::Rabbit),
    Victim::Part(Part::Service(Service::DistributionPoint)),
    Victim::Part(Part::Service(Service::SoftwareUpdatePoint)),
];

/// Kills one part of the site and starts it again.
fn strike(site: &mut Site, part: Part) -> Result<()> {
    match part {
        Part::Service(service) => {
            site.kill_9(service)?;
            site.restart(service)
        }
        Part::Postgres => {
            site.postgres.kill_9()?;
            site.postgres.restart()
        }
        Part::Rabbit => {
            site.rabbit.kill_9()?;
            site.rabbit.restart()
        }
    }
}

#[test]
fn a_real_root_is_patched_while_everything_around_it_is_killed() -> Result<()> {
    let mut rng = StdRng::seed_from_u64(seed()?);
    let mut stage = Stage::set("kill-root")?;
    let root = stage.debian_root()?;
    stage.admin.ask(&["create", "collection", "Roots"])?;
    let mut agent = Agent::enrol(
        stage.site(),
        "root",
        Some(root.folder()),
        Rights::Install,
        Some("Roots"),
    )?;
    agent.start(stage.site())?;
    stage.await_scans(1)?;
    let wanted = stage.deploy_security("June", "Roots")?;
    assert!(!wanted.is_empty(), "nothing to install would prove nothing");

    let (mut kills, mut at_work) = (0, 0);
    for round in 0.. {
        // The agent is hit in download, in the middle of dpkg, and while it reports.
        for victim in VICTIMS {
            std::thread::sleep(Duration::from_millis(rng.random_range(50..700)));
            match stage.admin.deployment("June") {
                Ok(now) if now.is_done() && round > 0 => break,
                Ok(now) if !now.is_done() => at_work += 1,
                Ok(_) | Err(_) => {}
            }
            say(&format!("kill -9 of {victim:?}"));
            kills += 1;
            match victim {
                Victim::Agents => {
                    agent.kill_9()?;
                    agent.start(stage.site())?;
                }
                Victim::Part(part) => strike(stage.site(), part)?,
            }
        }
        if round >= 1 {
            break;
        }
    }
    let site_says = stage.admin.until(
        "the end of the deployment",
        Duration::from_secs(240),
        || {
            let now = stage.admin.deployment("June")?;
            Ok((now.compliant == now.clients).then_some(now))
        },
    );
    let site_says = site_says.with_context(|| format!("the agent said last:\n{}", agent.log()))?;
    say(&format!(
        "{kills} kills, {at_work} surely before the end; {site_says:?}"
    ));
    assert!(
        at_work >= 3,
        "the deployment was over before anything was killed"
    );
    assert_eq!(
        (site_says.compliant, site_says.failed),
        (1, 0),
        "{}",
        agent.log()
    );
    let expected: Vec<_> = wanted
        .iter()
        .map(|it| (*it, "SUCCESSFULLY_INSTALLED".to_owned()))
        .collect();
    let told = stage
        .admin
        .until("every update's last state", Duration::from_secs(60), || {
            let told = stage.enforcement("root")?;
            Ok((told == expected).then_some(told))
        });
    assert!(
        told.is_ok(),
        "{:?} instead of {expected:?}",
        stage.enforcement("root")?
    );
    assert_eq!(root.audit()?, "", "dpkg is not well");
    assert_eq!(
        stage.admin.required("security", "Roots")?,
        Vec::<u64>::new()
    );
    agent.stop()?;
    root.remove()?;
    stage.end()
}

#[test]
fn a_simulated_fleet_ends_with_the_same_report_after_kills_of_everything() -> Result<()> {
    const CLIENTS: u32 = 60;
    let mut rng = StdRng::seed_from_u64(seed()?);
    let mut stage = Stage::set("kill-fleet")?;
    let root = stage.debian_root()?;
    let packages = stage.folder().join("packages.txt");
    fs::write(&packages, root.packages()?)?;
    root.remove()?;
    stage.admin.ask(&["create", "collection", "Fleet"])?;
    let mut fleet = Fleet::start(stage.site(), CLIENTS, 7, &packages, Some("Fleet"))?;
    stage.await_scans(CLIENTS as usize)?;
    let wanted = stage.deploy_security("June", "Fleet")?;
    assert!(!wanted.is_empty(), "nothing to install would prove nothing");
    let mut at_work = 0;
    for victim in VICTIMS {
        std::thread::sleep(Duration::from_millis(rng.random_range(50..700)));
        at_work += u32::from(stage.admin.deployment("June").is_ok_and(|it| !it.is_done()));
        say(&format!("kill -9 of {victim:?}"));
        match victim {
            Victim::Agents => {
                fleet.kill_9()?;
                fleet.restart()?;
            }
            Victim::Part(part) => strike(stage.site(), part)?,
        }
    }
    let end = stage.admin.until(
        "the end of the deployment",
        Duration::from_secs(240),
        || {
            let now = stage.admin.deployment("June")?;
            Ok((now.compliant == now.clients).then_some(now))
        },
    );
    let end = end.with_context(|| format!("the fleet said last:\n{}", fleet.log()))?;
    say(&format!("{at_work} kills surely before the end"));
    assert!(
        at_work >= 3,
        "the deployment was over before anything was killed"
    );
    // An undisturbed fleet without failures ends so: everybody compliant, nothing required.
    assert_eq!(
        (end.clients, end.compliant, end.failed),
        (CLIENTS.into(), CLIENTS.into(), 0)
    );
    stage
        .admin
        .until("the last scans", Duration::from_secs(60), || {
            Ok(stage
                .admin
                .required("security", "Fleet")?
                .is_empty()
                .then_some(()))
        })?;
    let quarantined = stage.admin.ask(&["backlog"])?["quarantined"].take();
    assert_eq!(
        muster_local::administrator::number(&quarantined),
        0,
        "poison from nowhere"
    );
    fleet.stop()?;
    stage.end()
}
