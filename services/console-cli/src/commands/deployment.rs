//! `muster deployment`: following one.

use clap::Subcommand;
use muster_proto::deployment::{WatchDeploymentRequest, WatchDeploymentResponse};

use super::follow;
use crate::client::Site;
use crate::failure::{Failure, Kind};
use crate::output::Printer;

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum DeploymentCommand {
    /// Show how far the clients are, whenever it changes
    #[command(after_help = "Example:\n  muster deployment watch june --until-done")]
    Watch {
        /// Name or id
        name: String,
        /// End when every client is done or has failed; exit code 6 when one failed
        #[arg(long)]
        until_done: bool,
    },
}

/// Runs what was typed.
pub(crate) async fn run(
    command: DeploymentCommand,
    site: &Site,
    printer: &Printer,
) -> Result<(), Failure> {
    let DeploymentCommand::Watch { name, until_done } = command;
    let open = async || {
        let request = WatchDeploymentRequest {
            name: name.clone(),
            until_done,
        };
        Ok(site
            .deployments()
            .watch_deployment(request)
            .await?
            .into_inner())
    };
    let done = |answer: &WatchDeploymentResponse| {
        let summary = answer.summary.as_ref();
        until_done && summary.is_none_or(|it| it.in_progress == 0 && it.unknown == 0)
    };
    let summary = follow(printer, open, done)
        .await?
        .summary
        .unwrap_or_default();
    if summary.failed > 0 {
        let text = format!("{} of {} clients failed", summary.failed, summary.clients);
        return Err(
            Failure::new(Kind::Partial, "CLIENTS_FAILED", text).hint(format!(
                "`muster report errors --deployment {name}` says why"
            )),
        );
    }
    Ok(())
}
