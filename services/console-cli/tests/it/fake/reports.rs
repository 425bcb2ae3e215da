//! Synchronisations, reports and the backlog.

use std::pin::Pin;

use muster_proto::catalog::{sync_service_server::SyncService, *};
use muster_proto::report::{report_service_server::ReportService, *};
use muster_proto::state::{backlog_service_server::BacklogService, *};
use muster_runtime::status::{Kind, status};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{Fake, ago, check, fixed, id, page};

type Answer<T> = Result<Response<T>, Status>;

fn sync(kind: SyncKind, phase: SyncPhase) -> Sync {
    Sync {
        sync_no: 8,
        kind: kind.into(),
        phase: phase.into(),
        started_at: fixed(1_000_000_000),
        detail: "bookworm-security".to_owned(),
        stanzas: 63_000,
        updates_new: 12,
        bytes_fetched: 9_100_000,
        generation: 7,
        ..Default::default()
    }
}

#[tonic::async_trait]
impl SyncService for Fake {
    type WatchSyncStream = Pin<Box<dyn Stream<Item = Result<WatchSyncResponse, Status>> + Send>>;

    async fn start_sync(&self, request: Request<StartSyncRequest>) -> Answer<StartSyncResponse> {
        let request = request.into_inner();
        self.ask(&request);
        let sync = Some(sync(request.kind(), SyncPhase::Started));
        Ok(Response::new(StartSyncResponse { sync }))
    }

