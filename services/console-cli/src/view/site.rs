//! Sites, their roles, and the links between them.

use jiff::Timestamp;
use muster_proto::link::LinkHealth;
use muster_proto::site::{
    CreateInvitationResponse, GetSiteResponse, JoinParentResponse, LinkDirection,
    ListLinksResponse, ListSitesResponse, Site, SiteLink,
};
use serde_json::Value;

use super::Answer;
use crate::failure::Failure;
use crate::output::table::Block;
use crate::output::text::{ago, at, duration, word};
use crate::output::{Document, json};

impl Answer for ListSitesResponse {
    const MESSAGE: &'static str = "muster.site.v1.ListSitesResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let row = |site: &muster_proto::site::Site| {
            vec![
                site.site_code.clone(),
                site.name.clone(),
                site.parent_site_code.clone(),
                site.clients.to_string(),
                site.own_clients.to_string(),
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
            "OWN#",
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
                ("Clients of its own", site.own_clients.to_string()),
                ("Updates", site.updates.to_string()),
                ("Catalog generation", site.catalog_generation.to_string()),
                ("Version", site.version),
                ("Waiting messages", site.queued_messages.to_string()),
                ("Quarantined", site.quarantined.to_string()),
                (
                    "Certificate ends",
                    at(site.certificate_ends_at.as_ref(), now),
                ),
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

/// The sites as a tree: who is below whom.
#[derive(Debug)]
pub(crate) struct SiteTree(pub(crate) ListSitesResponse);

impl SiteTree {
    /// Draws the sites below `parent`; what hangs nowhere is drawn at the top.
    fn branch(&self, parent: &str, indent: &str, now: Timestamp, lines: &mut Vec<Block>) {
        let below: Vec<&Site> = self
            .0
            .sites
            .iter()
            .filter(|site| site.parent_site_code == parent)
            .collect();
        for (at, site) in below.iter().enumerate() {
            let last = at + 1 == below.len();
            let (joint, rest) = if last {
                ("└─ ", "   ")
            } else {
                ("├─ ", "│  ")
            };
            lines.push(Block::Line(format!("{indent}{joint}{}", text(site, now))));
            // No site is deeper than there are sites: a loop that nobody should make ends here.
            if indent.chars().count() < 3 * self.0.sites.len() {
                self.branch(&site.site_code, &format!("{indent}{rest}"), now, lines);
            }
        }
    }
}

fn text(site: &Site, now: Timestamp) -> String {
    let own = if site.own { "  <- this site" } else { "" };
    let said = match (&site.status_at, site.own) {
        (Some(at), false) => format!(", said {}", ago(Some(at), now)),
        _ => String::new(),
    };
    let ill = site
        .links
        .iter()
        .filter(|link| !matches!(link.health(), LinkHealth::Healthy | LinkHealth::Unspecified));
    let ill = ill.map(|link| {
        let health = word(link.health().as_str_name(), "LINK_HEALTH_");
        format!(", link to {} {health}", link.peer_site_code)
    });
    format!(
        "{}  {}  ({} clients, {} its own{}{said}){own}",
        site.site_code,
        site.name,
        site.clients,
        site.own_clients,
        ill.collect::<String>()
    )
}

impl Document for SiteTree {
    fn json(&self) -> Result<Value, Failure> {
        json::message(<ListSitesResponse as Answer>::MESSAGE, &self.0)
    }

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let known = |code: &str| self.0.sites.iter().any(|site| site.site_code == code);
        let mut lines = Vec::new();
        for site in &self.0.sites {
            if !known(&site.parent_site_code) {
                lines.push(Block::Line(text(site, now)));
                self.branch(&site.site_code, "", now, &mut lines);
            }
        }
        lines
    }

    fn names(&self) -> Vec<String> {
        Answer::names(&self.0)
    }

    fn line(&self, _now: Timestamp) -> String {
        Answer::names(&self.0).join(" ")
    }
}

impl Answer for CreateInvitationResponse {
    const MESSAGE: &'static str = "muster.site.v1.CreateInvitationResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        vec![
            Block::Line(self.token.clone()),
            Block::Line(format!(
                "good once, until {}; there: muster site join TOKEN",
                at(self.expires_at.as_ref(), now)
            )),
        ]
    }

    fn names(&self) -> Vec<String> {
        vec![self.token.clone()]
    }
}

impl Answer for JoinParentResponse {
    const MESSAGE: &'static str = "muster.site.v1.JoinParentResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        let parent = self.parent.clone().unwrap_or_default();
        vec![Block::Line(format!(
            "this site is a child of {} ({}) now; `muster site status` shows the link",
            parent.site_code, parent.name
        ))]
    }

    fn names(&self) -> Vec<String> {
        self.parent.iter().map(|it| it.site_code.clone()).collect()
    }
}

impl Answer for ListLinksResponse {
    const MESSAGE: &'static str = "muster.site.v1.ListLinksResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        const HEADER: &[&str] = &[
            "PEER",
            "NAME",
            "IS",
            "HEALTH",
            "SINCE",
            "HEARD",
            "DIRECTION",
            "LAG",
            "BEHIND#",
            "RATE#",
            "LEFT",
        ];
        let mut rows = Vec::new();
        for link in &self.links {
            rows.push(row(link, "sending", link.sending.as_ref(), now));
            rows.push(row(link, "receiving", link.receiving.as_ref(), now));
        }
        let mut blocks = vec![Block::Table {
            header: HEADER,
            rows,
        }];
        let refused = self.links.iter().filter(|link| !link.refusal.is_empty());
        let problems = self.links.iter().filter(|link| !link.problem.is_empty());
        blocks.extend(problems.map(|link| {
            let text = format!(
                "{} cannot be reached: {}",
                link.peer_site_code, link.problem
            );
            Block::Line(text)
        }));
        blocks.extend(
            refused.map(|link| {
                Block::Line(format!("{} refuses: {}", link.peer_site_code, link.refusal))
            }),
        );
        blocks
    }

    fn names(&self) -> Vec<String> {
        let code = |link: &SiteLink| link.peer_site_code.clone();
        self.links.iter().map(code).collect()
    }

    fn line(&self, _now: Timestamp) -> String {
        let text = |link: &SiteLink| {
            let behind = |direction: &Option<LinkDirection>| {
                direction.as_ref().map_or(0, |it| it.items_behind)
            };
            format!(
                "{} {}, {} to send, {} to receive",
                link.peer_site_code,
                health(link),
                behind(&link.sending),
                behind(&link.receiving)
            )
        };
        self.links.iter().map(text).collect::<Vec<_>>().join("; ")
    }
}

fn health(link: &SiteLink) -> String {
    word(link.health().as_str_name(), "LINK_HEALTH_")
}

fn row(
    link: &SiteLink,
    name: &str,
    direction: Option<&LinkDirection>,
    now: Timestamp,
) -> Vec<String> {
    let direction = direction.cloned().unwrap_or_default();
    let is = if link.parent { "parent" } else { "child" };
    let left = match &direction.time_left {
        Some(left) => duration(Some(left)),
        None if direction.items_behind == 0 => "0s".to_owned(),
        None => String::new(),
    };
    vec![
        link.peer_site_code.clone(),
        link.peer_name.clone(),
        is.to_owned(),
        health(link),
        ago(link.since.as_ref(), now),
        ago(link.heard_at.as_ref(), now),
        name.to_owned(),
        duration(direction.lag.as_ref()),
        direction.items_behind.to_string(),
        format!("{:.1}", direction.rate),
        left,
    ]
}
