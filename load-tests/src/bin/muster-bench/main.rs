//! `muster-bench NAME`: one benchmark of the state system, subject and limit interleaved in one
//! run on the same servers, with a check against brute force at the end. One line of JSON per
//! figure. `cargo xtask bench` starts the servers and says where they are.
//!
//! Reading order: [`fleet`] makes clients and what they report, [`ground`] runs a site for them,
//! [`limits`] does the same work the plain way; then one file per benchmark.

#![allow(clippy::print_stdout)] // Figures are the product.

mod figures;
mod fleet;
mod ground;
mod grpc;
mod limits;
mod patch_tuesday;
mod rollout;

use anyhow::{Result, bail};
use clap::Parser;

#[derive(Parser)]
#[command(about = "Benchmarks of the state system")]
struct Args {
    /// rollout_storm (B1) or patch_tuesday_delta (B2)
    name: String,
    /// Small enough for every change
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// 100,000 clients
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
}

/// The size of a run.
#[derive(Debug, Clone, Copy)]
struct Size {
    case: &'static str,
    clients: usize,
    states: usize,
    seed: u64,
    pairs: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let _ = (args.json, args.quick);
    muster_runtime::crypto::install();
    let (case, clients) = if args.full {
        ("full", 100_000)
    } else {
        ("quick", 12_000)
    };
    let size = Size {
        case,
        clients: args.clients.unwrap_or(clients),
        states: args.states,
        seed: args.seed,
        pairs: args.pairs.unwrap_or(3),
    };
    let runtime = tokio::runtime::Runtime::new()?;
    match args.name.as_str() {
        "rollout_storm" => runtime.block_on(rollout::run(size)),
        "patch_tuesday_delta" => runtime.block_on(patch_tuesday::run(size)),
        other => bail!("there is no benchmark {other:?}: rollout_storm, patch_tuesday_delta"),
    }
}
