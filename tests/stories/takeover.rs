//! A site server that stands still is replaced, and what it writes when it wakes up is refused
//! (reliability.md F-14).

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hierarchy_tests::faults::ground::Ground;
use hierarchy_tests::{say, seed};
use muster_local::process::{Launch, Process};
use muster_local::{Service, http};

/// As configured for these stories, with what a standby needs to look and to start.
const TAKEOVER: Duration = Duration::from_secs(4 + 2 + 15);

/// A second site server on the same database, on ports of its own.
fn standby(ground: &mut Ground) -> Result<(Process, String)> {
    let config = fs::read_to_string(ground.site().config(Service::SiteServer))?;
    let mut config: toml::Table = config.parse()?;
    let admin = format!("127.0.0.1:{}", muster_testkit::free_port());
    let listen = format!("127.0.0.1:{}", muster_testkit::free_port());
    config.insert("listen".to_owned(), listen.into());
    let table = config.get_mut("admin").and_then(toml::Value::as_table_mut);
    table
        .context("no admin port")?
        .insert("listen".to_owned(), admin.clone().into());
    let file = ground.folder().join("config/standby.toml");
    fs::write(&file, config.to_string())?;
    let launch = Launch::new("standby", ground.site().program("site-server"))
        .arg("--config")
        .arg(file);
    let process = Process::spawn(ground.site().state(), launch)?;
    Ok((process, format!("http://{admin}/readyz")))
}

fn ready(url: &str) -> bool {
    matches!(http::get(url, Duration::from_secs(1)), Ok((200, _)))
}

fn await_takeover(url: &str) -> Result<Duration> {
    let begin = Instant::now();
    while !ready(url) {
        ensure!(begin.elapsed() < TAKEOVER, "nobody took over");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(begin.elapsed())
}

#[test]
fn a_site_server_that_stands_still_is_replaced_and_its_late_writes_are_refused() -> Result<()> {
    let seed = seed()?.to_string();
    let mut ground = Ground::set("takeover")?;
    let mut load = ground.load("load", "takeover", &["--seed", &seed])?;
    load.await_acknowledged(400)?;
    let (mut second, url) = standby(&mut ground)?;
    std::thread::sleep(Duration::from_secs(5));
    ensure!(!ready(&url), "two site servers are active");
    ensure!(
        ground.count("SELECT fence FROM leases")? == 1,
        "one holder so far"
    );

    // In the middle of its work: it holds messages, and perhaps a transaction.
    ground.site().signal(Service::SiteServer, "STOP")?;
    let took = await_takeover(&url)?;
    say(&format!(
        "a standby took over from a stopped process after {took:?}"
    ));
    ensure!(
        ground.count("SELECT fence FROM leases")? == 2,
        "the fence was raised"
    );
    // The messages in its hands go back when the broker misses its heartbeats; what is not in its
    // hands goes on at once.
    let so_far = load.history.acknowledged;
    load.await_acknowledged(so_far + 400)?;
    ground.site().signal(Service::SiteServer, "CONT")?;
    let (verdict, _) = ground.settle(&mut load, Duration::from_secs(90))?;
    say(&format!("after it woke up: {verdict}"));
    ensure!(verdict.passes(), "{verdict}");
    ensure!(
        ground.count("SELECT fence FROM leases")? == 2,
        "it did not take the lease back"
    );
    let said = ground.site().log_text(Service::SiteServer);
    ensure!(
        said.contains("lease of this site is lost"),
        "it does not know:\n{said}"
    );

    // It stands by now. The active one is killed, and it takes over.
    second.kill_9()?;
    let begin = Instant::now();
    while ground.count("SELECT fence FROM leases")? < 3 {
        ensure!(begin.elapsed() < TAKEOVER, "nobody took over");
        std::thread::sleep(Duration::from_millis(50));
    }
    ground.site().wait_ready(Service::SiteServer)?;
    say(&format!(
        "and from a killed one after {:?}",
        begin.elapsed()
    ));
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
    let off = ground.matrix_off(&snapshot)?;
    ensure!(
        off.is_empty(),
        "the matrix is not what the rows are: {off:?}"
    );
    ground.end()
}
