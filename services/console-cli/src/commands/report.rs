//! `muster report`: the questions that a fleet is asked.

use std::time::Duration;

use clap::Subcommand;
use jiff::Timestamp;
use muster_proto::convert;
use muster_proto::report::get_trend_request::Thing;
use muster_proto::report::{
    ComplianceSort, Coverage, ErrorGrouping, GetClientReportRequest, GetComplianceRequest,
    GetCoverageRequest, GetEnforcementRequest, GetEnforcementResponse, GetEvaluationRequest,
    GetEvaluationResponse, GetScansRequest, GetTrendRequest, GetUpdateComplianceRequest,
    ListAnswer, ListComplianceClientsRequest, ListComplianceClientsResponse,
    ListCoverageClientsRequest, ListCoverageClientsResponse, ListErrorClientsRequest,
    ListErrorClientsResponse, ListErrorsRequest, ListScanClientsRequest, ListScanClientsResponse,
    ListUpdateClientsRequest, ListUpdateClientsResponse, UpdateAnswer,
    get_update_compliance_request, list_update_clients_request,
};
use muster_proto::state::{DeploymentEnforcement, DeploymentEvaluation, UpdateSourceScan};

use super::get::OfSite;
use crate::client::{Site, pages};
use crate::failure::Failure;
use crate::output::Printer;

/// What can be asked.
#[derive(Debug, Subcommand)]
pub(crate) enum ReportCommand {
    /// Which clients of a collection have the updates of a list
    #[command(after_help = "\
Example:
  muster report compliance --update-list june --collection Pilot
  muster report compliance --update-list june --clients non-compliant
  muster report compliance --update-list june --site P01")]
    Compliance {
        /// The updates; by default all that some client requires
        #[arg(long, value_name = "NAME")]
        update_list: Option<String>,
        /// The clients; by default all
        #[arg(long, value_name = "NAME")]
        collection: Option<String>,
        /// What comes first
        #[arg(long, value_parser = crate::cli::compliance_sort(), default_value = "required")]
        sort: ComplianceSort,
        /// Instead of counts, the clients that say this of the list
        #[arg(long, value_name = "ANSWER", requires = "update_list",
              value_parser = crate::cli::list_answer())]
        clients: Option<ListAnswer>,
        #[command(flatten)]
        of: OfSite,
        /// At most so many clients; 0 is all
        #[arg(long, default_value_t = 0)]
        limit: u32,
    },
    /// How many clients have one update, need it, or say nothing of it
    #[command(after_help = "\
Example:
  muster report update 4711 --collection Pilot
  muster report update 4711 --clients no-data")]
    Update {
        /// Number or id
        name: String,
        /// The clients; by default all
        #[arg(long, value_name = "NAME")]
        collection: Option<String>,
        /// Instead of counts, the clients that say this of the update
        #[arg(long, value_name = "ANSWER", value_parser = crate::cli::update_answer())]
        clients: Option<UpdateAnswer>,
        #[command(flatten)]
        of: OfSite,
        /// At most so many clients; 0 is all
        #[arg(long, default_value_t = 0)]
        limit: u32,
    },
    /// Of how many clients there is data, and how old their catalog is
    #[command(after_help = "\
Example:
  muster report coverage --collection Pilot
  muster report coverage --clients never-reported")]
    Coverage {
        /// The clients; by default all
        #[arg(long, value_name = "NAME")]
        collection: Option<String>,
        /// Instead of counts, these clients
        #[arg(long, value_name = "WHICH", value_parser = crate::cli::coverage())]
        clients: Option<Coverage>,
        #[command(flatten)]
        of: OfSite,
        /// At most so many clients; 0 is all
        #[arg(long, default_value_t = 0)]
        limit: u32,
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
        #[command(flatten)]
        of: OfSite,
        /// At most so many clients; 0 is all
        #[arg(long, default_value_t = 0)]
        limit: u32,
    },
    /// Which clients could evaluate a deployment
    #[command(after_help = "\
Example:
  muster report evaluation --deployment june --state failed")]
    Evaluation {
        /// The deployment
        #[arg(long, value_name = "NAME")]
        deployment: String,
        /// Only clients in this state
        #[arg(long, value_parser = crate::cli::evaluation())]
        state: Option<DeploymentEvaluation>,
        #[command(flatten)]
        of: OfSite,
        /// At most so many clients; 0 is all
        #[arg(long, default_value_t = 0)]
        limit: u32,
    },
    /// How the scans of clients went
    #[command(after_help = "\
Example:
  muster report scans --collection Pilot
  muster report scans --state failed")]
    Scans {
        /// The clients; by default all
        #[arg(long, value_name = "NAME")]
        collection: Option<String>,
        /// Instead of counts, the clients in this state
        #[arg(long, value_parser = crate::cli::scan())]
        state: Option<UpdateSourceScan>,
        /// Instead of counts, the clients with this error
        #[arg(long, value_name = "NUMBER")]
        error: Option<i32>,
        #[command(flatten)]
        of: OfSite,
        /// At most so many clients; 0 is all
        #[arg(long, default_value_t = 0)]
        limit: u32,
    },
    /// What goes wrong, most frequent first
    #[command(after_help = "\
