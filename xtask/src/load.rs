//! `cargo xtask load NAME`: a scenario of the load tests against a site of its own, its summary on
//! standard output. What scenarios there are says `cargo xtask load help`.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use muster_local::{packages, state};

use crate::bench::build_load;
use crate::workspace::{InstallArgs, Profile, Workspace, say};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    install: InstallArgs,
    /// How the services are compiled
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// Its name, and what else `muster-load scenario` understands: `--clients 50000 --within 30s`
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    scenario: Vec<String>,
}

/// Builds it, plays it, cleans up.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    packages::ensure(args.install.choice(), &say)?;
    let program = build_load(workspace, args.profile, "muster-load")?;
    let mut load = Command::new(program);
    load.arg("scenario");
    if args.scenario.iter().any(|it| it == "help") {
        return workspace.run(load.arg("--help"));
    }
    let root = workspace
        .states()
        .join(format!("load-{}", std::process::id()));
    load.args(&args.scenario).arg("--state").arg(&root);
    let outcome = workspace.run(&mut load);
    // It removes its folder itself, unless it was killed.
    state::remove(&root, Duration::ZERO)?;
    outcome
}
