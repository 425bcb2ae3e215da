//! Reports: how far a deployment is, what goes wrong and why, all of one client. Who complies is
//! in `compliance.rs`.

use jiff::Timestamp;
use muster_domain::states;
use muster_proto::report::{
    ClientDeployment, ClientEnforcement, ErrorCount, GetClientReportResponse,
    GetEnforcementResponse, ListAnswer, ListErrorsResponse, StateCount, UpdateState,
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

impl Answer for ListErrorsResponse {
    const MESSAGE: &'static str = "muster.report.v1.ListErrorsResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        let row = |error: &ErrorCount| {
            vec![
                error.error_code.to_string(),
                error.clients.to_string(),
                error.updates.to_string(),
                error.meaning.clone(),
                error.example_detail.clone(),
            ]
        };
        const HEADER: &[&str] = &["ERROR#", "CLIENTS#", "UPDATES#", "MEANING", "EXAMPLE"];
        vec![Block::Table {
            header: HEADER,
            rows: self.errors.iter().map(row).collect(),
        }]
    }

    fn names(&self) -> Vec<String> {
        self.errors
            .iter()
            .map(|error| error.error_code.to_string())
            .collect()
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
