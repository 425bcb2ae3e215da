//! What a fleet does to a site, as a story with an end: a storm after the rollout, a Patch
//! Tuesday, a deadline, a management point that comes back, a site that asks everybody for
//! everything. Clients are plain numbers that wait for their turn, each with the backoff of an
//! agent. Each story ends with a comparison with the model: nothing may be lost or wrong.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use load_tests::fleet::{Fleet, Member, Random, Sent, UPDATES, cell, messages};
use load_tests::ground::{Ground, NEW_UPDATES, Place};
use load_tests::relay::Relay;
use load_tests::usage::Usage;
use load_tests::{model, wave};
use muster_domain::states::Detection;
use muster_local::Service;
use muster_proto::client::client_gateway_service_client::ClientGatewayServiceClient;
use muster_proto::client::{MachineFacts, RegisterClientRequest, RegisterRequest};
use muster_runtime::Role;
use muster_runtime::grpc::{ChannelOptions, channel};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

/// Connections of the relay.
const CONNECTIONS: usize = 4;
/// Registrations at a time.
const REGISTRATIONS: usize = 64;
/// How often the queues are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Clients that the deadline finds waiting, in a hundred.
const AT_THE_DEADLINE: usize = 35;

/// `muster-load scenario`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which one
    #[arg(value_enum)]
    name: Name,
    /// How many clients
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    clients: u32,
    /// Compliance states of each
    #[arg(long, default_value_t = 300)]
    states: usize,
    /// The time within which all clients have something to say
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = crate::duration)]
    within: Duration,
    /// Where all random choices come from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    place: Place,
}

/// The stories there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    /// All clients report everything for the first time
    RolloutStorm,
    /// 29 new updates, five for each client; one in five is silent, one report in ten comes twice
    PatchTuesday,
    /// A deployment of five updates, and a deadline that finds a third of the clients waiting
    EnforcementWave,
    /// The management point is away while all clients have something to say
    ReconnectHerd,
    /// All clients register anew and report everything again
    FullResync,
}

/// What one client sends, in this order, when its time has come.
struct Turn {
    after: Duration,
    reports: Vec<Sent>,
}

/// Plays a story; the answer is its summary, one line of JSON.
#[allow(clippy::disallowed_methods)] // what is spawned is waited for
pub(crate) async fn run(arguments: Arguments) -> Result<String> {
    let clients = arguments.clients as usize;
    let mut fleet = Fleet::new(clients, arguments.states, arguments.seed).members;
    let mut ground = Ground::start(&arguments.place, Vec::new()).await?;
    ground.enrol(&fleet).await?;
    let mut random = Random::new(arguments.seed ^ 3);
    let within = arguments.within;
    if arguments.name != Name::RolloutStorm {
        preload(&ground, &mut fleet).await?;
    }
    let relay = Arc::new(ground.relay(CONNECTIONS)?);
    let mut wave = None;
    let turns = match arguments.name {
        Name::RolloutStorm => everything(&mut fleet, &mut random, within),
        Name::PatchTuesday | Name::ReconnectHerd => changes(&mut fleet, &mut random, within),
        Name::EnforcementWave => {
            let deployment = wave::deploy(&ground).await?;
            let (turns, said) = deadline(&mut fleet, &mut random, within, deployment);
            wave = Some((deployment, said));
            turns
        }
        Name::FullResync => {
            register(&ground, &mut fleet).await?;
            everything(&mut fleet, &mut random, within)
        }
    };
    let reports: usize = turns.iter().map(|turn| turn.reports.len()).sum();
    let used = ground.usage();
    let begin = Instant::now();
    let mut played = tokio::spawn(play(Arc::clone(&relay), turns, begin));
    let monitor = muster_rabbitmq::Monitor::new(&ground.broker());
    let (mut deepest, mut away) = (0, Away::NotYet);
    let late = loop {
        tokio::select! {
            late = &mut played => break late.context("a client panicked")??,
            () = tokio::time::sleep(LOOK) => {}
        }
        deepest = deepest.max(ground.waiting(&monitor).await?);
        if arguments.name == Name::ReconnectHerd {
            away.turn(&mut ground, begin.elapsed(), within)?;
        }
    };
    let accepted = begin.elapsed();
    ground.drained().await?;
    let recorded = begin.elapsed();
    let used = ground.usage() - used;
    let wrong = model::compare(&ground, &fleet).await?;
    let wrong_states = match &wave {
        Some((deployment, said)) => wave::compare(&ground, *deployment, said).await?,
        None => 0,
    };
    let (outcomes, memory) = (relay.outcomes(), ground.memory());
    ground.stop().await?;
    let summary = json!({
        "scenario": clap::ValueEnum::to_possible_value(&arguments.name)
            .map(|name| name.get_name().to_owned()),
        "clients": clients,
        "reports": reports,
        "seconds_until_accepted": accepted.as_secs_f64(),
        "seconds_until_recorded": recorded.as_secs_f64(),
        "calls": outcomes.calls,
        "calls_put_off": outcomes.put_off,
        "calls_unanswered": outcomes.away,
        "seconds_from_due_to_accepted": late,
        "most_messages_waiting": deepest,
        "cpu_seconds": seconds(&used),
        "generator_part_of_cpu": used.generator / used.sum(),
        "peak_memory_mib": {
            "site_server": memory.site_server,
            "management_point": memory.management_point,
            "broker": memory.broker,
            "generator": memory.generator,
        },
        "clients_not_as_the_model": wrong.clients,
        "counters_not_as_the_model": wrong.counters,
        "report_rows_not_as_the_model": wrong.reported,
        "reports_in_quarantine": wrong.quarantined,
        "enforcement_states_not_as_the_model": wrong_states,
    });
    ensure!(
        wrong.is_nothing() && wrong_states == 0,
        "the site is not what its clients said: {summary}"
    );
    Ok(summary.to_string())
}

