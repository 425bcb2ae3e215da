//! `muster-bench NAME`: one benchmark of the state system, subject and limit interleaved in one
//! run on the same servers, with a check against brute force at the end. One line of JSON per
//! figure; a missed target ends with an error. The services are real processes, built beside this
//! program: `cargo xtask bench` builds them first.
//!
//! Reading order: [`limits`] does the same work the plain way; then one file per benchmark. What
//! they stand on is the library.

mod calibrate;
mod fan_in;
mod grpc;
mod limits;
mod patch_tuesday;
mod queries;
mod rollout;
mod wave;

use anyhow::{Result, bail};
use clap::Parser;
use load_tests::ground::Place;

#[derive(Parser)]
#[command(about = "Benchmarks of the state system")]
struct Args {
    /// calibrate (B0), rollout_storm (B1), patch_tuesday_delta (B2), enforcement_wave (B3),
    /// hierarchy_fan_in (B4) or report_queries (B5)
    name: String,
    /// Small enough for every change
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// 100,000 clients; 25,000 in enforcement_wave, 20,000 in hierarchy_fan_in
    #[arg(long)]
    full: bool,
    /// Accepted for scripts: the figures always are lines of JSON
    #[arg(long)]
    json: bool,
    /// Clients, instead of the size's own number
    #[arg(long)]
    clients: Option<usize>,
    /// States per client
    #[arg(long, default_value_t = 300)]
    states: usize,
    /// Seed of everything random
    #[arg(long, default_value_t = 20_070_410)]
    seed: u64,
    /// Pairs of subject and limit
    #[arg(long)]
    pairs: Option<usize>,
    /// enforcement_wave: the changes per second that its other steps go by, instead of a search
    #[arg(long)]
    capacity: Option<f64>,
    #[command(flatten)]
    place: Place,
}

/// The size of a run.
#[derive(Debug, Clone, Copy)]
struct Size {
    case: &'static str,
    clients: usize,
    states: usize,
    seed: u64,
    pairs: usize,
    capacity: Option<f64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let _ = (args.json, args.quick);
    muster_runtime::crypto::install();
    let (case, clients) = match (args.name.as_str(), args.full) {
        ("enforcement_wave", true) => ("full", 25_000),
        ("enforcement_wave", false) => ("quick", 3_000),
        ("hierarchy_fan_in", true) => ("full", 20_000),
        ("hierarchy_fan_in", false) => ("quick", 2_000),
        ("report_queries", false) => ("quick", 10_000),
        (_, true) => ("full", 100_000),
        (_, false) => ("quick", 12_000),
    };
    let size = Size {
        case,
        clients: args.clients.unwrap_or(clients),
        states: args.states,
        seed: args.seed,
        pairs: args.pairs.unwrap_or(if args.full { 5 } else { 3 }),
        capacity: args.capacity,
    };
    let bench = run(&args.name, size, &args.place);
    tokio::runtime::Runtime::new()?.block_on(async {
        tokio::select! {
            result = bench => result,
            // The servers that run for it are stopped with it.
            () = muster_runtime::shutdown_signal() => bail!("stopped"),
        }
    })
}

async fn run(name: &str, size: Size, place: &Place) -> Result<()> {
    match name {
        "calibrate" => calibrate::run(size, place).await,
        "rollout_storm" => rollout::run(size, place).await,
        "patch_tuesday_delta" => patch_tuesday::run(size, place).await,
        "enforcement_wave" => wave::run(size, place).await,
        "hierarchy_fan_in" => fan_in::run(size, place).await,
        "report_queries" => queries::run(size, place).await,
        other => bail!(
            "there is no benchmark {other:?}: calibrate, rollout_storm, patch_tuesday_delta, \
             enforcement_wave, hierarchy_fan_in, report_queries"
        ),
    }
}
