//! Clients become another site's while they report, and site servers are killed meanwhile: the central site
//! counts each once, at any moment, and has in the end what each said last (reliability.md P-06).

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hierarchy_tests::faults::ground::Load;
use hierarchy_tests::faults::tree::{Forest, Part};
use hierarchy_tests::{say, seed};
use muster_local::Service;
use muster_local::hierarchy::{Member, Tree};
use muster_local::site::Setting;

const PATIENCE: Duration = Duration::from_secs(90);
/// Clients that are moved, and those that stay at each site.
const MOVED: u32 = 20;
const STAY: [u32; 2] = [30, 10];

fn tree() -> Tree {
    let site = |code: &str, parent: Option<&str>| Member {
        code: code.to_owned(),
        name: format!("Site {code}"),
        parent: parent.map(str::to_owned),
    };
    Tree {
        sites: vec![
            site("CEN", None),
            site("P01", Some("CEN")),
            site("P02", Some("CEN")),
        ],
    }
}

/// How many clients the central site counts, and how many of each site.
fn counted(forest: &mut Forest) -> Result<(u32, u32, u32)> {
    let rows = forest.sql(
        "CEN",
        "SELECT format('%s|%s|%s', count(*), count(*) FILTER (WHERE owner_site_code = 'P01'),
                       count(*) FILTER (WHERE owner_site_code = 'P02'))
         FROM clients WHERE deleted_at IS NULL",
    )?;
    let line = rows.lines().find(|it| it.contains('|')).unwrap_or_default();
    let numbers: Vec<u32> = line.split('|').filter_map(|it| it.parse().ok()).collect();
    ensure!(numbers.len() == 3, "the central site says {rows:?}");
    Ok((numbers[0], numbers[1], numbers[2]))
}

#[test]
fn clients_that_are_moved_while_they_report_count_once_and_lose_nothing() -> Result<()> {
    let begin = Instant::now();
    let seed = seed()?;
    let settings = [Setting::new(Service::SiteServer, "links.cycle", "500ms")];
    let mut forest = Forest::set("moved", tree(), &settings)?;
    let seeds = [0, 1, 2].map(|it| (seed + it).to_string());
    let counts = [MOVED, STAY[0], STAY[1]].map(|it| it.to_string());
    let manner = |at: usize| {
        [
            "--clients",
            &counts[at],
            "--rate",
            "20",
            "--states",
            "9",
            "--seed",
            &seeds[at],
            "--answer-resync",
            "--poll",
            "1",
        ]
    };
    let mut loads: Vec<Load> = vec![
        forest.load_that_moves("P01", "P02", &manner(0))?,
        forest.load("P01", &manner(1))?,
        forest.load("P02", &manner(2))?,
    ];
    let all = MOVED + STAY[0] + STAY[1];
    for load in &mut loads {
        load.await_acknowledged(40)?;
    }
    forest.catch_up("CEN", &mut loads, PATIENCE)?;
    // Those that have not reported yet are told of a cycle later.
    let (ready, ours) = (Instant::now(), (all, MOVED + STAY[0], STAY[1]));
    loop {
        let known = counted(&mut forest)?;
        if known == ours {
            break;
        }
        ensure!(
            ready.elapsed() < PATIENCE,
            "the central site knows {known:?} of {ours:?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    say(&format!("ready after {} s", begin.elapsed().as_secs()));

    let admin = forest.admin("CEN")?;
    let ids: Vec<_> = loads[0].history.clients.iter().map(|it| it.id).collect();
    for (at, id) in ids.iter().enumerate() {
        admin.show(&["client", "move", &id.to_string(), "--to", "P02"])?;
        if at == ids.len() / 2 {
            // Who takes them in, and then who lets them go.
            for code in ["P02", "P01"] {
                forest.strike(
                    code,
                    Part::Server(Service::SiteServer),
                    Duration::from_millis(500),
                )?;
            }
        }
        ensure!(
            counted(&mut forest)?.0 == all,
            "the central site counts others"
        );
    }
    let decided = Instant::now();
    forest.strike(
        "CEN",
        Part::Server(Service::SiteServer),
        Duration::from_millis(500),
    )?;
    loop {
        let (count, first, second) = counted(&mut forest)?;
        ensure!(
            count == all,
            "the central site counts {count} clients of {all}"
        );
        let left = "SELECT count(*) FROM clients WHERE deleted_at IS NULL";
        let left = forest.sql("P01", left)?;
        let gone = left.lines().any(|it| it.trim() == STAY[0].to_string());
        if (first, second) == (STAY[0], MOVED + STAY[1]) && gone {
            break;
        }
        ensure!(
            decided.elapsed() < PATIENCE,
            "{first} clients are of P01, {second} of P02, at P01 there are {left}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    say(&format!(
        "all moved {:.1} s after the last decision",
        decided.elapsed().as_secs_f64()
    ));
    (loads[0].site, loads[0].moved) = ("P02".to_owned(), true);
    for load in &mut loads {
        let so_far = load.history.acknowledged;
        load.await_acknowledged(so_far + 40)?;
    }
    let outcome = forest.judge(&mut loads, PATIENCE)?;
    say(&format!(
        "PASS-0: seed {seed}, {} states in {} reports, quiesced in {:.1} s, {} s in all",
        outcome.states,
        outcome.reports,
        outcome.quiesced.as_secs_f64(),
        begin.elapsed().as_secs()
    ));
    forest.end()
}
