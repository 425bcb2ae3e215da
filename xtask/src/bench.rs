//! `cargo xtask bench NAME`: one benchmark against private servers, its figures on standard output.
//!
//! Each benchmark checks its result against a brute-force model and fails on a missed target.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use muster_local::postgres::Durability;
use muster_local::{Postgres, State, packages, state};

use crate::workspace::{InstallArgs, Profile, Workspace, say};

/// The benchmarks there are (performance.md, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Name {
    /// B8: an empty catalog takes in this machine's suites, beside a bare COPY of the same bytes
    CatalogColdSync,
    /// B6: what a scan costs on the wire, cold, unchanged, and after 100 changed updates
    ScanMetadata,
    /// B0: what this machine, its disk, the servers and gRPC can do by themselves; not judged
    Calibrate,
    /// B1: every client reports everything for the first time, beside a bare COPY of the states
    RolloutStorm,
    /// B2: a fleet says what changed, beside the best upsert of the same changes
    PatchTuesdayDelta,
    /// B3: a deployment goes over the fleet, beside one hop through the broker and one commit
    EnforcementWave,
    /// B4: what clients say climbs two and three levels, beside the same states as rows
    HierarchyFanIn,
    /// B5: what people ask while reports come in, beside the best SQL over one row per state
    ReportQueries,
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
        Name::Calibrate
        | Name::RolloutStorm
        | Name::PatchTuesdayDelta
        | Name::EnforcementWave
        | Name::HierarchyFanIn
        | Name::ReportQueries => states(workspace, args),
    }
}

/// The benchmarks of the state system: a whole site of processes, and always lines of JSON.
fn states(workspace: &Workspace, args: &Args) -> Result<()> {
    packages::ensure(args.install.choice(), &say)?;
    let program = build_load(workspace, args.profile, "muster-bench")?;
    let root = workspace
        .states()
        .join(format!("bench-{}", std::process::id()));
    let mut bench = Command::new(program);
    bench.arg(name(args.name)?);
    bench.arg(if args.full { "--full" } else { "--quick" });
    bench.arg("--state").arg(&root);
    let outcome = workspace.run(&mut bench);
    // It removes its folder itself, unless it was killed.
    state::remove(&root, Duration::ZERO)?;
    outcome
}

/// Builds a program of the load tests with the services it starts, and says where it is.
pub(crate) fn build_load(
    workspace: &Workspace,
    profile: Profile,
    program: &str,
) -> Result<PathBuf> {
    let mut build = workspace.cargo();
    build.args(["build", "--quiet", "--locked", "--package", "load-tests"]);
    build.args(["--package", "site-server", "--package", "management-point"]);
    // Sites are joined through the console.
    build.args(["--package", "console-cli", "--bins"]);
    if profile == Profile::Release {
        build.arg("--release");
    }
    workspace.run(&mut build)?;
    Ok(workspace.programs(profile).join(program))
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
