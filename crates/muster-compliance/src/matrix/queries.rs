//! What reports ask of the matrix. Every answer allocates a few bitmaps of clients (at most
//! 8 KiB per 65,536 of them each) and what it returns, whatever the number of updates.
//!
//! A collection is a bitmap of clients; members that the matrix does not know are not counted.
//! `None` is all clients.

use std::borrow::Cow;
use std::collections::btree_map;

use muster_domain::UpdateNo;
use muster_domain::states::Detection;
use roaring::{MultiOps, RoaringBitmap};

use super::Matrix;
use super::cells::{Cells, STORED};
use crate::pages::{count, count_within, page, within};

/// What is known of one update on one client: the four states of semantics.md 2.3, with "no
/// data" told apart from "unknown".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// Applicable and installed.
    Installed,
    /// Applicable and not installed.
    Required,
    /// The client's catalog knows the update, and it does not apply.
    NotRequired,
    /// The client could not tell.
    Unknown,
    /// The client has not been asked: it never reported, or its catalog is older than the update.
    NoData,
}

/// Clients per answer for one update. The five add up to the clients asked about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UpdateCounts {
    /// Clients that have it.
    pub installed: u32,
    /// Clients that need it.
    pub required: u32,
    /// Clients to which it does not apply.
    pub not_required: u32,
    /// Clients that could not tell.
    pub unknown: u32,
    /// Clients that have not been asked.
    pub no_data: u32,
}

/// Clients by what they say of a whole list of updates. A client counts once, for the first of
/// non-compliant, unknown, no data that holds of it. The four add up to `clients`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListCompliance {
    /// Clients asked about.
    pub clients: u32,
    /// Every update is installed or not required. A client that never reported is not compliant,
    /// not even with an empty list.
    pub compliant: u32,
    /// At least one update is required.
    pub non_compliant: u32,
    /// None is required, and of at least one the client could not tell.
    pub unknown: u32,
    /// None is required or unknown, and there is no data for at least one.
    pub no_data: u32,
}

/// What one client says of a whole list of updates: the first of non-compliant, unknown, no data
/// that holds of it, otherwise compliant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListAnswer {
    /// Every update is installed or not required.
    Compliant,
    /// At least one update is required.
    NonCompliant,
    /// None is required, and of at least one the client could not tell.
    Unknown,
    /// None is required or unknown, and there is no data for at least one.
    NoData,
}

/// The clients of a collection by what they say of a list, as far as it takes no look at the
/// generations.
struct Sides<'a> {
    /// The youngest update first, those not registered before all: see [`Matrix::late`].
    cells: Vec<&'a Cells>,
    /// An update of the list is one that nobody knows.
    strange: bool,
    members: Cow<'a, RoaringBitmap>,
    non_compliant: RoaringBitmap,
    unknown: RoaringBitmap,
}

impl Sides<'_> {
    /// Those who reported and are neither non-compliant nor unknown.
    fn rest(&self, reported: &RoaringBitmap) -> RoaringBitmap {
        let mut rest = &*self.members & reported;
        rest -= &self.non_compliant;
        rest -= &self.unknown;
        rest
    }
}

impl Matrix {
    /// What is known of one update on one client; `None` for a client that is not known.
    pub fn answer(&self, update_no: UpdateNo, client_no: u32) -> Option<Answer> {
        if !self.clients.contains(client_no) {
            return None;
        }
        let cells = self.updates.get(&update_no);
        let informed = || {
            let introduced = cells.and_then(|cells| cells.introduced);
            introduced.is_some_and(|first| self.generation(client_no) >= Some(first))
        };
        Some(match cells.and_then(|cells| cells.listed(client_no)) {
            Some(Detection::Installed) => Answer::Installed,
            Some(Detection::Required) => Answer::Required,
            Some(Detection::Unknown) => Answer::Unknown,
            Some(Detection::NotRequired) | None if informed() => Answer::NotRequired,
            Some(Detection::NotRequired) | None => Answer::NoData,
        })
    }

    /// Clients per answer for one update.
    pub fn counts(&self, update_no: UpdateNo, collection: Option<&RoaringBitmap>) -> UpdateCounts {
        let counts = self.list_counts(&[update_no], collection);
        counts.first().copied().unwrap_or_default()
    }