Example:
  muster report errors --deployment june
  muster report errors --by update
  muster report errors --clients 104")]
    Errors {
        /// Only of this deployment
        #[arg(long, value_name = "NAME")]
        deployment: Option<String>,
        /// Only of this update
        #[arg(long, value_name = "NUMBER")]
        update: Option<u32>,
        /// Count apart
        #[arg(long, value_parser = crate::cli::error_grouping())]
        by: Option<ErrorGrouping>,
        /// Instead of counts, the clients with this error
        #[arg(long, value_name = "ERROR", conflicts_with = "by")]
        clients: Option<i32>,
        #[command(flatten)]
        of: OfSite,
        /// At most so many clients; 0 is all
        #[arg(long, default_value_t = 0)]
        limit: u32,
    },
    /// How counts moved over time: of the site, an update list or a deployment
    #[command(after_help = "\
Example:
  muster report trend --update-list june --from 30d --step 1d
  muster report trend --deployment june --from 2030-01-31T18:00:00Z")]
    Trend {
        /// The update list
        #[arg(long, value_name = "NAME", conflicts_with = "deployment")]
        update_list: Option<String>,
        /// The deployment
        #[arg(long, value_name = "NAME")]
        deployment: Option<String>,
        /// From when: a time, or how long ago
        #[arg(long, value_name = "TIME", value_parser = crate::cli::past, default_value = "7d")]
        from: Timestamp,
        /// Until when: a time, or how long ago; by default now
        #[arg(long, value_name = "TIME", value_parser = crate::cli::past)]
        to: Option<Timestamp>,
        /// One point for each such time; by default one for each snapshot
        #[arg(long, value_name = "LENGTH", value_parser = humantime::parse_duration)]
        step: Option<Duration>,
    },
    /// All that is known of the updates of one client
    #[command(after_help = "\
