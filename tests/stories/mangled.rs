//! Reports come twice, late, out of order and again the next day (F-06); some are no reports at
//! all, or such that the database refuses (F-08).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hierarchy_tests::faults::ground::Ground;
use hierarchy_tests::{say, seed};
use muster_local::administrator::number;
use muster_proto::state as pb;
use muster_rabbitmq::{Headers, Publisher};
use muster_runtime::Tasks;
use prost::Message;

/// Everything that says whether a row was written again.
const FINGERPRINT: &str = "
    SELECT md5(string_agg(it, ',' ORDER BY it)) FROM (
        SELECT 'r' || ctid || xmin FROM client_compliance_rows
        UNION ALL SELECT 'l' || ctid || xmin FROM client_compliance_log
        UNION ALL SELECT 's' || ctid || xmin FROM report_stream_rows
        UNION ALL SELECT 'c' || ctid || xmin FROM update_counter_rows
        UNION ALL SELECT 'm' || ctid || xmin FROM counter_moves
        UNION ALL SELECT 't' || ctid || xmin FROM recorded_total_rows
        UNION ALL SELECT 'q' || ctid || xmin FROM quarantine
        UNION ALL SELECT 'e' || ctid || xmin FROM update_enforcement_states
        UNION ALL SELECT 'd' || ctid || xmin FROM deployment_states
    ) AS all_rows (it)";

#[test]
fn reports_may_come_twice_late_and_out_of_order_and_poison_stands_aside() -> Result<()> {
    let seed = seed()?;
    let mut ground = Ground::set("mangled")?;
    mangle(&mut ground, seed)?;
    poison(&mut ground)?;
    ground.end()
}

fn mangle(ground: &mut Ground, seed: u64) -> Result<()> {
    let text = seed.to_string();
    let manner = [
        // Few clients: within the window there are several reports of each.
        "--clients",
        "150",
        "--rounds",
        "40",
        "--seed",
        &text,
        "--answer-resync",
        "--clock-steps-back",
    ];
    let mut load = ground.load("mangle", "mangled", &manner)?;
    load.await_end(Duration::from_secs(180))?;
    ground.rest()?;
    let (verdict, snapshot) = ground.settle(&mut load, Duration::from_secs(60))?;
    let history = &load.history;
    say(&format!(
        "{verdict}; {} went out twice, {} after a later one",
        history.repeated, history.reordered
    ));
    ensure!(verdict.passes(), "{verdict}");
    ensure!(snapshot.quarantined == 0, "poison from nowhere");
    ensure!(
        history.repeated >= 500 && history.reordered >= 500,
        "too tame"
    );
    ground.look(muster_local::Service::SiteServer);
    let (repeats, early) = (ground.seen("repeat"), ground.seen("early"));
    ensure!(
        repeats >= 100 && early >= 100,
        "{repeats} repeats, {early} early"
    );
    let off = ground.matrix_off(&snapshot)?;
    ensure!(
        off.is_empty(),
        "the matrix is not what the rows are: {off:?}"
    );

    // Let what works behind the batches finish.
    let end = Instant::now() + Duration::from_secs(20);
    while ground.count("SELECT count(*) FROM counter_moves")? > 0 {
        ensure!(Instant::now() < end, "counters are not summed up");
        std::thread::sleep(Duration::from_millis(200));
    }
    let before = ground.sql(FINGERPRINT)?;
    let (way, capture) = (ground.way(), ground.capture("mangled"));
    let replay = hierarchy_tests::faults::load::replay(&way, &capture);
    let replayed = ground.runtime.block_on(replay)?;
    ground.rest()?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(ground.sql(FINGERPRINT)? == before, "a replay changed rows");
    say(&format!("a replay of {replayed} reports wrote no row"));
    Ok(())
}

/// 10,000 reports would be many; the shares are those of F-08.
const GOOD: u32 = 100;
const ROUNDS: u64 = 20;
const POISON: usize = 20;
/// An update whose counter the database refuses to move.
const REFUSED: u32 = 4_711;