    /// Clients per answer for each update of a list, in the list's order.
    pub fn list_counts(
        &self,
        updates: &[UpdateNo],
        collection: Option<&RoaringBitmap>,
    ) -> Vec<UpdateCounts> {
        let all = count_within(&self.clients, collection);
        let mut counts = vec![UpdateCounts::default(); updates.len()];
        // The horizon moves one way, so the oldest update goes first.
        let mut order: Vec<(Option<i64>, usize)> = updates
            .iter()
            .map(|number| self.updates.get(number).and_then(|cells| cells.introduced))
            .zip(0..)
            .collect();
        order.sort_unstable_by_key(|(introduced, at)| (introduced.is_none(), *introduced, *at));
        let mut horizon = Horizon::new(self, collection);
        for (introduced, at) in order {
            horizon.move_to(introduced);
            counts[at] = match self.updates.get(&updates[at]) {
                Some(cells) => horizon.counts(cells, all),
                None => UpdateCounts {
                    no_data: all,
                    ..UpdateCounts::default()
                },
            };
        }
        counts
    }

    /// How many clients say of each update that it is installed, required, unknown; updates of
    /// which nobody says anything are left out. Ascending.
    pub fn per_update(&self) -> Vec<(UpdateNo, [u32; 3])> {
        let said = |cells: &Cells| [cells.installed.len, cells.required.len, cells.unknown.len];
        let all = self.updates.iter();
        let mut all: Vec<(UpdateNo, [u32; 3])> = all
            .map(|(update_no, cells)| (*update_no, said(cells)))
            .filter(|(_, said)| *said != [0; 3])
            .collect();
        all.sort_unstable();
        all
    }

    /// The updates that some client requires, with how many do, most first; at most `limit`.
    pub fn most_required(
        &self,
        collection: Option<&RoaringBitmap>,
        limit: usize,
    ) -> Vec<(UpdateNo, u32)> {
        let required = |cells: &Cells| {
            collection.map_or(cells.required.len, |members| {
                count(cells.required.set.intersection_len(members))
            })
        };
        let mut all: Vec<(UpdateNo, u32)> = self
            .updates
            .iter()
            .filter(|(_, cells)| cells.required.len > 0)
            .map(|(update_no, cells)| (*update_no, required(cells)))
            .filter(|(_, clients)| *clients > 0)
            .collect();
        all.sort_unstable_by_key(|(update_no, clients)| (std::cmp::Reverse(*clients), *update_no));
        all.truncate(limit);
        all
    }

    /// Which part of the clients requires an update, 0 to 1; `None` when there are no clients.
    pub fn fraction_required(
        &self,
        update_no: UpdateNo,
        collection: Option<&RoaringBitmap>,
    ) -> Option<f64> {
        let clients = count_within(&self.clients, collection);
        let required = self.updates.get(&update_no).map_or(0, |cells| {
            collection.map_or(cells.required.len, |members| {
                count(cells.required.set.intersection_len(members))
            })
        });
        (clients > 0).then(|| f64::from(required) / f64::from(clients))
    }

    /// The clients with this answer for an update, after `after`, ascending, at most `limit` and
    /// [`MAX_PAGE`](crate::MAX_PAGE). The last one is the next page's `after`; an empty page is
    /// the end.
    pub fn page(
        &self,
        update_no: UpdateNo,
        answer: Answer,
        collection: Option<&RoaringBitmap>,
        after: Option<u32>,
        limit: usize,
    ) -> Vec<u32> {
        page(
            &self.with_answer(update_no, answer, collection),
            after,
            limit,
        )
    }

