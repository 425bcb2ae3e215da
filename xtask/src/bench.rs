//! `cargo xtask bench NAME`: one benchmark against private servers, its figures on standard output.
//!
//! Each benchmark checks its result against a brute-force model and fails on a missed target.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use muster_local::postgres::Durability;
use muster_local::{Postgres, State, packages, state};

use crate::test::Servers;
use crate::workspace::{InstallArgs, Profile, Workspace, say};

/// The benchmarks there are (performance.md, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Name {
    /// B8: an empty catalog takes in this machine's suites, beside a bare COPY of the same bytes
    CatalogColdSync,
    /// B6: what a scan costs on the wire, cold, unchanged, and after 100 changed updates
    ScanMetadata,
    /// B1: every client reports everything for the first time, beside a bare COPY of the states
    RolloutStorm,
    /// B2: a fleet says what changed, beside the best upsert of the same changes
    PatchTuesdayDelta,
}

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    install: InstallArgs,
    /// Which one
    #[arg(value_enum)]
    name: Name,
    /// Fewer rounds: for CI, not for publishing
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// More rounds
    #[arg(long)]
    full: bool,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// How the services are compiled
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
}

/// Builds it, starts a server, runs it, cleans up.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    match args.name {
        Name::CatalogColdSync | Name::ScanMetadata => catalog(workspace, args),
        Name::RolloutStorm | Name::PatchTuesdayDelta => states(workspace, args),
    }
}

/// The benchmarks of the state system: with a broker, and always as lines of JSON.
fn states(workspace: &Workspace, args: &Args) -> Result<()> {
    let mut build = workspace.cargo();
    build.args(["build", "--quiet", "--locked", "--package", "load-tests"]);
    build.args(["--bin", "muster-bench"]);
    if args.profile == Profile::Release {
        build.arg("--release");
    }
    workspace.run(&mut build)?;
    let servers = Servers::start(workspace, &args.install)?;
    let mut bench = Command::new(workspace.programs(args.profile).join("muster-bench"));
    bench.arg(name(args.name)?);
    bench.arg(if args.full { "--full" } else { "--quick" });
    servers.tell(workspace, &mut bench);
    let outcome = workspace.run(&mut bench);
    servers.stop().and(outcome)
}

fn catalog(workspace: &Workspace, args: &Args) -> Result<()> {
    let servers = packages::ensure(args.install.choice(), &say)?;
    if !args.json {
        say("building");
    }
    let mut build = workspace.cargo();
    build.args([
        "build",
        "--quiet",
        "--locked",
        "--package",
        "software-update-point",
    ]);
    build.args(["--example", "bench_catalog"]);
    if args.profile == Profile::Release {
        build.arg("--release");
    }
    workspace.run(&mut build)?;

    let root = workspace
        .states()
        .join(format!("bench-{}", std::process::id()));
    let cache = workspace.states().join("cache/archive");
    fs::create_dir_all(&cache)?;
    let state = State::open(&root, workspace.interrupt().clone())?;
    let outcome = Postgres::start(&state, &servers, Durability::On).and_then(|mut postgres| {
        let login = postgres.create_test_role("bench")?;
        postgres.psql("postgres", "CREATE DATABASE bench OWNER bench;\n", &[])?;
        let program = workspace
            .programs(args.profile)
            .join("examples/bench_catalog");
        let mut command = Command::new(program);
        command
            .arg("--postgres-host")
            .arg(&login.socket_dir)
            .args(["--postgres-port", &login.port.to_string()])
            .args(["--postgres-user", &login.user])
            .arg("--postgres-password-file")
            .arg(&login.password_file)
            .args(["--dbname", "bench"])
            .arg("--cache")
            .arg(&cache)
            .args(["--case", name(args.name)?.as_str()])
            .args(["--pairs", pairs(args)]);
        if args.json {
            command.arg("--json");
        }
        let outcome = workspace.run(&mut command);
        postgres.stop().and(outcome)
    });
    drop(state);
    state::remove(&root, Duration::ZERO)?;
    outcome
}

const fn pairs(args: &Args) -> &'static str {
    match (args.quick, args.full) {
        (true, _) => "1",
        (_, true) => "7",
        (false, false) => "3",
    }
}

fn name(name: Name) -> Result<String> {
    let value = name
        .to_possible_value()
        .context("a benchmark without a name")?;
    Ok(value.get_name().to_owned())
}
