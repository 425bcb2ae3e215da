//! The load of the fault tests as a process of its own, which nothing kills.
#![allow(clippy::print_stdout)]

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use hierarchy_tests::faults::load::{self, Manner, Way};

/// Simulated clients that write down what they attempted and what was acknowledged.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reports until SIGTERM, and then until everything is acknowledged.
    Load {
        #[command(flatten)]
        way: Way,
        #[command(flatten)]
        manner: Manner,
        /// The journal; must not exist.
        #[arg(long)]
        journal: PathBuf,
    },
    /// Reports twice, late and out of order, and ends.
    Mangle {
        #[command(flatten)]
        way: Way,
        #[command(flatten)]
        manner: Manner,
        /// The journal; must not exist.
        #[arg(long)]
        journal: PathBuf,
        /// Where everything that was sent is kept.
        #[arg(long)]
        capture: PathBuf,
    },
    /// Sends a capture again.
    Replay {
        #[command(flatten)]
        way: Way,
        /// What `mangle` kept.
        #[arg(long)]
        capture: PathBuf,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    muster_runtime::crypto::install();
    match arguments.command {
        Command::Load {
            way,
            manner,
            journal,
        } => load::run(&way, &manner, &journal).await,
        Command::Mangle {
            way,
            manner,
            journal,
            capture,
        } => load::mangle(&way, &manner, &journal, &capture).await,
        Command::Replay { way, capture } => {
            println!("{}", load::replay(&way, &capture).await?);
            Ok(())
        }
    }
}
