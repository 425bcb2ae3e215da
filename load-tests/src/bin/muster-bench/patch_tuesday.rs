//! B2 `patch_tuesday_delta`: a fleet that has reported says what changed. Wave after wave, so
//! that what is put off (rows are written again after a dozen reports) is paid within the run.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use load_tests::figures::{Figures, median, rate};
use load_tests::fleet::{
    Fleet, Member, REPORTS, Random, SHARDS, Sent, UPDATES, cell, messages, uncell,
};
use load_tests::ground::{Ground, NEW_UPDATES, Place};
use load_tests::model;
use load_tests::usage::Usage;
use muster_domain::states::Detection;

use crate::Size;
use crate::limits::{self, Change};

/// How many of the new updates concern each client.
const CHANGES: usize = 5;
/// Waves that come through gRPC, between the others.
const THROUGH_GRPC: usize = 3;
/// Connections of the relay, and calls under way on all of them.
const CONNECTIONS: usize = 4;
const UNDER_WAY: usize = 512;
/// Waves per pair asked for: enough for every row to be written again in the run.
const WAVES: usize = 7;
/// Rows per upsert: what the subject records at most in one transaction.
const BATCH: usize = 64 * REPORTS * CHANGES;

/// What one wave sends.
#[derive(Default)]
pub(crate) struct Wave {
    pub(crate) reports: Vec<Sent>,
    pub(crate) changes: Vec<Change>,
    /// Changes that are new, each counted once.
    pub(crate) fresh: usize,
    /// Reports that are recorded, each counted once.
    pub(crate) recorded: u64,
}

pub(crate) async fn run(size: Size, place: &Place) -> Result<()> {
    let mut figures = Figures::new("patch_tuesday_delta", size.case);
    let mut random = Random::new(size.seed ^ 2);
    // Two more clients, one per queue, mark the beginning and the end of what is measured.
    let mut fleet = Fleet::new(size.clients + 16, size.states, size.seed);
    let marks = marks(&fleet.members[size.clients..], size.clients);
    let mut ground = Ground::start(place, Vec::new()).await?;
    ground.enrol(&fleet.members).await?;
    let relay = ground.relay(CONNECTIONS)?;
    let first = |member: &mut Member| {
        let report = member.full();
        member.sent(report)
    };
    let reports: Vec<Sent> = fleet.members.iter_mut().map(first).collect();
    let mut recorded = reports.len() as u64;
    ground.publish(messages(&reports)).await?;
    ground.wait_for(recorded).await?;
    limits::keyed(&ground, &fleet.members).await?;

    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    let (mut our_time, mut plain_time) = (Duration::ZERO, Duration::ZERO);
    let (mut our_wal, mut plain_wal, mut fresh) = (0.0, 0.0, 0);
    let (mut whole, mut through_grpc, mut processor) = (Vec::new(), 0, Usage::default());
    let mut last = Wave::default();
    for number in 0..size.pairs * WAVES {
        let wave = wave(
            &mut fleet.members[..size.clients],
            &mut random,
            Losses::Some,
        );
        for subject in [number % 2 == 0, number % 2 == 1] {
            let wal = ground.wal().await?;
            if subject {
                recorded += wave.recorded;
                let took =
                    queued(&ground, &mut fleet, &marks, &wave.reports, &mut recorded).await?;
                our_time += took;
                our_wal += ground.wal().await? - wal;
                ours.push(rate(wave.fresh, took));
            } else {
                let took = limits::upsert(&ground, &wave.changes, BATCH).await?;
                plain_time += took;
                plain_wal += ground.wal().await? - wal;
                plain.push(rate(wave.fresh, took));
            }
        }
        fresh += wave.fresh;
        last = wave;
        if number % (WAVES * size.pairs / THROUGH_GRPC) == 1 {
            let wave = self::wave(
                &mut fleet.members[..size.clients],
                &mut random,
                Losses::None,
            );
            recorded += wave.recorded;
            let (begin, used) = (Instant::now(), ground.usage());
            relay.send(&wave.reports, 1, UNDER_WAY).await?;
            ground.wait_for(recorded).await?;
            whole.push(rate(wave.fresh, begin.elapsed()));
            processor += ground.usage() - used;
            through_grpc += wave.fresh;
            last = wave;
        }
    }
    let (rate_of_ours, rate_of_plain) = (rate(fresh, our_time), rate(fresh, plain_time));
    figures.at_least("changes_per_second", rate_of_ours, rate_of_plain, 1.5);
    figures.plain("median_of_the_waves", median(ours));
    figures.plain("median_of_the_waves_limit", median(plain));
    figures.beside(
        "changes_per_second_through_grpc_and_broker",
        median(whole),
        rate_of_plain,
    );
    #[allow(clippy::cast_precision_loss)]
    for (part, seconds) in processor.parts() {
        let metric = format!("cpu_microseconds_per_change_{part}");
        figures.plain(&metric, seconds * 1e6 / through_grpc as f64);
    }
    #[allow(clippy::cast_precision_loss)]
    let (our_bytes, plain_bytes) = (our_wal / fresh as f64, plain_wal / fresh as f64);
    figures.at_most("wal_bytes_per_change", our_bytes, plain_bytes, 0.5);

    // Everything of the last wave again, three times over.
    let rows = log_rows(&ground).await?;
    let wal = ground.wal().await?;
    let mut again = Vec::new();
    for _ in 0..3 {
        again.extend_from_slice(&last.reports);
    }
    let took = queued(&ground, &mut fleet, &marks, &again, &mut recorded).await?;
    let repeats = 3 * last.changes.len();
    let per_repeat = 1e6 / rate(repeats, took);
    figures.at_most(
        "microseconds_per_duplicate_change",
        per_repeat,
        1e6 / rate_of_ours,
        0.1,
    );
    let written = log_rows(&ground).await?.saturating_sub(rows);
    figures.zero(
        "rows_written_by_duplicates",
        written.saturating_sub(2 * marks.len() as u64),
    );
    #[allow(clippy::cast_precision_loss)]
    figures.plain(
        "wal_bytes_per_duplicate_change",
        (ground.wal().await? - wal) / repeats as f64,
    );
    model::compare(&ground, &fleet.members)
        .await?
        .judge(&mut figures);
    ground.stop().await?;
    figures.end()
}

