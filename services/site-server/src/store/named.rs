//! Finding what people name: by id, by `CEN/name` (whose it is and what it is called), or by a plain
//! name, which means ours before those of others.

use deadpool_postgres::GenericClient;
use muster_domain::SiteCode;
use tokio_postgres::Row;
use uuid::Uuid;

use super::query;
use crate::app::Error;
use crate::domain::names::qualified;

/// A collection, list, package or deployment that somebody named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) number: i32,
    pub(crate) id: Uuid,
    pub(crate) name: String,
    /// `None`: it is ours.
    pub(crate) owner: Option<String>,
}

impl Named {
    /// How people here write it.
    pub(crate) fn label(&self) -> String {
        label(self.owner.as_deref(), &self.name)
    }

    /// Only the owner changes a thing.
    pub(crate) fn ours(self, what: &'static str) -> Result<Self, Error> {
        match &self.owner {
            None => Ok(self),
            Some(owner) => Err(Error::conflict(
                "OWNED_BY_OTHER_SITE",
                format!(
                    "the {what} {:?} belongs to site {owner}: only there it can be changed",
                    self.name
                ),
            )),
        }
    }
}

/// How people write what this site, or another one, calls by this name.
pub(crate) fn label(owner: Option<&str>, name: &str) -> String {
    match owner {
        None => name.to_owned(),
        Some(owner) => format!("{owner}/{name}"),
    }
}

/// The statement that finds things of one table; the best fit comes first.
macro_rules! by_name {
    ($table:literal, $number:literal, $id:literal) => {
        concat!(
            "SELECT ", $number, " AS number, ", $id, " AS id, name, owner_site_code,
                    CASE WHEN ", $id, " = $2 THEN 0
                         WHEN lower(name) = lower($4) AND COALESCE(owner_site_code, $5) = $3 THEN 1
                         WHEN owner_site_code IS NULL THEN 2 ELSE 3 END AS fit
             FROM ", $table, "
             WHERE ", $id, " = $2 OR lower(name) = lower($1)
                OR (lower(name) = lower($4) AND COALESCE(owner_site_code, $5) = $3)
             ORDER BY fit, owner_site_code"
        )
    };
}
pub(super) use by_name;

/// Runs a statement that [`by_name`] made.
pub(super) async fn find(
    db: &impl GenericClient,
    own: SiteCode,
    sql: &str,
    what: &'static str,
    name: &str,
) -> Result<Option<Named>, Error> {
    let name = name.trim();
    let id: Option<Uuid> = name.parse().ok();
    let (code, rest) = qualified(name).unzip();
    let rows = query(db, sql, &[&name, &id, &code, &rest, &own.as_str()]).await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let of_others = |row: &&Row| row.get::<_, i32>("fit") == 3;
    let others: Vec<Named> = rows.iter().filter(of_others).map(named).collect();
    if others.len() > 1 && others.len() == rows.len() {
        let names: Vec<String> = others.iter().map(Named::label).collect();
        return Err(Error::conflict(
            "AMBIGUOUS_NAME",
            format!(
                "several sites have a {what} {name:?}: say which, {}",
                names.join(" or ")
            ),
        ));
    }
    Ok(Some(named(first)))
}

fn named(row: &Row) -> Named {
    Named {
        number: row.get("number"),
        id: row.get("id"),
        name: row.get("name"),
        owner: row.get("owner_site_code"),
    }
}
