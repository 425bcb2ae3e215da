//! Clients report to servers near them, which have no site database: what those have taken in reaches
//! the primary site, whatever is killed.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use hierarchy_tests::faults::ground::Ground;
use hierarchy_tests::{say, seed, workspace};
use muster_local::packages::{self, Install};
use muster_local::secondary::Secondary;
use muster_local::{Interrupt, Service, State};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

#[test]
fn what_a_secondary_site_has_taken_in_reaches_its_primary_whatever_is_killed() -> Result<()> {
    let seed = seed()?;
    let mut random = StdRng::seed_from_u64(seed);
    let mut pause = || std::thread::sleep(Duration::from_millis(random.random_range(0..1_000)));
    let mut ground = Ground::set("secondary")?;
    let servers = packages::ensure(Install::No, &say)?;
    let folder = ground.folder().join("sites/S01");
    let state = State::open(&folder, Interrupt::default())?;
    let definitions = workspace().join("deploy/secondary-site/definitions.json");
    let definitions = fs::read_to_string(definitions)?;
    let port = muster_testkit::free_port();
    let mut nearby =
        Secondary::start(&state, &servers, ground.site(), ("S01", port), &definitions)?;

    let (seed, point) = (seed.to_string(), nearby.management_point().to_owned());
    let manner = ["--seed", &seed, "--management-point", &point];
    let mut load = ground.load("load", "secondary", &manner)?;
    load.await_acknowledged(200)?;
    let recorded = ground.snapshot()?.reports;
    ensure!(recorded > 0, "nothing came through so far");

    // The primary's broker is away: clients notice nothing.
    ground.site().rabbit.kill_9()?;
    let so_far = load.history.acknowledged;
    load.await_acknowledged(so_far + 400)?;
    ground.site().rabbit.restart()?;

    for _ in 0..2 {
        let so_far = load.history.acknowledged;
        nearby.rabbit.kill_9()?;
        pause();
        nearby.rabbit.restart()?;
        load.await_acknowledged(so_far + 100)?;
        nearby.kill_management_point()?;
        load.await_acknowledged(so_far + 200)?;
        ground.look(Service::SiteServer);
        ground.site().kill_9(Service::SiteServer)?;
        pause();
        ground.site().restart(Service::SiteServer)?;
    }

    let (verdict, snapshot) = ground.finish(&mut load)?;
    say(&format!("in the end: {verdict}"));
    ensure!(verdict.passes(), "{verdict}");
    ensure!(snapshot.quarantined == 0, "poison from nowhere");
    ensure!(
        i64::try_from(load.history.distinct())? == snapshot.reports,
        "{} reports are recorded, {} were made",
        snapshot.reports,
        load.history.distinct()
    );
    drop(nearby);
    ground.end()
}
