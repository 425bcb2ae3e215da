//! Each protection is taken away once, and the same oracle must say what is then lost, wrong or
//! counted twice; with the protection the same faults do no harm (reliability.md, N-01 to N-06).

use std::time::Duration;

use anyhow::{Result, ensure};
use hierarchy_tests::faults::ground::Ground;
use hierarchy_tests::faults::oracle::Verdict;
use hierarchy_tests::faults::schedule::Strike;
use hierarchy_tests::{say, seed};
use muster_local::Service;

const PATIENCE: Duration = Duration::from_secs(45);
/// What is not there after this does not come any more: nothing is on its way.
const SHORT: Duration = Duration::from_secs(2);

fn must_show(control: &str, what: u64, verdict: &Verdict) -> Result<()> {
    say(&format!("{control}: {verdict}"));
    ensure!(what > 0, "{control} was not noticed: {verdict}");
    Ok(())
}

fn must_pass(control: &str, verdict: &Verdict) -> Result<()> {
    say(&format!("{control} with the protection: {verdict}"));
    ensure!(verdict.passes(), "{control} with the protection: {verdict}");
    Ok(())
}

/// Ends the site server when it has written a batch and not committed it.
fn between_write_and_commit(ground: &mut Ground, name: &str, without: &[&str]) -> Result<Verdict> {
    let mut load = ground.load("load", name, &["--clients", "300"])?;
    load.await_acknowledged(200)?;
    let strike = Strike {
        service: Service::SiteServer,
        point: "site.record.before_commit",
        nth: 4,
    };
    ground.strike(&strike, without, |_| Ok(()))?;
    ground.mend(Service::SiteServer)?;
    load.end()?;
    ground.rest()?;
    let patience = if without.is_empty() { PATIENCE } else { SHORT };
    Ok(ground.settle(&mut load, patience)?.0)
}

/// The broker stands still while messages go out, and is then killed: what it had not taken from
/// the wire is gone.
fn broker_dies_with_messages_on_the_wire(
    ground: &mut Ground,
    name: &str,
    without: &[&str],
) -> Result<Verdict> {
    ground.break_service(Service::ManagementPoint, None, without)?;
    ground.site().wait_ready(Service::ManagementPoint)?;
    let mut load = ground.load("load", name, &["--clients", "300"])?;
    load.await_acknowledged(200)?;
    ground.site().rabbit.signal("STOP")?;
    std::thread::sleep(Duration::from_secs(1));
    ground.site().rabbit.kill_9()?;
    ground.site().rabbit.restart()?;
    // Both services find it again by themselves.
    let so_far = load.history.acknowledged;
    load.await_acknowledged(so_far + 100)?;
    load.end()?;
    ground.rest()?;
    let patience = if without.is_empty() { PATIENCE } else { SHORT };
    let verdict = ground.settle(&mut load, patience)?.0;
    ground.mend(Service::ManagementPoint)?;
    Ok(verdict)
}

/// The database is killed while it commits.
fn database_dies(ground: &mut Ground, name: &str, patience: Duration) -> Result<Verdict> {
    let mut load = ground.load("load", name, &["--clients", "300"])?;
    load.await_acknowledged(400)?;
    // Acknowledged by the database, too: only that can be lost here.
    ground.settle(&mut load, PATIENCE)?;
    load.await_acknowledged(load.history.acknowledged + 200)?;
    ground.site().postgres.kill_9()?;
    ground.site().postgres.restart()?;
    ground.site().wait_ready(Service::SiteServer)?;
    load.end()?;
    ground.rest()?;
    Ok(ground.settle(&mut load, patience)?.0)
}