fn seconds(used: &Usage) -> serde_json::Value {
    used.parts()
        .into_iter()
        .map(|(part, seconds)| (part.to_owned(), json!(seconds)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// All clients take their turns. Says how long they waited for an acknowledgement: half of them,
/// 99 in a hundred, the last one.
async fn play(relay: Arc<Relay>, turns: Vec<Turn>, begin: Instant) -> Result<[f64; 3]> {
    let mut clients = tokio::task::JoinSet::new();
    for turn in turns {
        let relay = Arc::clone(&relay);
        clients.spawn(async move {
            let due = begin + turn.after;
            sleep_until(due).await;
            for sent in &turn.reports {
                let refused = |status| anyhow::anyhow!("a report was refused: {status}");
                relay
                    .deliver(vec![sent.envelope()])
                    .await
                    .map_err(refused)?;
            }
            Ok::<f64, anyhow::Error>(due.elapsed().as_secs_f64())
        });
    }
    let mut late = Vec::new();
    while let Some(client) = clients.join_next().await {
        late.push(client??);
    }
    late.sort_by(f64::total_cmp);
    let at = |part: usize| late.get((late.len() * part / 100).min(late.len().saturating_sub(1)));
    Ok([50, 99, 100].map(|part| at(part).copied().unwrap_or(0.0)))
}

/// What the fleet said long ago.
async fn preload(ground: &Ground, fleet: &mut [Member]) -> Result<()> {
    let all = |member: &mut Member| {
        let report = member.full();
        member.sent(report)
    };
    let reports: Vec<Sent> = fleet.iter_mut().map(all).collect();
    ground.publish(messages(&reports)).await?;
    ground.wait_for(reports.len() as u64).await?;
    ground.drained().await
}

fn some_time(random: &mut Random, within: Duration) -> Duration {
    within.mul_f64(f64::from(u32::try_from(random.below(1_000_000)).unwrap_or(0)) / 1e6)
}

fn everything(fleet: &mut [Member], random: &mut Random, within: Duration) -> Vec<Turn> {
    let mut turn = |member: &mut Member| {
        let report = member.full();
        let mut reports = vec![member.sent(report)];
        if random.once_in(100) {
            reports.push(reports[0].clone());
        }
        let after = some_time(random, within);
        Turn { after, reports }
    };
    fleet.iter_mut().map(&mut turn).collect()
}

/// Five of the new updates are required; some of them are installed in a second report.
fn changes(fleet: &mut [Member], random: &mut Random, within: Duration) -> Vec<Turn> {
    let mut turns = Vec::new();
    for member in fleet {
        if random.once_in(5) {
            continue;
        }
        let mut numbers = std::collections::BTreeSet::new();
        while numbers.len() < 5 {
            numbers.insert(u32::try_from(UPDATES + 1 + random.below(NEW_UPDATES)).unwrap_or(0));
        }
        let required: Vec<u32> = numbers
            .iter()
            .map(|number| cell(*number, Detection::Required))
            .collect();
        let report = member.delta(&required);
        let mut reports = vec![member.sent(report)];
        if random.once_in(4) {
            let first = numbers.first().copied().unwrap_or(0);
            let report = member.delta(&[cell(first, Detection::Installed)]);
            reports.push(member.sent(report));
        }
        if random.once_in(100) {
            reports.reverse();
        }
        if random.once_in(10) {
            reports.push(reports[0].clone());
        }
        let after = some_time(random, within);
        turns.push(Turn { after, reports });
    }
    turns
}

/// Each client goes through its deployment, one report per step; a third of them begin when the
/// deadline has come, all at once.
fn deadline(
    fleet: &mut [Member],
    random: &mut Random,
    within: Duration,
    deployment: wave::Deployment,
) -> (Vec<Turn>, Vec<wave::Said>) {
    let (mut turns, mut said) = (Vec::new(), Vec::new());
    for member in fleet {
        let (reports, end) = wave::steps(member, deployment, random);
        let after = if random.below(100) < AT_THE_DEADLINE {
            within / 2
        } else {
            some_time(random, within)
        };
        turns.push(Turn { after, reports });
        said.push(end);
    }
    (turns, said)
}

/// Every client lost what it knew of itself, and asks for a new epoch. The management point calls
/// the site server for it, and so does this.
async fn register(ground: &Ground, fleet: &mut [Member]) -> Result<()> {
    let url = ground.site_ref().grpc(Service::SiteServer);
    let options = ChannelOptions {
        server_role: Some(Role::SiteServer),
        ..ChannelOptions::default()
    };
    let site = channel(&url, &ground.tls("management-point"), &options)?;
    let site = ClientGatewayServiceClient::new(site);
    let calls = fleet.iter_mut().map(|member| {
        let mut site = site.clone();
        async move {
            let request = RegisterRequest {
                machine: Some(facts(member)),
                known_epoch: 0,
            };
            let client_id = member.id.as_bytes().to_vec().into();
            let answer = site.register_client(RegisterClientRequest {
                client_id,
                request: Some(request),
                ..Default::default()
            });
            let answer = answer.await?.into_inner().response.unwrap_or_default();
            ensure!(answer.epoch > member.epoch, "the epoch did not grow");
            (member.epoch, member.serial) = (answer.epoch, 0);
            Ok(())
        }
    });
    futures::stream::iter(calls)
        .buffer_unordered(REGISTRATIONS)
        .try_collect()
        .await
}

fn facts(member: &Member) -> MachineFacts {
    MachineFacts {
        host_name: format!("host-{}", member.id.simple()),
        os_id: "debian".to_owned(),
        os_version_id: "12".to_owned(),
        architecture: "amd64".to_owned(),
        ..MachineFacts::default()
    }
}

/// The management point leaves after a quarter of the time and comes back after three quarters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    NotYet,
    Now,
    Back,
}

impl Away {
    fn turn(&mut self, ground: &mut Ground, elapsed: Duration, within: Duration) -> Result<()> {
        match self {
            Self::NotYet if elapsed > within / 4 => {
                ground.site().kill_9(Service::ManagementPoint)?;
                *self = Self::Now;
            }
            Self::Now if elapsed > within * 3 / 4 => {
                let site = ground.site();
                tokio::task::block_in_place(|| site.restart(Service::ManagementPoint))?;
                *self = Self::Back;
            }
            Self::NotYet | Self::Now | Self::Back => {}
        }
        Ok(())
    }
}
