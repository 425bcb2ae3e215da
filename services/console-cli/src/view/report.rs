//! Reports: how far a deployment is, what goes wrong and why, all of one client. Who complies is
//! in `compliance.rs`.

use jiff::Timestamp;
use muster_domain::states;
use muster_proto::report::{
    ClientDeployment, ClientEnforcement, ClientError, ClientEvaluation, ClientScan, ErrorCount,
    EvaluationCount, GetClientReportResponse, GetEnforcementResponse, GetEvaluationResponse,
    GetScansResponse, ListAnswer, ListErrorClientsResponse, ListErrorsResponse,
    ListScanClientsResponse, ScanCount, ScanErrorCount, StateCount, UpdateState,
};

use super::{Answer, error, state};
use crate::output::table::Block;
use crate::output::text::{ago, at, id, word, yes};

impl Answer for GetEnforcementResponse {
    const MESSAGE: &'static str = "muster.report.v1.GetEnforcementResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let count = |count: &StateCount| {
            vec![
                state(count.state, states::DeploymentEnforcement::from_id),
                count.clients.to_string(),
            ]
        };
        let row = |client: &ClientEnforcement| {
            vec![
                client.host_name.clone(),
                state(client.state, states::DeploymentEnforcement::from_id),
                error(client.error_code),
                ago(client.changed_at.as_ref(), now),
                client.detail.clone(),
            ]
        };
        let header = &["CLIENT", "STATE", "ERROR", "CHANGED", "DETAIL"];
        let clients = Block::Table {
            header,
            rows: self.clients.iter().map(row).collect(),
        };
        let header = &["STATE", "CLIENTS#"];
        let states = Block::Table {
            header,
            rows: self.states.iter().map(count).collect(),
        };
        let of_client = |client: &ClientEnforcement| {
            let host = client.host_name.clone();
            let row = move |update: &UpdateState| {
                let mut row = vec![host.clone()];
                row.extend(enforcement_row(update, now));
                row
            };
            client.updates.iter().map(row).collect::<Vec<_>>()
        };
        let updates: Vec<_> = self.clients.iter().flat_map(of_client).collect();
        let mut blocks = vec![states, clients];
        if !updates.is_empty() {
            let header = &["CLIENT", "NO#", "STATE", "ERROR", "CHANGED", "TITLE"];
            blocks.push(Block::Table {
                header,
                rows: updates,
            });
        }
        blocks
    }

    fn names(&self) -> Vec<String> {
        self.clients
            .iter()
            .map(|client| id(&client.client_id))
            .collect()
    }
}

fn enforcement_row(update: &UpdateState, now: Timestamp) -> Vec<String> {
    vec![
        update.update_no.to_string(),
        state(update.enforcement, states::UpdateEnforcement::from_id),
        error(update.error_code),
        ago(update.changed_at.as_ref(), now),
        update.title.clone(),
    ]
}

impl Answer for GetEvaluationResponse {
    const MESSAGE: &'static str = "muster.report.v1.GetEvaluationResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let count = |count: &EvaluationCount| {
            vec![
                state(count.state, states::DeploymentEvaluation::from_id),
                count.clients.to_string(),
            ]
        };
        let row = |client: &ClientEvaluation| {
            vec![
                client.host_name.clone(),
                state(client.state, states::DeploymentEvaluation::from_id),
                state(client.compliance, states::DeploymentCompliance::from_id),
                error(client.error_code),
                ago(client.changed_at.as_ref(), now),
                client.detail.clone(),
            ]
        };
        const HEADER: &[&str] = &[
            "CLIENT",
            "EVALUATION",
            "COMPLIANCE",
            "ERROR",
            "CHANGED",
            "DETAIL",
        ];
        vec![
            Block::Table {
                header: &["EVALUATION", "CLIENTS#"],
                rows: self.states.iter().map(count).collect(),
            },
            Block::Table {
                header: HEADER,
                rows: self.clients.iter().map(row).collect(),
            },
        ]
    }

    fn names(&self) -> Vec<String> {
        let name = |client: &ClientEvaluation| id(&client.client_id);
        self.clients.iter().map(name).collect()
    }
}

impl Answer for GetScansResponse {
    const MESSAGE: &'static str = "muster.report.v1.GetScansResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        let count = |count: &ScanCount| {
            vec![
                state(count.state, states::Scan::from_id),
                count.clients.to_string(),
            ]
        };
        let error = |error: &ScanErrorCount| {
            vec![
                error.error_code.to_string(),
                error.clients.to_string(),
                error.meaning.clone(),
                error.example_detail.clone(),
            ]
        };
        let mut blocks = vec![Block::Table {
            header: &["SCAN", "CLIENTS#"],
            rows: self.states.iter().map(count).collect(),
        }];
        if !self.errors.is_empty() {
            blocks.push(Block::Table {
                header: &["ERROR#", "CLIENTS#", "MEANING", "EXAMPLE"],
                rows: self.errors.iter().map(error).collect(),
            });
        }
        blocks
    }

    fn names(&self) -> Vec<String> {
        let name = |error: &ScanErrorCount| error.error_code.to_string();
        self.errors.iter().map(name).collect()
    }
}

