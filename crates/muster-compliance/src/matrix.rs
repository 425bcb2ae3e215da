//! The update-major side of the matrix: per update, the clients that have it installed, require
//! it, or could not tell. What reports read, in microseconds.
//!
//! "Not required" and "no data" are not stored. A client's catalog generation says which updates
//! its scan knew; a client that lists an update in no set does not require it when it knew it,
//! and says nothing about it when it did not. How questions are answered is in `queries.rs`;
//! which side is the truth is at the top of this crate.

mod arrivals;
mod cells;
mod queries;

#[cfg(test)]
mod model_tests;

use std::collections::{BTreeMap, HashMap};

use muster_domain::UpdateNo;
use muster_domain::states::Detection;
use roaring::RoaringBitmap;

use crate::{Change, ClientStates};
pub use arrivals::Arrivals;
use cells::{Cells, STORED};
pub use queries::{Answer, ListAnswer, ListCompliance, UpdateCounts};

/// Clients × updates, one bitmap of clients per (update, state), with the catalog generation of
/// each client.
///
/// A `client_no` is the site's own dense number of a client. A generation is a number of the
/// catalog, growing; only its order matters here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Matrix {
    updates: HashMap<UpdateNo, Cells>,
    /// All that the site manages, also those that never reported.
    clients: RoaringBitmap,
    /// Those that did.
    reported: RoaringBitmap,
    /// Of the clients that reported. The same facts as `by_generation`, the other way round.
    generation_of: HashMap<u32, i64>,
    by_generation: BTreeMap<i64, RoaringBitmap>,
}

/// What [`Matrix::check`] found wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// A counter is not the length of its bitmap.
    #[error("update {update_no} counts {counted} clients as {state}, its bitmap holds {held}")]
    Counter {
        /// The update.
        update_no: UpdateNo,
        /// The state.
        state: Detection,
        /// What the counter says.
        counted: u32,
        /// What the bitmap says.
        held: u32,
    },
    /// A client is in two states of one update.
    #[error("update {0} has a client in two states")]
    TwoStates(UpdateNo),
    /// An update lists a client that never reported.
    #[error("update {0} lists a client without a catalog generation")]
    Stranger(UpdateNo),
    /// An update has nothing to remember and is still there.
    #[error("update {0} is remembered for nothing")]
    Idle(UpdateNo),
    /// The two directions of the generations differ.
    #[error("clients and their catalog generations do not agree")]
    Generations,
}

impl Matrix {
    /// A matrix of no clients.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says in which catalog generation an update came (`updates.first_generation`). Clients with
    /// an older one have no data for it; without this call that is true of every client that does
    /// not list the update.
    pub fn register_update(&mut self, update_no: UpdateNo, generation: i64) {
        self.updates.entry(update_no).or_default().introduced = Some(generation);
    }

    /// Forgets an update and what clients said of it. A client whose row still lists it brings
    /// it back at its next change, so the rows go first.
    pub fn remove_update(&mut self, update_no: UpdateNo) {
        self.updates.remove(&update_no);
    }

    /// Makes a client known that may not have reported yet: there is no data of it, and it is
    /// counted. Repeating this changes nothing.
    pub fn add_client(&mut self, client_no: u32) {
        self.clients.insert(client_no);
    }

