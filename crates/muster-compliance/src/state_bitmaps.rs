//! The same idea for states that are rows: per (deployment, state) the clients in it, for the
//! counts of a deployment and the clients behind each count.

use std::borrow::Cow;
use std::collections::BTreeMap;

use muster_domain::states::DeploymentEnforcement;
use roaring::RoaringBitmap;

use crate::pages::{count_within, page, within};

/// Clients by what they are in, of each thing: `K` names the thing (a deployment), `S` the state
/// (topic 301 unless said otherwise). A client is in at most one state of a thing; one without a
/// row is in none. The rows are the truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateBitmaps<K, S = DeploymentEnforcement> {
    /// No bitmap in here is empty, and no map.
    things: BTreeMap<K, BTreeMap<S, RoaringBitmap>>,
}

impl<K, S> Default for StateBitmaps<K, S> {
    fn default() -> Self {
        Self {
            things: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Copy, S: Ord + Copy> StateBitmaps<K, S> {
    /// No thing, no state.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves a client from one state of a thing to another; `None` is no row, before or after.
    /// The newest word counts: `from` only says where to look first, so a move that comes twice
    /// does no harm. Moves of one client come in the order of their commits.
    pub fn move_client(&mut self, key: K, client_no: u32, from: Option<S>, to: Option<S>) {
        let states = self.things.entry(key).or_default();
        let found = from
            .filter(|from| to != Some(*from))
            .and_then(|from| states.get_mut(&from))
            .is_some_and(|clients| clients.remove(client_no));
        if !found {
            for (state, clients) in states.iter_mut() {
                if to != Some(*state) {
                    clients.remove(client_no);
                }
            }
        }
        if let Some(to) = to {
            states.entry(to).or_default().insert(client_no);
        }
        states.retain(|_, clients| !clients.is_empty());
        if states.is_empty() {
            self.things.remove(&key);
        }
    }

    /// Puts a client that is in no state of a thing into one: as [`move_client`](Self::move_client)
    /// from `None`, and several times faster. For the start.
    pub fn add(&mut self, key: K, client_no: u32, state: S) {
        let clients = self.things.entry(key).or_default().entry(state);
        clients.or_default().insert(client_no);
    }

    /// Forgets the things that are not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(K) -> bool) {
        self.things.retain(|key, _| keep(*key));
    }

    /// All things in a range of keys, each state of them with its clients, in order.
    pub fn range(
        &self,
        keys: impl std::ops::RangeBounds<K>,
    ) -> impl Iterator<Item = (K, S, &RoaringBitmap)> {
        let things = self.things.range(keys);
        things.flat_map(|(key, states)| states.iter().map(|(state, held)| (*key, *state, held)))
    }

    /// Forgets a thing.
    pub fn remove(&mut self, key: K) {
        self.things.remove(&key);
    }

    /// Forgets clients, in one walk over everything.
    pub fn remove_clients(&mut self, clients: &RoaringBitmap) {
        self.things.retain(|_, states| {
            states.retain(|_, held| {
                *held -= clients;
                !held.is_empty()
            });
            !states.is_empty()
        });
    }

    /// The state of a client, if it has one.
    pub fn get(&self, key: K, client_no: u32) -> Option<S> {
        let mut states = self.things.get(&key)?.iter();
        let found = states.find(|(_, clients)| clients.contains(client_no));
        found.map(|(state, _)| *state)
    }

    /// Clients per state of a thing, in the order of the states, without those that have none.
    pub fn counts(&self, key: K, collection: Option<&RoaringBitmap>) -> Vec<(S, u32)> {
        let states = self.things.get(&key).into_iter().flatten();
        states
            .map(|(state, clients)| (*state, count_within(clients, collection)))
            .filter(|(_, clients)| *clients > 0)
            .collect()
    }

    /// All clients in a state.
    pub fn in_state(
        &self,
        key: K,
        state: S,
        collection: Option<&RoaringBitmap>,
    ) -> Cow<'_, RoaringBitmap> {
        let states = self.things.get(&key);
        states.and_then(|states| states.get(&state)).map_or_else(
            || Cow::Owned(RoaringBitmap::new()),
            |clients| within(clients, collection),
        )
    }

    /// The members that are in no state: targeted, and nothing heard.
    pub fn in_none(&self, key: K, members: &RoaringBitmap) -> RoaringBitmap {
        let mut silent = members.clone();
        for clients in self.things.get(&key).into_iter().flat_map(BTreeMap::values) {
            silent -= clients;
        }
        silent
    }

    /// The clients in a state after `after`, ascending, at most `limit` and
    /// [`MAX_PAGE`](crate::MAX_PAGE). An empty page is the end.
    pub fn page(
        &self,
        key: K,
        state: S,
        collection: Option<&RoaringBitmap>,
        after: Option<u32>,
        limit: usize,
    ) -> Vec<u32> {
        page(&self.in_state(key, state, collection), after, limit)
    }

    /// Bytes of all bitmaps as they would be written, for a gauge.
    pub fn bytes(&self) -> u64 {
        let bitmaps = self.things.values().flat_map(BTreeMap::values);
        bitmaps.map(|it| it.serialized_size() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENTS: [u32; 5] = [1, 2, 65_535, 65_536, 2_000_000];

    proptest! {
        /// A move: thing, client, what the caller believes was before, what comes.
        #[test]
        fn moves_end_as_the_naive_model_says_whatever_the_caller_believes(
            moves in proptest::collection::vec((0_u8..3, 0_usize..5, 0_u8..4, 0_u8..4, 0_u8..12), 0..60),
            member_bits in any::<[bool; 5]>(),
        ) {
            let mut held: StateBitmaps<u8, u8> = StateBitmaps::new();
            let mut model: BTreeMap<(u8, u32), u8> = BTreeMap::new();
            let state = |number: u8| (number > 0).then_some(number);
            for (key, at, from, to, kind) in moves {
                let client_no = CLIENTS[at];
                if kind == 0 {
                    held.remove_clients(&RoaringBitmap::from_iter([client_no]));
                    model.retain(|(_, client), _| *client != client_no);
                } else if kind == 1 {
                    held.remove(key);
                    model.retain(|(thing, _), _| *thing != key);
                } else {
                    match (state(to), model.get(&(key, client_no))) {
                        (Some(to), None) if kind == 2 => held.add(key, client_no, to),
                        (to, _) => held.move_client(key, client_no, state(from), to),
                    }
                    match state(to) {
                        Some(to) => model.insert((key, client_no), to),
                        None => model.remove(&(key, client_no)),
                    };
                }
            }
            let members: RoaringBitmap =
                CLIENTS.into_iter().zip(member_bits).filter_map(|(c, is)| is.then_some(c)).collect();
            for key in 0..3 {
                for collection in [None, Some(&members)] {
                    let mut counts: BTreeMap<u8, u32> = BTreeMap::new();
                    for ((thing, client), state) in &model {
                        if *thing == key && collection.is_none_or(|it| it.contains(*client)) {
                            *counts.entry(*state).or_default() += 1;
                        }
                    }
                    prop_assert_eq!(held.counts(key, collection), counts.into_iter().collect::<Vec<_>>());
                    for state in 1..4 {
                        let expected: Vec<u32> = CLIENTS
                            .into_iter()
                            .filter(|c| model.get(&(key, *c)) == Some(&state))
                            .filter(|c| collection.is_none_or(|it| it.contains(*c)))
                            .collect();
                        prop_assert_eq!(held.page(key, state, collection, None, 10), expected);
                    }
                }
                for client in CLIENTS {
                    prop_assert_eq!(held.get(key, client), model.get(&(key, client)).copied());
                    let silent = members.contains(client) && !model.contains_key(&(key, client));
                    prop_assert_eq!(held.in_none(key, &members).contains(client), silent);
                }
            }
            prop_assert!(held.things.values().all(|it| !it.is_empty() && it.values().all(|b| !b.is_empty())));
        }
    }
}
