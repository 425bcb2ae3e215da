//! Which clients a child means by its numbers for them. It says so once, with who a client is; the
//! database has it, and this is a copy.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use muster_domain::SiteCode;
use uuid::Uuid;

use super::{Error, Site};
use crate::domain::link_rows::{self, Row};
use crate::domain::report::{Refused, Report};
use crate::store::replicas::{self, Replica};

type Numbered = HashMap<SiteCode, HashMap<i32, Uuid>>;

/// By child.
#[derive(Debug, Default)]
pub(super) struct Numbers(Mutex<Numbered>);

impl Numbers {
    fn held(&self) -> MutexGuard<'_, Numbered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A child says who these are; what becomes of that is not known yet.
    pub(super) fn doubt(&self, child: SiteCode, replicas: &[Replica]) {
        if let Some(held) = self.held().get_mut(&child) {
            for replica in replicas {
                held.remove(&replica.number);
            }
        }
    }
}

/// Rows of a child as reports of the clients that it means.
pub(super) async fn reports(
    site: &Site,
    child: SiteCode,
    replicas: &[Replica],
    rows: Vec<Row>,
    check: &[u8],
) -> Result<Result<Vec<Report>, Refused>, Error> {
    if rows.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    let told: HashMap<i32, Uuid> = replicas
        .iter()
        .filter(|it| !it.deleted)
        .map(|it| (it.number, it.client_id))
        .collect();
    let numbers: Vec<i32> = rows.iter().map(|row| row.client_no.cast_signed()).collect();
    let missing: BTreeSet<i32> = {
        let all = site.links.numbers.held();
        let held = all.get(&child);
        let missing =
            |no: &&i32| !told.contains_key(no) && !held.is_some_and(|held| held.contains_key(no));
        numbers.iter().filter(missing).copied().collect()
    };
    if !missing.is_empty() {
        let missing: Vec<i32> = missing.into_iter().collect();
        let found = replicas::numbered(&site.db().await?, child.as_str(), &missing).await?;
        let mut all = site.links.numbers.held();
        all.entry(child).or_default().extend(found);
    }
    let ids: Option<Vec<Uuid>> = {
        let all = site.links.numbers.held();
        let held = all.get(&child);
        let id = |no: &i32| told.get(no).or_else(|| held?.get(no)).copied();
        numbers.iter().map(id).collect()
    };
    let Some(ids) = ids else {
        let why = "a row is of a client that was not told of";
        return Ok(Err(Refused::new("UNKNOWN_CLIENT", why)));
    };
    if link_rows::check(&ids) != check {
        let why = "the numbers of clients mean others here";
        return Ok(Err(Refused::new("CLIENT_NUMBERS_DIFFER", why)));
    }
    let rows = rows.into_iter().zip(ids);
    Ok(rows.map(|(row, id)| row.into_report(id)).collect())
}
