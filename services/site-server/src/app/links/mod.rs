//! Links with the parent site and with child sites: what is so here and the neighbour is to know goes
//! there in numbered batches, and what is so there comes here (`docs/decisions/0011`).
//!
//! `clients` keeps in mind what changed, `number` makes batches of it, `session` speaks with one
//! neighbour, `receive` applies what it sent. `objects` and `sites` are what goes both ways. `digests`
//! compares what both hold, and `agree` puts memory right where somebody changed rows by hand.

pub(crate) mod agree;
mod client_digests;
pub(crate) mod clients;
mod digests;
mod moves;
mod number;
mod numbers;
pub(crate) mod object_digests;
pub(crate) mod objects;
mod receive;
mod record;
mod report;
pub(crate) mod session;
pub(crate) mod sites;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use jiff::Timestamp;
use muster_domain::SiteCode;
use tokio::sync::{Notify, watch};

use super::{Error, Site};
use crate::domain::changed::Changes;
pub(crate) use crate::domain::link::Neighbour;
use crate::store;

pub(crate) use status::{LinkStatus, cannot_connect, shown};

/// What the process knows of its links.
#[derive(Debug)]
pub(crate) struct Links {
    /// We have a parent, so that it matters what changes.
    has_parent: AtomicBool,
    /// What changed of clients since it was put into a batch for the parent.
    changes: Mutex<Changes>,
    /// Wakes all sessions: something is dirty.
    woken: watch::Sender<()>,
    /// The neighbours are others than before.
    changed: Arc<Notify>,
    /// Which clients the children mean by their numbers.
    numbers: numbers::Numbers,
    /// How each link is.
    states: Mutex<BTreeMap<SiteCode, LinkStatus>>,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            has_parent: AtomicBool::default(),
            changes: Mutex::default(),
            woken: watch::Sender::new(()),
            changed: Arc::default(),
            numbers: numbers::Numbers::default(),
            states: Mutex::default(),
        }
    }
}

/// At the start, before anything is recorded: whether there is a parent, and of whom it is to hear.
pub(crate) async fn load(site: &Site) -> Result<(), Error> {
    let neighbours = store::links::neighbours(&site.db().await?).await?;
    clients::load(site, neighbours.iter().any(|it| it.is_parent)).await
}

/// Something is dirty, and its transaction has committed.
pub(crate) fn wake(site: &Site) {
    site.links.woken.send_replace(());
}

/// The neighbours are others than before, and the transaction that says so has committed.
pub(crate) fn changed(site: &Site) {
    site.links.changed.notify_one();
}

/// Says when [`changed`] was called.
pub(crate) fn changes(site: &Site) -> Arc<Notify> {
    Arc::clone(&site.links.changed)
}

/// Our neighbours as they are now, and since when each is one.
pub(crate) async fn neighbours(site: &Site) -> Result<Vec<(Neighbour, Timestamp)>, Error> {
    let joined = store::links::joined(&site.db().await?).await?;
    let has_parent = joined.iter().any(|(neighbour, _)| neighbour.is_parent);
    clients::parent_changed(site, has_parent).await?;
    status::keep_only(site, &joined);
    Ok(joined)
}

/// How the parent's broker is reached, from outside of any transaction.
pub(crate) async fn broker(
    site: &Site,
    parent: SiteCode,
) -> Result<Option<store::links::Broker>, Error> {
    store::links::broker(&site.db().await?, parent).await
}
