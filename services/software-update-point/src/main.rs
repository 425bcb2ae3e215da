//! `software-update-point --config FILE`

use std::path::PathBuf;

use clap::Parser;

/// Keeps the update catalog of a site current and serves scan metadata to its clients
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Configuration file; deploy/config/software-update-point.toml documents every key
    #[arg(long)]
    config: PathBuf,
    /// Read the configuration and end
    #[arg(long)]
    check_config: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let config: software_update_point::Config = muster_runtime::config::load(&cli.config)?;
    if cli.check_config {
        return Ok(());
    }
    muster_runtime::crypto::install();
    let telemetry = muster_runtime::telemetry::start("software-update-point", &config.telemetry)?;
    let service = software_update_point::start(config).await?;
    tracing::info!(addr = %service.addr(), admin = %service.admin_addr(), "ready");
    muster_runtime::shutdown_signal().await;
    service.stop().await;
    telemetry.stop().await;
    Ok(())
}
