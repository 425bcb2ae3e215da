//! Parts of a hierarchy are killed while clients report: everything that was acknowledged climbs to
//! the central site, once (reliability.md F-01).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hierarchy_tests::faults::ground::Load;
use hierarchy_tests::faults::tree::{Forest, Part};
use hierarchy_tests::{say, seed};
use muster_local::hierarchy::{Member, Tree};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How large the story is.
struct Tier {
    tree: Tree,
    /// Sites with clients, and how many each has.
    clients: Vec<(&'static str, u32)>,
    /// Reports that are acknowledged before it may end.
    reports: u64,
    kills: usize,
    /// Reports that ten clients send in ten seconds at most.
    pace: u32,
    /// Until everything is at the central site.
    quiesce: Duration,
}

/// T0 for every test run; T1 by `cargo xtask faults --tier 1`, divided by `--scale`.
fn tier() -> Result<Tier> {
    let number = |name: &str, other: u64| -> Result<u64> {
        Ok(std::env::var(name).map_or(Ok(other), |it| it.parse())?)
    };
    let scale = number("MUSTER_SCALE", 1)?.max(1);
    if number("MUSTER_TIER", 0)? == 0 {
        return Ok(Tier {
            tree: Tree::chain(&["CEN", "P01", "S11"]),
            clients: vec![("S11", 150), ("P01", 50)],
            reports: 6_000,
            kills: 12,
            pace: 6,
            quiesce: Duration::from_secs(90),
        });
    }
    let site = |code: &str, parent: Option<&str>| Member {
        code: code.to_owned(),
        name: format!("Site {code}"),
        parent: parent.map(str::to_owned),
    };
    let tree = Tree {
        sites: vec![
            site("CEN", None),
            site("P01", Some("CEN")),
            site("P02", Some("CEN")),
            site("S11", Some("P01")),
            site("S12", Some("P01")),
            site("S21", Some("P02")),
            site("S22", Some("P02")),
        ],
    };
    let each = u32::try_from(500 / scale)?;
    let sites = ["S11", "S12", "S21", "S22"];
    Ok(Tier {
        tree,
        clients: sites.map(|code| (code, each)).to_vec(),
        reports: 500_000 / scale,
        kills: usize::try_from(120 / scale)?,
        pace: 3,
        quiesce: Duration::from_secs(600),
    })
}

#[test]
fn what_was_acknowledged_anywhere_is_at_the_central_site_whatever_is_killed() -> Result<()> {
    let begin = Instant::now();
    let (seed, tier) = (seed()?, tier()?);
    say(&format!("seed {seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let codes: Vec<String> = tier.tree.sites.iter().map(|it| it.code.clone()).collect();
    let central = codes[0].clone();
    let parents: BTreeMap<String, Option<String>> = tier
        .tree
        .sites
        .iter()
        .map(|it| (it.code.clone(), it.parent.clone()))
        .collect();
    let mut forest = Forest::set("hierarchy", tier.tree)?;
    let started = begin.elapsed();
    let mut loads = Vec::new();
    for (at, (code, clients)) in tier.clients.iter().enumerate() {
        let manner = [
            "--clients".to_owned(),
            clients.to_string(),
            "--seed".to_owned(),
            (seed + at as u64).to_string(),
            "--rate".to_owned(),
            (clients * tier.pace / 10).max(1).to_string(),
            "--answer-resync".to_owned(),
        ];
        let manner: Vec<&str> = manner.iter().map(String::as_str).collect();
        loads.push(forest.load(code, &manner)?);
    }
    // The way up is open before anything is broken.
    for load in &mut loads {
        load.await_acknowledged(500)?;
    }
    let begun = forest.snapshot(&central)?;
    let known = |loads: &[Load]| {
        loads
            .iter()
            .map(|it| it.history.clients.len())
            .sum::<usize>()
    };

    let (mut in_flight, mut at_work) = (0, 0);
    for number in 1..=tier.kills {
        std::thread::sleep(Duration::from_millis(random.random_range(300..1_500)));
        let code = codes[random.random_range(0..codes.len())].clone();
        let part = Part::draw(&mut random);
        let dead = Duration::from_millis(random.random_range(0..2_000));
        for load in &mut loads {
            load.read()?;
        }
        let held = forest.snapshot(&central)?;
        let behind: usize = loads.iter().map(|it| held.behind(&it.history)).sum();
        in_flight += usize::from(behind > 0);
        at_work += usize::from(behind < known(&loads));
        say(&format!(
            "{number} of {}: kill -9 of {part:?} of {code}, {behind} clients on their way",
            tier.kills
        ));
        forest.strike(&code, part, dead)?;
    }
    let killed = begin.elapsed();
    for load in &mut loads {
        load.await_acknowledged(tier.reports * 3 / (4 * tier.clients.len() as u64))?;
    }
    for load in &mut loads {
        load.end()?;
    }
    let reports: u64 = loads.iter().map(|it| it.history.acknowledged).sum();
    let quiesced = forest.quiesce(&central, &loads, tier.quiesce)?;
    let mut states = 0;
    for code in &codes {
        let snapshot = forest.snapshot(code)?;
        for (load, (home, _)) in loads.iter().zip(&tier.clients) {
            let above = std::iter::successors(Some((*home).to_owned()), |code| {
                parents.get(code).cloned().flatten()
            });
            if !above.into_iter().any(|it| it == *code) {
                continue;
            }
            let verdict = snapshot.judge(&load.history);
            say(&format!("{code} of the clients of {home}: {verdict}"));
            ensure!(verdict.passes(), "{code}, clients of {home}: {verdict}");
        }
        if *code == central {
            states = snapshot.rows.values().map(|row| row.states.len()).sum();
            ensure!(snapshot.rows.len() == known(&loads), "clients from nowhere");
            ensure!(snapshot.quarantined == 0, "poison from nowhere");
        }
    }
    say(&format!(
        "{reports} reports, {states} states at {central}, {} kills ({in_flight} with reports on \
         their way), {} clients there before the first; started in {} s, killed for {} s, \
         quiesced in {:.1} s, {} s in all",
        tier.kills,
        begun.rows.len(),
        started.as_secs(),
        (killed - started).as_secs(),
        quiesced.as_secs_f64(),
        begin.elapsed().as_secs()
    ));
    // A run in which nothing happened proves nothing.
    ensure!(at_work > 0, "nothing had climbed before the kills");
    ensure!(
        in_flight * 10 >= tier.kills * 8,
        "too often nothing was on its way"
    );
    ensure!(reports >= tier.reports / 2, "only {reports} reports");
    ensure!(states > 0, "the central site has nothing");
    forest.end()
}
