//! `muster-agent`: the client agent as a daemon, and its parts as commands.

mod commands;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use muster_runtime::config::{LogFormat, TelemetryConfig};

/// Scans this machine, brings it to what its site deploys, and reports.
#[derive(Debug, Parser)]
#[command(name = "muster-agent", version, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 refused by the site, \
    5 conflict, 6 some updates failed, 7 the site did not answer."
)]
struct Arguments {
    /// The agent's own folder.
    #[arg(long, default_value = "/var/lib/muster", value_name = "DIR")]
    state: PathBuf,
    /// Which log lines are written to stderr, as an env-filter.
    #[arg(long, env = "MUSTER_AGENT_LOG", value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes this machine a client of a site.
    Enrol(commands::EnrolArguments),
    /// Runs until SIGTERM.
    Run,
    /// Scans the machine and saves what changed.
    Scan {
        /// Ask the software update point even if the last answer is fresh.
        #[arg(long)]
        forced: bool,
    },
    /// Shows what the machine needs, by the catalog at hand.
    Evaluate {
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Installs everything that is deployed and available, now.
    Install,
    /// Shows who this client is, and its deployments.
    Status {
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Fetches the policy, and sends what the site has not acknowledged.
    Send,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    muster_runtime::crypto::install();
    let daemon = matches!(arguments.command, Command::Run);
    let telemetry = TelemetryConfig {
        log: arguments
            .log
            .unwrap_or_else(|| if daemon { "info" } else { "warn" }.to_owned()),
        format: if daemon {
            LogFormat::Json
        } else {
            LogFormat::Text
        },
        otlp_endpoint: std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            let guard = muster_runtime::telemetry::start("client-agent", &telemetry)?;
            let result = commands::dispatch(&arguments.state, arguments.command).await;
            guard.stop().await;
            result
        })
    });
    commands::exit_code(result)
}
