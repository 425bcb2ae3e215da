//! `cargo xtask down`: ends what `up` or `demo` started and removes what they made.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use muster_local::state;

use crate::workspace::{Workspace, say};

/// How long a running `up` or `demo` may take to stop everything in order.
const PATIENCE: Duration = Duration::from_secs(90);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The state folder [default: .muster/site]
    #[arg(long)]
    state: Option<PathBuf>,
}

/// Ends processes by the numbers and start times that were written down, and nothing else.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let root = args
        .state
        .clone()
        .unwrap_or_else(|| workspace.states().join("site"));
    let removed = state::remove(&root, PATIENCE)?;
    if removed.folders.is_empty() {
        say(&format!("nothing to do: {} does not exist", root.display()));
    }
    for name in &removed.ended {
        say(&format!("ended {name}"));
    }
    for folder in &removed.folders {
        say(&format!("removed {}", folder.display()));
    }
    Ok(())
}