impl Answer for ListScanClientsResponse {
    const MESSAGE: &'static str = "muster.report.v1.ListScanClientsResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let row = |client: &ClientScan| {
            vec![
                client.host_name.clone(),
                state(client.state, states::Scan::from_id),
                ago(client.last_scanned_at.as_ref(), now),
                ago(client.last_report_at.as_ref(), now),
                error(client.error_code),
                client.detail.clone(),
            ]
        };
        const HEADER: &[&str] = &[
            "CLIENT",
            "SCAN",
            "LAST-SCAN",
            "LAST-REPORT",
            "ERROR",
            "DETAIL",
        ];
        vec![Block::Table {
            header: HEADER,
            rows: self.clients.iter().map(row).collect(),
        }]
    }

    fn names(&self) -> Vec<String> {
        let name = |client: &ClientScan| id(&client.client_id);
        self.clients.iter().map(name).collect()
    }
}

impl Answer for ListErrorsResponse {
    const MESSAGE: &'static str = "muster.report.v1.ListErrorsResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        let row = |error: &ErrorCount| {
            vec![
                error.error_code.to_string(),
                error.clients.to_string(),
                error.updates.to_string(),
                match (error.update_no, error.deployment.as_str()) {
                    (0, deployment) => deployment.to_owned(),
                    (number, _) => format!("{number} {}", error.title),
                },
                error.meaning.clone(),
                error.example_detail.clone(),
            ]
        };
        const HEADER: &[&str] = &["ERROR#", "CLIENTS#", "UPDATES#", "OF", "MEANING", "EXAMPLE"];
        let mut rows: Vec<Vec<String>> = self.errors.iter().map(row).collect();
        let apart = rows.iter().any(|row| !row[3].is_empty());
        if apart {
            return vec![Block::Table {
                header: HEADER,
                rows,
            }];
        }
        for row in &mut rows {
            row.remove(3);
        }
        vec![Block::Table {
            header: &["ERROR#", "CLIENTS#", "UPDATES#", "MEANING", "EXAMPLE"],
            rows,
        }]
    }

    fn names(&self) -> Vec<String> {
        self.errors
            .iter()
            .map(|error| error.error_code.to_string())
            .collect()
    }
}

impl Answer for ListErrorClientsResponse {
    const MESSAGE: &'static str = "muster.report.v1.ListErrorClientsResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let row = |client: &ClientError| {
            vec![
                client.host_name.clone(),
                client.updates.to_string(),
                ago(client.changed_at.as_ref(), now),
                client.detail.clone(),
            ]
        };
        vec![Block::Table {
            header: &["CLIENT", "UPDATES#", "CHANGED", "DETAIL"],
            rows: self.clients.iter().map(row).collect(),
        }]
    }

    fn names(&self) -> Vec<String> {
        let name = |client: &ClientError| id(&client.client_id);
        self.clients.iter().map(name).collect()
    }
}

impl Answer for GetClientReportResponse {
    const MESSAGE: &'static str = "muster.report.v1.GetClientReportResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let update = |update: &UpdateState| {
            vec![
                update.update_no.to_string(),
                if update.no_data {
                    "no data".to_owned()
                } else {
                    state(update.compliance, states::Detection::from_id)
                },
                // No deployment has it: nothing is known because nothing was asked.
                match update.deployment.as_str() {
                    "" => String::new(),
                    _ => state(update.enforcement, states::UpdateEnforcement::from_id),
                },
                error(update.error_code),
                update.deployment.clone(),
                update.title.clone(),
            ]
        };
        let deployment = |deployment: &ClientDeployment| {
            vec![
                deployment.deployment.clone(),
                state(deployment.compliance, states::DeploymentCompliance::from_id),
                state(
                    deployment.enforcement,
                    states::DeploymentEnforcement::from_id,
                ),
                state(deployment.evaluation, states::DeploymentEvaluation::from_id),
                error(deployment.error_code),
                ago(deployment.changed_at.as_ref(), now),
                deployment.detail.clone(),
            ]
        };
        const UPDATES: &[&str] = &[
            "NO#",
            "COMPLIANCE",
            "ENFORCEMENT",
            "ERROR",
            "DEPLOYMENT",
            "TITLE",
        ];
        const DEPLOYMENTS: &[&str] = &[
            "DEPLOYMENT",
            "COMPLIANCE",
            "ENFORCEMENT",
            "EVALUATION",
            "ERROR",
            "CHANGED",
            "DETAIL",
        ];
        let mut blocks = vec![Block::Pairs(vec![
            ("Client", self.host_name.clone()),
            ("Id", id(&self.client_id)),
            ("Scan", state(self.scan_state, states::Scan::from_id)),
            ("Last scan", at(self.last_scanned_at.as_ref(), now)),
            ("Updates required", self.required.to_string()),
            ("Updates installed", self.installed.to_string()),
            ("Updates unknown", self.unknown.to_string()),
            ("Restart pending", yes(self.restart_pending)),
        ])];
        if self.list_answer() != ListAnswer::Unspecified
            && let Block::Pairs(pairs) = &mut blocks[0]
        {
            let answer = word(self.list_answer().as_str_name(), "LIST_ANSWER_");
            pairs.push(("Update list", answer));
        }
        if !self.deployments.is_empty() {
            let rows = self.deployments.iter().map(deployment).collect();
            blocks.push(Block::Table {
                header: DEPLOYMENTS,
                rows,
            });
        }
        if !self.updates.is_empty() {
            let rows = self.updates.iter().map(update).collect();
            blocks.push(Block::Table {
                header: UPDATES,
                rows,
            });
        }
        blocks
    }

    fn names(&self) -> Vec<String> {
        vec![id(&self.client_id)]
    }
}
