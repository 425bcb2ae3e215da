//! `muster get`: lists, page by page, whole unless `--limit` says otherwise.

use clap::{Args, Subcommand, ValueEnum};
use muster_proto::catalog::{
    Classification, ListUpdateListsRequest, ListUpdateListsResponse, ListUpdatesRequest,
    ListUpdatesResponse, UpdateFilter, UpdateSort,
};
use muster_proto::client::{ListClientsRequest, ListClientsResponse};
use muster_proto::collection::{
    GetCollectionRequest, ListCollectionsRequest, ListCollectionsResponse,
};
use muster_proto::content::{ListPackagesRequest, ListPackagesResponse};
use muster_proto::deployment::{ListDeploymentsRequest, ListDeploymentsResponse};
use muster_proto::site::ListSitesRequest;
use prost::bytes::Bytes;

use crate::client::{Site, pages};
use crate::failure::Failure;
use crate::output::Printer;

/// What can be listed.
#[derive(Debug, Subcommand)]
pub(crate) enum GetCommand {
    /// List the sites
    #[command(visible_alias = "site", after_help = "Example:\n  muster get sites")]
    Sites,
    /// List the clients
    #[command(
        visible_alias = "client",
        after_help = "Example:\n  muster get clients --name 'web-*'"
    )]
    Clients {
        /// Host name, or the beginning of host names when it ends in *
        #[arg(long)]
        name: Option<String>,
        /// Only members of this collection
        #[arg(long)]
        collection: Option<String>,
        #[command(flatten)]
        of: OfSite,
        #[command(flatten)]
        limit: Limit,
    },
    /// List the updates
    #[command(
        visible_alias = "update",
        after_help = "Example:\n  muster get updates --required --classification security --sort required"
    )]
    Updates {
        #[command(flatten)]
        filter: Filter,
        /// What comes first
        #[arg(long, value_enum, default_value_t = Sort::Number)]
        sort: Sort,
        #[command(flatten)]
        limit: Limit,
    },
    /// List the update lists
    #[command(
        visible_alias = "update-list",
        after_help = "Example:\n  muster get update-lists"
    )]
    UpdateLists {
        #[command(flatten)]
        limit: Limit,
    },
    /// List the collections
    #[command(
        visible_alias = "collection",
        after_help = "Example:\n  muster get collections"
    )]
    Collections {
        #[command(flatten)]
        limit: Limit,
    },
    /// List the deployment packages
    #[command(
        visible_alias = "package",
        after_help = "Example:\n  muster get packages"
    )]
    Packages {
        #[command(flatten)]
        limit: Limit,
    },
    /// List the deployments
    #[command(
        visible_alias = "deployment",
        after_help = "Example:\n  muster get deployments -o json"
    )]
    Deployments {
        #[command(flatten)]
        limit: Limit,
    },
}

/// How much of a list.
#[derive(Debug, Args)]
pub(crate) struct Limit {
    /// At most so many; 0 is all
    #[arg(long, default_value_t = 0)]
    limit: u32,
}

/// Whose clients.
#[derive(Debug, Args)]
pub(crate) struct OfSite {
    /// Only clients of this site and of those below it; by default of all
    #[arg(
        long = "site",
        value_name = "CODE",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) site_code: String,
}

/// Which updates.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only this classification; may be given several times
    #[arg(long, value_parser = crate::cli::classification())]
    classification: Vec<Classification>,
    /// Only this product, such as "Debian 12"
    #[arg(long)]
    product: Option<String>,
    /// Only this suite, such as bookworm-security
    #[arg(long)]
    suite: Option<String>,
    /// Only this source package, or all that begin so when it ends in *
    #[arg(long)]
    source: Option<String>,
    /// Only updates that fix this CVE
    #[arg(long)]
    cve: Option<String>,
    /// Only updates that some client requires
    #[arg(long)]
    required: bool,
    /// Only updates that a member of this collection requires
    #[arg(long, value_name = "COLLECTION")]
    required_in: Option<String>,
    /// Also updates that newer ones replace
    #[arg(long)]
    superseded: bool,
    /// Also updates that left the archive
    #[arg(long)]
    expired: bool,
}

impl Filter {
    /// Whether nothing was asked for, so that everything would be found.
    pub(crate) fn is_empty(&self) -> bool {
        self.classification.is_empty()
            && self.product.is_none()
            && self.suite.is_none()
            && self.source.is_none()
            && self.cve.is_none()
            && self.required_in.is_none()
            && !(self.required || self.superseded || self.expired)
    }

