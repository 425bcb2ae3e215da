//! `muster client`: what clients are asked for.

use clap::{Args, Subcommand};
use muster_proto::client::{MoveClientRequest, ResyncClientsRequest};

use super::get::collection_id;
use crate::client::Site;
use crate::failure::Failure;
use crate::output::Printer;

/// What can be asked.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Ask clients for everything they hold
    #[command(after_help = "\
Example:
  muster client resync web-01
  muster client resync --collection Pilot")]
    Resync(ResyncArgs),
    /// Make a client another site's, while it reports (asked of the central site)
    #[command(after_help = "\
Example:
  muster client move web-01 --to P02")]
    Move(MoveArgs),
}

/// Arguments of `muster client move`.
#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// Host name or id
    name: String,
    /// The site that it is to report to
    #[arg(long, value_name = "SITE")]
    to: String,
}

/// Arguments of `muster client resync`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ResyncArgs {
    /// Host name or id
    name: Option<String>,
    /// The members of this collection
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// Every client of the site
    #[arg(long)]
    all: bool,
}

/// Runs what was typed.
pub(crate) async fn run(
    command: ClientCommand,
    site: &Site,
    printer: &Printer,
) -> Result<(), Failure> {
    let args = match command {
        ClientCommand::Resync(args) => args,
        ClientCommand::Move(args) => {
            let request = MoveClientRequest {
                name: args.name,
                to_site_code: args.to,
            };
            let answer = site.clients().move_client(request).await?.into_inner();
            return printer.show(&answer);
        }
    };
    let collection_id = match args.collection {
        Some(name) => collection_id(site, name).await?,
        None => Default::default(),
    };
    let request = ResyncClientsRequest {
        name: args.name.unwrap_or_default(),
        collection_id,
        all: args.all,
    };
    let answer = site.clients().resync_clients(request).await?.into_inner();
    printer.show(&answer)
}
