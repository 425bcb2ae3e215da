//! B1 `rollout_storm`: every client reports everything for the first time.

use std::time::Instant;

use anyhow::Result;

use crate::Size;
use crate::figures::{Figures, cpu, median, peak_memory, rate};
use crate::fleet::{Fleet, Member, Random, Sent, cells, messages};
use crate::ground::Ground;
use crate::grpc::Way;
use crate::limits;

/// Most states that the pipeline of one message per state is given: it takes about a
/// millisecond for each.
const ONE_BY_ONE: usize = 20_000;

/// Clients that come through gRPC, and how often each of them comes again.
const SAMPLE: usize = 256;
const AGAIN: usize = 40;

pub(crate) async fn run(size: Size) -> Result<()> {
    let mut figures = Figures::new("rollout_storm", size.case);
    let mut random = Random::new(size.seed ^ 1);
    let sample = SAMPLE.min(size.clients / 4);
    let mut fleet = Fleet::new(size.clients + sample, size.states, size.seed);
    let ground = Ground::new().await?;
    ground.enrol(&fleet).await?;
    let slice = size.clients.div_ceil(size.pairs);
    let (mut subject, mut limit, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut recorded, mut wire, mut processor) = (0, 0, 0.0);
    for pair in 0..size.pairs {
        let first = pair * slice;
        let last = (first + slice).min(size.clients);
        let mut reports: Vec<Sent> = Vec::with_capacity(slice + slice / 50);
        for member in &mut fleet.members[first..last] {
            let sent = Sent {
                id: member.id,
                shard: member.shard(),
                report: member.full(),
            };
            wire += sent.report.len();
            if random.once_in(100) {
                reports.push(sent.clone());
            }
            reports.push(sent);
        }
        let members = &fleet.members[first..last];
        let states = cells(members);
        recorded += members.len() as u64;
        let messages = messages(&reports);
        let plain_first = pair % 2 == 1;
        let mut plain = None;
        if plain_first {
            plain = Some(limits::copy(&ground, members, first + 1).await?);
        }
        let used = cpu(&["muster-bench"]);
        let begin = Instant::now();
        ground.publish(messages).await?;
        ground.wait_for(recorded).await?;
        let took = begin.elapsed();
        processor += cpu(&["muster-bench"]) - used;
        ground.drained().await?;
        let plain = match plain {
            Some(plain) => plain,
            None => limits::copy(&ground, members, first + 1).await?,
        };
        subject.push(rate(states, took));
        limit.push(rate(states, plain));
        ratios.push(rate(states, took) / rate(states, plain));
    }
    through_grpc(
        &ground,
        &mut fleet.members[size.clients..],
        recorded,
        &figures,
    )
    .await?;
    let states = cells(&fleet.members[..size.clients]);
    let (ours, bare) = (median(subject), median(limit));
    figures.at_least("states_per_second_from_queue", ours, bare, 1.0);
    figures.plain(
        "lowest_ratio",
        ratios.iter().copied().fold(f64::MAX, f64::min),
    );
    let (sample, took) =
        limits::one_by_one(&ground, &fleet.members, (states / 100).min(ONE_BY_ONE)).await?;
    figures.at_least(
        "states_per_second_to_one_by_one",
        ours,
        rate(sample, took),
        50.0,
    );
    #[allow(clippy::cast_precision_loss)]
    {
        figures.plain("wire_bytes_per_state", wire as f64 / states as f64);
        figures.plain(
            "cpu_seconds_per_million_states_generator_and_site_server",
            processor * 1e6 / states as f64,
        );
    }
    figures.plain("peak_memory_mib_generator_and_site_server", peak_memory());
    let (clients, counters) = ground.wrong(&fleet.members).await?;
    figures.zero("clients_not_as_the_model", clients);
    figures.zero("counters_not_as_the_model", counters);
    ground.stop().await;
    figures.end()
}

/// A sample of the clients through a management point, each with its own certificate.
async fn through_grpc(
    ground: &Ground,
    members: &mut [Member],
    recorded: u64,
    figures: &Figures,
) -> Result<()> {
    let mut way = Way::new(ground, members).await?;
    let cells = cells(members);
    let begin = Instant::now();
    way.connect(members.iter_mut().map(Member::full).collect())
        .await?;
    let recorded = recorded + members.len() as u64;
    ground.wait_for(recorded).await?;
    figures.plain(
        "grpc_sample_states_per_second_with_a_handshake_each",
        rate(cells, begin.elapsed()),
    );
    let again = members
        .iter_mut()
        .map(|member| (0..AGAIN).map(|_| member.full()).collect())
        .collect();
    let begin = Instant::now();
    way.send(again).await?;
    ground
        .wait_for(recorded + (members.len() * AGAIN) as u64)
        .await?;
    figures.plain(
        "grpc_sample_states_per_second_over_open_connections",
        rate(cells * AGAIN, begin.elapsed()),
    );
    way.stop().await;
    Ok(())
}
