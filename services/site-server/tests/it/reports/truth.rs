//! What the rows say, counted the slow way.

use std::collections::{BTreeMap, BTreeSet};

use muster_domain::states::Detection;
use muster_proto::report::{ListAnswer, UpdateAnswer};

use crate::site::Site;

/// Whose clients a report is asked about; empty is everybody's.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Whose<'a> {
    pub(crate) collection: &'a str,
    pub(crate) site_code: &'a str,
}

/// All rows that reports are about.
pub(crate) struct Truth {
    pub(crate) clients: BTreeMap<i32, Row>,
    /// Per update: the generation in which it came.
    pub(crate) introduced: BTreeMap<u32, i64>,
    pub(crate) collections: BTreeMap<String, BTreeSet<i32>>,
    pub(crate) lists: BTreeMap<String, Vec<u32>>,
    /// Per site: it and all below it.
    pub(crate) below: BTreeMap<String, BTreeSet<String>>,
}

/// A client.
pub(crate) struct Row {
    pub(crate) host_name: String,
    pub(crate) site_code: String,
    /// Of its catalog, if it ever reported.
    pub(crate) generation: Option<i64>,
    states: BTreeMap<u32, Detection>,
}

impl Truth {
    pub(crate) async fn read(site: &Site) -> Self {
        let db = site.pool.get().await.unwrap();
        let sql = "SELECT client_no, host_name, catalog_generation, installed, required, unknown,
                          owner_site_code
                   FROM clients LEFT JOIN client_compliance USING (client_no)
                   WHERE deleted_at IS NULL";
        let mut clients = BTreeMap::new();
        for row in db.query(sql, &[]).await.unwrap() {
            let mut states = BTreeMap::new();
            for (column, state) in [
                ("installed", Detection::Installed),
                ("required", Detection::Required),
                ("unknown", Detection::Unknown),
            ] {
                let numbers: Option<Vec<i32>> = row.get(column);
                let numbers = numbers.into_iter().flatten();
                states.extend(numbers.map(|no| (no.unsigned_abs(), state)));
            }
            let held = Row {
                host_name: row.get("host_name"),
                site_code: row
                    .get::<_, Option<String>>("owner_site_code")
                    .unwrap_or_else(|| site.config.site_code.to_string()),
                generation: row.get("catalog_generation"),
                states,
            };
            clients.insert(row.get("client_no"), held);
        }
        let sql = "SELECT update_no, first_generation FROM updates";
        let introduced = db.query(sql, &[]).await.unwrap();
        let introduced = introduced
            .iter()
            .map(|row| (row.get::<_, i32>(0).unsigned_abs(), row.get(1)))
            .collect();
        let mut collections: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
        let sql = "SELECT name, client_no FROM collections
                   LEFT JOIN collection_members USING (collection_no) WHERE NOT built_in";
        for row in db.query(sql, &[]).await.unwrap() {
            let members = collections.entry(row.get(0)).or_default();
            members.extend(row.get::<_, Option<i32>>(1));
        }
        let mut lists: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        let sql = "SELECT name, update_no FROM update_lists JOIN update_list_members
                   USING (update_list_no)";
        for row in db.query(sql, &[]).await.unwrap() {
            let updates = lists.entry(row.get(0)).or_default();
            updates.push(row.get::<_, i32>(1).unsigned_abs());
        }
        let mut below: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let sql = "WITH RECURSIVE pairs (top, site_code) AS (
                       SELECT site_code, site_code FROM sites
                       UNION SELECT p.top, s.site_code FROM pairs p
                       JOIN sites s ON s.parent_site_code = p.site_code)
                   SELECT top, site_code FROM pairs";
        for row in db.query(sql, &[]).await.unwrap() {
            below.entry(row.get(0)).or_default().insert(row.get(1));
        }
        Self {
            below,
            clients,
            introduced,
            collections,
            lists,
        }
    }

    /// These clients, in the order of their numbers.
    pub(crate) fn members(&self, whose: Whose<'_>) -> Vec<i32> {
        let of_site = |row: &Row| {
            whose.site_code.is_empty() || self.below[whose.site_code].contains(&row.site_code)
        };
        let of_collection = |no: i32| {
            whose.collection.is_empty() || self.collections[whose.collection].contains(&no)
        };
        let all = self.clients.iter();
        all.filter(|(no, row)| of_site(row) && of_collection(**no))
            .map(|(no, _)| *no)
            .collect()
    }

    pub(crate) fn hosts(&self, clients: impl IntoIterator<Item = i32>) -> Vec<String> {
        let host = |no: i32| self.clients[&no].host_name.clone();
        clients.into_iter().map(host).collect()
    }

    pub(crate) fn answer(&self, client_no: i32, update_no: u32) -> UpdateAnswer {
        let client = &self.clients[&client_no];
        match client.states.get(&update_no) {
            Some(Detection::Installed) => UpdateAnswer::Installed,
            Some(Detection::Required) => UpdateAnswer::Required,
            Some(Detection::Unknown) => UpdateAnswer::Unknown,
            Some(Detection::NotRequired) | None => {
                let knows = |first: &i64| client.generation.is_some_and(|it| it >= *first);
                if self.introduced.get(&update_no).is_some_and(knows) {
                    UpdateAnswer::NotRequired
                } else {
                    UpdateAnswer::NoData
                }
            }
        }
    }

    pub(crate) fn list_answer(&self, client_no: i32, updates: &[u32]) -> ListAnswer {
        let says = |wanted| {
            let mut answers = updates.iter().map(|no| self.answer(client_no, *no));
            answers.any(|it| it == wanted)
        };
        if says(UpdateAnswer::Required) {
            ListAnswer::NonCompliant
        } else if says(UpdateAnswer::Unknown) {
            ListAnswer::Unknown
        } else if says(UpdateAnswer::NoData) || self.clients[&client_no].generation.is_none() {
            ListAnswer::NoData
        } else {
            ListAnswer::Compliant
        }
    }
}