/// One client of each queue.
fn marks(members: &[Member], first: usize) -> Vec<usize> {
    (0..SHARDS)
        .filter_map(|shard| members.iter().position(|member| member.shard() == shard))
        .map(|at| at + first)
        .collect()
}

/// Whether some reports never arrive. Where calls overtake each other it is not known beforehand
/// how many of what follows is recorded, so such a wave has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Losses {
    Some,
    None,
}

/// Each client but one in five says five changes.
pub(crate) fn wave(members: &mut [Member], random: &mut Random, losses: Losses) -> Wave {
    let mut wave = Wave::default();
    let mut resent = Vec::new();
    for (member, client_no) in members.iter_mut().zip(1..) {
        if random.once_in(5) {
            continue;
        }
        let changes = changes(member, random);
        let (id, shard) = (member.id, member.shard());
        let sent = |report: Bytes| Sent { id, shard, report };
        let rows = |changes: &[u32], serial: u64| -> Vec<Change> {
            let row = |cell: &u32| {
                let (update_no, state) = uncell(*cell);
                Change {
                    client_no,
                    update_no: i32::try_from(update_no.0).unwrap_or(0),
                    state: i16::from(state.id()),
                    serial: i64::try_from(serial).unwrap_or(0),
                }
            };
            changes.iter().map(row).collect()
        };
        wave.fresh += changes.len();
        if losses == Losses::Some && random.once_in(1_000) {
            // The first report is lost; the second waits; the site asks for everything.
            drop(member.delta(&changes[..2]));
            let late = sent(member.delta(&changes[2..]));
            let all = sent(member.full());
            wave.changes.extend(rows(&changes, member.serial));
            wave.reports.extend([late, all]);
            wave.recorded += 2;
        } else if random.once_in(100) {
            let (first, second) = changes.split_at(2);
            let early = sent(member.delta(first));
            wave.changes.extend(rows(first, member.serial));
            let late = sent(member.delta(second));
            wave.changes.extend(rows(second, member.serial));
            wave.reports.extend([late, early]);
            wave.recorded += 2;
        } else {
            let report = sent(member.delta(&changes));
            let rows = rows(&changes, member.serial);
            if random.once_in(10) {
                resent.push((report.clone(), rows.clone()));
            }
            wave.changes.extend(rows);
            wave.reports.push(report);
            wave.recorded += 1;
        }
        // What was sent a while ago comes again.
        if resent.len() >= 64 {
            for (report, rows) in resent.drain(..) {
                wave.reports.push(report);
                wave.changes.extend(rows);
            }
        }
    }
    wave
}

pub(crate) fn changes(member: &Member, random: &mut Random) -> Vec<u32> {
    let mut numbers = std::collections::BTreeSet::new();
    while numbers.len() < CHANGES {
        numbers.insert(UPDATES + 1 + random.below(NEW_UPDATES));
    }
    let change = |number: usize| {
        let number = u32::try_from(number).unwrap_or(0);
        let at = member.states.partition_point(|held| held / 4 < number);
        let held = member.states.get(at).filter(|held| **held / 4 == number);
        let to = match held.map(|held| uncell(*held).1) {
            None => Detection::Required,
            Some(Detection::Required) => Detection::Installed,
            Some(Detection::Installed | Detection::Unknown) => Detection::Required,
            Some(Detection::NotRequired) => Detection::Required,
        };
        cell(number, to)
    };
    numbers.into_iter().map(change).collect()
}

/// How long the site server takes for reports that wait in its queues. A report of a marking
/// client is held up at the lease while the others are published behind it; another one comes
/// last, and is recorded when all before it are.
async fn queued(
    ground: &Ground,
    fleet: &mut Fleet,
    marks: &[usize],
    reports: &[Sent],
    recorded: &mut u64,
) -> Result<Duration> {
    let mut mark = || {
        let members = marks.iter().map(|at| {
            let member = &mut fleet.members[*at];
            Sent {
                id: member.id,
                shard: member.shard(),
                report: member.delta(&[]),
            }
        });
        messages(&members.collect::<Vec<_>>())
    };
    let mut db = ground.pool.get().await?;
    let tx = db.transaction().await?;
    tx.batch_execute("SELECT FROM leases FOR UPDATE").await?;
    ground.publish(mark()).await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    ground.publish(messages(reports)).await?;
    ground.publish(mark()).await?;
    *recorded += 2 * marks.len() as u64;
    let begin = Instant::now();
    tx.rollback().await?;
    ground.wait_for(*recorded).await?;
    Ok(begin.elapsed())
}

async fn log_rows(ground: &Ground) -> Result<u64> {
    let db = ground.pool.get().await?;
    let row = db
        .query_one("SELECT count(*) FROM client_compliance_log", &[])
        .await?;
    Ok(row.get::<_, i64>(0).unsigned_abs())
}
