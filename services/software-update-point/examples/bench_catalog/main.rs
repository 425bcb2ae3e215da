//! Benches `catalog_cold_sync` and `scan_metadata` (performance.md B8; issue A, "How it is judged" 3
//! and 4) on the machine's own suites. `cargo xtask bench` starts the database and passes it here.
//!
//! The indexes are fetched from the machine's archives once and kept in `--cache`; everything that is
//! measured comes from a loopback server, signed by a key of the bench, so that it can change.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[allow(dead_code)]
#[path = "../../tests/it/archive.rs"]
mod archive;
mod cold_sync;
mod measure;
mod scan_metadata;
mod site;
mod suites;

use std::path::PathBuf;

use clap::Parser;

#[derive(Parser)]
struct Cli {
    /// Folder of PostgreSQL's socket
    #[arg(long)]
    postgres_host: PathBuf,
    #[arg(long, default_value_t = 5432)]
    postgres_port: u16,
    #[arg(long)]
    postgres_user: String,
    #[arg(long)]
    postgres_password_file: Option<PathBuf>,
    /// An empty database that the user may make schemas in
    #[arg(long)]
    dbname: String,
    /// Where the machine's indexes are kept between runs
    #[arg(long)]
    cache: PathBuf,
    /// catalog_cold_sync, scan_metadata, or all
    #[arg(long, default_value = "all")]
    case: String,
    /// Pairs of runs, each of ours and of the limit
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// One JSON object per line; without it a table for people
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    muster_runtime::crypto::install();
    let postgres = muster_postgres::Config {
        password_file: cli.postgres_password_file.clone(),
        ..muster_postgres::Config::new(
            &cli.postgres_host,
            cli.postgres_port,
            &cli.dbname,
            &cli.postgres_user,
        )
    };
    let suites = suites::load(&cli.cache).await?;
    let report = measure::Report { json: cli.json };
    let mut good = true;
    if matches!(cli.case.as_str(), "catalog_cold_sync" | "all") {
        good &= cold_sync::run(&postgres, &suites, cli.pairs, &report).await?;
    }
    if matches!(cli.case.as_str(), "scan_metadata" | "all") {
        good &= scan_metadata::run(&postgres, &suites, &report).await?;
    }
    anyhow::ensure!(good, "a target was missed");
    Ok(())
}
