//! Updates and update lists.

use jiff::Timestamp;
use muster_proto::catalog::{
    Classification, CreateUpdateListResponse, GetUpdateListResponse, GetUpdateResponse,
    ListUpdateListsResponse, ListUpdatesResponse, Severity, Update, UpdateList, UpdateSummary,
};

use super::Answer;
use crate::output::table::Block;
use crate::output::text::{ago, at, day, id, size, word};

/// `security`, as it is typed.
pub(super) fn classification(value: Classification) -> String {
    word(value.as_str_name(), "CLASSIFICATION_")
}

fn severity(value: Severity) -> String {
    word(value.as_str_name(), "SEVERITY_")
}

fn updates(summaries: &[UpdateSummary]) -> Block {
    let row = |summary: &UpdateSummary| {
        let update = summary.update.clone().unwrap_or_default();
        vec![
            update.update_no.to_string(),
            classification(update.classification()),
            severity(update.severity()),
            update.suite,
            update.source_package,
            update.source_version,
            summary.required.to_string(),
            summary.installed.to_string(),
            summary.unknown.to_string(),
            day(update.released_at.as_ref()),
        ]
    };
    const HEADER: &[&str] = &[
        "NO#",
        "CLASS",
        "SEVERITY",
        "SUITE",
        "SOURCE",
        "VERSION",
        "REQUIRED#",
        "INSTALLED#",
        "UNKNOWN#",
        "RELEASED",
    ];
    Block::Table {
        header: HEADER,
        rows: summaries.iter().map(row).collect(),
    }
}

fn numbers(summaries: &[UpdateSummary]) -> Vec<String> {
    let updates = summaries
        .iter()
        .filter_map(|summary| summary.update.as_ref());
    updates.map(|update| update.update_no.to_string()).collect()
}

impl Answer for ListUpdatesResponse {
    const MESSAGE: &'static str = "muster.catalog.v1.ListUpdatesResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        vec![updates(&self.updates)]
    }

    fn names(&self) -> Vec<String> {
        numbers(&self.updates)
    }
}

impl Answer for GetUpdateResponse {
    const MESSAGE: &'static str = "muster.catalog.v1.GetUpdateResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let summary = self.update.clone().unwrap_or_default();
        let update = summary.update.unwrap_or_default();
        let join = |numbers: &[u32]| {
            numbers
                .iter()
                .map(u32::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let leaves = update.leaves.iter().map(|leaf| {
            let file = leaf.file.clone().unwrap_or_default();
            vec![
                leaf.package.clone(),
                leaf.version.clone(),
                leaf.architecture.clone(),
                size(file.size),
                format!("{}%", leaf.phased_percentage),
                file.path,
            ]
        });
        let header = &["PACKAGE", "VERSION", "ARCH", "SIZE#", "PHASED#", "PATH"];
        let leaves = Block::Table {
            header,
            rows: leaves.collect(),
        };
        let details = Block::Pairs(vec![
            ("Update", update.update_no.to_string()),
            ("Id", update.update_id.clone()),
            ("Title", update.title.clone()),
            ("Description", update.description.clone()),
            ("Classification", classification(update.classification())),
            ("Severity", severity(update.severity())),
            ("Product", update.product.clone()),
            ("Suite", update.suite.clone()),
            (
                "Source",
                format!("{} {}", update.source_package, update.source_version),
            ),
            ("CVE", update.cve_ids.join(", ")),
            ("Released", at(update.released_at.as_ref(), now)),
            ("Supersedes", join(&update.supersedes)),
            ("Superseded by", join(&update.superseded_by)),
            ("Expired", expired(&update, now)),
            ("Revision", update.revision.to_string()),
            (
                "Max run time",
                format!("{} min", update.max_run_time_minutes),
            ),
            ("Clients installed", summary.installed.to_string()),
            ("Clients required", summary.required.to_string()),
            ("Clients not required", summary.not_required.to_string()),
            ("Clients unknown", summary.unknown.to_string()),
        ]);
        vec![details, leaves]
    }

    fn names(&self) -> Vec<String> {
        numbers(self.update.as_slice())
    }
}

fn expired(update: &Update, now: Timestamp) -> String {
    if update.expired {
        at(update.expired_at.as_ref(), now)
    } else {
        "no".to_owned()
    }
}

impl Answer for ListUpdateListsResponse {
    const MESSAGE: &'static str = "muster.catalog.v1.ListUpdateListsResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let row = |list: &UpdateList| {
            vec![
                list.name.clone(),
                list.owner_site_code.clone(),
                list.update_count.to_string(),
                ago(list.created_at.as_ref(), now),
                list.description.clone(),
            ]
        };
        const HEADER: &[&str] = &["UPDATE-LIST", "OWNER", "UPDATES#", "CREATED", "DESCRIPTION"];
        vec![Block::Table {
            header: HEADER,
            rows: self.update_lists.iter().map(row).collect(),
        }]
    }

    fn names(&self) -> Vec<String> {
        self.update_lists
            .iter()
            .map(|list| list.name.clone())
            .collect()
    }
}

impl Answer for GetUpdateListResponse {
    const MESSAGE: &'static str = "muster.catalog.v1.GetUpdateListResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let list = self.update_list.clone().unwrap_or_default();
        vec![
            Block::Pairs(vec![
                ("Update list", list.name),
                ("Id", id(&list.update_list_id)),
                ("Owner", list.owner_site_code),
                ("Description", list.description),
                ("Updates", list.update_count.to_string()),
                ("Created", at(list.created_at.as_ref(), now)),
            ]),
            updates(&self.updates),
        ]
    }

    fn names(&self) -> Vec<String> {
        self.update_list
            .iter()
            .map(|list| list.name.clone())
            .collect()
    }
}

impl Answer for CreateUpdateListResponse {
    const MESSAGE: &'static str = "muster.catalog.v1.CreateUpdateListResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        let list = self.update_list.clone().unwrap_or_default();
        let text = format!(
            "update list \"{}\" created, {} updates",
            list.name, list.update_count
        );
        vec![Block::Line(text)]
    }

    fn names(&self) -> Vec<String> {
        self.update_list
            .iter()
            .map(|list| list.name.clone())
            .collect()
    }
}