Example:
  muster report client web-01
  muster report client web-01 --update-list june")]
    Client {
        /// Host name or id
        name: String,
        /// What the client says of each update of this list
        #[arg(long, value_name = "NAME")]
        update_list: Option<String>,
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
            sort,
            clients,
            of: OfSite { site_code },
            limit,
        } => {
            let (update_list, collection) = (
                update_list.unwrap_or_default(),
                collection.unwrap_or_default(),
            );
            if let Some(answer) = clients {
                return list_clients(
                    site,
                    printer,
                    update_list,
                    (collection, site_code),
                    answer,
                    limit,
                )
                .await;
            }
            let request = GetComplianceRequest {
                update_list,
                collection,
                sort: sort.into(),
                site_code,
            };
            let answer = site.reports().get_compliance(request).await?;
            printer.show(&answer.into_inner())
        }
        ReportCommand::Update {
            name,
            collection,
            clients,
            of: OfSite { site_code },
            limit,
        } => {
            let collection = collection.unwrap_or_default();
            if let Some(answer) = clients {
                return update_clients(
                    site,
                    printer,
                    &name,
                    (collection, site_code),
                    answer,
                    limit,
                )
                .await;
            }
            use get_update_compliance_request::Key;
            let key = Some(name.parse().map_or(Key::UpdateId(name), Key::UpdateNo));
            let request = GetUpdateComplianceRequest {
                key,
                collection,
                site_code,
            };
            let answer = site.reports().get_update_compliance(request).await?;
            printer.show(&answer.into_inner())
        }
        ReportCommand::Coverage {
            collection,
            clients,
            of: OfSite { site_code },
            limit,
        } => {
            let collection = collection.unwrap_or_default();
            if let Some(coverage) = clients {
                return coverage_clients(site, printer, (collection, site_code), coverage, limit)
                    .await;
            }
            let request = GetCoverageRequest {
                collection,
                site_code,
            };
            let answer = site.reports().get_coverage(request).await?;
            printer.show(&answer.into_inner())
        }
        ReportCommand::Enforcement {
            deployment,
            state,
            updates,
            of: OfSite { site_code },
            limit,
        } => {
            let mut whole = GetEnforcementResponse::default();
            whole.clients = pages(limit, async |page_size, page_token| {
                let request = GetEnforcementRequest {
                    deployment: deployment.clone(),
                    state: state.unwrap_or_default().into(),
                    page_size,
                    page_token,
                    site_code: site_code.clone(),
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
        ReportCommand::Evaluation {
            deployment,
            state,
            of: OfSite { site_code },
            limit,
        } => {
            let mut whole = GetEvaluationResponse::default();
            whole.clients = pages(limit, async |page_size, page_token| {
                let request = GetEvaluationRequest {
                    deployment: deployment.clone(),
                    state: state.map(Into::into),
                    page_size,
                    page_token,
                    site_code: site_code.clone(),
                };
                let page = site.reports().get_evaluation(request).await?.into_inner();
                whole.states = page.states;
                Ok((page.clients, page.next_page_token))
            })
            .await?;
            printer.show(&whole)
        }
        ReportCommand::Scans {
            collection,
            state,
            error,
            of: OfSite { site_code },
            limit,
        } => {
            let collection = collection.unwrap_or_default();
            if state.is_none() && error.is_none() {
                let request = GetScansRequest {
                    collection,
                    site_code,
                };
                let answer = site.reports().get_scans(request).await?;
                return printer.show(&answer.into_inner());
            }
            let clients = pages(limit, async |page_size, page_token| {
                let request = ListScanClientsRequest {
                    collection: collection.clone(),
                    state: state.map(Into::into),
                    error_code: error.unwrap_or_default(),
                    page_size,
                    page_token,
                    site_code: site_code.clone(),
                };
                let page = site.reports().list_scan_clients(request).await?;
                let page = page.into_inner();
                Ok((page.clients, page.next_page_token))
            })
            .await?;
            printer.show(&ListScanClientsResponse {
                clients,
                next_page_token: String::new(),
            })
        }
        ReportCommand::Errors {
            deployment,
            update,
            by,
            clients,
            of: OfSite { site_code },
            limit,
        } => {
            let (deployment, update_no) =
                (deployment.unwrap_or_default(), update.unwrap_or_default());
            if let Some(error_code) = clients {
                let clients = pages(limit, async |page_size, page_token| {
                    let request = ListErrorClientsRequest {
                        error_code,
                        deployment: deployment.clone(),
                        update_no,
                        page_size,
                        page_token,
                        site_code: site_code.clone(),
                    };
                    let page = site.reports().list_error_clients(request).await?;
                    let page = page.into_inner();
                    Ok((page.clients, page.next_page_token))
                })
                .await?;
                return printer.show(&ListErrorClientsResponse {
                    clients,
                    next_page_token: String::new(),
                });
            }
            let request = ListErrorsRequest {
                deployment,
                grouping: by.unwrap_or_default().into(),
                update_no,
                site_code,
            };
            let answer = site.reports().list_errors(request).await?;
            printer.show(&answer.into_inner())
        }
        ReportCommand::Trend {
            update_list,
            deployment,
            from,
            to,
            step,
        } => {
            let thing = update_list
                .map(Thing::UpdateList)
                .or(deployment.map(Thing::Deployment));
            let request = GetTrendRequest {
                thing,
                from: Some(convert::to_timestamp(from)),
                to: to.map(convert::to_timestamp),
                step: step.map(convert::to_duration),
            };
            let answer = site.reports().get_trend(request).await?;
            printer.show(&answer.into_inner())
        }
        ReportCommand::Client { name, update_list } => {
            let request = GetClientReportRequest {
                client: name,
                update_list: update_list.unwrap_or_default(),
            };
            let answer = site.reports().get_client_report(request).await?;
            printer.show(&answer.into_inner())
        }
    }
}

async fn list_clients(
    site: &Site,
    printer: &Printer,
    update_list: String,
    (collection, site_code): (String, String),
    answer: ListAnswer,
    limit: u32,
) -> Result<(), Failure> {
    let mut whole = ListComplianceClientsResponse::default();
    whole.clients = pages(limit, async |page_size, page_token| {
        let request = ListComplianceClientsRequest {
            update_list: update_list.clone(),
            collection: collection.clone(),
            answer: answer.into(),
            page_size,
            page_token,
            site_code: site_code.clone(),
        };
        let page = site.reports().list_compliance_clients(request).await?;
        let page = page.into_inner();
        whole.total = page.total;
        Ok((page.clients, page.next_page_token))
    })
    .await?;
    printer.show(&whole)
}

async fn update_clients(
    site: &Site,
    printer: &Printer,
    name: &str,
    (collection, site_code): (String, String),
    answer: UpdateAnswer,
    limit: u32,
) -> Result<(), Failure> {
    use list_update_clients_request::Key;
    let key = || {
        name.parse()
            .map_or(Key::UpdateId(name.to_owned()), Key::UpdateNo)
    };
    let mut whole = ListUpdateClientsResponse::default();
    whole.clients = pages(limit, async |page_size, page_token| {
        let request = ListUpdateClientsRequest {
            key: Some(key()),
            collection: collection.clone(),
            answer: answer.into(),
            page_size,
            page_token,
            site_code: site_code.clone(),
        };
        let page = site.reports().list_update_clients(request).await?;
        let page = page.into_inner();
        whole.total = page.total;
        Ok((page.clients, page.next_page_token))
    })
    .await?;
    printer.show(&whole)
}

async fn coverage_clients(
    site: &Site,
    printer: &Printer,
    (collection, site_code): (String, String),
    coverage: Coverage,
    limit: u32,
) -> Result<(), Failure> {
    let mut whole = ListCoverageClientsResponse::default();
    whole.clients = pages(limit, async |page_size, page_token| {
        let request = ListCoverageClientsRequest {
            collection: collection.clone(),
            coverage: coverage.into(),
            page_size,
            page_token,
            site_code: site_code.clone(),
        };
        let page = site.reports().list_coverage_clients(request).await?;
        let page = page.into_inner();
        whole.total = page.total;
        Ok((page.clients, page.next_page_token))
    })
    .await?;
    printer.show(&whole)
}
