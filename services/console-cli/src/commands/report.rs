//! `muster report`: the questions that a fleet is asked.

use clap::Subcommand;
use muster_proto::report::{
    GetClientReportRequest, GetComplianceRequest, GetEnforcementRequest, GetEnforcementResponse,
    ListErrorsRequest,
};
use muster_proto::state::DeploymentEnforcement;

use crate::client::{Site, pages};
use crate::failure::Failure;
use crate::output::Printer;

/// What can be asked.
#[derive(Debug, Subcommand)]
pub(crate) enum ReportCommand {
    /// Which clients of a collection have the updates of a list
    #[command(
        after_help = "Example:\n  muster report compliance --update-list june --collection Pilot"
    )]
    Compliance {
        /// The updates; by default all that some client requires
        #[arg(long, value_name = "NAME")]
        update_list: Option<String>,
        /// The clients; by default all
        #[arg(long, value_name = "NAME")]
        collection: Option<String>,
    },
    /// How far each client is with a deployment
    #[command(after_help = "\
Example:
  muster report enforcement --deployment june --state failed-to-install --updates")]
    Enforcement {
        /// The deployment
        #[arg(long, value_name = "NAME")]
        deployment: String,
        /// Only clients in this state
        #[arg(long, value_parser = crate::cli::enforcement())]
        state: Option<DeploymentEnforcement>,
        /// Also each update of each client (JSON always has them)
        #[arg(long)]
        updates: bool,
        /// At most so many clients; 0 is all
        #[arg(long, default_value_t = 0)]
        limit: u32,
    },
    /// What goes wrong, most frequent first
    #[command(after_help = "Example:\n  muster report errors --deployment june")]
    Errors {
        /// Only of this deployment
        #[arg(long, value_name = "NAME")]
        deployment: Option<String>,
    },
    /// All that is known of the updates of one client
    #[command(after_help = "Example:\n  muster report client web-01")]
    Client {
        /// Host name or id
        name: String,
    },
}

/// Runs what was typed.
pub(crate) async fn run(
    command: ReportCommand,
    site: &Site,
    printer: &Printer,
) -> Result<(), Failure> {
    match command {
        ReportCommand::Compliance {
            update_list,
            collection,
        } => {
            let request = GetComplianceRequest {
                update_list: update_list.unwrap_or_default(),
                collection: collection.unwrap_or_default(),
            };
            let answer = site.reports().get_compliance(request).await?;
            printer.show(&answer.into_inner())
        }
        ReportCommand::Enforcement {
            deployment,
            state,
            updates,
            limit,
        } => {
            let mut whole = GetEnforcementResponse::default();
            whole.clients = pages(limit, async |page_size, page_token| {
                let request = GetEnforcementRequest {
                    deployment: deployment.clone(),
                    state: state.unwrap_or_default().into(),
                    page_size,
                    page_token,
                };
                let page = site.reports().get_enforcement(request).await?.into_inner();
                whole.states = page.states;
                Ok((page.clients, page.next_page_token))
            })
            .await?;
            if !updates && printer.is_for_people() {
                whole
                    .clients
                    .iter_mut()
                    .for_each(|client| client.updates.clear());
            }
            printer.show(&whole)
        }
        ReportCommand::Errors { deployment } => {
            let request = ListErrorsRequest {
                deployment: deployment.unwrap_or_default(),
            };
            let answer = site.reports().list_errors(request).await?;
            printer.show(&answer.into_inner())
        }
        ReportCommand::Client { name } => {
            let request = GetClientReportRequest { client: name };
            let answer = site.reports().get_client_report(request).await?;
            printer.show(&answer.into_inner())
        }
    }
}
