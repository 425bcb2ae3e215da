//! What the site remembers of its clients between batches, so that a repeat costs a look-up and
//! no SQL. The database is the truth; this is a copy of it that only the holder of the lease has,
//! and whoever changes a client's marks holds its shard meanwhile.

use std::collections::{BTreeSet, HashMap, HashSet};

use muster_domain::{ClientId, shard_of};
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::domain::settle::Known;

/// All clients, in as many parts as there are queues of reports: each part has one user at most.
#[derive(Debug)]
pub(crate) struct KnownClients {
    shards: Vec<Mutex<Shard>>,
}

/// One part.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    clients: HashMap<Uuid, Known>,
    /// Clients of which a transaction ended without an answer: the matrix may not have what it
    /// wrote.
    doubtful: BTreeSet<i32>,
}

/// The parts of some clients, held.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    shards: Vec<Option<MutexGuard<'a, Shard>>>,
}

impl KnownClients {
    pub(crate) fn new(shards: u16) -> Self {
        let shards = (0..shards.max(1)).map(|_| Mutex::default()).collect();
        Self { shards }
    }

    /// Waits for all parts.
    pub(crate) async fn lock_all(&self) -> Locked<'_> {
        let mut shards = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            shards.push(Some(shard.lock().await));
        }
        Locked { shards }
    }

    /// Waits for the parts of these clients, in ascending order: two callers never wait for each
    /// other. Take a database connection afterwards, never before.
    pub(crate) async fn lock(&self, clients: impl IntoIterator<Item = Uuid>) -> Locked<'_> {
        let count = self.shards.len();
        let wanted: BTreeSet<usize> = clients.into_iter().map(|id| part(id, count)).collect();
        let mut shards: Vec<Option<MutexGuard<'_, Shard>>> = (0..count).map(|_| None).collect();
        for at in wanted {
            shards[at] = Some(self.shards[at].lock().await);
        }
        Locked { shards }
    }
}

fn part(id: Uuid, shards: usize) -> usize {
    let shards = u16::try_from(shards).unwrap_or(u16::MAX);
    usize::from(shard_of(ClientId(id), shards))
}

impl Locked<'_> {
    fn shard(&mut self, id: Uuid) -> Option<&mut Shard> {
        let at = part(id, self.shards.len());
        self.shards.get_mut(at)?.as_deref_mut()
    }

    pub(crate) fn get(&self, id: Uuid) -> Option<&Known> {
        let shard = self.shards.get(part(id, self.shards.len()))?.as_deref()?;
        shard.clients.get(&id)
    }

    pub(crate) fn keep(&mut self, id: Uuid, known: Known) {
        if let Some(shard) = self.shard(id) {
            shard.clients.insert(id, known);
        }
    }

    /// Forgets a client: the next report of it is compared with the database.
    pub(crate) fn forget(&mut self, id: Uuid) {
        if let Some(shard) = self.shard(id) {
            shard.clients.remove(&id);
        }
    }

    /// As [`Self::forget`], for many.
    pub(crate) fn forget_those(&mut self, ids: &HashSet<Uuid>) {
        for shard in self.shards.iter_mut().flatten() {
            shard.clients.retain(|id, _| !ids.contains(id));
        }
    }

    /// Forgets a client of which a transaction may or may not have been committed.
    pub(crate) fn doubt(&mut self, id: Uuid, client_no: i32) {
        if let Some(shard) = self.shard(id) {
            shard.clients.remove(&id);
            shard.doubtful.insert(client_no);
        }
    }

    /// The clients in doubt in the parts that are held.
    pub(crate) fn doubtful(&self) -> Vec<i32> {
        let held = self.shards.iter().flatten();
        held.flat_map(|shard| shard.doubtful.iter().copied())
            .collect()
    }

    /// The matrix has been told about all of them.
    pub(crate) fn settle_doubts(&mut self) {
        for shard in self.shards.iter_mut().flatten() {
            shard.doubtful.clear();
        }
    }
}
