//! A broker loses everything, a database goes back to a backup, the central site begins with nothing: what
//! the sites around it and the clients still have is enough to bring it to where it was (reliability.md
//!

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hierarchy_tests::faults::ground::Load;
use hierarchy_tests::faults::tree::Forest;
use hierarchy_tests::{say, seed};
use muster_local::Service;
use muster_local::hierarchy::Tree;
use muster_local::site::Setting;

const PATIENCE: Duration = Duration::from_secs(120);
/// Reports of each fleet between two events.
const SOME: u64 = 150;

#[test]
fn what_a_broker_or_a_database_has_lost_comes_back_from_the_others() -> Result<()> {
    let begin = Instant::now();
    let seed = seed()?;
    let settings = [Setting::new(Service::SiteServer, "links.cycle", "1s")];
    let mut forest = Forest::set("restored", Tree::chain(&["CEN", "P01"]), &settings)?;
    let mut loads = vec![
        forest.steady("P01", 60, seed, &["--poll", "2"])?,
        forest.steady("CEN", 20, seed + 1, &["--poll", "2"])?,
    ];
    go_on(&mut loads)?;
    forest.catch_up("CEN", &mut loads, PATIENCE)?;
    say(&format!("ready after {} s", begin.elapsed().as_secs()));
    if std::env::var_os("MUSTER_LARGE").is_some() {
        lose_broker(&mut forest, &mut loads, "P01")?;
    }
    lose_broker(&mut forest, &mut loads, "CEN")?;
    restore(&mut forest, &mut loads, "P01", "R-01")?;
    restore(&mut forest, &mut loads, "CEN", "R-02")?;
    let outcome = forest.judge(&mut loads, PATIENCE)?;
    say(&format!(
        "PASS-0: seed {seed}, {} states in {} reports, quiesced in {:.1} s, {} s in all",
        outcome.states,
        outcome.reports,
        outcome.quiesced.as_secs_f64(),
        begin.elapsed().as_secs()
    ));
    rebuild(&mut forest, loads, seed + 2)?;
    forest.end()
}

/// R-02 without a backup: the central site has its keys, and nothing else. Its own clients have to enrol
/// again, so those of before are not there any more.
fn rebuild(forest: &mut Forest, loads: Vec<Load>, seed: u64) -> Result<()> {
    let (above, below) = ("CEN", "P01");
    forest
        .admin(above)?
        .ask(&["create", "collection", "of all"])?;
    forest
        .admin(below)?
        .ask(&["create", "collection", "of some"])?;
    let (of_all, of_some) = ("CEN/of all".to_owned(), "P01/of some".to_owned());
    for code in [above, below] {
        until("both collections at both sites", || {
            let held = forest.collections(code)?;
            Ok(held.contains(&of_all) && held.contains(&of_some))
        })?;
    }
    let mut loads: Vec<Load> = loads.into_iter().filter(|it| it.site == below).collect();
    loads.push(forest.steady(below, 30, seed, &["--poll", "2"])?);
    loads[1].await_acknowledged(SOME)?;
    forest.catch_up(above, &mut loads[1..], PATIENCE)?;
    let before = [
        forest.link(above, below)?.epochs,
        forest.link(below, above)?.epochs,
    ];
    let begin = Instant::now();
    forest.begin_anew(above)?;
    ensure!(
        forest.snapshot(above)?.rows.is_empty(),
        "it has not begun anew"
    );
    // Nobody below stops for that.
    go_on(&mut loads[1..])?;
    forest.join(below)?;
    let joined = begin.elapsed();
    let took = forest.catch_up(above, &mut loads[1..], PATIENCE)?;
    forest.judge(&mut loads, PATIENCE)?;
    let after = [
        forest.link(above, below)?.epochs,
        forest.link(below, above)?.epochs,
    ];
    say(&format!(
        "R-02 from its children: {above} has everything {:.1} s after {below} joined it again, {:.1} s \
         after it had lost everything; epochs (sending, receiving) of {above} and {below} were \
         {before:?}, are {after:?}",
        took.as_secs_f64(),
        (joined + took).as_secs_f64(),
    ));
    let [(down, up_held), (up, down_held)] = after;
    let [(down_before, _), (up_before, _)] = before;
    ensure!(
        down > down_before && up > up_before && (up, down) == (up_held, down_held),
        "a direction went on as if nothing had been"
    );
    // What the site below owns came up again; what the central site owned is nobody's any more.
    for code in [above, below] {
        until("what each owner has, at both sites", || {
            let held = forest.collections(code)?;
            Ok(!held.contains(&of_all) && held.contains(&of_some))
        })?;
    }
    Ok(())
}