    /// Takes over the rows of clients: number, catalog generation, states. For the start, some
    /// thousands at a time and ascending; then they are sorted by update first, so that each
    /// bitmap is touched once. A client that is known with states has them replaced, at the cost
    /// of a [`Self::remove_clients`].
    pub fn load_all<'a>(&mut self, rows: impl IntoIterator<Item = (u32, i64, &'a ClientStates)>) {
        let mut arrivals = Arrivals::default();
        for (client_no, generation, states) in rows {
            if self.generation_of.contains_key(&client_no) {
                self.take_over(&mut arrivals);
                self.remove_clients(&RoaringBitmap::from_iter([client_no]));
            }
            self.set_generation(client_no, generation);
            arrivals.add_cells(client_no, states);
            if arrivals.cells() >= Arrivals::FULL {
                self.take_over(&mut arrivals);
            }
        }
        self.take_over(&mut arrivals);
    }

    /// Takes over rows that were gathered before. As in [`Self::load_all`], a client that is known
    /// has its states replaced.
    pub fn welcome(&mut self, mut arrivals: Arrivals) {
        let known = arrivals.clients.iter().map(|(client_no, _)| *client_no);
        let known: RoaringBitmap = known
            .filter(|client_no| self.generation_of.contains_key(client_no))
            .collect();
        if !known.is_empty() {
            self.remove_clients(&known);
        }
        for (client_no, generation) in &arrivals.clients {
            self.set_generation(*client_no, *generation);
        }
        self.take_over(&mut arrivals);
    }

    /// [`Self::load_all`] for one row.
    pub fn load(&mut self, client_no: u32, generation: i64, states: &ClientStates) {
        self.load_all([(client_no, generation, states)]);
    }

    /// Takes over what really changed in one client's row, and the generation the row has now.
    /// The newest word counts: `from` only says where to look first, so a change that comes
    /// twice, or after a [`Self::load`] that already had it, does no harm. Changes of one client
    /// come in the order of their commits.
    pub fn apply(&mut self, client_no: u32, generation: i64, changes: &[Change]) {
        self.set_generation(client_no, generation);
        for change in changes {
            let cells = self.updates.entry(change.update_no).or_default();
            cells.set(client_no, change.from, change.to);
            // Numbers come from clients: what says nothing any more takes no memory.
            if cells.is_idle() {
                self.updates.remove(&change.update_no);
            }
        }
    }

    /// Forgets a client whose row said this, as last applied. When the row is not at hand, there
    /// is [`Self::remove_clients`].
    pub fn remove_client(&mut self, client_no: u32, row: &ClientStates) {
        for (update_no, from) in row.listed() {
            if let Some(cells) = self.updates.get_mut(&update_no) {
                cells.set(client_no, from, Detection::NotRequired);
                if cells.is_idle() {
                    self.updates.remove(&update_no);
                }
            }
        }
        self.forget(client_no);
    }

    /// Forgets clients, in one walk over all updates: some tens of milliseconds for 30,000.
    pub fn remove_clients(&mut self, clients: &RoaringBitmap) {
        for client_no in clients {
            self.forget(client_no);
        }
        self.updates.retain(|_, cells| {
            cells.remove(clients);
            !cells.is_idle()
        });
    }

    /// All clients that are known, also those that never reported.
    pub fn clients(&self) -> &RoaringBitmap {
        &self.clients
    }

    /// The catalog generation of a client, if it ever reported.
    pub fn generation(&self, client_no: u32) -> Option<i64> {
        self.generation_of.get(&client_no).copied()
    }

    /// What a client's row says of an update: what a change to it starts from.
    pub fn held(&self, update_no: UpdateNo, client_no: u32) -> Detection {
        let listed = self
            .updates
            .get(&update_no)
            .and_then(|cells| cells.listed(client_no));
        listed.unwrap_or(Detection::NotRequired)
    }

    /// How many updates are registered or listed by some client.
    pub fn updates(&self) -> usize {
        self.updates.len()
    }

    /// Bytes of all bitmaps as they would be written, and of the numbers beside them. For a
    /// gauge: what the allocator holds is up to about twice as much. Walks over all updates.
    pub fn bytes(&self) -> u64 {
        let updates: usize = self.updates.values().map(Cells::bytes).sum();
        let generations: usize = self
            .by_generation
            .values()
            .map(RoaringBitmap::serialized_size)
            .sum();
        let clients = self.generation_of.len() * size_of::<(u32, i64)>();
        let known = self.clients.serialized_size() + self.reported.serialized_size();
        (updates + generations + clients + known) as u64
    }

    /// Proves that counters, bitmaps and generations say the same. For tests and for an
    /// administrator's doubt: reads everything.
    ///
    /// # Errors
    /// The first disagreement.
    pub fn check(&self) -> Result<(), Inconsistent> {
        let mut reported = RoaringBitmap::new();
        for (generation, clients) in &self.by_generation {
            let agrees = |client| self.generation_of.get(&client) == Some(generation);
            if clients.is_empty() || !clients.iter().all(agrees) {
                return Err(Inconsistent::Generations);
            }
            reported |= clients;
        }
        let same_len = reported.len() == self.generation_of.len() as u64;
        if !same_len || reported != self.reported || !reported.is_subset(&self.clients) {
            return Err(Inconsistent::Generations);
        }
        for (update_no, cells) in &self.updates {
            cells.check(*update_no, &reported)?;
        }
        Ok(())
    }

    fn set_generation(&mut self, client_no: u32, generation: i64) {
        let before = self.generation_of.insert(client_no, generation);
        if before == Some(generation) {
            return;
        }
        if let Some(before) = before {
            self.leave_generation(client_no, before);
        }
        self.clients.insert(client_no);
        self.reported.insert(client_no);
        self.by_generation
            .entry(generation)
            .or_default()
            .insert(client_no);
    }

    /// Removes a client from everything but the updates.
    fn forget(&mut self, client_no: u32) {
        self.clients.remove(client_no);
        self.reported.remove(client_no);
        if let Some(generation) = self.generation_of.remove(&client_no) {
            self.leave_generation(client_no, generation);
        }
    }

    /// Empties them into the bitmaps.
    fn take_over(&mut self, arrivals: &mut Arrivals) {
        arrivals.empty(|update_no, state, clients| {
            let held = self.updates.entry(update_no).or_default();
            held.append(STORED[state], clients);
        });
    }

    fn leave_generation(&mut self, client_no: u32, generation: i64) {
        if let Some(clients) = self.by_generation.get_mut(&generation) {
            clients.remove(client_no);
            if clients.is_empty() {
                self.by_generation.remove(&generation);
            }
        }
    }
}
