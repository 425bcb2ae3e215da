//! Parts of a hierarchy are killed while clients report: everything that was acknowledged climbs to
//! the central site, once (reliability.md F-01).

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
    /// States that are acknowledged before it may end. A state is a message: a report holds about
    /// ten of them, as in load L-01.
    states: u64,
    kills: usize,
    /// Reports that a hundred clients send in a second at most.
    pace: u32,
    /// Until so many states are acknowledged after the last kill, and until everything is at the
    /// central site.
    patience: Duration,
}

/// How long a kill waits for reports on their way.
const AIM: Duration = Duration::from_secs(3);
/// Changes of a client between two reports, at most.
const STATES: &str = "19";

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
            states: 60_000,
            kills: 12,
            pace: 30,
            patience: Duration::from_secs(120),
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
        states: 1_000_000 / scale,
        kills: usize::try_from(120 / scale)?,
        pace: u32::try_from(6 * scale)?.min(60),
        patience: Duration::from_secs(1_200),
    })
}

/// Clients of whom the central site does not have everything yet. A kill that meets none would prove
/// little, so this waits a moment for some.
fn on_their_way(forest: &mut Forest, central: &str, loads: &mut [Load]) -> Result<usize> {
    let end = Instant::now() + AIM;
    loop {
        for load in &mut *loads {
            load.read()?;
        }
        let held = forest.snapshot(central)?;
        let behind: usize = loads.iter().map(|it| held.behind(&it.history)).sum();
        if behind > 0 || Instant::now() > end {
            return Ok(behind);
        }
    }
}

#[test]
fn what_was_acknowledged_anywhere_is_at_the_central_site_whatever_is_killed() -> Result<()> {
    let begin = Instant::now();
    let (seed, tier) = (seed()?, tier()?);
    let mut random = StdRng::seed_from_u64(seed);
    let mut forest = Forest::set("hierarchy", tier.tree, &[])?;
    let codes = forest.codes();
    let central = codes[0].clone();
    let started = begin.elapsed();
    let mut loads = Vec::new();
    for (at, (code, clients)) in tier.clients.iter().enumerate() {
        let manner = [
            ("--clients", clients.to_string()),
            ("--seed", (seed + at as u64).to_string()),
            ("--rate", (clients * tier.pace / 100).max(1).to_string()),
            ("--states", STATES.to_owned()),
            ("--twice", "25".to_owned()),
        ];
        let manner = manner.iter().flat_map(|(name, value)| [name, &**value]);
        let manner: Vec<&str> = manner.chain(["--answer-resync"]).collect();
        loads.push(forest.load(code, &manner)?);
    }
    // The way up is open before anything is broken.
    for load in &mut loads {
        load.await_acknowledged(200)?;
    }
    let known: usize = loads.iter().map(|it| it.history.clients.len()).sum();
    let begun = forest.snapshot(&central)?.rows.len();

    let (mut in_flight, mut at_work) = (0, 0);
    for number in 1..=tier.kills {
        std::thread::sleep(Duration::from_millis(random.random_range(300..1_500)));
        let code = codes[random.random_range(0..codes.len())].clone();
        let part = Part::draw(&mut random);
        let dead = Duration::from_millis(random.random_range(0..2_000));
        let behind = on_their_way(&mut forest, &central, &mut loads)?;
        in_flight += usize::from(behind > 0);
        at_work += usize::from(behind < known);
        say(&format!(
            "{number} of {}: kill -9 of {part:?} of {code}, {behind} clients on their way",
            tier.kills
        ));
        forest.strike(&code, part, dead)?;
    }
    let killed = begin.elapsed();
    await_states(&mut loads, tier.states, tier.patience)?;
    let reported = begin.elapsed();
    let outcome = forest.judge(&mut loads, tier.patience)?;
    let [repeats, early] = ["repeat", "early"].map(|what| forest.seen(what));
    let history = |of: fn(&Load) -> u64| loads.iter().map(of).sum::<u64>();
    let figures = [
        ("seed", seed),
        ("sites", codes.len() as u64),
        ("clients", known as u64),
        ("states acknowledged", outcome.states),
        ("reports", outcome.reports),
        ("attempted", history(|it| it.history.attempts)),
        ("states held at the central site", outcome.held as u64),
        ("kills", tier.kills as u64),
        ("of them with reports on their way", in_flight as u64),
        ("repeats recognised", repeats),
        ("early reports", early),
        (
            "clients at the central site before the first kill",
            begun as u64,
        ),
        ("seconds to start", started.as_secs()),
        ("of kills", (killed - started).as_secs()),
        ("until all was reported", (reported - killed).as_secs()),
        (
            "until all was at the central site",
            outcome.quiesced.as_secs(),
        ),
        ("in all", begin.elapsed().as_secs()),
    ];
    let figures: Vec<String> = figures
        .iter()
        .map(|(of, it)| format!("{of} {it}"))
        .collect();
    say(&format!("PASS-0: {}", figures.join(", ")));
    // A run in which nothing happened proves nothing.
    ensure!(at_work > 0, "nothing had climbed before the kills");
    ensure!(
        in_flight * 10 >= tier.kills * 8,
        "too often nothing was on its way"
    );
    ensure!(
        repeats >= 100 && early >= 100,
        "only {repeats} repeats and {early} early reports"
    );
    ensure!(outcome.held > 0, "the central site has nothing");
    forest.end()
}

/// Waits until so many states are acknowledged in all.
fn await_states(loads: &mut [Load], wanted: u64, patience: Duration) -> Result<()> {
    let end = Instant::now() + patience;
    loop {
        let mut states = 0;
        for load in &mut *loads {
            load.await_acknowledged(0)?;
            states += load.history.states();
        }
        if states >= wanted {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "{states} of {wanted} states acknowledged"
        );
        std::thread::sleep(Duration::from_secs(1));
    }
}