/// Waits until everybody has reported some more.
fn go_on(loads: &mut [Load]) -> Result<()> {
    for load in loads {
        load.read()?;
        load.await_acknowledged(load.history.acknowledged + SOME)?;
    }
    Ok(())
}

/// the broker starts empty. Its own users are made as at the installation; the rest is the
/// site server's, when it starts.
fn lose_broker(forest: &mut Forest, loads: &mut [Load], code: &str) -> Result<()> {
    // Reports and batches of the link wait in queues when they are lost.
    let site = forest.sites().site_mut(code)?;
    site.terminate(Service::SiteServer)?;
    go_on(loads)?;
    let held = forest.snapshot("CEN")?;
    let behind: usize = loads.iter().map(|it| held.behind(&it.history)).sum();
    ensure!(behind > 0, "nothing was under way");
    let told = full(loads);
    let begin = Instant::now();
    forest.note(&format!("{code} loses its broker's data"))?;
    let site = forest.sites().site_mut(code)?;
    site.lose_broker()?;
    site.restart(Service::SiteServer)?;
    let empty = begin.elapsed();
    go_on(loads)?;
    // What was only in the broker's queues of reports, their clients say again.
    forest.catch_up("CEN", loads, PATIENCE)?;
    let asked = full(loads) - told;
    say(&format!(
        "R-03 at {code}: {behind} clients on their way; it was back after {:.1} s, everything after \
         {:.1} s; {asked} full reports of clients that missed some",
        empty.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// the database goes back to a backup, while everybody goes on.
fn restore(forest: &mut Forest, loads: &mut [Load], code: &str, name: &str) -> Result<()> {
    let (above, below) = ("CEN", "P01");
    let copy = forest.folder().join(format!("backup-{code}"));
    forest.note(&format!("{code} backup"))?;
    forest.sites().site_mut(code)?.postgres.keep_copy(&copy)?;
    // Both directions of the link go on: reports up, an object down.
    go_on(loads)?;
    if code == below {
        let made = format!("after the backup of {code}");
        forest.admin(above)?.ask(&["create", "collection", &made])?;
        let wanted = format!("{above}/{made}");
        until("a collection from above", || {
            Ok(forest.collections(below)?.contains(&wanted))
        })?;
    }
    forest.catch_up("CEN", loads, PATIENCE)?;
    let before = [
        forest.link(above, below)?.epochs,
        forest.link(below, above)?.epochs,
    ];
    let held = forest.snapshot(code)?;
    let told = full(loads);
    let begin = Instant::now();
    forest.note(&format!("{code} restored"))?;
    let site = forest.sites().site_mut(code)?;
    site.terminate(Service::SiteServer)?;
    site.postgres.restore_copy(&copy)?;
    let back = forest.snapshot(code)?;
    let older = held.rows.iter().filter(|(id, row)| {
        let now = back.rows.get(id);
        now.is_none_or(|now| now.contiguous < row.contiguous)
    });
    let older = older.count();
    forest
        .sites()
        .site_mut(code)?
        .restart(Service::SiteServer)?;
    go_on(loads)?;
    forest.catch_up("CEN", loads, PATIENCE)?;
    let asked = full(loads) - told;
    let after = [
        forest.link(above, below)?.epochs,
        forest.link(below, above)?.epochs,
    ];
    say(&format!(
        "{name}: {code} restored, {older} clients were older there, {asked} told everything anew; all is \
         well after {:.1} s; epochs (sending, receiving) of {above} and {below} were {before:?}, are \
         {after:?}",
        begin.elapsed().as_secs_f64()
    ));
    ensure!(older > 0, "the backup was as new as the database");
    ensure!(asked > 0, "no client was missed");
    // Both directions began anew, in an epoch that nobody had used: no number comes twice.
    let [(down, up_held), (up, down_held)] = after;
    let [(down_before, _), (up_before, _)] = before;
    ensure!(
        down > down_before && up > up_before && (up, down) == (up_held, down_held),
        "a direction went on as if nothing had been"
    );
    if code == below {
        let wanted = format!("{above}/after the backup of {code}");
        until("a collection that was lost", || {
            Ok(forest.collections(below)?.contains(&wanted))
        })?;
    }
    std::fs::remove_dir_all(&copy)?;
    Ok(())
}

/// FULL reports so far.
fn full(loads: &[Load]) -> usize {
    loads.iter().map(|it| it.history.full()).sum()
}

fn until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !done()? {
        ensure!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
