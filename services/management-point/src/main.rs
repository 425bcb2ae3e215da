//! The process of a management point: config, telemetry, start, wait, stop.

use std::path::PathBuf;

use clap::Parser;
use management_point::Config;

/// Answers clients: policy down, reports up.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The configuration file.
    #[arg(long)]
    config: PathBuf,
    /// Reads the configuration file and ends.
    #[arg(long)]
    check_config: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let config: Config = muster_runtime::config::load(&args.config)?;
    if args.check_config {
        return Ok(());
    }
    muster_runtime::crypto::install();
    let telemetry = muster_runtime::telemetry::start("management-point", &config.telemetry)?;
    let service = management_point::start(config).await?;
    tracing::info!(addr = %service.addr(), "ready");
    muster_runtime::shutdown_signal().await;
    service.stop().await;
    telemetry.stop().await;
    Ok(())
}
