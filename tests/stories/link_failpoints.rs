//! The site servers at both ends of a link end at each place of its way, again and again, while
//! clients report below and collections are made above: the parent has what was acknowledged, once, and the
//! child what was made (reliability.md F-02).

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hierarchy_tests::faults::schedule;
use hierarchy_tests::faults::tree::Forest;
use hierarchy_tests::{repeats, say, seed};
use muster_local::Service;
use muster_local::hierarchy::Tree;
use muster_local::site::Setting;
use muster_runtime::faults::POINTS;

const PATIENCE: Duration = Duration::from_secs(120);
const PARENT: &str = "CEN";
const CHILD: &str = "P01";
/// What a link loses must stay lost: sites that compare what they hold would send it again.
const WITHOUT: [&str; 1] = ["without-digests"];

/// What waits at a site for the other, or is under way from there.
const UNDER_WAY: &str = "
    SELECT (SELECT count(*) FROM link_batches) + (SELECT count(*) FROM dirty_clients)
         + (SELECT count(*) FROM dirty_objects)";

#[test]
fn the_site_servers_of_a_link_may_end_at_any_of_its_failpoints() -> Result<()> {
    let begin = Instant::now();
    let (seed, times) = (seed()?, repeats(1)?);
    let settings = [Setting::new(Service::SiteServer, "links.cycle", "1s")];
    let tree = Tree::chain(&[PARENT, CHILD]);
    let mut forest = Forest::set("link-failpoints", tree, &settings)?;
    for code in [PARENT, CHILD] {
        forest.run_without(code, &WITHOUT)?;
    }
    let points: Vec<&'static str> = POINTS
        .into_iter()
        .filter(|point| point.starts_with("link."))
        .collect();
    ensure!(points.len() == 5, "the places of a link: {points:?}");
    let mut strikes = schedule::strikes(&points, 2 * times, seed);
    // One place after the other, so that what goes wrong is known to be its doing.
    strikes.sort_by_key(|strike| points.iter().position(|point| *point == strike.point));
    ensure!(strikes.len() == 2 * times * points.len());

    // These clients do not answer when a site asks for everything.
    let seed_of_load = seed.to_string();
    let manner = [
        "--clients",
        "60",
        "--rate",
        "15",
        "--states",
        "9",
        "--seed",
        &seed_of_load,
    ];
    let mut load = forest.load(CHILD, &manner)?;
    load.await_acknowledged(100)?;
    let verdict = forest.settle(PARENT, &mut load, PATIENCE)?;
    ensure!(verdict.lost == 0, "before anything was broken: {verdict}");
    let started = begin.elapsed();

    let (mut tried, mut made, mut busy) = (0, 0, 0);
    for group in strikes.chunk_by(|a, b| a.point == b.point) {
        let point = group[0].point;
        let sends = point.ends_with("_number");
        for (at, code) in [CHILD, PARENT].into_iter().enumerate() {
            let other = if code == CHILD { PARENT } else { CHILD };
            for strike in group.iter().skip(at).step_by(2) {
                // Up go reports by themselves, down what is made at the parent.
                let down = sends == (code == PARENT);
                forest.end_at(code, strike, &WITHOUT, |forest| {
                    if down {
                        // It ends meanwhile, or is not ready yet.
                        tried += 1;
                        let name = format!("made {tried}");
                        let answer = forest.admin(PARENT)?.ask(&["create", "collection", &name]);
                        made += u32::from(answer.is_ok());
                    }
                    Ok(())
                })?;
                let sender = if sends { code } else { other };
                let under_way = forest.sql(sender, UNDER_WAY)?;
                busy += usize::from(under_way.trim() != "0");
            }
            forest.run_without(code, &WITHOUT)?;
        }
        let verdict = forest.settle(PARENT, &mut load, PATIENCE)?;
        say(&format!(
            "{point}: hit {} at {:?}; {verdict}",
            group.len(),
            group.iter().map(|strike| strike.nth).collect::<Vec<_>>()
        ));
        // Values may be newer at the parent than its mark of them while clients go on, which is no harm:
        // it is judged at rest, in the end. What was acknowledged is there by now.
        let held = (verdict.lost, verdict.unexpected, verdict.duplicated) == (0, 0, 0);
        ensure!(held, "{point}: {verdict}");
        same_collections(&mut forest)?;
    }

    let outcome = forest.judge(std::slice::from_mut(&mut load), PATIENCE)?;
    let collections = same_collections(&mut forest)?;
    say(&format!(
        "PASS-0: seed {seed}, {} strikes, {busy} with something under way; {} states in {} reports, \
         {collections} collections, {} repeats; {} s, {} of them to start",
        strikes.len(),
        outcome.states,
        outcome.reports,
        forest.seen("repeat"),
        begin.elapsed().as_secs(),
        started.as_secs()
    ));
    // A run in which nothing happened proves nothing.
    ensure!(
        busy * 10 >= strikes.len() * 8,
        "too often nothing was under way"
    );
    ensure!(
        made > 0 && collections > 0,
        "nothing was made at the parent"
    );
    forest.end()
}

/// Waits until the child has the collections that the parent has; how many.
fn same_collections(forest: &mut Forest) -> Result<usize> {
    let end = Instant::now() + PATIENCE;
    loop {
        let (above, below) = (forest.collections(PARENT)?, forest.collections(CHILD)?);
        if above == below {
            return Ok(above.len());
        }
        ensure!(
            Instant::now() < end,
            "the parent has {above:?}, the child {below:?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}
