//! `muster site`: the hierarchy, and how this site hangs in it.

use std::time::Duration;

use clap::Subcommand;
use muster_proto::convert;
use muster_proto::site::{
    CreateInvitationRequest, GetSiteRequest, JoinParentRequest, LeaveParentRequest,
    ListLinksRequest, ListSitesRequest, RemoveChildRequest,
};
use serde_json::json;

use super::Plain;
use crate::client::{Patience, Site};
use crate::failure::Failure;
use crate::output::{Printer, confirm, live::Live};
use crate::view::SiteTree;

/// What can be done with sites.
#[derive(Debug, Subcommand)]
pub(crate) enum SiteCommand {
    /// List the sites that this one knows
    #[command(after_help = "Example:\n  muster site list --tree")]
    List {
        /// Draw who is below whom
        #[arg(long)]
        tree: bool,
    },
    /// Make a token with which another site becomes a child of this one
    #[command(after_help = "Example:\n  muster site invite P01 --valid-for 1h")]
    Invite {
        /// The code of the site that is invited
        #[arg(value_name = "CODE")]
        code: String,
        /// How long the token is good
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
        valid_for: Duration,
    },
    /// Make this site a child of the one that made the token
    #[command(after_help = "Example:\n  muster site join muster-join-AUNFTg")]
    Join {
        /// What `muster site invite` printed there
        #[arg(value_name = "TOKEN")]
        token: String,
    },
    /// End the link to the parent; what the sites above own goes, after a question
    #[command(after_help = "Example:\n  muster site leave --yes")]
    Leave {
        /// Leave even when the parent does not answer; it has to remove this site then
        #[arg(long)]
        force: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// End the link to a child that cannot leave by itself; its clients and what it owns go, after a question
    #[command(after_help = "Example:\n  muster site remove P01")]
    Remove {
        /// The code of the child
        #[arg(value_name = "CODE")]
        code: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Show the links of this site: how they are, and how far behind
    #[command(after_help = "Example:\n  muster site status --watch")]
    Status {
        /// Stay and show every change
        #[arg(long)]
        watch: bool,
        /// How often to look
        #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
        every: Duration,
    },
}

impl SiteCommand {
    /// A watch lasts, and so does a question to a person.
    pub(crate) const fn lasts(&self) -> bool {
        match self {
            Self::Leave { .. } | Self::Remove { .. } => true,
            Self::Status { watch, .. } => *watch,
            Self::List { .. } | Self::Invite { .. } | Self::Join { .. } => false,
        }
    }
}

/// Runs what was typed.
pub(crate) async fn run(
    command: SiteCommand,
    site: &Site,
    printer: &Printer,
) -> Result<(), Failure> {
    match command {
        SiteCommand::List { tree } => {
            let answer = site.sites().list_sites(ListSitesRequest {}).await?;
            let sites = answer.into_inner();
            if tree {
                return printer.show(&SiteTree(sites));
            }
            printer.show(&sites)
        }
        SiteCommand::Invite { code, valid_for } => {
            let request = CreateInvitationRequest {
                site_code: code,
                valid_for: Some(convert::to_duration(valid_for)),
            };
            let answer = site.sites().create_invitation(request).await?;
            printer.show(&answer.into_inner())
        }
        SiteCommand::Join { token } => {
            let answer = site
                .sites()
                .join_parent(JoinParentRequest { token })
                .await?;
            printer.show(&answer.into_inner())
        }
        SiteCommand::Leave { force, yes } => leave(force, yes, site, printer).await,
        SiteCommand::Remove { code, yes } => {
            if !yes {
                confirm(&format!(
                    "remove site {code}, and what it and the sites below it reported?"
                ))?;
            }
            let request = RemoveChildRequest {
                site_code: code.clone(),
            };
            site.sites().remove_child(request).await?;
            printer.show(&Plain {
                value: json!({"removed": code}),
                text: format!("site \"{code}\" removed"),
                names: vec![code],
            })
        }
        SiteCommand::Status { watch, every } => status(watch, every, site, printer).await,
    }
}

async fn leave(force: bool, yes: bool, site: &Site, printer: &Printer) -> Result<(), Failure> {
    let request = GetSiteRequest::default();
    let own = site.sites().get_site(request).await?.into_inner();
    let parent = own.site.unwrap_or_default().parent_site_code;
    if !yes {
        confirm(&format!("leave {parent}, and forget the sites above?"))?;
    }
    let request = LeaveParentRequest {
        without_parent: force,
    };
    site.sites().leave_parent(request).await?;
    printer.show(&Plain {
        value: json!({"left": parent}),
        text: format!("site \"{parent}\" left"),
        names: vec![parent],
    })
}

async fn status(
    watch: bool,
    every: Duration,
    site: &Site,
    printer: &Printer,
) -> Result<(), Failure> {
    if !watch {
        let answer = site.sites().list_links(ListLinksRequest {}).await?;
        return printer.show(&answer.into_inner());
    }
    let mut live = Live::new(printer);
    let mut patience = Patience::new();
    loop {
        match site.sites().list_links(ListLinksRequest {}).await {
            Ok(answer) => {
                patience.refill();
                live.update(&answer.into_inner())?;
                tokio::time::sleep(every.max(Duration::from_millis(100))).await;
            }
            Err(status) => patience.wait(status).await?,
        }
    }
}