/// Publishes to the broker what no management point would: bytes that are no report, and reports
/// that the database refuses. The good ones between them must not wait.
fn poison(ground: &mut Ground) -> Result<()> {
    // Reports name it, and no table takes it: as a bug would be that is fixed later.
    ground.sql(&format!(
        "ALTER TABLE counter_moves ADD CONSTRAINT poison CHECK (NOT update_nos @> '{{{REFUSED}}}')"
    ))?;
    let way = ground.way();
    let sick = ground.runtime.block_on(way.enrol(POISON as u32, "sick"))?;
    let clients = GOOD.to_string();
    let mut load = ground.load("load", "poison", &["--clients", &clients, "--rate", "250"])?;
    load.await_acknowledged(u64::from(GOOD))?;

    let config = ground.site().config(muster_local::Service::ManagementPoint);
    let config: management_point::Config = muster_runtime::config::load(config)?;
    let tasks = Tasks::new();
    let (mut stall, mut longest) = (Instant::now(), Duration::ZERO);
    let mut recorded = 0;
    let mut watch = |ground: &mut Ground| -> Result<()> {
        let reports = ground.count("SELECT reports FROM recorded_totals")?;
        if reports > recorded {
            recorded = reports;
            longest = longest.max(stall.elapsed());
            stall = Instant::now();
        }
        Ok(())
    };
    let publisher = {
        let _inside = ground.runtime.enter();
        Publisher::start_disconnected(&config.rabbitmq, &tasks)?
    };
    for (at, (id, epoch)) in sick.iter().enumerate() {
        let id_bytes = bytes::Bytes::copy_from_slice(id.as_bytes());
        let envelope = |report: Vec<u8>| pb::ReportEnvelope {
            report: report.into(),
            client_id: id_bytes.clone(),
            ..Default::default()
        };
        let compliance = muster_compliance::packed::pack([(
            muster_domain::UpdateNo(REFUSED),
            muster_domain::states::Detection::Required,
        )]);
        let refused = pb::Report {
            client_id: id_bytes.clone(),
            epoch: *epoch,
            first_serial: 1,
            last_serial: 1,
            kind: pb::ReportKind::Full.into(),
            catalog_generation: 1,
            compliance: Some(pb::Compliance {
                update_numbers: compliance.update_numbers,
                states: compliance.states.into(),
                serial: 1,
                needs: Vec::new(),
            }),
            ..Default::default()
        };
        let garbage = format!("\u{7}no report {at}").into_bytes();
        let batch = pb::ReportBatch {
            reports: vec![envelope(garbage), envelope(refused.encode_to_vec())],
        };
        let mut bodies = vec![batch.encode_to_vec()];
        if at % 5 == 0 {
            bodies.push([b"\xff no batch ".to_vec(), vec![u8::try_from(at)?]].concat());
        }
        for body in bodies {
            // Twice, as everything may come twice.
            for _ in 0..2 {
                let sent = publisher.publish_to(
                    "site.P01.states",
                    "0",
                    body.clone().into(),
                    Headers::current(1),
                );
                ground.runtime.block_on(sent)?;
            }
        }
        watch(ground)?;
        load.await_acknowledged(u64::from(GOOD) * (at as u64 + 1) * ROUNDS / POISON as u64)?;
        watch(ground)?;
    }
    let (verdict, snapshot) = ground.finish(&mut load)?;
    ground.runtime.block_on(tasks.stop(Duration::from_secs(5)));
    say(&format!(
        "beside poison: {verdict}; the longest stall {longest:?}"
    ));
    ensure!(verdict.passes(), "{verdict}");
    ensure!(
        longest < Duration::from_secs(5),
        "good reports waited for {longest:?}"
    );
    for (reason, count) in [
        ("UNDECODABLE_REPORT", POISON),
        ("REFUSED_BY_DATABASE", POISON),
        ("UNDECODABLE_BATCH", POISON.div_ceil(5)),
    ] {
        let sql = format!(
            "SELECT count(*) FROM quarantine WHERE split_part(reason, ':', 1) = '{reason}'
             AND origin LIKE 'queue site.P01.state.0%' AND length(body) > 0 AND attempts >= 2"
        );
        let held = ground.count(&sql)?;
        ensure!(held == i64::try_from(count)?, "{held} of {count} {reason}");
    }
    let all = POISON * 2 + POISON.div_ceil(5);
    ensure!(
        snapshot.quarantined == i64::try_from(all)?,
        "{}",
        snapshot.quarantined
    );

    // The fix, and a second try: applied once, whoever tries again.
    ground.sql("ALTER TABLE counter_moves DROP CONSTRAINT poison")?;
    let admin = ground.admin();
    admin.ask(&["quarantine", "redrive", "--reason", "REFUSED_BY_DATABASE"])?;
    let applied = format!("SELECT required FROM update_counters WHERE update_no = {REFUSED}");
    ensure!(
        ground.count(&applied)? == i64::try_from(POISON)?,
        "not applied once each"
    );
    let again = ground.snapshot()?;
    ensure!(again.counters_off() == 0, "counters are off");
    ensure!(
        again.quarantined == i64::try_from(all - POISON)?,
        "{}",
        again.quarantined
    );
    let backlog = admin.ask(&["backlog"])?;
    let quarantined = backlog
        .get("quarantined")
        .context("no number of messages")?;
    ensure!(
        number(quarantined) == (all - POISON) as u64,
        "{quarantined}"
    );
    Ok(())
}
