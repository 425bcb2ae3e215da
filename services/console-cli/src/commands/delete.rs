//! `muster delete`: asks first, goes on after a failure, and says what was left.

use clap::{Args, Subcommand};
use muster_proto::catalog::DeleteUpdateListRequest;
use muster_proto::client::{DeleteClientRequest, GetClientRequest};
use muster_proto::collection::DeleteCollectionRequest;
use muster_proto::content::DeletePackageRequest;
use muster_proto::deployment::DeleteDeploymentRequest;
use serde_json::json;

use super::Plain;
use crate::client::Site;
use crate::failure::{Failure, Kind};
use crate::output::{Printer, confirm};

/// What can be deleted.
#[derive(Debug, Subcommand)]
pub(crate) enum DeleteCommand {
    /// Delete clients: their certificates are refused and their states removed
    #[command(after_help = "Example:\n  muster delete client web-01")]
    Client(Names),
    /// Delete update lists
    #[command(after_help = "Example:\n  muster delete update-list june")]
    UpdateList(Names),
    /// Delete collections; their members stay clients
    #[command(after_help = "Example:\n  muster delete collection Pilot")]
    Collection(Names),
    /// Delete deployment packages, and content that nothing else uses
    #[command(after_help = "Example:\n  muster delete package june")]
    Package(Names),
    /// Delete deployments; clients stop at their next poll
    #[command(after_help = "Example:\n  muster delete deployment june --yes")]
    Deployment(Names),
}

/// What is deleted.
#[derive(Debug, Args)]
pub(crate) struct Names {
    /// Names or ids; only what this site owns
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Runs what was typed.
pub(crate) async fn run(
    command: DeleteCommand,
    site: &Site,
    printer: &Printer,
) -> Result<(), Failure> {
    let (kind, args) = match command {
        DeleteCommand::Client(args) => ("client", args),
        DeleteCommand::UpdateList(args) => ("update-list", args),
        DeleteCommand::Collection(args) => ("collection", args),
        DeleteCommand::Package(args) => ("package", args),
        DeleteCommand::Deployment(args) => ("deployment", args),
    };
    if !args.yes {
        confirm(&format!("delete {kind} {}?", args.names.join(", ")))?;
    }
    let (mut deleted, mut failures) = (Vec::new(), Vec::new());
    for name in args.names {
        match delete(kind, name.clone(), site).await {
            Ok(()) => deleted.push(name),
            Err(failure) => failures.push((name, failure)),
        }
    }
    if !deleted.is_empty() {
        let lines: Vec<String> = deleted
            .iter()
            .map(|name| format!("{kind} \"{name}\" deleted"))
            .collect();
        printer.show(&Plain {
            value: json!({"kind": kind, "deleted": deleted}),
            text: lines.join("\n"),
            names: deleted.clone(),
        })?;
    }
    summarise(deleted.len(), failures)
}

async fn delete(kind: &str, name: String, site: &Site) -> Result<(), Failure> {
    match kind {
        "client" => {
            let answer = site
                .clients()
                .get_client(GetClientRequest { name })
                .await?
                .into_inner();
            let client_id = answer.client.unwrap_or_default().client_id;
            site.clients()
                .delete_client(DeleteClientRequest { client_id })
                .await?;
        }
        "update-list" => {
            site.updates()
                .delete_update_list(DeleteUpdateListRequest { name })
                .await?;
        }
        "collection" => {
            site.collections()
                .delete_collection(DeleteCollectionRequest { name })
                .await?;
        }
        "package" => {
            site.packages()
                .delete_package(DeletePackageRequest { name })
                .await?;
        }
        _ => {
            site.deployments()
                .delete_deployment(DeleteDeploymentRequest { name })
                .await?;
        }
    }
    Ok(())
}

/// A lone failure is itself; several, or some beside successes, are one with all of them.
fn summarise(deleted: usize, mut failures: Vec<(String, Failure)>) -> Result<(), Failure> {
    if failures.len() == 1 && deleted == 0 {
        return failures.pop().map_or(Ok(()), |(_, failure)| Err(failure));
    }
    if failures.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = failures
        .iter()
        .map(|(name, failure)| format!("{name}: {failure}"))
        .collect();
    let reason = failures
        .first()
        .map_or("", |(_, failure)| failure.reason.as_str());
    let kind = match failures.first() {
        Some((_, failure)) if deleted == 0 => failure.kind,
        _ => Kind::Partial,
    };
    Err(Failure::new(
        kind,
        reason,
        format!("not deleted: {}", texts.join("; ")),
    ))
}
