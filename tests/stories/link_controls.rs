//! Protections of links taken away: the oracle must say what is then lost or wrong at the central site;
//! with them the same load does no harm (reliability.md N-04 and N-07).

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hierarchy_tests::faults::ground::Load;
use hierarchy_tests::faults::oracle::Verdict;
use hierarchy_tests::faults::tree::Forest;
use hierarchy_tests::{say, seed};
use muster_local::Service;
use muster_local::hierarchy::Tree;
use muster_local::site::Setting;

const PATIENCE: Duration = Duration::from_secs(60);
/// What is not there after this does not come any more: nothing is on its way.
const SHORT: Duration = Duration::from_secs(5);
/// Sites that compare what they hold would find a loss and send it again.
const WITHOUT: &str = "without-digests";

/// One transaction in five that changes what clients say takes two seconds from when it has its number
/// until it commits, as when a disk stands still. Others get higher numbers and commit meanwhile.
const LATE: &str = "
    CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.mark_no % 5 = 0 THEN PERFORM pg_sleep(2); END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER late AFTER INSERT ON dirty_clients FOR EACH ROW EXECUTE FUNCTION late()";
const IN_TIME: &str = "DROP TRIGGER late ON dirty_clients; DROP FUNCTION late()";

#[test]
fn a_protection_of_a_link_that_is_taken_away_is_noticed() -> Result<()> {
    let begin = Instant::now();
    let seed = seed()?;
    let settings = [Setting::new(Service::SiteServer, "links.cycle", "1s")];
    let tree = Tree::chain(&["CEN", "P01", "S11"]);
    let mut forest = Forest::set("link-controls", tree, &settings)?;
    for code in ["CEN", "P01", "S11"] {
        forest.run_without(code, &[WITHOUT])?;
    }
    say(&format!("ready after {} s", begin.elapsed().as_secs()));

    let (_, verdict) = late_commits(&mut forest, seed)?;
    say(&format!("N-04 with the protection: {verdict}"));
    ensure!(verdict.passes(), "N-04 with the protection: {verdict}");
    forest.run_without("S11", &[WITHOUT, "outbox-by-number"])?;
    let (mut late, verdict) = late_commits(&mut forest, seed + 1)?;
    say(&format!("N-04 outbox by number: {verdict}"));
    ensure!(verdict.lost > 0, "N-04 was not noticed: {verdict}");
    // What nobody looked for is still marked.
    forest.run_without("S11", &[WITHOUT])?;
    let verdict = forest.settle("CEN", &mut late, PATIENCE)?;
    ensure!(
        verdict.passes(),
        "N-04 with the protection again: {verdict}"
    );

    // The site in the middle is older than its child and its parent.
    forest.run_without("P01", &[WITHOUT, "older-link"])?;
    let mut load = clients(&mut forest, seed + 2)?;
    load.await_acknowledged(200)?;
    load.end()?;
    let verdict = forest.settle("S11", &mut load, PATIENCE)?;
    ensure!(verdict.passes(), "N-07 at the clients' site: {verdict}");
    let verdict = forest.settle("CEN", &mut load, PATIENCE)?;
    say(&format!("N-07 an older site in the middle: {verdict}"));
    ensure!(verdict.wrong > 0, "N-07 was not noticed: {verdict}");
    // It is brought to their version, and its child says everything again.
    forest.run_without("P01", &[WITHOUT])?;
    let end = Instant::now() + PATIENCE;
    let verdict = loop {
        let verdict = forest.settle("CEN", &mut load, PATIENCE)?;
        if verdict.passes() || Instant::now() > end {
            break verdict;
        }
        std::thread::sleep(Duration::from_millis(300));
    };
    say(&format!("N-07 and of their version: {verdict}"));
    ensure!(verdict.passes(), "N-07 with the protection: {verdict}");
    say(&format!("{} s in all", begin.elapsed().as_secs()));
    forest.end()
}

/// Many clients that report once or twice each, and do not answer when a site asks for everything.
fn clients(forest: &mut Forest, seed: u64) -> Result<Load> {
    let seed = seed.to_string();
    let manner = ["--clients", "200", "--rate", "50", "--seed", &seed];
    let mut load = forest.load("S11", &manner)?;
    load.await_acknowledged(10)?;
    Ok(load)
}

/// Clients report while some transactions commit late; what the central site has of that.
fn late_commits(forest: &mut Forest, seed: u64) -> Result<(Load, Verdict)> {
    let mut load = clients(forest, seed)?;
    forest.sql("S11", LATE)?;
    load.await_acknowledged(250)?;
    load.end()?;
    forest.settle("S11", &mut load, PATIENCE)?;
    forest.sql("S11", IN_TIME)?;
    let verdict = forest.settle("CEN", &mut load, SHORT)?;
    Ok((load, verdict))
}
