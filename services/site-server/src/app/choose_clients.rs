//! Which clients a report is about: those of a collection, those of a site and of all below it, or
//! who is both. From memory: the sites are read again after somebody said something of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use muster_compliance::RoaringBitmap;
use muster_domain::SiteCode;

use super::{Error, Site, directory};
use crate::domain::site_tree::{Owners, SiteTree};
use crate::store::sites;

/// The sites as they were read, and whether that is still so.
#[derive(Debug, Default)]
pub(crate) struct KnownSites {
    changes: AtomicU64,
    /// As of which change.
    read: RwLock<Option<(u64, Arc<SiteTree>)>>,
}

/// Who changes the sites holds one across the commit, however that ends.
#[derive(Debug)]
pub(crate) struct Changing<'a>(&'a KnownSites);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.changes.fetch_add(1, Ordering::AcqRel);
    }
}

/// The sites are read again once the answer is dropped.
pub(crate) fn changing(site: &Site) -> Changing<'_> {
    Changing(&site.known_sites)
}

async fn tree(site: &Site) -> Result<Arc<SiteTree>, Error> {
    let known = &site.known_sites;
    // Before the rows are read: what commits meanwhile is a change that is not in them.
    let change = known.changes.load(Ordering::Acquire);
    {
        let read = known.read.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, tree)) = &*read
            && *at >= change
        {
            return Ok(Arc::clone(tree));
        }
    }
    let tree = Arc::new(SiteTree::new(sites::places(&site.db().await?).await?));
    let mut read = known.read.write().unwrap_or_else(PoisonError::into_inner);
    if read.as_ref().is_none_or(|(at, _)| *at < change) {
        *read = Some((change, Arc::clone(&tree)));
    }
    Ok(tree)
}

/// Whose clients are meant with this site code; an empty one means everybody's.
pub(crate) async fn owners(site: &Site, site_code: &str) -> Result<Owners, Error> {
    let site_code = site_code.trim();
    if site_code.is_empty() {
        return Ok(Owners::All);
    }
    let own = site.config.site_code;
    let unknown = || {
        Error::not_found(
            "UNKNOWN_SITE",
            format!("{site_code:?} is not {own} and no site below it"),
        )
    };
    let code: SiteCode = site_code.parse().map_err(|_| unknown())?;
    tree(site).await?.at_or_below(code, own).ok_or_else(unknown)
}

/// The clients of a collection that report to a site or to one below it; `None` is all. Names are as
/// in reports, empty ones mean everybody.
pub(crate) async fn members(
    site: &Site,
    collection: &str,
    site_code: &str,
) -> Result<Option<Arc<RoaringBitmap>>, Error> {
    let of_site = of_site(site, site_code).await?;
    let of_collection = directory::members(site, collection).await?;
    Ok(match (of_collection, of_site) {
        (Some(collection), Some(of_site)) => Some(Arc::new(&*collection & &of_site)),
        (collection, of_site) => collection.or_else(|| of_site.map(Arc::new)),
    })
}

/// The clients that report to a site or to one below it; `None` is all.
pub(crate) async fn of_site(site: &Site, site_code: &str) -> Result<Option<RoaringBitmap>, Error> {
    match owners(site, site_code).await? {
        Owners::All => Ok(None),
        Owners::Of(codes) => Ok(Some(directory::owned_by(site, &codes).await?)),
    }
}

/// Clients by the site that they report to, none of them ours.
#[derive(Debug, Default)]
pub(crate) struct ByOwner(BTreeMap<String, RoaringBitmap>);

impl ByOwner {
    /// These clients report to these sites, and to no other any more.
    pub(crate) fn set<'a>(&mut self, owners: impl IntoIterator<Item = (i32, &'a str)>) {
        let mut fresh: BTreeMap<&str, RoaringBitmap> = BTreeMap::new();
        let mut all = RoaringBitmap::new();
        for (client_no, owner) in owners {
            let client = client_no.unsigned_abs();
            fresh.entry(owner).or_default().insert(client);
            all.insert(client);
        }
        for (owner, held) in &mut self.0 {
            if fresh.get(owner.as_str()) != Some(&all) {
                *held -= &all;
            }
        }
        for (owner, clients) in fresh {
            *self.0.entry(owner.to_owned()).or_default() |= clients;
        }
        self.0.retain(|_, clients| !clients.is_empty());
    }

    pub(crate) fn remove(&mut self, client_no: i32) {
        for clients in self.0.values_mut() {
            clients.remove(client_no.unsigned_abs());
        }
    }

    pub(crate) fn of(&self, codes: &[String]) -> RoaringBitmap {
        let mut all = RoaringBitmap::new();
        for clients in codes.iter().filter_map(|code| self.0.get(code)) {
            all |= clients;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(held: &ByOwner, codes: &[&str]) -> Vec<u32> {
        let codes: Vec<String> = codes.iter().map(|it| (*it).to_owned()).collect();
        held.of(&codes).iter().collect()
    }

    #[test]
    fn a_client_is_of_the_site_that_was_named_last() {
        let mut held = ByOwner::default();
        held.set([(1, "P01"), (2, "P01"), (3, "S01")]);
        held.set([(2, "S01"), (4, "P01")]);
        assert_eq!(of(&held, &["P01"]), [1, 4]);
        assert_eq!(of(&held, &["S01"]), [2, 3]);
        assert_eq!(of(&held, &["P01", "S01", "X01"]), [1, 2, 3, 4]);
        held.set([(1, "S01"), (4, "S01")]);
        held.remove(3);
        assert!(of(&held, &["P01"]).is_empty());
        assert_eq!(of(&held, &["S01"]), [1, 2, 4]);
    }
}
