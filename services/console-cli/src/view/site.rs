//! Sites and their roles.

use jiff::Timestamp;
use muster_proto::site::{GetSiteResponse, ListSitesResponse};

use super::Answer;
use crate::output::table::Block;
use crate::output::text::{ago, at};

impl Answer for ListSitesResponse {
    const MESSAGE: &'static str = "muster.site.v1.ListSitesResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let row = |site: &muster_proto::site::Site| {
            vec![
                site.site_code.clone(),
                site.name.clone(),
                site.parent_site_code.clone(),
                site.clients.to_string(),
                site.updates.to_string(),
                site.catalog_generation.to_string(),
                site.version.clone(),
                ago(site.created_at.as_ref(), now),
            ]
        };
        const HEADER: &[&str] = &[
            "SITE",
            "NAME",
            "PARENT",
            "CLIENTS#",
            "UPDATES#",
            "GENERATION#",
            "VERSION",
            "CREATED",
        ];
        vec![Block::Table {
            header: HEADER,
            rows: self.sites.iter().map(row).collect(),
        }]
    }

    fn names(&self) -> Vec<String> {
        self.sites
            .iter()
            .map(|site| site.site_code.clone())
            .collect()
    }
}

impl Answer for GetSiteResponse {
    const MESSAGE: &'static str = "muster.site.v1.GetSiteResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let site = self.site.clone().unwrap_or_default();
        let roles = self.roles.iter().map(|role| {
            let state = if role.reachable {
                "reachable"
            } else {
                "not reachable"
            };
            vec![
                role.role.clone(),
                state.to_owned(),
                role.address.clone(),
                role.detail.clone(),
            ]
        });
        vec![
            Block::Pairs(vec![
                ("Site", site.site_code),
                ("Name", site.name),
                ("Parent", site.parent_site_code),
                ("Clients", site.clients.to_string()),
                ("Updates", site.updates.to_string()),
                ("Catalog generation", site.catalog_generation.to_string()),
                ("Version", site.version),
                ("Created", at(site.created_at.as_ref(), now)),
            ]),
            Block::Table {
                header: &["ROLE", "STATE", "ADDRESS", "DETAIL"],
                rows: roles.collect(),
            },
        ]
    }

    fn names(&self) -> Vec<String> {
        self.site
            .iter()
            .map(|site| site.site_code.clone())
            .collect()
    }
}
