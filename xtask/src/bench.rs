//! `cargo xtask bench NAME`: one benchmark, its figures on standard output.

use anyhow::{Result, bail};

use crate::workspace::Workspace;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The benchmark's name
    name: String,
}

/// Runs it.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let _ = workspace;
    bail!("there is no benchmark {:?} yet (issue 2)", args.name)
}