    /// All clients with this answer for an update: the start of a collection, or of a page.
    pub fn with_answer(
        &self,
        update_no: UpdateNo,
        answer: Answer,
        collection: Option<&RoaringBitmap>,
    ) -> Cow<'_, RoaringBitmap> {
        let cells = self.updates.get(&update_no);
        let state = match answer {
            Answer::Installed => Detection::Installed,
            Answer::Required => Detection::Required,
            Answer::Unknown => Detection::Unknown,
            Answer::NotRequired | Answer::NoData => {
                return Cow::Owned(self.unlisted(cells, answer, collection));
            }
        };
        cells.and_then(|cells| cells.of(state)).map_or_else(
            || Cow::Owned(RoaringBitmap::new()),
            |clients| within(&clients.set, collection),
        )
    }

    /// Those who list the update in no set, and knew it or did not.
    fn unlisted(
        &self,
        cells: Option<&Cells>,
        answer: Answer,
        collection: Option<&RoaringBitmap>,
    ) -> RoaringBitmap {
        let mut informed = RoaringBitmap::new();
        if let Some(first) = cells.and_then(|cells| cells.introduced) {
            for (_, clients) in self.by_generation.range(first..) {
                informed |= clients;
            }
        }
        let mut found = within(&self.clients, collection).into_owned();
        if answer == Answer::NotRequired {
            found &= informed;
        } else {
            found -= informed;
        }
        for clients in STORED
            .iter()
            .filter_map(|state| cells.and_then(|cells| cells.of(*state)))
        {
            found -= &clients.set;
        }
        found
    }

    /// What clients say of a whole list.
    pub fn list_compliance(
        &self,
        updates: &[UpdateNo],
        collection: Option<&RoaringBitmap>,
    ) -> ListCompliance {
        let sides = self.sides(updates, collection);
        let clients = sides.members.len();
        let settled = sides.non_compliant.len() + sides.unknown.len();
        let no_data = if sides.strange {
            clients - settled
        } else {
            // Who never reported lists nothing, so it is not among the settled.
            let never = clients - sides.members.intersection_len(&self.reported);
            never + self.late(&sides.cells, sides.rest(&self.reported), None)
        };
        ListCompliance {
            clients: count(clients),
            compliant: count(clients - settled - no_data),
            non_compliant: count(sides.non_compliant.len()),
            unknown: count(sides.unknown.len()),
            no_data: count(no_data),
        }
    }

    /// The clients that say this of a whole list: those that [`Self::list_compliance`] counts.
    pub fn with_list_answer(
        &self,
        updates: &[UpdateNo],
        answer: ListAnswer,
        collection: Option<&RoaringBitmap>,
    ) -> RoaringBitmap {
        let sides = self.sides(updates, collection);
        match answer {
            ListAnswer::NonCompliant => sides.non_compliant,
            ListAnswer::Unknown => sides.unknown,
            ListAnswer::Compliant if sides.strange => RoaringBitmap::new(),
            ListAnswer::NoData if sides.strange => {
                let settled = &sides.non_compliant | &sides.unknown;
                &*sides.members - settled
            }
            ListAnswer::Compliant | ListAnswer::NoData => {
                let rest = sides.rest(&self.reported);
                let mut late = RoaringBitmap::new();
                self.late(&sides.cells, rest.clone(), Some(&mut late));
                if answer == ListAnswer::Compliant {
                    rest - late
                } else {
                    (&*sides.members - &self.reported) | late
                }
            }
        }
    }

    fn sides(&self, updates: &[UpdateNo], collection: Option<&RoaringBitmap>) -> Sides<'_> {
        let mut cells: Vec<&Cells> = Vec::with_capacity(updates.len());
        let mut strange = false;
        for update_no in updates {
            match self.updates.get(update_no) {
                Some(it) => cells.push(it),
                None => strange = true,
            }
        }
        cells.sort_unstable_by_key(|it| (it.introduced.is_some(), it.introduced));
        let registered = cells.partition_point(|it| it.introduced.is_none());
        cells[registered..].reverse();

        let members = within(&self.clients, collection);
        let mut non_compliant = cells.iter().map(|it| &it.required.set).union();
        let mut unknown = cells.iter().map(|it| &it.unknown.set).union();
        if collection.is_some() {
            non_compliant &= &*members;
            unknown &= &*members;
        }
        unknown -= &non_compliant;
        Sides {
            cells,
            strange,
            members,
            non_compliant,
            unknown,
        }
    }

    /// How many of `rest`, who reported and list none of the updates as required or unknown,
    /// have a catalog too old for one of them that they do not list as installed either; and who,
    /// if somebody wants to know.
    ///
    /// With the youngest update first, the clients too old for an update only get fewer, and one
    /// that is found wanting is done with.
    fn late(
        &self,
        cells: &[&Cells],
        mut rest: RoaringBitmap,
        mut found: Option<&mut RoaringBitmap>,
    ) -> u64 {
        let mut late = 0;
        let mut generations = self.by_generation.iter().rev().peekable();
        for it in cells {
            while let Some((generation, clients)) = generations.peek() {
                if it.introduced.is_none_or(|first| **generation < first) {
                    break;
                }
                rest -= *clients;
                generations.next();
            }
            if rest.is_empty() {
                break;
            }
            if let Some(found) = found.as_deref_mut() {
                *found |= &rest - &it.installed.set;
            }
            let before = rest.len();
            rest &= &it.installed.set;
            late += before - rest.len();
        }
        late
    }

    /// The clients that never reported.
    pub fn silent(&self, collection: Option<&RoaringBitmap>) -> RoaringBitmap {
        within(&self.clients, collection).into_owned() - &self.reported
    }

    /// The clients that reported against a catalog older than this generation.
    pub fn behind(&self, generation: i64, collection: Option<&RoaringBitmap>) -> RoaringBitmap {
        let older = self.by_generation.range(..generation);
        let behind = older.map(|(_, clients)| clients).union();
        within(&behind, collection).into_owned()
    }

    /// The clients that reported against a catalog of at least this generation.
    pub fn abreast(&self, generation: i64, collection: Option<&RoaringBitmap>) -> RoaringBitmap {
        let younger = self.by_generation.range(generation..);
        let abreast = younger.map(|(_, clients)| clients).union();
        within(&abreast, collection).into_owned()
    }

    /// Clients per catalog generation, the youngest first, without those that have none.
    pub fn generations(&self, collection: Option<&RoaringBitmap>) -> Vec<(i64, u32)> {
        let all = self.by_generation.iter().rev();
        all.map(|(generation, clients)| (*generation, count_within(clients, collection)))
            .filter(|(_, clients)| *clients > 0)
            .collect()
    }

    /// Cells in each stored state over all clients: installed, required, unknown. Walks over all
    /// updates.
    pub fn totals(&self) -> [u64; STORED.len()] {
        STORED.map(|state| {
            let of_state = self.updates.values().filter_map(|cells| cells.of(state));
            of_state.map(|clients| u64::from(clients.len)).sum()
        })
    }

    /// The clients that require some update. Walks over all updates.
    pub fn wanting(&self) -> RoaringBitmap {
        self.updates.values().map(|it| &it.required.set).union()
    }
}

