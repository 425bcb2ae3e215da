//! The part of the catalog that concerns this machine.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::catalog::{GetScanMetadataResponse, ScanSuite, ScanUpdate};
use prost::Message;
use rusqlite::OptionalExtension;

use super::{Writer, meta};
use crate::Error;

/// An update with the suite it is in.
#[derive(Debug, Clone, PartialEq)]
pub struct CachedUpdate {
    /// As the software update point gave it; its suite index means nothing here.
    pub update: ScanUpdate,
    /// Number of its suite in [`Catalog::suites`].
    pub suite_no: i64,
}

/// All of it, in the order of update numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalog {
    /// The generation it is of; 0: none yet.
    pub generation: u64,
    /// Suites by their number.
    pub suites: BTreeMap<i64, ScanSuite>,
    /// Updates in ascending order of their number.
    pub updates: Vec<CachedUpdate>,
}

impl Writer<'_> {
    /// The catalog as far as it concerns this machine.
    pub(crate) fn catalog(&self) -> Result<Catalog, Error> {
        let broken = |_| Error::Saved { what: "catalog" };
        let mut suites = BTreeMap::new();
        let mut find = self
            .tx
            .prepare_cached("SELECT suite_no, body FROM catalog_suites")?;
        let mut rows = find.query([])?;
        while let Some(row) = rows.next()? {
            let body: Vec<u8> = row.get(1)?;
            suites.insert(
                row.get(0)?,
                ScanSuite::decode(body.as_slice()).map_err(broken)?,
            );
        }
        let mut updates = Vec::new();
        let mut find = self
            .tx
            .prepare_cached("SELECT suite_no, body FROM catalog_updates ORDER BY update_no")?;
        let mut rows = find.query([])?;
        while let Some(row) = rows.next()? {
            let body: Vec<u8> = row.get(1)?;
            let update = ScanUpdate::decode(body.as_slice()).map_err(broken)?;
            updates.push(CachedUpdate {
                update,
                suite_no: row.get(0)?,
            });
        }
        let generation = self.number(meta::GENERATION)?.unwrap_or(0);
        Ok(Catalog {
            generation,
            suites,
            updates,
        })
    }

    /// Names of packages whose updates were asked for.
    pub(crate) fn known_packages(&self) -> Result<BTreeSet<String>, Error> {
        let mut find = self.tx.prepare_cached("SELECT name FROM known_packages")?;
        let rows = find.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Forgets the catalog: the next scan starts cold.
    pub(crate) fn forget_catalog(&self) -> Result<(), Error> {
        self.tx.execute_batch(
            "DELETE FROM catalog_updates; DELETE FROM catalog_suites; DELETE FROM known_packages;",
        )?;
        self.clear(meta::GENERATION)
    }

    /// Applies an answer of a software update point. `asked` are the names that were sent along.
    /// Updates that touch no package this machine ever had are left out: their packages will be
    /// asked for by name when they are installed.
    pub(crate) fn apply_catalog(
        &self,
        answer: &GetScanMetadataResponse,
        asked: &[String],
    ) -> Result<(), Error> {
        let mut insert = self
            .tx
            .prepare_cached("INSERT OR IGNORE INTO known_packages (name) VALUES (?1)")?;
        for name in asked {
            insert.execute([name])?;
        }
        let mut numbers = Vec::with_capacity(answer.suites.len());
        for suite in &answer.suites {
            numbers.push(self.suite_no(suite)?);
        }
        let known = self.known_packages()?;
        let mut put = self.tx.prepare_cached(
            "INSERT INTO catalog_updates (update_no, suite_no, body) VALUES (?1, ?2, ?3)
             ON CONFLICT (update_no) DO UPDATE SET
                 (suite_no, body) = (excluded.suite_no, excluded.body)",
        )?;
        let mut remove = self
            .tx
            .prepare_cached("DELETE FROM catalog_updates WHERE update_no = ?1")?;
        for update in &answer.updates {
            let concerns = update.is_installable.is_some()
                || update
                    .leaves
                    .iter()
                    .any(|leaf| known.contains(&leaf.package));
            if !concerns {
                remove.execute([update.update_no])?;
                continue;
            }
            let index = usize::try_from(update.suite).unwrap_or(usize::MAX);
            let suite_no = numbers
                .get(index)
                .ok_or_else(|| Error::Answer(format!("suite {} is not listed", update.suite)))?;
            put.execute((update.update_no, suite_no, update.encode_to_vec()))?;
        }
        for update_no in &answer.removed {
            remove.execute([update_no])?;
        }
        self.set_number(meta::GENERATION, answer.generation)
    }

    fn suite_no(&self, suite: &ScanSuite) -> Result<i64, Error> {
        let body = suite.encode_to_vec();
        let mut find = self
            .tx
            .prepare_cached("SELECT suite_no FROM catalog_suites WHERE body = ?1")?;
        if let Some(number) = find.query_row([&body], |row| row.get(0)).optional()? {
            return Ok(number);
        }
        self.tx
            .prepare_cached("INSERT INTO catalog_suites (body) VALUES (?1)")?
            .execute([&body])?;
        Ok(self.tx.last_insert_rowid())
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::catalog::ScanLeaf;

    use super::super::{Durability, Store};
    use super::*;

    fn update(update_no: u32, package: &str, suite: u32) -> ScanUpdate {
        let leaf = ScanLeaf {
            package: package.into(),
            ..Default::default()
        };
        ScanUpdate {
            update_no,
            suite,
            leaves: vec![leaf],
            ..Default::default()
        }
    }

    fn suite(name: &str) -> ScanSuite {
        ScanSuite {
            codename: name.into(),
            ..Default::default()
        }
    }

    #[test]
    fn suites_keep_their_meaning_when_a_server_numbers_them_anew() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("agent.db"), Durability::Full).unwrap();
        let first = GetScanMetadataResponse {
            generation: 1,
            suites: vec![suite("main"), suite("security")],
            updates: vec![update(1, "bash", 1), update(2, "zsh", 0)],
            ..Default::default()
        };
        store
            .write(|w| w.apply_catalog(&first, &["bash".into()]))
            .unwrap();
        let second = GetScanMetadataResponse {
            generation: 2,
            suites: vec![suite("security"), suite("main")],
            updates: vec![update(3, "bash", 1)],
            ..Default::default()
        };
        store.write(|w| w.apply_catalog(&second, &[])).unwrap();
        let catalog = store.read(|r| r.catalog()).unwrap();
        assert_eq!(catalog.generation, 2);
        let named: Vec<_> = catalog
            .updates
            .iter()
            .map(|u| {
                (
                    u.update.update_no,
                    catalog.suites[&u.suite_no].codename.as_str(),
                )
            })
            .collect();
        assert_eq!(
            named,
            [(1, "security"), (3, "main")],
            "zsh was never installed here"
        );
    }
}
