//! Every chore of this repository: `cargo xtask <command>`.
//!
//! One file per command. What they stand on (private servers, whole sites) is `muster-local`.
#![allow(clippy::print_stdout, clippy::print_stderr)] // its answers are for a person at a terminal

mod bench;
mod check;
mod demo;
mod down;
mod faults;
mod load;
mod test;
mod up;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Every chore of this repository")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start one whole site on this machine, in the foreground; Ctrl-C stops everything
    Up(up::Args),
    /// End what `up` or `demo` started and remove everything they made
    Down(down::Args),
    /// Bring a throwaway Debian, this machine and simulated clients through a whole deployment
    Demo(demo::Args),
    /// Run the checks that CI runs before the tests
    Check(check::Args),
    /// Build, start private servers and run all tests
    Test(test::Args),
    /// Start only the private servers that tests need, and print how to use them
    TestServices(test::ServicesArgs),
    /// Run the fault stories in their larger form
    Faults(faults::Args),
    /// Run one benchmark and print its figures
    Bench(bench::Args),
    /// Let a simulated fleet do something to a site of its own, and check what came of it
    Load(load::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = Workspace::open().and_then(|workspace| match cli.command {
        Command::Up(args) => up::run(&workspace, &args),
        Command::Down(args) => down::run(&workspace, &args),
        Command::Demo(args) => demo::run(&workspace, &args),
        Command::Check(args) => check::run(&workspace, &args),
        Command::Test(args) => test::run(&workspace, &args),
        Command::TestServices(args) => test::services(&workspace, &args),
        Command::Bench(args) => bench::run(&workspace, &args),
        Command::Faults(args) => faults::run(&workspace, &args),
        Command::Load(args) => load::run(&workspace, &args),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
