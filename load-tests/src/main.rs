//! `muster-load`: fleets of simulated clients against a real site.

mod clients;
mod scenario;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use muster_runtime::config::{LogFormat, TelemetryConfig};

/// Simulated clients, many in one process.
#[derive(Debug, Parser)]
#[command(name = "muster-load", version)]
struct Arguments {
    /// Which log lines are written to stderr, as an env-filter.
    #[arg(long, default_value = "warn", value_name = "FILTER")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enrols simulated clients and runs them until SIGTERM, or for a time.
    Clients(clients::Arguments),
    /// Starts a site, lets a fleet of plain numbers do something to it, and compares what it holds
    /// with what the fleet said.
    Scenario(scenario::Arguments),
}

/// A time such as "10m".
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    muster_runtime::crypto::install();
    let telemetry = TelemetryConfig {
        log: arguments.log,
        format: LogFormat::Text,
        otlp_endpoint: std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            let guard = muster_runtime::telemetry::start("load-tests", &telemetry)?;
            let result = match arguments.command {
                Command::Clients(arguments) => clients::run(arguments).await,
                Command::Scenario(arguments) => tokio::select! {
                    result = scenario::run(arguments) => result,
                    // The servers that run for it are stopped with it.
                    () = muster_runtime::shutdown_signal() => Err(anyhow::anyhow!("stopped")),
                },
            };
            guard.stop().await;
            result
        })
    });
    match result {
        Ok(summary) => {
            let _ = writeln!(std::io::stdout().lock(), "{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
