//! All clients' cells of one update.

use muster_domain::UpdateNo;
use muster_domain::states::Detection;
use roaring::RoaringBitmap;

use super::Inconsistent;
use crate::pages::count;

/// The states that are stored, in the order of the rows' columns; "not required" is the absence of all three.
pub(super) const STORED: [Detection; 3] = [
    Detection::Installed,
    Detection::Required,
    Detection::Unknown,
];

/// So many clients among those of a bitmap are merged in rather than inserted one by one.
const MANY: usize = 16;

/// The clients in each stored state of one update, no client in two.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Cells {
    /// The catalog generation in which the update came, once it is registered.
    pub(super) introduced: Option<i64>,
    pub(super) installed: Clients,
    pub(super) required: Clients,
    pub(super) unknown: Clients,
}

/// A set of clients with its size kept beside it, moved by one at a time.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Clients {
    pub(super) set: RoaringBitmap,
    pub(super) len: u32,
}

impl Clients {
    fn insert(&mut self, client_no: u32) {
        self.len += u32::from(self.set.insert(client_no));
    }

    /// Puts clients in, given in ascending order. Most are beyond those that are there, which
    /// costs no search; many that are not are merged in at once.
    fn append(&mut self, clients: &[u32]) {
        let max = self.set.max();
        let first = max.map_or(0, |max| clients.partition_point(|no| *no <= max));
        let (between, beyond) = clients.split_at(first);
        if between.len() < MANY {
            self.set.extend(between);
        } else {
            self.set |= RoaringBitmap::from_iter(between);
        }
        if self.set.append(beyond.iter().copied()).is_err() {
            self.set.extend(beyond);
        }
        self.len = count(self.set.len());
    }

    fn remove(&mut self, client_no: u32) -> bool {
        let was_in = self.set.remove(client_no);
        self.len -= u32::from(was_in);
        was_in
    }

    fn remove_all(&mut self, clients: &RoaringBitmap) {
        if self.len > 0 {
            self.len -= count(self.set.intersection_len(clients));
            self.set -= clients;
        }
    }
}

impl Cells {
    pub(super) fn of(&self, state: Detection) -> Option<&Clients> {
        match state {
            Detection::Installed => Some(&self.installed),
            Detection::Required => Some(&self.required),
            Detection::Unknown => Some(&self.unknown),
            Detection::NotRequired => None,
        }
    }

    fn of_mut(&mut self, state: Detection) -> Option<&mut Clients> {
        match state {
            Detection::Installed => Some(&mut self.installed),
            Detection::Required => Some(&mut self.required),
            Detection::Unknown => Some(&mut self.unknown),
            Detection::NotRequired => None,
        }
    }

    /// Puts clients that are in no set into one, given in ascending order.
    pub(super) fn append(&mut self, state: Detection, clients: &[u32]) {
        if let Some(held) = self.of_mut(state) {
            held.append(clients);
        }
    }

    /// Moves a client to a state, from wherever it is; `hint` is looked at first.
    pub(super) fn set(&mut self, client_no: u32, hint: Detection, to: Detection) {
        let found = hint != to
            && self
                .of_mut(hint)
                .is_some_and(|clients| clients.remove(client_no));
        if !found {
            for state in STORED {
                if state != to
                    && state != hint
                    && let Some(clients) = self.of_mut(state)
                {
                    clients.remove(client_no);
                }
            }
        }
        if let Some(clients) = self.of_mut(to) {
            clients.insert(client_no);
        }
    }

    pub(super) fn remove(&mut self, clients: &RoaringBitmap) {
        for state in STORED {
            if let Some(held) = self.of_mut(state) {
                held.remove_all(clients);
            }
        }
    }

    /// The state a client lists, if it lists this update.
    pub(super) fn listed(&self, client_no: u32) -> Option<Detection> {
        STORED.into_iter().find(|state| {
            self.of(*state)
                .is_some_and(|clients| clients.set.contains(client_no))
        })
    }

    /// Nobody would miss it.
    pub(super) fn is_idle(&self) -> bool {
        self.introduced.is_none()
            && self.installed.len == 0
            && self.required.len == 0
            && self.unknown.len == 0
    }

    pub(super) fn bytes(&self) -> usize {
        let bitmaps = [&self.installed, &self.required, &self.unknown];
        let bits: usize = bitmaps.map(|it| it.set.serialized_size()).iter().sum();
        bits + size_of::<Self>()
    }

    pub(super) fn check(
        &self,
        update_no: UpdateNo,
        reported: &RoaringBitmap,
    ) -> Result<(), Inconsistent> {
        if self.is_idle() {
            return Err(Inconsistent::Idle(update_no));
        }
        let mut all = RoaringBitmap::new();
        for state in STORED {
            let Some(clients) = self.of(state) else {
                continue;
            };
            let held = count(clients.set.len());
            if held != clients.len {
                return Err(Inconsistent::Counter {
                    update_no,
                    state,
                    counted: clients.len,
                    held,
                });
            }
            if !all.is_disjoint(&clients.set) {
                return Err(Inconsistent::TwoStates(update_no));
            }
            all |= &clients.set;
        }
        if all.is_subset(reported) {
            Ok(())
        } else {
            Err(Inconsistent::Stranger(update_no))
        }
    }
}
