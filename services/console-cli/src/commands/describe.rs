//! `muster describe`: one thing in full.

use clap::Subcommand;
use muster_proto::catalog::{GetUpdateListRequest, GetUpdateRequest, get_update_request::Key};
use muster_proto::client::GetClientRequest;
use muster_proto::collection::GetCollectionRequest;
use muster_proto::content::GetPackageRequest;
use muster_proto::deployment::GetDeploymentRequest;
use muster_proto::site::GetSiteRequest;

use crate::client::Site;
use crate::failure::Failure;
use crate::output::Printer;

/// What can be shown.
#[derive(Debug, Subcommand)]
pub(crate) enum DescribeCommand {
    /// Show a site and its roles
    #[command(after_help = "Example:\n  muster describe site")]
    Site {
        /// Site code; by default the site that is asked
        name: Option<String>,
    },
    /// Show a client
    #[command(after_help = "Example:\n  muster describe client web-01")]
    Client {
        /// Host name or id
        name: String,
    },
    /// Show an update and its files
    #[command(after_help = "Example:\n  muster describe update 4711")]
    Update {
        /// Number or id
        name: String,
    },
    /// Show an update list and its updates
    #[command(after_help = "Example:\n  muster describe update-list june")]
    UpdateList {
        /// Name or id; CEN/june is what site CEN calls june
        name: String,
    },
    /// Show a collection
    #[command(after_help = "Example:\n  muster describe collection Pilot")]
    Collection {
        /// Name or id; CEN/june is what site CEN calls june
        name: String,
    },
    /// Show a deployment package, and its files that are not available
    #[command(after_help = "Example:\n  muster describe package june")]
    Package {
        /// Name or id; CEN/june is what site CEN calls june
        name: String,
    },
    /// Show a deployment, and how far its clients are
    #[command(after_help = "Example:\n  muster describe deployment june")]
    Deployment {
        /// Name or id; CEN/june is what site CEN calls june
        name: String,
    },
}

/// Runs what was typed.
pub(crate) async fn run(
    command: DescribeCommand,
    site: &Site,
    printer: &Printer,
) -> Result<(), Failure> {
    match command {
        DescribeCommand::Site { name } => {
            let site_code = name.unwrap_or_default();
            let answer = site.sites().get_site(GetSiteRequest { site_code }).await?;
            printer.show(&answer.into_inner())
        }
        DescribeCommand::Client { name } => {
            let answer = site.clients().get_client(GetClientRequest { name }).await?;
            printer.show(&answer.into_inner())
        }
        DescribeCommand::Update { name } => {
            let key = Some(name.parse().map_or(Key::UpdateId(name), Key::UpdateNo));
            let answer = site.updates().get_update(GetUpdateRequest { key }).await?;
            printer.show(&answer.into_inner())
        }
        DescribeCommand::UpdateList { name } => {
            let answer = site
                .updates()
                .get_update_list(GetUpdateListRequest { name })
                .await?;
            printer.show(&answer.into_inner())
        }
        DescribeCommand::Collection { name } => {
            let answer = site
                .collections()
                .get_collection(GetCollectionRequest { name })
                .await?;
            printer.show(&answer.into_inner())
        }
        DescribeCommand::Package { name } => {
            let answer = site
                .packages()
                .get_package(GetPackageRequest { name })
                .await?;
            printer.show(&answer.into_inner())
        }
        DescribeCommand::Deployment { name } => {
            let answer = site
                .deployments()
                .get_deployment(GetDeploymentRequest { name })
                .await?;
            printer.show(&answer.into_inner())
        }
    }
}
