//! `muster create`: collections, update lists, packages, deployments and enrolment tokens.

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use muster_proto::catalog::CreateUpdateListRequest;
use muster_proto::client::CreateEnrolmentTokensRequest;
use muster_proto::collection::CreateCollectionRequest;
use muster_proto::content::{CreatePackageRequest, GetPackageRequest};
use muster_proto::convert::{to_duration, to_timestamp};
use muster_proto::deployment::CreateDeploymentRequest;
use muster_proto::policy::Verbosity;

use super::get::{Filter, collection_id};
use crate::cli::{moment, verbosity};
use crate::client::{Patience, Site};
use crate::failure::{Failure, Kind};
use crate::output::text::at;
use crate::output::{Printer, live::Live};

/// How often a package is looked at while it is waited for.
const LOOK: Duration = Duration::from_secs(1);

/// What can be made.
#[derive(Debug, Subcommand)]
pub(crate) enum CreateCommand {
    /// Make a collection of clients
    #[command(
        after_help = "Example:\n  muster create collection Pilot --client web-01 --client web-02"
    )]
    Collection {
        /// Name of the collection
        name: String,
        /// For people
        #[arg(long, default_value = "")]
        description: String,
        /// Host name or id of a member; may be given several times
        #[arg(long)]
        client: Vec<String>,
    },
    /// Make a list of updates, by number or by what a filter finds now
    #[command(after_help = "\
Example:
  muster create update-list june --required --classification security
  muster create update-list openssl --update 4711 --update 4712")]
    UpdateList(UpdateListArgs),
    /// Put the files of updates on the distribution points
    #[command(after_help = "Example:\n  muster create package june --update-list june --wait")]
    Package(PackageArgs),
    /// Deploy updates to a collection
    #[command(after_help = "\
Example:
  muster create deployment june --collection Pilot --update-list june --deadline +2h")]
    Deployment(DeploymentArgs),
    /// Make one-use tokens with which clients enrol; they are shown once
    #[command(
        after_help = "Example:\n  muster create token --count 20 --valid-for 1h --collection Pilot"
    )]
    Token {
        /// How many
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// How long they may be used
        #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
        valid_for: Duration,
        /// Collection that the clients join; may be given several times
        #[arg(long)]
        collection: Vec<String>,
    },
}

/// Arguments of `muster create update-list`.
#[derive(Debug, Args)]
pub(crate) struct UpdateListArgs {
    /// Name of the update list
    name: String,
    /// For people
    #[arg(long, default_value = "")]
    description: String,
    /// Number of an update; may be given several times
    #[arg(long, value_name = "NUMBER")]
    update: Vec<u32>,
    #[command(flatten)]
    filter: Filter,
}

/// Arguments of `muster create package`.
#[derive(Debug, Args)]
pub(crate) struct PackageArgs {
    /// Name of the package
    name: String,
    #[command(flatten)]
    updates: Updates,
    /// Every binary package of the updates, not only those that some client has
    #[arg(long)]
    all_leaves: bool,
    /// Wait until the distribution points have every file
    #[arg(long)]
    wait: bool,
}

/// Arguments of `muster create deployment`.
#[derive(Debug, Args)]
pub(crate) struct DeploymentArgs {
    /// Name of the deployment
    name: String,
    /// The clients
    #[arg(long)]
    collection: String,
    #[command(flatten)]
    updates: Updates,
    /// When clients may install: now, +2h, or a time as in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = moment)]
    available: Option<Timestamp>,
    /// When clients must install; without it the deployment is optional
    #[arg(long, value_name = "TIME", value_parser = moment)]
    deadline: Option<Timestamp>,
    /// Never restart a client for it
    #[arg(long)]
    suppress_restart: bool,
    /// Which states of it clients send: with errors, restarts that are pending are not seen
    #[arg(long, value_name = "LEVEL", default_value = "all", value_parser = verbosity())]
    verbosity: Verbosity,
}

/// Updates by list or by number.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Updates {
    /// The updates of this list
    #[arg(long, value_name = "NAME")]
    update_list: Option<String>,
    /// Number of an update; may be given several times
    #[arg(long, value_name = "NUMBER")]
    update: Vec<u32>,
}

impl CreateCommand {
    /// Whether it waits.
    pub(crate) const fn lasts(&self) -> bool {
        match self {
            Self::Package(args) => args.wait,
            Self::Collection { .. }
            | Self::UpdateList(_)
            | Self::Deployment(_)
            | Self::Token { .. } => false,
        }
    }
}

