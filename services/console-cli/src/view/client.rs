//! Clients, and the tokens with which they enrol.

use jiff::Timestamp;
use muster_domain::states::Scan;
use muster_proto::client::{
    Client, CreateEnrolmentTokensResponse, GetClientResponse, ListClientsResponse,
    MoveClientResponse, ResyncClientsResponse,
};

use super::{Answer, state};
use crate::output::table::Block;
use crate::output::text::{ago, at, id, size, yes};

impl Answer for ListClientsResponse {
    const MESSAGE: &'static str = "muster.client.v1.ListClientsResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let row = |client: &Client| {
            vec![
                client.host_name.clone(),
                client.site_code.clone(),
                system(client),
                client.required.to_string(),
                client.installed.to_string(),
                client.unknown.to_string(),
                scan(client),
                yes(client.restart_pending),
                ago(client.last_report_at.as_ref(), now),
                id(&client.client_id),
            ]
        };
        const HEADER: &[&str] = &[
            "CLIENT",
            "SITE",
            "SYSTEM",
            "REQUIRED#",
            "INSTALLED#",
            "UNKNOWN#",
            "SCAN",
            "RESTART",
            "LAST-REPORT",
            "ID",
        ];
        vec![Block::Table {
            header: HEADER,
            rows: self.clients.iter().map(row).collect(),
        }]
    }

    /// Ids, because two clients may have the same host name.
    fn names(&self) -> Vec<String> {
        self.clients
            .iter()
            .map(|client| id(&client.client_id))
            .collect()
    }
}

impl Answer for GetClientResponse {
    const MESSAGE: &'static str = "muster.client.v1.GetClientResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let client = self.client.clone().unwrap_or_default();
        let restart = match (client.restart_pending, client.restart_reason.is_empty()) {
            (true, false) => format!("yes: {}", client.restart_reason),
            (pending, _) => yes(pending),
        };
        let generation = match client.catalog_generation {
            0 => String::new(),
            generation => generation.to_string(),
        };
        let scan = match client.scan_detail.as_str() {
            "" => scan(&client),
            detail => format!("{}: {detail}", scan(&client)),
        };
        let stream = self.stream.unwrap_or_default();
        let what = if stream.full_wanted {
            "everything"
        } else {
            "what is missing"
        };
        let asked = match stream.asks {
            _ if stream.ask_at.is_none() => "-".to_owned(),
            0 => format!("not yet for {what}"),
            1 => format!("once for {what}"),
            asks => format!("{asks} times for {what}"),
        };
        let clones: Vec<String> = self.clone_ids.iter().map(|clone| id(clone)).collect();
        let separated = match self.separated_from_id.as_ref() {
            [] => String::new(),
            from => format!("a clone of {}", id(from)),
        };
        let moved = self.r#move.as_ref().map_or_else(String::new, |it| {
            let when = at(it.decided_at.as_ref(), now);
            let how = if it.arrived {
                "arrived"
            } else {
                "not there yet"
            };
            format!("to {}, decided {when}, {how}", it.to_site_code)
        });
        let mut pairs = vec![
            ("Client", client.host_name.clone()),
            ("Id", id(&client.client_id)),
            ("Site", client.site_code.clone()),
            ("System", system(&client)),
            ("Architecture", client.architecture.clone()),
            ("Kernel", client.kernel.clone()),
            ("Agent", client.agent_version.clone()),
            ("Packages", client.installed_packages.to_string()),
            ("Free disk", size(client.free_disk_bytes)),
            ("Memory", size(client.memory_bytes)),
            ("Collections", self.collections.join(", ")),
            ("Enrolled", at(client.enrolled_at.as_ref(), now)),
            ("Epoch", client.epoch.to_string()),
            ("Recorded to serial", stream.contiguous_serial.to_string()),
            ("Last serial seen", stream.highest_serial.to_string()),
            ("Gap since", at(stream.gap_since.as_ref(), now)),
            ("Asked", asked),
            ("Asked next", at(stream.ask_at.as_ref(), now)),
            ("Last report", at(client.last_report_at.as_ref(), now)),
            ("Last policy", at(client.last_policy_at.as_ref(), now)),
            ("Last scan", at(client.last_scanned_at.as_ref(), now)),
            ("Scan", scan),
            ("Catalog generation", generation),
            ("Updates required", client.required.to_string()),
            ("Updates installed", client.installed.to_string()),
            ("Updates unknown", client.unknown.to_string()),
            ("Restart pending", restart),
        ];
        // What hardly any client has.
        let rare = [
            ("Used twice since", at(stream.forked_at.as_ref(), now)),
            (
                "Identity renewed",
                at(self.identity_renewed_at.as_ref(), now),
            ),
            ("Separated", separated),
            ("Clones", clones.join(", ")),
            ("Move", moved),
        ];
        pairs.extend(
            rare.into_iter()
                .filter(|(_, value)| !value.is_empty() && value != "-"),
        );
        vec![Block::Pairs(pairs)]
    }

    fn names(&self) -> Vec<String> {
        self.client
            .iter()
            .map(|client| id(&client.client_id))
            .collect()
    }
}

impl Answer for MoveClientResponse {
    const MESSAGE: &'static str = "muster.client.v1.MoveClientResponse";

    fn blocks(&self, _: Timestamp) -> Vec<Block> {
        let it = self.r#move.clone().unwrap_or_default();
        vec![Block::Pairs(vec![
            ("Client", id(&it.client_id)),
            ("Moves to", it.to_site_code),
            ("Move", it.move_no.to_string()),
        ])]
    }

    fn names(&self) -> Vec<String> {
        self.r#move.iter().map(|it| id(&it.client_id)).collect()
    }
}

impl Answer for ResyncClientsResponse {
    const MESSAGE: &'static str = "muster.client.v1.ResyncClientsResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        let clients = match self.clients {
            1 => "1 client".to_owned(),
            clients => format!("{clients} clients"),
        };
        vec![Block::Line(format!("{clients} asked for a full report"))]
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Answer for CreateEnrolmentTokensResponse {
    const MESSAGE: &'static str = "muster.client.v1.CreateEnrolmentTokensResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        self.tokens.iter().cloned().map(Block::Line).collect()
    }

    fn names(&self) -> Vec<String> {
        self.tokens.clone()
    }
}

/// "debian 12".
fn system(client: &Client) -> String {
    format!("{} {}", client.os_id, client.os_version_id)
        .trim()
        .to_owned()
}

fn scan(client: &Client) -> String {
    state(
        i32::try_from(client.scan_state).unwrap_or(i32::MAX),
        Scan::from_id,
    )
}
