//! `cargo xtask test`: a build, private servers, all tests, and nothing left behind.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use muster_local::instances::{self, TestServers};
use muster_local::{State, packages, state};

use crate::workspace::{InstallArgs, Profile, Workspace, has_subcommand, say};

/// Tells tests where the programs of the services are.
const PROGRAMS: &str = "MUSTER_PROGRAMS";

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    install: InstallArgs,
    /// Use the test runner of cargo even when nextest is installed
    #[arg(long)]
    no_nextest: bool,
    /// Only tests whose name contains this
    filter: Option<String>,
}

#[derive(clap::Args)]
pub(crate) struct ServicesArgs {
    #[command(flatten)]
    install: InstallArgs,
}

/// Builds everything, starts the servers, runs the tests, cleans up.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let begin = Instant::now();
    say("building");
    workspace.build(Profile::Dev)?;
    let tests = Servers::start(workspace, &args.install)?;
    let outcome = run_tests(workspace, args, &tests);
    tests.stop()?;
    outcome?;
    say(&format!(
        "all tests passed in {} s",
        begin.elapsed().as_secs()
    ));
    Ok(())
}

fn run_tests(workspace: &Workspace, args: &Args, servers: &Servers) -> Result<()> {
    let nextest = !args.no_nextest && has_subcommand("nextest");
    let mut command = workspace.cargo();
    if nextest {
        command.args([
            "nextest",
            "run",
            "--workspace",
            "--locked",
            "--no-fail-fast",
        ]);
        command.args(["--no-tests", "warn"]);
    } else {
        command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
        command.args(["--lib", "--bins", "--tests"]);
    }
    command.args(&args.filter);
    servers.tell(workspace, &mut command);
    workspace.run(&mut command)?;

    say("testing the examples in the documentation");
    let mut command = workspace.cargo();
    command
        .args(["test", "--workspace", "--locked", "--doc", "--quiet"])
        .args(&args.filter);
    servers.tell(workspace, &mut command);
    workspace.run(&mut command)
}

/// Starts just the servers and waits for Ctrl-C: for people who run one test again and again.
pub(crate) fn services(workspace: &Workspace, args: &ServicesArgs) -> Result<()> {
    let tests = Servers::start(workspace, &args.install)?;
    println!(
        "\n    export {}={}\n",
        instances::VARIABLE,
        tests.servers.file.display()
    );
    say(
        "paste that line into another terminal and run `cargo test -p …` there; Ctrl-C ends the servers",
    );
    while !workspace.interrupt().is_set() {
        std::thread::sleep(Duration::from_millis(100));
    }
    tests.stop()
}

/// PostgreSQL and RabbitMQ for one run.
pub(crate) struct Servers {
    servers: TestServers,
    root: PathBuf,
}

impl Servers {
    pub(crate) fn start(workspace: &Workspace, install: &InstallArgs) -> Result<Self> {
        let programs = packages::ensure(install.choice(), &say)?;
        sweep(workspace)?;
        let root = workspace
            .states()
            .join(format!("test-{}", std::process::id()));
        say(&format!(
            "starting {} and RabbitMQ {}",
            programs.postgres_version, programs.rabbitmq_version
        ));
        let begin = Instant::now();
        let started = State::open(&root, workspace.interrupt().clone())
            .and_then(|state| TestServers::start(&state, &programs));
        match started {
            Ok(servers) => {
                say(&format!(
                    "both answer after {:.1} s",
                    begin.elapsed().as_secs_f32()
                ));
                Ok(Self { servers, root })
            }
            Err(error) => {
                // The error carries the end of the log; the folder would only be in the way.
                let _ = state::remove(&root, Duration::ZERO);
                Err(error)
            }
        }
    }

    pub(crate) fn tell(&self, workspace: &Workspace, command: &mut std::process::Command) {
        command
            .env(instances::VARIABLE, &self.servers.file)
            .env(PROGRAMS, workspace.programs(Profile::Dev));
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        say("stopping the servers");
        let stopped = self.servers.postgres.stop().and(self.servers.rabbit.stop());
        drop(self.servers);
        state::remove(&self.root, Duration::ZERO)?;
        stopped
    }
}

/// Removes what test runs that were killed have left. Runs that live are left alone.
fn sweep(workspace: &Workspace) -> Result<()> {
    let Ok(folders) = std::fs::read_dir(workspace.states()) else {
        return Ok(());
    };
    for folder in folders.flatten() {
        let path = folder.path();
        if folder.file_name().to_string_lossy().starts_with("test-") && !state::in_use(&path)? {
            state::remove(&path, Duration::ZERO)
                .with_context(|| format!("cannot clean up {}", path.display()))?;
            say(&format!(
                "removed {}, left by a run that was killed",
                path.display()
            ));
        }
    }
    Ok(())
}
