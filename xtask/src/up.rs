//! `cargo xtask up`: one whole site on this machine, in the foreground.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::workspace::{InstallArgs, Profile, Workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    install: InstallArgs,
    /// The state folder [default: .muster/site]
    #[arg(long)]
    state: Option<PathBuf>,
    /// How the services are compiled
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
}

/// Starts the site and waits for Ctrl-C.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let _ = (workspace, &args.install, &args.state, args.profile);
    bail!("`up` waits for the services (issue 2)")
}
