//! Who complies: of a list, of one update, and of whom there is data; and the clients behind.

use jiff::Timestamp;
use muster_domain::states;
use muster_proto::report::{
    GenerationCount, GetComplianceResponse, GetCoverageResponse, GetUpdateComplianceResponse,
    ListComplianceClientsResponse, ListCoverageClientsResponse, ListUpdateClientsResponse,
    ReportedClient, UpdateCompliance,
};

use super::{Answer, catalog, state};
use crate::output::table::Block;
use crate::output::text::{ago, id};

impl Answer for GetComplianceResponse {
    const MESSAGE: &'static str = "muster.report.v1.GetComplianceResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        let row = |update: &UpdateCompliance| {
            vec![
                update.update_no.to_string(),
                catalog::classification(update.classification()),
                update.required.to_string(),
                update.installed.to_string(),
                update.not_required.to_string(),
                update.unknown.to_string(),
                update.no_data.to_string(),
                update.title.clone(),
            ]
        };
        const HEADER: &[&str] = &[
            "NO#",
            "CLASS",
            "REQUIRED#",
            "INSTALLED#",
            "NOT-REQUIRED#",
            "UNKNOWN#",
            "NO-DATA#",
            "TITLE",
        ];
        vec![
            Block::Pairs(vec![
                ("Clients", self.clients.to_string()),
                ("Compliant", share(self.compliant, self.clients)),
                ("Non-compliant", share(self.non_compliant, self.clients)),
                ("Unknown", share(self.unknown, self.clients)),
                ("No data", share(self.no_data, self.clients)),
            ]),
            Block::Table {
                header: HEADER,
                rows: self.updates.iter().map(row).collect(),
            },
        ]
    }

    fn names(&self) -> Vec<String> {
        let number = |update: &UpdateCompliance| update.update_no.to_string();
        self.updates.iter().map(number).collect()
    }
}

/// "180 (89.1%)".
fn share(part: u32, whole: u32) -> String {
    if whole == 0 {
        return part.to_string();
    }
    percent(part, 100.0 * f64::from(part) / f64::from(whole))
}

fn percent(part: u32, percent: f64) -> String {
    format!("{part} ({percent:.1}%)")
}

impl Answer for GetUpdateComplianceResponse {
    const MESSAGE: &'static str = "muster.report.v1.GetUpdateComplianceResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        let update = self.update.clone().unwrap_or_default();
        let of_applicable = format!("{:.1}%", self.installed_percent_of_applicable);
        vec![Block::Pairs(vec![
            ("Update", update.update_no.to_string()),
            ("Id", update.update_id.clone()),
            ("Title", update.title.clone()),
            ("Class", catalog::classification(update.classification())),
            ("Clients", self.clients.to_string()),
            ("Required", percent(update.required, self.required_percent)),
            ("Installed", share(update.installed, self.clients)),
            ("Not required", share(update.not_required, self.clients)),
            ("Unknown", share(update.unknown, self.clients)),
            ("No data", share(update.no_data, self.clients)),
            ("Installed where it applies", of_applicable),
        ])]
    }

    fn names(&self) -> Vec<String> {
        let number = |update: &UpdateCompliance| update.update_no.to_string();
        self.update.iter().map(number).collect()
    }
}

impl Answer for GetCoverageResponse {
    const MESSAGE: &'static str = "muster.report.v1.GetCoverageResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        let row = |count: &GenerationCount| {
            vec![
                count.catalog_generation.to_string(),
                count.clients.to_string(),
            ]
        };
        vec![
            Block::Pairs(vec![
                ("Clients", self.clients.to_string()),
                ("Never reported", share(self.never_reported, self.clients)),
                ("Old catalog", share(self.old_catalog, self.clients)),
                ("Current", share(self.current, self.clients)),
                ("Catalog generation", self.catalog_generation.to_string()),
            ]),
            Block::Table {
                header: &["CATALOG#", "CLIENTS#"],
                rows: self.generations.iter().map(row).collect(),
            },
        ]
    }

    fn names(&self) -> Vec<String> {
        let name = |count: &GenerationCount| count.catalog_generation.to_string();
        self.generations.iter().map(name).collect()
    }
}

fn clients(clients: &[ReportedClient], total: u32, now: Timestamp) -> Vec<Block> {
    let row = |client: &ReportedClient| {
        vec![
            client.host_name.clone(),
            client.site_code.clone(),
            ago(client.last_report_at.as_ref(), now),
            ago(client.last_scanned_at.as_ref(), now),
            state(client.scan_state, states::Scan::from_id),
            match client.catalog_generation {
                0 => String::new(),
                generation => generation.to_string(),
            },
        ]
    };
    const HEADER: &[&str] = &[
        "CLIENT",
        "SITE",
        "LAST-REPORT",
        "LAST-SCAN",
        "SCAN",
        "CATALOG#",
    ];
    let rows = clients.iter().map(row).collect();
    let header = HEADER;
    let mut blocks = vec![Block::Table { header, rows }];
    if clients.len() < total as usize {
        blocks.push(Block::Line(format!("{} of {total} clients", clients.len())));
    }
    blocks
}

fn names(clients: &[ReportedClient]) -> Vec<String> {
    clients.iter().map(|client| id(&client.client_id)).collect()
}

impl Answer for ListComplianceClientsResponse {
    const MESSAGE: &'static str = "muster.report.v1.ListComplianceClientsResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        clients(&self.clients, self.total, now)
    }

    fn names(&self) -> Vec<String> {
        names(&self.clients)
    }
}

impl Answer for ListUpdateClientsResponse {
    const MESSAGE: &'static str = "muster.report.v1.ListUpdateClientsResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        clients(&self.clients, self.total, now)
    }

    fn names(&self) -> Vec<String> {
        names(&self.clients)
    }
}

impl Answer for ListCoverageClientsResponse {
    const MESSAGE: &'static str = "muster.report.v1.ListCoverageClientsResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        clients(&self.clients, self.total, now)
    }

    fn names(&self) -> Vec<String> {
        names(&self.clients)
    }
}
