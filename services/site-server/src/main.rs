//! The process of a site server; see the library.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};
use muster_runtime::config::{LogFormat, TelemetryConfig};
use muster_runtime::{shutdown_signal, telemetry};
use site_server::Config;

/// The site server of Muster.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only read the configuration, and say whether it is valid.
    #[arg(long)]
    check_config: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs in the foreground until SIGTERM.
    Run(RunArgs),
    /// Makes the CA, keys and certificates of a new site. Never overwrites one.
    Init {
        /// Site code: three letters or digits.
        #[arg(long, value_name = "CODE")]
        site: String,
        /// The site's name for people.
        #[arg(long)]
        name: String,
        /// The folder to write to.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// A name or address at which the site's servers are reached; may be repeated.
        #[arg(long, value_name = "HOST", default_values_t = ["localhost".to_owned(), "127.0.0.1".to_owned()])]
        host: Vec<String>,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    muster_runtime::crypto::install();
    match cli.command {
        Some(Command::Init {
            site,
            name,
            out,
            host,
        }) => {
            let text = TelemetryConfig {
                format: LogFormat::Text,
                ..Default::default()
            };
            let _telemetry = telemetry::start("site-server", &text)?;
            site_server::init(&site, &name, &out, &host)
        }
        Some(Command::Run(args)) => run(args).await,
        None => run(cli.run).await,
    }
}

async fn run(args: RunArgs) -> anyhow::Result<()> {
    let path = args.config.context("--config FILE is missing")?;
    let config: Config = muster_runtime::config::load(path)?;
    if args.check_config {
        return Ok(());
    }
    let telemetry = telemetry::start("site-server", &config.telemetry)?;
    let outcome = site_server::run(config, shutdown_signal()).await;
    telemetry.stop().await;
    outcome
}
