//! Deployments, and how far the clients are with them.

use jiff::Timestamp;
use muster_domain::states;
use muster_proto::deployment::{
    CreateDeploymentResponse, Deployment, DeploymentSummary, GetDeploymentResponse,
    ListDeploymentsResponse, WatchDeploymentResponse,
};

use super::{Answer, created, state};
use crate::output::table::Block;
use crate::output::text::{ago, at, id, word};

fn names(deployments: &[Deployment]) -> Vec<String> {
    deployments
        .iter()
        .map(|deployment| deployment.name.clone())
        .collect()
}

fn restart(deployment: &Deployment) -> String {
    (if deployment.suppress_restart {
        "suppressed"
    } else {
        "allowed"
    })
    .to_owned()
}

/// Which states of it clients send.
fn verbosity(deployment: &Deployment) -> String {
    let name = deployment.verbosity().as_str_name();
    let name = name.strip_suffix("_UNSPECIFIED").unwrap_or(name);
    word(name, "VERBOSITY_")
}

impl Answer for ListDeploymentsResponse {
    const MESSAGE: &'static str = "muster.deployment.v1.ListDeploymentsResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let row = |deployment: &Deployment| {
            vec![
                deployment.name.clone(),
                deployment.owner_site_code.clone(),
                deployment.collection.clone(),
                deployment.update_list.clone(),
                deployment.update_count.to_string(),
                ago(deployment.available_at.as_ref(), now),
                deadline(deployment, ago(deployment.deadline_at.as_ref(), now)),
                restart(deployment),
                ago(deployment.created_at.as_ref(), now),
            ]
        };
        const HEADER: &[&str] = &[
            "DEPLOYMENT",
            "OWNER",
            "COLLECTION",
            "UPDATE-LIST",
            "UPDATES#",
            "AVAILABLE",
            "DEADLINE",
            "RESTART",
            "CREATED",
        ];
        vec![Block::Table {
            header: HEADER,
            rows: self.deployments.iter().map(row).collect(),
        }]
    }

    fn names(&self) -> Vec<String> {
        names(&self.deployments)
    }
}

fn deadline(deployment: &Deployment, time: String) -> String {
    if deployment.deadline_at.is_none() {
        "optional".to_owned()
    } else {
        time
    }
}

impl Answer for GetDeploymentResponse {
    const MESSAGE: &'static str = "muster.deployment.v1.GetDeploymentResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let deployment = self.deployment.clone().unwrap_or_default();
        let deadline = deadline(&deployment, at(deployment.deadline_at.as_ref(), now));
        let mut blocks = vec![Block::Pairs(vec![
            ("Deployment", deployment.name.clone()),
            ("Id", id(&deployment.deployment_id)),
            ("Owner", deployment.owner_site_code.clone()),
            ("Collection", deployment.collection.clone()),
            ("Update list", deployment.update_list.clone()),
            ("Updates", deployment.update_count.to_string()),
            ("Available", at(deployment.available_at.as_ref(), now)),
            ("Deadline", deadline),
            ("Restart", restart(&deployment)),
            ("Verbosity", verbosity(&deployment)),
            ("Created", at(deployment.created_at.as_ref(), now)),
        ])];
        blocks.extend(summary(self.summary.as_ref()));
        blocks
    }

    fn names(&self) -> Vec<String> {
        names(self.deployment.as_slice())
    }
}

impl Answer for CreateDeploymentResponse {
    const MESSAGE: &'static str = "muster.deployment.v1.CreateDeploymentResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        created("deployment", &Answer::names(self).concat())
    }

    fn names(&self) -> Vec<String> {
        names(self.deployment.as_slice())
    }
}

impl Answer for WatchDeploymentResponse {
    const MESSAGE: &'static str = "muster.deployment.v1.WatchDeploymentResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        summary(self.summary.as_ref())
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn line(&self, _now: Timestamp) -> String {
        let summary = self.summary.clone().unwrap_or_default();
        format!(
            "{} clients: {} compliant, {} in progress, {} failed, {} unknown",
            summary.clients,
            summary.compliant,
            summary.in_progress,
            summary.failed,
            summary.unknown
        )
    }
}

fn summary(summary: Option<&DeploymentSummary>) -> Vec<Block> {
    let Some(summary) = summary else {
        return Vec::new();
    };
    let mut blocks = vec![Block::Pairs(vec![
        ("Clients", summary.clients.to_string()),
        ("Compliant", summary.compliant.to_string()),
        ("In progress", summary.in_progress.to_string()),
        ("Failed", summary.failed.to_string()),
        ("Unknown", summary.unknown.to_string()),
    ])];
    let clients = summary.enforcement.iter().map(|count| {
        let name = state(count.state, states::DeploymentEnforcement::from_id);
        vec![name, count.clients.to_string()]
    });
    let updates = summary.updates.iter().map(|count| {
        let name = state(count.state, states::UpdateEnforcement::from_id);
        vec![name, count.count.to_string()]
    });
    if !summary.enforcement.is_empty() {
        let header = &["DEPLOYMENT-STATE", "CLIENTS#"];
        blocks.push(Block::Table {
            header,
            rows: clients.collect(),
        });
    }
    if !summary.updates.is_empty() {
        let header = &["UPDATE-STATE", "COUNT#"];
        blocks.push(Block::Table {
            header,
            rows: updates.collect(),
        });
    }
    blocks
}
