//! A service ends at each of its failpoints, again and again, under load: nothing that was
//! acknowledged is lost, nothing is recorded or counted twice (reliability.md F-02).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hierarchy_tests::faults::ground::Ground;
use hierarchy_tests::faults::schedule;
use hierarchy_tests::{repeats, say, seed};
use muster_local::Service;
use muster_proto::state as pb;
use muster_runtime::faults::POINTS;
use prost::Message;
use uuid::Uuid;

/// What makes the rare places be reached: reports of a client that nobody knows, and a client
/// that is asked for a full report and never sends one.
struct Stimuli {
    stranger: Uuid,
    silent: Uuid,
    poisons: u64,
}

impl Stimuli {
    fn poison(&self) -> pb::ReportEnvelope {
        let id = bytes::Bytes::copy_from_slice(self.stranger.as_bytes());
        let report = pb::Report {
            client_id: id.clone(),
            epoch: 1,
            first_serial: self.poisons + 1,
            last_serial: self.poisons + 1,
            kind: pb::ReportKind::Delta.into(),
            priority: pb::Priority::Normal.into(),
            ..Default::default()
        };
        pb::ReportEnvelope {
            report: report.encode_to_vec().into(),
            client_id: id,
            ..Default::default()
        }
    }

    /// One of each. A service that ends meanwhile does not answer; then the same comes again.
    fn give(&mut self, ground: &mut Ground, point: &str) {
        let way = ground.way();
        if point == "site.quarantine.kept"
            && ground
                .runtime
                .block_on(way.relay(vec![self.poison()]))
                .is_ok()
        {
            self.poisons += 1;
        }
        if point == "site.resync.asked" {
            let _ = ground.runtime.block_on(way.asks_for_full(self.silent));
        }
    }
}

#[test]
fn a_service_may_end_at_any_failpoint() -> Result<()> {
    let (seed, times) = (seed()?, repeats(5)?);
    let mut ground = Ground::set("failpoints")?;
    let points: Vec<&'static str> = POINTS
        .into_iter()
        .filter(|point| point.starts_with("mp.") || point.starts_with("site."))
        .collect();
    let mut strikes = schedule::strikes(&points, times, seed);
    // One place after the other, so that what goes wrong is known to be its doing.
    strikes.sort_by_key(|strike| points.iter().position(|point| *point == strike.point));
    ensure!(strikes.len() == points.len() * times);

    let way = ground.way();
    let silent = ground.runtime.block_on(way.enrol(1, "silent"))?;
    let mut stimuli = Stimuli {
        stranger: Uuid::from_u128(0x5eed_0001),
        silent: silent.first().context("one client")?.0,
        poisons: 0,
    };
    let seed = seed.to_string();
    let mut load = ground.load("load", "failpoints", &["--seed", &seed])?;
    load.await_acknowledged(600)?;

    let mut in_flight = 0;
    for group in strikes.chunk_by(|a, b| a.point == b.point) {
        let point = group.first().context("an empty group")?.point;
        let service = group[0].service;
        let mut busy = 0;
        for strike in group {
            let at = ground.strike(strike, &[], |ground| {
                stimuli.give(ground, strike.point);
                Ok(())
            })?;
            let snapshot = ground.snapshot()?;
            load.read()?;
            let mark = |id: &Uuid| snapshot.rows.get(id).map_or(0, |row| row.contiguous);
            let under_way = match strike.service {
                // Nobody writes the database now: what it has not, it had not then.
                Service::SiteServer => load.history.under_way(at, mark),
                Service::ManagementPoint
                | Service::DistributionPoint
                | Service::SoftwareUpdatePoint => load.history.in_flight(at),
            };
            busy += usize::from(under_way > 0);
        }
        ground.mend(service)?;
        let (verdict, _) = ground.settle(&mut load, Duration::from_secs(60))?;
        say(&format!(
            "{point}: hit {} at {:?}, in flight {busy}; {verdict}",
            group.len(),
            group.iter().map(|strike| strike.nth).collect::<Vec<_>>()
        ));
        ensure!(verdict.passes(), "{point}: {verdict}");
        in_flight += busy;
    }

    let (verdict, snapshot) = ground.finish(&mut load)?;
    say(&format!("in the end: {verdict}"));
    ensure!(verdict.passes(), "{verdict}");
    let history = &load.history;
    // Each report once, however often it came: what was acknowledged is all that was ever made.
    let made = history.distinct();
    ensure!(
        i64::try_from(made)? == snapshot.reports,
        "{} reports are recorded, {made} were made",
        snapshot.reports
    );
    let kept =
        ground.count("SELECT count(*) FROM quarantine WHERE reason LIKE 'UNKNOWN_CLIENT%'")?;
    ensure!(
        kept == snapshot.quarantined && kept.abs_diff(i64::try_from(stimuli.poisons)?) <= 1,
        "{kept} of {} in quarantine, {} poisons",
        snapshot.quarantined,
        stimuli.poisons
    );
    let off = ground.matrix_off(&snapshot)?;
    ensure!(
        off.is_empty(),
        "the matrix is not what the rows are: {off:?}"
    );

    // A run in which nothing happened proves nothing.
    let (repeats, early) = (ground.seen("repeat"), ground.seen("early"));
    say(&format!(
        "{} strikes, {in_flight} with reports in flight; {repeats} repeats and {early} early reports seen",
        strikes.len()
    ));
    ensure!(
        in_flight * 10 >= strikes.len() * 8,
        "too often nothing was in flight"
    );
    ensure!(repeats >= 100, "only {repeats} repeats were recognised");
    ensure!(early >= 100, "only {early} reports overtook others");
    ground.end()
}
