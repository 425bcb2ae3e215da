//! `cargo xtask check`: everything CI looks at before it runs the tests.

mod architecture;
mod dashboards;
mod faults;
mod kubernetes;
mod layers;
mod modules;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use muster_local::packages::find_program;

use crate::workspace::{Workspace, say};

/// The version that is installed when the machine has none; a newer one on `PATH` is used as it is.
const CARGO_DENY: &str = "0.20.2";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these checks [default: all]
    #[arg(value_enum)]
    only: Vec<Check>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Check {
    /// Which package and which module may use which
    Layers,
    /// docs/architecture.md names files that exist
    Architecture,
    /// Alerts and dashboards in deploy/: runbooks, tests, metric names, promtool
    Dashboards,
    /// Overlays in deploy/: rendered, every field known, nothing privileged, open or missing
    Kubernetes,
    /// rustfmt
    Fmt,
    /// cargo-deny: banned crates, licences, sources
    Deny,
    /// clippy, warnings are errors
    Clippy,
    /// rustdoc, warnings are errors
    Docs,
}

/// Runs the checks, the quick ones first, and names all that failed.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let begin = Instant::now();
    let mut failed = Vec::new();
    for check in Check::value_variants() {
        if !args.only.is_empty() && !args.only.contains(check) {
            continue;
        }
        let name = check
            .to_possible_value()
            .map(|it| it.get_name().to_owned())
            .unwrap_or_default();
        let start = Instant::now();
        say(&format!("checking {name}"));
        match one(workspace, *check) {
            Ok(()) => say(&format!(
                "{name} is fine ({:.1} s)",
                start.elapsed().as_secs_f32()
            )),
            Err(error) => {
                eprintln!("xtask: {name}: {error:#}");
                failed.push(name);
            }
        }
        if workspace.interrupt().is_set() {
            bail!("interrupted");
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    say(&format!(
        "all checks passed in {} s",
        begin.elapsed().as_secs()
    ));
    Ok(())
}

fn one(workspace: &Workspace, check: Check) -> Result<()> {
    match check {
        Check::Layers => {
            let mut wrong = layers::violations(workspace)?;
            wrong.extend(modules::violations(workspace.root())?);
            wrong.extend(faults::violations(workspace.root())?);
            report(&wrong)
        }
        Check::Architecture => report(&architecture::violations(workspace.root())?),
        Check::Dashboards => dashboards::run(workspace),
        Check::Kubernetes => kubernetes::run(workspace),
        Check::Fmt => workspace.run(workspace.cargo().args(["fmt", "--all", "--check"])),
        Check::Deny => deny(workspace),
        Check::Clippy => workspace.run(
            workspace
                .cargo()
                .args([
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--locked",
                    "--quiet",
                ])
                .args(["--", "-D", "warnings"]),
        ),
        Check::Docs => workspace.run(
            workspace
                .cargo()
                .args(["doc", "--workspace", "--no-deps", "--locked", "--quiet"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        ),
    }
}

fn report(wrong: &[String]) -> Result<()> {
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("\n    {}", wrong.join("\n    "))
}

fn deny(workspace: &Workspace) -> Result<()> {
    let ours = workspace.tools().join("bin/cargo-deny");
    let program = match find_program("cargo-deny") {
        Some(found) => found,
        None => {
            if !ours.is_file() {
                say(&format!(
                    "installing cargo-deny {CARGO_DENY} for this check (2 minutes, once)"
                ));
                let mut install = workspace.cargo();
                install
                    .args(["install", "--locked", "--quiet", "--no-default-features"])
                    .args(["cargo-deny", "--version", CARGO_DENY, "--root"])
                    .arg(workspace.tools())
                    // Its build must not throw away ours.
                    .env("CARGO_TARGET_DIR", workspace.tools().join("build"));
                workspace
                    .run(&mut install)
                    .context("cannot install cargo-deny")?;
                std::fs::remove_dir_all(workspace.tools().join("build"))?;
            }
            ours
        }
    };
    let mut command = std::process::Command::new(program);
    command.current_dir(workspace.root()).args([
        "--workspace",
        "--locked",
        "check",
        "--show-stats",
        "bans",
        "licenses",
        "sources",
    ]);
    workspace.run(&mut command)
}
