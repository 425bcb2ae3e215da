//! One file per verb: its arguments, its calls, its answer. This one finds the site, sets the
//! time limit and keeps watches alive while a site server restarts.

pub(crate) mod backlog;
pub(crate) mod client;
pub(crate) mod collection;
pub(crate) mod context;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod deployment;
pub(crate) mod describe;
pub(crate) mod get;
pub(crate) mod login;
pub(crate) mod report;
pub(crate) mod site;
pub(crate) mod sync;

use std::time::Duration;

use clap::CommandFactory;
use jiff::Timestamp;
use serde_json::Value;
use tonic::{Status, Streaming};

use crate::cli::{Cli, Command};
use crate::client::{Patience, Site, within};
use crate::config::Config;
use crate::failure::Failure;
use crate::output::table::Block;
use crate::output::{Document, Printer, live::Live, write_out};

/// How long a command may take that is no watch, unless `--timeout` says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs what was typed.
pub(crate) async fn run(cli: Cli, printer: &Printer) -> Result<(), Failure> {
    let timeout = cli.global.timeout;
    let context = cli.global.context.as_deref();
    let call_timeout = timeout.unwrap_or(TIMEOUT);
    let limit = if cli.command.lasts() {
        timeout
    } else {
        Some(call_timeout)
    };
    let work = async {
        match cli.command {
            Command::Login(args) => login::run(args, context, call_timeout, printer).await,
            Command::Context(command) => context::run(command, context, printer),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "muster", &mut script);
                write_out(&String::from_utf8_lossy(&script))
            }
            command @ (Command::Get(_)
            | Command::Describe(_)
            | Command::Create(_)
            | Command::Delete(_)
            | Command::Client(_)
            | Command::Collection(_)
            | Command::Sync(_)
            | Command::Deployment(_)
            | Command::Report(_)
            | Command::Site(_)
            | Command::Backlog(_)
            | Command::Quarantine(_)) => {
                let site = Site::new(Config::load()?.context(context)?, call_timeout)?;
                match ask(command, &site, printer).await {
                    Ok(()) => Ok(()),
                    Err(failure) => Err(site.explain(failure).await),
                }
            }
        }
    };
    within(limit, work).await
}

/// Runs what a site is needed for.
async fn ask(command: Command, site: &Site, printer: &Printer) -> Result<(), Failure> {
    match command {
        Command::Get(command) => get::run(command, site, printer).await,
        Command::Describe(command) => describe::run(command, site, printer).await,
        Command::Create(command) => create::run(command, site, printer).await,
        Command::Delete(command) => delete::run(command, site, printer).await,
        Command::Client(command) => client::run(command, site, printer).await,
        Command::Collection(command) => collection::run(command, site, printer).await,
        Command::Sync(command) => sync::run(command, site, printer).await,
        Command::Deployment(command) => deployment::run(command, site, printer).await,
        Command::Report(command) => report::run(command, site, printer).await,
        Command::Site(command) => site::run(command, site, printer).await,
        Command::Backlog(args) => backlog::run(args, site, printer).await,
        Command::Quarantine(command) => backlog::run_quarantine(command, site, printer).await,
        // They need no site, and `run` has done them.
        Command::Login(_) | Command::Context(_) | Command::Completions { .. } => Ok(()),
    }
}

impl Command {
    /// Whether it goes on until what it watches is done. A question to a person lasts, too.
    fn lasts(&self) -> bool {
        match self {
            Self::Deployment(_) | Self::Delete(_) => true,
            Self::Sync(command) => command.lasts(),
            Self::Site(command) => command.lasts(),
            Self::Backlog(args) => args.watch,
            Self::Create(command) => command.lasts(),
            Self::Quarantine(command) => command.lasts(),
            Self::Login(_)
            | Self::Context(_)
            | Self::Get(_)
            | Self::Describe(_)
            | Self::Client(_)
            | Self::Collection(_)
            | Self::Report(_)
            | Self::Completions { .. } => false,
        }
    }
}

/// Shows a stream until it ends and `done` agrees; opens it again when the site server went away
/// or ended it early. Gives back the last message.
async fn follow<T: Document>(
    printer: &Printer,
    mut open: impl AsyncFnMut() -> Result<Streaming<T>, Status>,
    done: impl Fn(&T) -> bool,
) -> Result<T, Failure> {
    let mut live = Live::new(printer);
    let mut patience = Patience::new();
    loop {
        let mut last = None;
        let ended = async {
            let mut stream = open().await?;
            while let Some(message) = stream.message().await? {
                last = Some(message);
                if let Some(message) = &last {
                    patience.refill();
                    // A display that fails (a closed pipe) ends the watch below.
                    if let Err(failure) = live.update(message) {
                        return Ok(Err(failure));
                    }
                }
            }
            Ok::<_, Status>(Ok(()))
        }
        .await;
        match (ended, last) {
            (Ok(Err(failure)), _) => return Err(failure),
            (Ok(Ok(())), Some(message)) if done(&message) => {
                live.finish(&message)?;
                return Ok(message);
            }
            (Ok(Ok(())), _) => {
                patience
                    .wait(Status::unavailable("the site server ended the watch"))
                    .await?;
            }
            (Err(status), _) => patience.wait(status).await?,
        }
    }
}

/// An answer that does not come from the site as it is.
#[derive(Debug)]
struct Plain {
    value: Value,
    text: String,
    names: Vec<String>,
}

impl Document for Plain {
    fn json(&self) -> Result<Value, Failure> {
        Ok(self.value.clone())
    }

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        self.text
            .lines()
            .map(|line| Block::Line(line.to_owned()))
            .collect()
    }

    fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    fn line(&self, _now: Timestamp) -> String {
        self.text.clone()
    }
}
