//! B1 `rollout_storm`: every client reports everything for the first time.

use std::time::{Duration, Instant};

use anyhow::Result;
use load_tests::figures::{Figures, median, rate};
use load_tests::fleet::{Fleet, Member, REPORTS, Random, Sent, cells, messages};
use load_tests::ground::{Ground, Place};
use load_tests::model;
use load_tests::relay::Relay;
use load_tests::usage::Usage;

use crate::{Size, grpc, limits};

/// Most states that the pipeline of one message per state is given: it takes about a
/// millisecond for each.
const ONE_BY_ONE: usize = 20_000;
/// Connections of the relay, and calls under way on all of them.
const CONNECTIONS: usize = 4;
const UNDER_WAY: usize = 512;
const UNDER_WAY_GATHERED: usize = 16;
/// Clients that come with a certificate of their own each.
const HANDSHAKES: usize = 256;

/// How reports get to the queues.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// A call for each, as agents do.
    Alone,
    /// As many in a call as the management point of a branch office gathers.
    Gathered,
    /// To the broker, as management points do.
    Published,
}

pub(crate) async fn run(size: Size, place: &Place) -> Result<()> {
    let mut figures = Figures::new("rollout_storm", size.case);
    let mut random = Random::new(size.seed ^ 1);
    // All clients come the way that is judged; some more show what the other ways cost.
    let more = size.clients / 5;
    let handshakes = HANDSHAKES.min(more);
    let mut fleet = Fleet::new(size.clients + 2 * more + handshakes, size.states, size.seed);
    let mut ground = Ground::start(place, Vec::new()).await?;
    ground.enrol(&fleet.members).await?;
    let mut storm = Storm {
        relay: ground.relay(CONNECTIONS)?,
        ground: &ground,
        recorded: 0,
    };
    let ours = &mut fleet.members[..size.clients];
    let slice = size.clients.div_ceil(size.pairs);
    let (mut subject, mut limit, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut wire, mut used) = (0, Usage::default());
    for (pair, members) in ours.chunks_mut(slice).enumerate() {
        let reports = first_reports(members, &mut random);
        wire += reports.iter().map(|sent| sent.report.len()).sum::<usize>();
        let (states, first_no) = (cells(members), pair * slice + 1);
        let mut plain = None;
        if pair % 2 == 1 {
            plain = Some(limits::copy(&ground, members, first_no).await?);
        }
        let (took, took_of_cpu) = storm.send(Way::Alone, &reports, members.len()).await?;
        used += took_of_cpu;
        let plain = match plain {
            Some(plain) => plain,
            None => limits::copy(&ground, members, first_no).await?,
        };
        subject.push(rate(states, took));
        limit.push(rate(states, plain));
        ratios.push(rate(states, took) / rate(states, plain));
    }
    let (ours, bare) = (median(subject), median(limit));
    figures.at_least("states_per_second", ours, bare, 1.0);
    figures.plain("median_ratio", median(ratios.clone()));
    figures.plain("lowest_ratio", ratios.into_iter().fold(f64::MAX, f64::min));
    let states = cells(&fleet.members[..size.clients]);
    #[allow(clippy::cast_precision_loss)]
    let per_million = |seconds: f64| seconds * 1e6 / states as f64;
    for (part, seconds) in used.parts() {
        let metric = format!("cpu_seconds_per_million_states_{part}");
        figures.plain(&metric, per_million(seconds));
    }
    figures.plain("generator_part_of_cpu", used.generator / used.sum());
    #[allow(clippy::cast_precision_loss)]
    figures.plain("wire_bytes_per_state", wire as f64 / states as f64);

    let others = &mut fleet.members[size.clients..];
    let (gathered, others) = others.split_at_mut(more);
    let (published, strangers) = others.split_at_mut(more);
    for (members, way, metric) in [
        (gathered, Way::Gathered, "states_per_second_64_per_call"),
        (published, Way::Published, "states_per_second_published"),
    ] {
        let reports = first_reports(members, &mut random);
        let (took, _) = storm.send(way, &reports, members.len()).await?;
        figures.beside(metric, rate(cells(members), took), bare);
    }
    let (states, took) = grpc::connect(&ground, strangers).await?;
    storm.recorded += strangers.len() as u64;
    ground.wait_for(storm.recorded).await?;
    figures.beside(
        "states_per_second_with_a_handshake_each",
        rate(states, took),
        bare,
    );
    let most = (states / 100).clamp(size.states, ONE_BY_ONE);
    let broker = ground.peer_broker()?;
    let (sample, took) = limits::one_by_one(&ground, &broker, &fleet.members, most).await?;
    figures.at_least(
        "states_per_second_to_one_by_one",
        ours,
        rate(sample, took),
        50.0,
    );
    // Another first report of a few: the site gets none of them.
    let mut few = fleet.members[..more / 4].to_vec();
    let reports = first_reports(&mut few, &mut random);
    let took = limits::row_mode(&ground, &broker, &few, &reports).await?;
    figures.beside("states_per_second_row_mode", rate(cells(&few), took), bare);
    let memory = ground.memory();
    figures.below("peak_memory_mib_site_server", memory.site_server, 1_024.0);
    figures.below(
        "peak_memory_mib_management_point",
        memory.management_point,
        1_024.0,
    );
    figures.below("peak_memory_mib_broker", memory.broker, 1_024.0);
    figures.plain("peak_memory_mib_generator", memory.generator);
    model::compare(&ground, &fleet.members)
        .await?
        .judge(&mut figures);
    ground.stop().await?;
    figures.end()
}

/// Everything that these clients say, one report in a hundred twice.
fn first_reports(members: &mut [Member], random: &mut Random) -> Vec<Sent> {
    let mut reports = Vec::with_capacity(members.len() + members.len() / 50);
    for member in members {
        let report = member.full();
        let sent = member.sent(report);
        if random.once_in(100) {
            reports.push(sent.clone());
        }
        reports.push(sent);
    }
    reports
}

struct Storm<'a> {
    ground: &'a Ground,
    relay: Relay,
    /// Reports that are recorded when all that was sent is.
    recorded: u64,
}

impl Storm<'_> {
    /// From the first byte until all of it is committed and counted.
    async fn send(
        &mut self,
        way: Way,
        reports: &[Sent],
        fresh: usize,
    ) -> Result<(Duration, Usage)> {
        let messages = match way {
            Way::Published => messages(reports),
            Way::Alone | Way::Gathered => Vec::new(),
        };
        self.recorded += fresh as u64;
        let used = self.ground.usage();
        let begin = Instant::now();
        match way {
            Way::Alone => self.relay.send(reports, 1, UNDER_WAY).await?,
            Way::Gathered => {
                self.relay
                    .send(reports, REPORTS, UNDER_WAY_GATHERED)
                    .await?;
            }
            Way::Published => self.ground.publish(messages).await?,
        }
        self.ground.wait_for(self.recorded).await?;
        let took = begin.elapsed();
        let used = self.ground.usage() - used;
        // The acknowledgements belong to the run, the next one begins without them.
        self.ground.drained().await?;
        Ok((took, used))
    }
}
