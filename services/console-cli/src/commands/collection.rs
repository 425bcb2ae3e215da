//! `muster collection`: who is in a collection.

use clap::Subcommand;
use muster_proto::collection::ChangeMembersRequest;

use crate::client::Site;
use crate::failure::Failure;
use crate::output::Printer;

/// What can be changed.
#[derive(Debug, Subcommand)]
pub(crate) enum CollectionCommand {
    /// Add clients to a collection
    #[command(after_help = "Example:\n  muster collection add Pilot web-01 web-02")]
    Add {
        /// Name or id of the collection
        name: String,
        /// Host names or ids
        #[arg(required = true)]
        clients: Vec<String>,
    },
    /// Take clients out of a collection
    #[command(after_help = "Example:\n  muster collection remove Pilot web-02")]
    Remove {
        /// Name or id of the collection
        name: String,
        /// Host names or ids
        #[arg(required = true)]
        clients: Vec<String>,
    },
}

/// Runs what was typed.
pub(crate) async fn run(
    command: CollectionCommand,
    site: &Site,
    printer: &Printer,
) -> Result<(), Failure> {
    let request = match command {
        CollectionCommand::Add { name, clients } => ChangeMembersRequest {
            name,
            add_clients: clients,
            ..Default::default()
        },
        CollectionCommand::Remove { name, clients } => ChangeMembersRequest {
            name,
            remove_clients: clients,
            ..Default::default()
        },
    };
    let answer = site.collections().change_members(request).await?;
    printer.show(&answer.into_inner())
}
