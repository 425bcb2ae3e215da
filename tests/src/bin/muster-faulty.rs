//! A service of the site that can be told to go wrong: it arms itself from its arguments and then
//! runs the same library as the production program, with the same configuration file.
#![allow(clippy::print_stdout)] // its answer is for the story that started it

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use hierarchy_tests::faults::agent::{self, Life};
use muster_runtime::faults::{Abort, Control, Plan};
use muster_runtime::{shutdown_signal, telemetry};

/// A service that goes wrong on purpose.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    service: Service,
    /// The failpoint at which it ends.
    #[arg(long, requires = "journal", global = true)]
    abort: Option<String>,
    /// When the failpoint is reached for this time.
    #[arg(long, default_value_t = 1, global = true)]
    nth: u64,
    /// Gets one line when the failpoint is hit.
    #[arg(long, global = true)]
    journal: Option<PathBuf>,
    /// A protection that is taken away; may be repeated.
    #[arg(long, global = true)]
    without: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Service {
    /// Owns the site database.
    SiteServer(Server),
    /// Takes reports.
    ManagementPoint(Server),
    /// Keeps content.
    DistributionPoint(Server),
    /// Reports what changes on a pretend machine.
    Agent(Life),
}

#[derive(Debug, clap::Args)]
struct Server {
    /// Its configuration file.
    #[arg(long)]
    config: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    muster_runtime::crypto::install();
    if let Service::Agent(life) = &arguments.service {
        agent::prepare(life).await?;
    }
    arm(&arguments)?;
    match &arguments.service {
        Service::SiteServer(server) => site_server(&server.config).await,
        Service::ManagementPoint(server) => management_point(&server.config).await,
        Service::DistributionPoint(server) => distribution_point(&server.config).await,
        Service::Agent(life) => {
            println!("{}", agent::live(life).await?);
            Ok(())
        }
    }
}

// The one place of a program where this is allowed, and it is a test.
#[allow(clippy::disallowed_methods)]
fn arm(arguments: &Arguments) -> Result<()> {
    let abort = match (&arguments.abort, &arguments.journal) {
        (Some(point), Some(journal)) => Some(Abort {
            point: point.clone(),
            nth: arguments.nth,
            journal: journal.clone(),
        }),
        _ => None,
    };
    let control = |name: &String| {
        let found = Control::ALL.into_iter().find(|(known, _)| known == name);
        found
            .map(|(_, control)| control)
            .with_context(|| format!("there is no control {name}"))
    };
    let controls = arguments.without.iter().map(control);
    let plan = Plan {
        abort,
        controls: controls.collect::<Result<_>>()?,
    };
    muster_runtime::faults::arm(plan).map_err(anyhow::Error::msg)
}

async fn site_server(config: &Path) -> Result<()> {
    let config: site_server::Config = muster_runtime::config::load(config)?;
    let telemetry = telemetry::start("site-server", &config.telemetry)?;
    let outcome = site_server::run(config, shutdown_signal()).await;
    telemetry.stop().await;
    outcome
}

async fn management_point(config: &Path) -> Result<()> {
    let config: management_point::Config = muster_runtime::config::load(config)?;
    let telemetry = telemetry::start("management-point", &config.telemetry)?;
    let service = management_point::start(config).await?;
    shutdown_signal().await;
    service.stop().await;
    telemetry.stop().await;
    Ok(())
}

async fn distribution_point(config: &Path) -> Result<()> {
    let config: distribution_point::Config = muster_runtime::config::load(config)?;
    let telemetry = telemetry::start("distribution-point", &config.telemetry)?;
    let service = distribution_point::start(config).await?;
    shutdown_signal().await;
    service.stop().await;
    telemetry.stop().await;
    Ok(())
}
