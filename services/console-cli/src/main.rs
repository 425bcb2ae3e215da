//! `muster`, the console: what an administrator sees of a site and asks of it. It speaks to the
//! site server over the same gRPC as everyone else, and keeps nothing but where its sites are.
//!
//! Reading order: [`cli`] (what can be typed), [`commands`] (one file per verb), [`client`] (the
//! way to the site), [`view`] (what each answer looks like), [`output`] (table, JSON, YAML).

mod cli;
mod client;
mod commands;
mod config;
mod failure;
mod output;
mod view;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    muster_runtime::crypto::install();
    let cli = cli::Cli::parse();
    let printer = output::Printer::new(cli.global.output);
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return printer.fail(&error.into()),
    };
    match runtime.block_on(commands::run(cli, &printer)) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough, as in `muster get updates | head`.
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => printer.fail(&failure),
    }
}