    /// A full synchronisation fails, a delta succeeds.
    async fn watch_sync(&self, _: Request<WatchSyncRequest>) -> Answer<Self::WatchSyncStream> {
        let failing = self.asked().contains("Full");
        let kind = if failing {
            SyncKind::Full
        } else {
            SyncKind::Delta
        };
        let mut last = Sync {
            ended_at: fixed(1_000_000_083),
            ..sync(kind, SyncPhase::Done)
        };
        if failing {
            last.phase = SyncPhase::Failed.into();
            last.reason = "INDEX_HASH_MISMATCH".to_owned();
            last.detail = "SHA-256 of main/binary-amd64/Packages.xz differs".to_owned();
        }
        let fetching = sync(kind, SyncPhase::Fetching);
        // The same again is not news.
        let syncs = [fetching.clone(), fetching, last];
        let answers = syncs.map(|sync| Ok(WatchSyncResponse { sync: Some(sync) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    async fn list_syncs(&self, request: Request<ListSyncsRequest>) -> Answer<ListSyncsResponse> {
        self.ask(&request.into_inner());
        let mut done = sync(SyncKind::Delta, SyncPhase::Done);
        done.started_at = ago(3_600);
        done.ended_at = ago(3_517);
        Ok(Response::new(ListSyncsResponse { syncs: vec![done] }))
    }
}

fn update_state() -> UpdateState {
    UpdateState {
        update_no: 4_711,
        update_id: "apt/debian/bookworm-security/openssl/4711".to_owned(),
        title: "openssl security update".to_owned(),
        compliance: UpdateDetection::Required.into(),
        enforcement: UpdateEnforcement::FailedToInstall.into(),
        error_code: muster_domain::error_code::PACKAGE_HELD,
        detail: "libssl3 is on hold".to_owned(),
        changed_at: ago(60),
        deployment: "june".to_owned(),
        no_data: false,
    }
}

/// One that reported, and one that never did.
fn reported_clients() -> [ReportedClient; 2] {
    [
        ReportedClient {
            client_id: id(0x11),
            host_name: "web-01".to_owned(),
            last_scanned_at: ago(3_600),
            last_report_at: ago(60),
            scan_state: UpdateSourceScan::Completed.into(),
            catalog_generation: 6,
            site_code: "CEN".to_owned(),
        },
        ReportedClient {
            client_id: id(0x22),
            host_name: "web-02".to_owned(),
            site_code: "P01".to_owned(),
            ..Default::default()
        },
    ]
}

#[tonic::async_trait]
impl ReportService for Fake {
    async fn get_compliance(
        &self,
        request: Request<GetComplianceRequest>,
    ) -> Answer<GetComplianceResponse> {
        let request = request.into_inner();
        check("update list", &request.update_list).await?;
        self.ask(&request);
        let updates = vec![UpdateCompliance {
            update_no: 4_711,
            title: "openssl security update".to_owned(),
            classification: Classification::Security.into(),
            installed: 100,
            required: 57,
            not_required: 40,
            unknown: 2,
            no_data: 3,
            ..Default::default()
        }];
        Ok(Response::new(GetComplianceResponse {
            clients: 202,
            compliant: 140,
            non_compliant: 57,
            unknown: 2,
            updates,
            no_data: 3,
        }))
    }

    async fn list_compliance_clients(
        &self,
        request: Request<ListComplianceClientsRequest>,
    ) -> Answer<ListComplianceClientsResponse> {
        let request = request.into_inner();
        check("update list", &request.update_list).await?;
        self.ask(&request);
        let (clients, next_page_token) =
            page(&reported_clients(), request.page_size, &request.page_token);
        Ok(Response::new(ListComplianceClientsResponse {
            clients,
            next_page_token,
            total: 2,
        }))
    }

    async fn get_update_compliance(
        &self,
        request: Request<GetUpdateComplianceRequest>,
    ) -> Answer<GetUpdateComplianceResponse> {
        let request = request.into_inner();
        check("collection", &request.collection).await?;
        self.ask(&request);
        Ok(Response::new(GetUpdateComplianceResponse {
            update: Some(UpdateCompliance {
                update_no: 4_711,
                update_id: "apt/debian/bookworm-security/openssl/4711".to_owned(),
                title: "openssl security update".to_owned(),
                classification: Classification::Security.into(),
                installed: 100,
                required: 57,
                not_required: 40,
                unknown: 2,
                no_data: 3,
            }),
            clients: 202,
            required_percent: 28.218,
            installed_percent_of_applicable: 63.694,
        }))
    }

    async fn list_update_clients(
        &self,
        request: Request<ListUpdateClientsRequest>,
    ) -> Answer<ListUpdateClientsResponse> {
        let request = request.into_inner();
        check("collection", &request.collection).await?;
        self.ask(&request);
        let (clients, next_page_token) =
            page(&reported_clients(), request.page_size, &request.page_token);
        Ok(Response::new(ListUpdateClientsResponse {
            clients,
            next_page_token,
            total: 2,
        }))
    }

    async fn get_coverage(
        &self,
        request: Request<GetCoverageRequest>,
    ) -> Answer<GetCoverageResponse> {
        let request = request.into_inner();
        check("collection", &request.collection).await?;
        self.ask(&request);
        let count = |catalog_generation, clients| GenerationCount {
            catalog_generation,
            clients,
        };
        Ok(Response::new(GetCoverageResponse {
            clients: 202,
            never_reported: 1,
            old_catalog: 1,
            current: 200,
            catalog_generation: 7,
            generations: vec![count(7, 200), count(6, 1)],
        }))
    }

    async fn list_coverage_clients(
        &self,
        request: Request<ListCoverageClientsRequest>,
    ) -> Answer<ListCoverageClientsResponse> {
        let request = request.into_inner();
        check("collection", &request.collection).await?;
        self.ask(&request);
        let (clients, next_page_token) =
            page(&reported_clients(), request.page_size, &request.page_token);
        Ok(Response::new(ListCoverageClientsResponse {
            clients,
            next_page_token,
            total: 2,
        }))
    }

    async fn get_enforcement(
        &self,
        request: Request<GetEnforcementRequest>,
    ) -> Answer<GetEnforcementResponse> {
        let request = request.into_inner();
        check("deployment", &request.deployment).await?;
        self.ask(&request);
        let failed = DeploymentEnforcement::FailedToInstall;
        let all = [ClientEnforcement {
            client_id: id(0x11),
            host_name: "web-01".to_owned(),
            state: failed.into(),
            error_code: muster_domain::error_code::PACKAGE_HELD,
            detail: "libssl3 is on hold".to_owned(),
            changed_at: ago(60),
            updates: vec![update_state()],
        }];
        let (clients, next_page_token) = page(&all, request.page_size, &request.page_token);
        let states = vec![
            StateCount {
                state: DeploymentEnforcement::SuccessfullyInstalled.into(),
                clients: 201,
            },
            StateCount {
                state: failed.into(),
                clients: 1,
            },
        ];
        Ok(Response::new(GetEnforcementResponse {
            states,
            clients,
            next_page_token,
        }))
    }

    async fn get_evaluation(
        &self,
        request: Request<GetEvaluationRequest>,
    ) -> Answer<GetEvaluationResponse> {
        let request = request.into_inner();
        check("deployment", &request.deployment).await?;
        self.ask(&request);
        let all = [ClientEvaluation {
            client_id: id(0x11),
            host_name: "web-01".to_owned(),
            state: DeploymentEvaluation::Succeeded.into(),
            compliance: DeploymentCompliance::NonCompliant.into(),
            changed_at: ago(60),
            ..Default::default()
        }];
        let (clients, next_page_token) = page(&all, request.page_size, &request.page_token);
        let count = |state: DeploymentEvaluation, clients| EvaluationCount {
            state: state.into(),
            clients,
        };
        Ok(Response::new(GetEvaluationResponse {
            states: vec![
                count(DeploymentEvaluation::Unspecified, 1),
                count(DeploymentEvaluation::Succeeded, 201),
            ],
            clients,
            next_page_token,
        }))
    }

    async fn get_scans(&self, request: Request<GetScansRequest>) -> Answer<GetScansResponse> {
        let request = request.into_inner();
        check("collection", &request.collection).await?;
        self.ask(&request);
        let count = |state: UpdateSourceScan, clients| ScanCount {
            state: state.into(),
            clients,
        };
        Ok(Response::new(GetScansResponse {
            clients: 202,
            states: vec![
                count(UpdateSourceScan::Completed, 200),
                count(UpdateSourceScan::Failed, 2),
            ],
            errors: vec![ScanErrorCount {
                error_code: muster_domain::error_code::PACKAGE_HELD,
                meaning: "the package is on hold".to_owned(),
                example_detail: "libssl3 is on hold".to_owned(),
                clients: 2,
            }],
        }))
    }

    async fn list_scan_clients(
        &self,
        request: Request<ListScanClientsRequest>,
    ) -> Answer<ListScanClientsResponse> {
        let request = request.into_inner();
        check("collection", &request.collection).await?;
        self.ask(&request);
        let all = [ClientScan {
            client_id: id(0x11),
            host_name: "web-01".to_owned(),
            state: UpdateSourceScan::Failed.into(),
            error_code: muster_domain::error_code::PACKAGE_HELD,
            detail: "libssl3 is on hold".to_owned(),
            last_scanned_at: ago(3_600),
            last_report_at: ago(60),
        }];
        let (clients, next_page_token) = page(&all, request.page_size, &request.page_token);
        Ok(Response::new(ListScanClientsResponse {
            clients,
            next_page_token,
        }))
    }

    async fn list_error_clients(
        &self,
        request: Request<ListErrorClientsRequest>,
    ) -> Answer<ListErrorClientsResponse> {
        let request = request.into_inner();
        self.ask(&request);
        let all = [ClientError {
            client_id: id(0x11),
            host_name: "web-01".to_owned(),
            updates: 1,
            detail: "libssl3 is on hold".to_owned(),
            changed_at: ago(60),
        }];
        let (clients, next_page_token) = page(&all, request.page_size, &request.page_token);
        Ok(Response::new(ListErrorClientsResponse {
            clients,
            next_page_token,
        }))
    }

    async fn get_trend(&self, request: Request<GetTrendRequest>) -> Answer<GetTrendResponse> {
        use get_trend_request::Thing;
        let request = request.into_inner();
        self.ask(&request);
        let mut answer = GetTrendResponse::default();
        for n in 0..3 {
            let at = fixed(1_000_000_800 + i64::from(n) * 86_400);
            match &request.thing {
                None => answer.site.push(SitePoint {
                    at,
                    clients: 202,
                    never_reported: 2 - n,
                    old_catalog: 10,
                    scan_failed: n,
                    non_compliant: 150 - 50 * n,
                    required: 4_000,
                    ..Default::default()
                }),
                Some(Thing::UpdateList(name)) => {
                    check("update list", name).await?;
                    answer.update_list.push(ListPoint {
                        at,
                        clients: 200,
                        compliant: 60 + 60 * n,
                        non_compliant: 130 - 60 * n,
                        unknown: 7,
                        no_data: 3,
                    });
                }
                Some(Thing::Deployment(name)) => {
                    check("deployment", name).await?;
                    let count = |state: DeploymentEnforcement, clients| StateCount {
                        state: state.into(),
                        clients,
                    };
                    answer.deployment.push(DeploymentPoint {
                        at,
                        clients: 200,
                        states: vec![
                            count(DeploymentEnforcement::SuccessfullyInstalled, 90 * n),
                            count(DeploymentEnforcement::FailedToInstall, 5),
                            count(DeploymentEnforcement::Downloading, 195 - 90 * n),
                        ],
                    });
                }
            }
        }
        Ok(Response::new(answer))
    }

    /// Counted apart by update, there is an update.
    async fn list_errors(&self, request: Request<ListErrorsRequest>) -> Answer<ListErrorsResponse> {
        let request = request.into_inner();
        self.ask(&request);
        let (update_no, title) = match request.grouping() {
            ErrorGrouping::Update => (4_711, "openssl security update".to_owned()),
            ErrorGrouping::Unspecified | ErrorGrouping::Deployment => (0, String::new()),
        };
        let errors = vec![ErrorCount {
            error_code: muster_domain::error_code::PACKAGE_HELD,
            meaning: "the package is on hold".to_owned(),
            example_detail: "libssl3 is on hold".to_owned(),
            clients: 1,
            updates: 1,
            deployment: String::new(),
            update_no,
            title,
        }];
        Ok(Response::new(ListErrorsResponse { errors }))
    }

    async fn get_client_report(
        &self,
        request: Request<GetClientReportRequest>,
    ) -> Answer<GetClientReportResponse> {
        let request = request.into_inner();
        check("client", &request.client).await?;
        check("update list", &request.update_list).await?;
        let client = request.client;
        let unplanned = UpdateState {
            update_no: 4_800,
            enforcement: 0,
            error_code: 0,
            deployment: String::new(),
            no_data: !request.update_list.is_empty(),
            ..update_state()
        };
        let list_answer = if request.update_list.is_empty() {
            ListAnswer::Unspecified
        } else {
            ListAnswer::NonCompliant
        };
        Ok(Response::new(GetClientReportResponse {
            client_id: id(0x11),
            host_name: client,
            scan_state: UpdateSourceScan::Completed.into(),
            last_scanned_at: ago(3_600),
            restart_pending: true,
            installed: 412,
            required: 2,
            unknown: 0,
            updates: vec![update_state(), unplanned],
            deployments: vec![ClientDeployment {
                deployment: "june".to_owned(),
                enforcement: DeploymentEnforcement::FailedToInstall.into(),
                evaluation: DeploymentEvaluation::Succeeded.into(),
                compliance: DeploymentCompliance::NonCompliant.into(),
                error_code: muster_domain::error_code::PACKAGE_HELD,
                detail: "libssl3 is on hold".to_owned(),
                changed_at: ago(60),
            }],
            list_answer: list_answer.into(),
        }))
    }
}

#[tonic::async_trait]
impl BacklogService for Fake {
    async fn get_backlog(&self, _: Request<GetBacklogRequest>) -> Answer<GetBacklogResponse> {
        let messages = u64::from(self.watch());
        let queue = |name: &str, messages, seconds| QueueBacklog {
            queue: format!("site.P01.state.{name}"),
            messages,
            oldest_age: Some(prost_types::Duration { seconds, nanos: 0 }),
            arrival_rate: 42.0,
            processing_rate: 40.5,
            consumers: 1,
            drain_time: (messages == 0).then(prost_types::Duration::default),
        };
        Ok(Response::new(GetBacklogResponse {
            queues: vec![queue("0", messages, 2), queue("urgent", 0, 0)],
            quarantined: 1,
            reports_recorded: 5_000,
            states_recorded: 700_000,
            resyncs_open: 3,
            gaps_open: 4,
            drain_time: None,
        }))
    }

    async fn list_quarantined(
        &self,
        request: Request<ListQuarantinedRequest>,
    ) -> Answer<ListQuarantinedResponse> {
        let request = request.into_inner();
        self.ask(&request);
        let all = [quarantined(1)];
        let (messages, next_page_token) = page(&all, request.page_size, &request.page_token);
        Ok(Response::new(ListQuarantinedResponse {
            messages,
            next_page_token,
        }))
    }

    async fn inspect_quarantined(
        &self,
        request: Request<InspectQuarantinedRequest>,
    ) -> Answer<InspectQuarantinedResponse> {
        let no = request.into_inner().quarantine_no;
        if no == 404 {
            let text = "no message 404 is in quarantine";
            return Err(status(Kind::NotFound, "UNKNOWN_MESSAGE", text));
        }
        let report = Report {
            client_id: id(0x11),
            epoch: 2,
            first_serial: 1,
            last_serial: 9,
            kind: ReportKind::Full.into(),
            catalog_generation: 7,
            scan: Some(ScanState::default()),
            ..Default::default()
        };
        Ok(Response::new(InspectQuarantinedResponse {
            message: Some(quarantined(no)),
            reports: vec![report],
            decode_error: String::new(),
        }))
    }

    /// Message 1 is recorded, 2 stays, 404 is not there; one message to a page.
    async fn redrive_quarantined(
        &self,
        request: Request<RedriveQuarantinedRequest>,
    ) -> Answer<RedriveQuarantinedResponse> {
        let request = request.into_inner();
        self.ask(&request);
        let all: Vec<RedriveResult> = [1, 2, 404]
            .into_iter()
            .filter(|no| request.quarantine_numbers.contains(no) || !request.reason.is_empty())
            .map(|no| RedriveResult {
                quarantine_no: no,
                outcome: match no {
                    1 => RedriveOutcome::Recorded,
                    2 => RedriveOutcome::Refused,
                    _ => RedriveOutcome::Gone,
                }
                .into(),
                reason: if no == 2 {
                    "UNKNOWN_EPOCH: epoch 7 was never given".to_owned()
                } else {
                    String::new()
                },
            })
            .collect();
        let (results, next_page_token) = page(&all, 1, &request.page_token);
        Ok(Response::new(RedriveQuarantinedResponse {
            results,
            next_page_token,
        }))
    }

    async fn drop_quarantined(
        &self,
        request: Request<DropQuarantinedRequest>,
    ) -> Answer<DropQuarantinedResponse> {
        let request = request.into_inner();
        self.ask(&request);
        let here = request.quarantine_numbers.iter().filter(|no| **no != 404);
        Ok(Response::new(DropQuarantinedResponse {
            dropped: here.count() as u64,
            more: false,
        }))
    }
}

fn quarantined(quarantine_no: u64) -> QuarantinedMessage {
    QuarantinedMessage {
        quarantine_no,
        received_at: ago(60),
        origin: "site.P01.state.0, user management-point".to_owned(),
        reason: "UNDECODABLE".to_owned(),
        body: b"abc".to_vec().into(),
        body_bytes: 3,
        attempts: 1,
        ..Default::default()
    }
}
