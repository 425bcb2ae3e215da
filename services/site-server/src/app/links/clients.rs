//! Of which clients the parent is to hear. The transaction that changes them marks them in the
//! database; what changed is kept in memory once it has committed, so that a batch can say just that. A
//! mark that memory knows nothing of means everything of its clients.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use deadpool_postgres::GenericClient;

use super::{Error, Site, wake};
use crate::app::negative_controls;
use crate::domain::changed::{Changed, Changes};
use crate::store::dirty_clients::{self, Mark};

/// Clients that one mark stands for when everybody is marked.
const AT_ONCE: i32 = 200;
/// A mark of this age without a memory is one of a transaction whose end nobody knows, in seconds.
const ORPHANED: f64 = 30.0;
/// Orphans that are looked at in one go.
const ORPHANS: i64 = 1_000;

fn changes(site: &Site) -> MutexGuard<'_, Changes> {
    let changes = site.links.changes.lock();
    changes.unwrap_or_else(PoisonError::into_inner)
}

/// Whether it matters what changes.
pub(crate) fn has_parent(site: &Site) -> bool {
    site.links.has_parent.load(Ordering::Acquire)
}

/// A mark in the database, until its transaction has committed.
#[derive(Debug)]
#[must_use = "after the commit it is noted what changed"]
pub(crate) struct Marked(Option<i64>);

/// Marks clients, in the transaction that changes them.
pub(crate) async fn mark(
    site: &Site,
    tx: &impl GenericClient,
    clients: &[i32],
) -> Result<Marked, Error> {
    if clients.is_empty() || !has_parent(site) {
        return Ok(Marked(None));
    }
    Ok(Marked(Some(dirty_clients::mark(tx, clients).await?)))
}

/// The transaction has committed, and this is what it changed. Whoever changes what clients say holds
/// their shards until here: what memory has by then, reports to the parent may be read from.
pub(crate) fn note(
    site: &Site,
    marked: Marked,
    news: impl FnOnce() -> std::collections::BTreeMap<i32, Changed>,
) {
    let Marked(Some(mark)) = marked else { return };
    if negative_controls::passes_over(mark) {
        return;
    }
    changes(site).add(mark, news());
    wake(site);
}

/// As [`note`], when it changed who a client is.
pub(crate) fn note_record(site: &Site, marked: Marked, client_no: i32) {
    note(site, marked, || [(client_no, Changed::record())].into());
}

/// Marks all clients.
pub(super) async fn mark_all(tx: &impl GenericClient) -> Result<Vec<Mark>, Error> {
    dirty_clients::mark_all(tx, AT_ONCE).await
}

/// Marks are in the database, and nobody knows what changed.
pub(super) fn note_unknown(site: &Site, marks: &[Mark]) {
    let mut changes = changes(site);
    for (mark, clients) in marks {
        changes.add_unknown(*mark, clients);
    }
}

/// What is marked already: at the start nobody knows what changed.
pub(super) async fn load(site: &Site, parent: bool) -> Result<(), Error> {
    site.links.has_parent.store(parent, Ordering::Release);
    let db = site.db().await?;
    if parent {
        note_unknown(site, &dirty_clients::all(&db).await?);
    } else {
        dirty_clients::remove_all(&db).await?;
    }
    Ok(())
}

/// A parent came or went. When it came, whatever is recorded without a mark has committed by the
/// end of this, so that who reads everything from now on misses nothing.
pub(super) async fn parent_changed(site: &Site, parent: bool) -> Result<(), Error> {
    if site.links.has_parent.swap(parent, Ordering::AcqRel) == parent {
        return Ok(());
    }
    drop(site.known_clients.lock_all().await);
    drop(super::super::directory::turn(site).await);
    if !parent {
        *changes(site) = Changes::default();
        dirty_clients::remove_all(&site.db().await?).await?;
    }
    Ok(())
}

/// Takes over marks whose transaction ended without an answer.
pub(super) async fn adopt_orphans(site: &Site, in_hand: impl Fn(i64) -> bool) -> Result<(), Error> {
    let old = dirty_clients::old(&site.db().await?, ORPHANED, ORPHANS).await?;
    let mut changes = changes(site);
    for (mark, clients) in old {
        let known = changes.marks.contains(&mark) || in_hand(mark);
        if !known && !negative_controls::passes_over(mark) {
            tracing::debug!(mark, clients = clients.len(), "orphaned mark adopted");
            changes.add_unknown(mark, &clients);
        }
    }
    Ok(())
}

/// Takes everything that changed.
pub(super) fn take(site: &Site) -> Changes {
    let taken = std::mem::take(&mut *changes(site));
    negative_controls::told(&taken.marks);
    taken
}

/// Puts back what was taken.
pub(super) fn put_back(site: &Site, taken: Changes) {
    changes(site).put_back(taken);
}

/// How many clients have changed, and how many marks stand for that.
pub(super) fn size(site: &Site) -> (usize, usize) {
    let changes = changes(site);
    (changes.clients.len(), changes.marks.len())
}
