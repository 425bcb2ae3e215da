//! Which deployment people mean, in memory: what a name or id was found to be in the database is
//! remembered, so that a report over the bitmaps asks the database nothing.
//!
//! A deployment is never renamed and never goes to another collection; whoever adds one, which a
//! plain name may mean from then on, or deletes one [forgets](KnownDeployments::forget_at_end) all
//! of this.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use super::{Error, Site};
use crate::store::deployments::{self, Found};

/// Names come from outside, and one deployment answers to many: more are not remembered.
const MAX_NAMES: usize = 10_000;

/// See the top of this file.
#[derive(Debug, Default)]
pub(crate) struct KnownDeployments(RwLock<Held>);

#[derive(Debug, Default)]
struct Held {
    by_name: HashMap<String, Found>,
    /// Grows whenever all is forgotten: what was asked of the database before is not kept then.
    forgotten: u64,
}

/// Forgets everything when it is dropped, whatever became of the deletion.
#[derive(Debug)]
pub(crate) struct Forget<'a>(&'a KnownDeployments);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut held = self.0.write();
        held.by_name.clear();
        held.forgotten += 1;
    }
}

impl KnownDeployments {
    /// For who is about to add or delete a deployment: keep the answer until that is over.
    #[must_use]
    pub(crate) fn forget_at_end(&self) -> Forget<'_> {
        Forget(self)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered, or since when nothing is.
    fn named(&self, name: &str) -> Result<Found, u64> {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        held.by_name.get(name).copied().ok_or(held.forgotten)
    }

    /// Remembers what the database said, unless something was deleted since it was asked.
    fn keep(&self, name: &str, found: Found, forgotten: u64) {
        let mut held = self.write();
        if held.forgotten == forgotten && held.by_name.len() < MAX_NAMES {
            held.by_name.insert(name.to_owned(), found);
        }
    }
}

/// The deployment with this name or id. The caller has no database connection in hand.
pub(crate) async fn find(site: &Site, name: &str) -> Result<Found, Error> {
    let name = name.trim();
    let known = &site.known_deployments;
    let forgotten = match known.named(name) {
        Ok(found) => return Ok(found),
        Err(forgotten) => forgotten,
    };
    let own = site.config.site_code;
    let found = deployments::find_with_collection(&site.db().await?, own, name).await?;
    let found = found.ok_or_else(|| deployments::unknown(name))?;
    known.keep(name, found, forgotten);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_before_a_deletion_is_not_remembered_after_it() {
        let known = KnownDeployments::default();
        let found = Found {
            deployment_no: 7,
            collection_no: 1,
        };
        let asked = known.named("a").unwrap_err();
        known.keep("a", found, asked);
        assert_eq!(known.named("a"), Ok(found));
        let asked = known.named("b").unwrap_err();
        drop(known.forget_at_end());
        assert!(known.named("a").is_err(), "it may be gone");
        known.keep("b", found, asked);
        assert!(known.named("b").is_err(), "it was asked before");
    }

    #[test]
    fn names_from_outside_fill_no_memory() {
        let known = KnownDeployments::default();
        let found = Found {
            deployment_no: 7,
            collection_no: 1,
        };
        for name in 0..MAX_NAMES + 5 {
            known.keep(&name.to_string(), found, 0);
        }
        assert_eq!(known.write().by_name.len(), MAX_NAMES);
    }
}