/// Reports that come twice, late and out of order.
fn mangled(ground: &mut Ground, name: &str, seed: u64, more: &[&str]) -> Result<Verdict> {
    let seed = seed.to_string();
    let mut manner = vec![
        "--clients",
        "60",
        "--rounds",
        "12",
        "--hurry",
        "60",
        "--seed",
        &seed,
    ];
    manner.extend(more);
    let mut load = ground.load("mangle", name, &manner)?;
    load.await_end(Duration::from_secs(90))?;
    ground.rest()?;
    Ok(ground.settle(&mut load, SHORT)?.0)
}

#[test]
fn a_protection_that_is_taken_away_is_noticed() -> Result<()> {
    let seed = seed()?;
    let mut ground = Ground::set("controls")?;

    // First everything as it should be: the same faults do no harm.
    let verdict = between_write_and_commit(&mut ground, "n03-on", &[])?;
    must_pass("N-03 acknowledged before the commit", &verdict)?;
    let verdict = broker_dies_with_messages_on_the_wire(&mut ground, "n02-on", &[])?;
    must_pass("N-02 no confirms", &verdict)?;
    let verdict = database_dies(&mut ground, "n01-on", PATIENCE)?;
    must_pass("N-01 a volatile database", &verdict)?;
    let verdict = mangled(
        &mut ground,
        "n05-on",
        seed,
        &["--answer-resync", "--clock-steps-back"],
    )?;
    must_pass("N-05 and N-06 another order, counted deliveries", &verdict)?;

    // What is lost stays lost: these clients do not answer when the site asks for everything.
    let control = ["ack-before-commit"];
    let verdict = between_write_and_commit(&mut ground, "n03", &control)?;
    must_show(
        "N-03 acknowledged before the commit",
        verdict.lost,
        &verdict,
    )?;
    let control = ["without-confirms"];
    let verdict = broker_dies_with_messages_on_the_wire(&mut ground, "n02", &control)?;
    must_show("N-02 no confirms", verdict.lost, &verdict)?;

    for (control, name) in [
        ("merge-by-arrival", "n05-arrival"),
        ("merge-by-client-clock", "n05-clock"),
    ] {
        ground.break_service(Service::SiteServer, None, &[control])?;
        ground.site().wait_ready(Service::SiteServer)?;
        let verdict = mangled(&mut ground, name, seed, &["--clock-steps-back"])?;
        must_show(control, verdict.wrong, &verdict)?;
    }

    // Counters are the whole site's: the earlier controls must not have moved them.
    let off = ground.snapshot()?.counters_off();
    ensure!(off == 0, "counters are off by {off} before N-06");
    ground.break_service(Service::SiteServer, None, &["count-deliveries"])?;
    ground.site().wait_ready(Service::SiteServer)?;
    let verdict = mangled(&mut ground, "n06", seed, &["--once"])?;
    must_show("N-06 counted deliveries", verdict.duplicated, &verdict)?;
    ensure!(
        (verdict.wrong, verdict.unexpected) == (0, 0),
        "only the counters may suffer: {verdict}"
    );

    // Last, because it changes the database server for good.
    ground.site().terminate(Service::SiteServer)?;
    ground.site().postgres.psql(
        "postgres",
        "ALTER SYSTEM SET synchronous_commit = off;\nALTER SYSTEM SET wal_writer_delay = '10s';\n\
         SELECT pg_reload_conf();\n",
        &[],
    )?;
    std::thread::sleep(Duration::from_millis(500));
    let production = Service::SiteServer.name();
    ground
        .site()
        .spawn_as(Service::SiteServer, production, &[])?;
    let refused = ground.site().wait_end(Service::SiteServer, PATIENCE)?;
    let said = ground.site().log_text(Service::SiteServer);
    ensure!(
        !refused.success() && said.contains("synchronous_commit"),
        "a volatile database is not refused: {said}"
    );
    ground.break_service(Service::SiteServer, None, &["volatile-database"])?;
    ground.site().wait_ready(Service::SiteServer)?;
    let verdict = database_dies(&mut ground, "n01", SHORT)?;
    must_show("N-01 a volatile database", verdict.lost, &verdict)?;
    ground.end()
}