    /// The filter of the wire; a collection is looked up by its name.
    pub(crate) async fn resolve(self, site: &Site) -> Result<UpdateFilter, Failure> {
        let required_in_collection_id = match self.required_in {
            Some(name) => collection_id(site, name).await?,
            None => Bytes::new(),
        };
        Ok(UpdateFilter {
            classifications: self.classification.into_iter().map(i32::from).collect(),
            product: self.product.unwrap_or_default(),
            suite: self.suite.unwrap_or_default(),
            source_package: self.source.unwrap_or_default(),
            required_only: self.required,
            include_superseded: self.superseded,
            include_expired: self.expired,
            cve_id: self.cve.unwrap_or_default(),
            required_in_collection_id,
        })
    }
}

/// The order of updates.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Sort {
    /// The number of the update
    Number,
    /// Required by most clients first
    Required,
    /// Newest first
    Released,
    /// The name of the source package
    Source,
}

impl From<Sort> for UpdateSort {
    fn from(sort: Sort) -> Self {
        match sort {
            Sort::Number => Self::Number,
            Sort::Required => Self::RequiredDescending,
            Sort::Released => Self::ReleasedDescending,
            Sort::Source => Self::SourcePackage,
        }
    }
}

/// The id of a collection that was named.
pub(crate) async fn collection_id(site: &Site, name: String) -> Result<Bytes, Failure> {
    let answer = site
        .collections()
        .get_collection(GetCollectionRequest { name })
        .await?;
    Ok(answer
        .into_inner()
        .collection
        .unwrap_or_default()
        .collection_id)
}

/// Runs what was typed.
pub(crate) async fn run(
    command: GetCommand,
    site: &Site,
    printer: &Printer,
) -> Result<(), Failure> {
    match command {
        GetCommand::Sites => {
            let answer = site.sites().list_sites(ListSitesRequest {}).await?;
            printer.show(&answer.into_inner())
        }
        GetCommand::Clients {
            name,
            collection,
            of: OfSite { site_code },
            limit,
        } => {
            let collection_id = match collection {
                Some(name) => collection_id(site, name).await?,
                None => Bytes::new(),
            };
            let mut whole = ListClientsResponse::default();
            whole.clients = pages(limit.limit, async |page_size, page_token| {
                let request = ListClientsRequest {
                    page_size,
                    page_token,
                    host_name: name.clone().unwrap_or_default(),
                    collection_id: collection_id.clone(),
                    site_code: site_code.clone(),
                };
                let page = site.clients().list_clients(request).await?.into_inner();
                whole.total = page.total;
                Ok((page.clients, page.next_page_token))
            })
            .await?;
            printer.show(&whole)
        }
        GetCommand::Updates {
            filter,
            sort,
            limit,
        } => {
            let filter = filter.resolve(site).await?;
            let mut whole = ListUpdatesResponse::default();
            whole.updates = pages(limit.limit, async |page_size, page_token| {
                let request = ListUpdatesRequest {
                    filter: Some(filter.clone()),
                    sort: UpdateSort::from(sort).into(),
                    page_size,
                    page_token,
                };
                let page = site.updates().list_updates(request).await?.into_inner();
                whole.total = page.total;
                Ok((page.updates, page.next_page_token))
            })
            .await?;
            printer.show(&whole)
        }
        GetCommand::UpdateLists { limit } => {
            let update_lists = pages(limit.limit, async |page_size, page_token| {
                let request = ListUpdateListsRequest {
                    page_size,
                    page_token,
                };
                let page = site
                    .updates()
                    .list_update_lists(request)
                    .await?
                    .into_inner();
                Ok((page.update_lists, page.next_page_token))
            })
            .await?;
            printer.show(&ListUpdateListsResponse {
                update_lists,
                ..Default::default()
            })
        }
        GetCommand::Collections { limit } => {
            let collections = pages(limit.limit, async |page_size, page_token| {
                let request = ListCollectionsRequest {
                    page_size,
                    page_token,
                };
                let page = site
                    .collections()
                    .list_collections(request)
                    .await?
                    .into_inner();
                Ok((page.collections, page.next_page_token))
            })
            .await?;
            printer.show(&ListCollectionsResponse {
                collections,
                ..Default::default()
            })
        }
        GetCommand::Packages { limit } => {
            let packages = pages(limit.limit, async |page_size, page_token| {
                let request = ListPackagesRequest {
                    page_size,
                    page_token,
                };
                let page = site.packages().list_packages(request).await?.into_inner();
                Ok((page.packages, page.next_page_token))
            })
            .await?;
            printer.show(&ListPackagesResponse {
                packages,
                ..Default::default()
            })
        }
        GetCommand::Deployments { limit } => {
            let deployments = pages(limit.limit, async |page_size, page_token| {
                let request = ListDeploymentsRequest {
                    page_size,
                    page_token,
                };
                let page = site
                    .deployments()
                    .list_deployments(request)
                    .await?
                    .into_inner();
                Ok((page.deployments, page.next_page_token))
            })
            .await?;
            printer.show(&ListDeploymentsResponse {
                deployments,
                ..Default::default()
            })
        }
    }
}
