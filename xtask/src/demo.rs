//! `cargo xtask demo`: the whole way of an update, from the archive to a report, on this machine.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::workspace::{InstallArgs, Workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    install: InstallArgs,
    /// The state folder [default: .muster/site]
    #[arg(long)]
    state: Option<PathBuf>,
    /// Leave the site running at the end, until Ctrl-C or `cargo xtask down`
    #[arg(long)]
    keep: bool,
}

/// Sets everything up, runs a deployment to its end and prints one JSON object last.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let _ = (workspace, &args.install, &args.state, args.keep);
    bail!("`demo` waits for the services (issue 2)")
}