/// Runs what was typed.
pub(crate) async fn run(
    command: CreateCommand,
    site: &Site,
    printer: &Printer,
) -> Result<(), Failure> {
    match command {
        CreateCommand::Collection {
            name,
            description,
            client,
        } => {
            let request = CreateCollectionRequest {
                name,
                description,
                clients: client,
            };
            let answer = site.collections().create_collection(request).await?;
            printer.show(&answer.into_inner())
        }
        CreateCommand::UpdateList(args) => update_list(args, site, printer).await,
        CreateCommand::Package(args) => package(args, site, printer).await,
        CreateCommand::Deployment(args) => {
            let request = CreateDeploymentRequest {
                name: args.name,
                collection: args.collection,
                update_list: args.updates.update_list.unwrap_or_default(),
                update_numbers: args.updates.update,
                available_at: args.available.map(to_timestamp),
                deadline_at: args.deadline.map(to_timestamp),
                suppress_restart: args.suppress_restart,
                verbosity: Some(args.verbosity.into()),
            };
            let answer = site
                .deployments()
                .create_deployment(request)
                .await?
                .into_inner();
            printer.warn(&answer.warnings);
            printer.show(&answer)
        }
        CreateCommand::Token {
            count,
            valid_for,
            collection,
        } => {
            let mut collection_ids = Vec::new();
            for name in collection {
                collection_ids.push(collection_id(site, name).await?);
            }
            let valid_for = Some(to_duration(valid_for));
            let request = CreateEnrolmentTokensRequest {
                count,
                valid_for,
                collection_ids,
            };
            let answer = site
                .clients()
                .create_enrolment_tokens(request)
                .await?
                .into_inner();
            let until = at(answer.expires_at.as_ref(), Timestamp::now());
            printer.note(&format!(
                "each can be used once until {until}; they are not shown again"
            ));
            printer.show(&answer)
        }
    }
}

async fn update_list(args: UpdateListArgs, site: &Site, printer: &Printer) -> Result<(), Failure> {
    if args.update.is_empty() == args.filter.is_empty() {
        let text =
            "an update list needs either numbers (--update) or a filter (such as --required)";
        return Err(Failure::usage("NO_UPDATES", text)
            .hint("muster create update-list june --required --classification security"));
    }
    let filter = match args.filter.is_empty() {
        true => None,
        false => Some(args.filter.resolve(site).await?),
    };
    let request = CreateUpdateListRequest {
        name: args.name,
        description: args.description,
        update_numbers: args.update,
        filter,
    };
    let answer = site
        .updates()
        .create_update_list(request)
        .await?
        .into_inner();
    printer.warn(&answer.warnings);
    printer.show(&answer)
}

async fn package(args: PackageArgs, site: &Site, printer: &Printer) -> Result<(), Failure> {
    let request = CreatePackageRequest {
        name: args.name.clone(),
        update_list: args.updates.update_list.unwrap_or_default(),
        update_numbers: args.updates.update,
        all_leaves: args.all_leaves,
    };
    let answer = site.packages().create_package(request).await?.into_inner();
    printer.warn(&answer.warnings);
    if args.wait {
        wait(args.name, site, printer).await
    } else {
        printer.show(&answer)
    }
}

/// Watches a package until every file is available or has failed.
async fn wait(name: String, site: &Site, printer: &Printer) -> Result<(), Failure> {
    let mut live = Live::new(printer);
    let mut patience = Patience::new();
    loop {
        let answer = match site
            .packages()
            .get_package(GetPackageRequest { name: name.clone() })
            .await
        {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                patience.wait(status).await?;
                continue;
            }
        };
        patience.refill();
        live.update(&answer)?;
        let package = answer.package.clone().unwrap_or_default();
        if package.files_available + package.files_failed >= package.file_count {
            live.finish(&answer)?;
            return match package.files_failed {
                0 => Ok(()),
                failed => {
                    let text = format!(
                        "{failed} of {} files failed: {}",
                        package.file_count, package.problem
                    );
                    Err(Failure::new(Kind::Partial, "CONTENT_FAILED", text)
                        .hint(format!("the site goes on trying; `muster describe package {name}` shows each file")))
                }
            };
        }
        tokio::time::sleep(LOOK).await;
    }
}