/// The clients that reported and whose catalog is older than an update, as updates get younger.
struct Horizon<'a> {
    collection: Option<&'a RoaringBitmap>,
    /// Generations that still are young enough.
    ahead: std::iter::Peekable<btree_map::Iter<'a, i64, RoaringBitmap>>,
    /// Clients of those.
    informed: u32,
    behind: RoaringBitmap,
}

impl<'a> Horizon<'a> {
    fn new(matrix: &'a Matrix, collection: Option<&'a RoaringBitmap>) -> Self {
        Self {
            collection,
            ahead: matrix.by_generation.iter().peekable(),
            informed: count_within(&matrix.reported, collection),
            behind: RoaringBitmap::new(),
        }
    }

    /// Leaves the generations older than `introduced` behind; all of them for an update that is
    /// not registered.
    fn move_to(&mut self, introduced: Option<i64>) {
        while let Some((_, clients)) = self
            .ahead
            .next_if(|(generation, _)| introduced.is_none_or(|first| **generation < first))
        {
            self.informed -= count_within(clients, self.collection);
            self.behind |= &*within(clients, self.collection);
        }
    }

    /// The counts of an update introduced at this horizon.
    fn counts(&self, cells: &Cells, all: u32) -> UpdateCounts {
        let in_state = |state| {
            cells.of(state).map_or(0, |clients| {
                self.collection.map_or(clients.len, |members| {
                    count(clients.set.intersection_len(members))
                })
            })
        };
        let [installed, required, unknown] = STORED.map(in_state);
        let listed = installed + required + unknown;
        // A client can list an update that came after its catalog generation: what it says counts.
        let early = if self.behind.is_empty() {
            0
        } else {
            let early = |state| {
                let listed = cells.of(state)?;
                Some(count(listed.set.intersection_len(&self.behind)))
            };
            STORED.into_iter().filter_map(early).sum()
        };
        let not_required = self.informed - (listed - early);
        UpdateCounts {
            installed,
            required,
            not_required,
            unknown,
            no_data: all - listed - not_required,
        }
    }
}
