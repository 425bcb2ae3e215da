//! What changed of clients since their parent site was told, kept until it is.

use std::collections::{BTreeMap, BTreeSet};

use muster_stream::Taken;
use uuid::Uuid;

use super::deployment_states::StateMoves;
use super::settle::{Known, Settled, Work};

/// Keys that are kept of one client; beyond them everything is sent, which is not longer by then.
const MAX_KEYS: usize = 4_096;
/// Keys that are kept of all clients together.
const MAX_ALL_KEYS: usize = 4_000_000;

/// How far the reports of a client are recorded, as its last transaction left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stands {
    pub(crate) client_id: Uuid,
    pub(crate) epoch: u32,
    pub(crate) has_full: bool,
    pub(crate) contiguous: u64,
    /// It has said something of updates.
    pub(crate) has_row: bool,
}

impl Stands {
    fn of(client_id: Uuid, known: &Known) -> Self {
        Self {
            client_id,
            epoch: known.stream.epoch,
            has_full: known.stream.has_full,
            contiguous: known.stream.contiguous,
            has_row: known.has_row,
        }
    }
}

/// What changed of one client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// What changed is not known: everything is to be sent.
    pub(crate) all: bool,
    /// Who it is, its epoch, or that it was deleted.
    pub(crate) record: bool,
    /// It reported, if only that it is there.
    pub(crate) reported: bool,
    /// `None`: the database knows.
    pub(crate) stands: Option<Stands>,
    pub(crate) scan: bool,
    pub(crate) restart: bool,
    pub(crate) inventory: bool,
    pub(crate) health: bool,
    /// Numbers of updates; may be there twice.
    pub(crate) updates: Vec<i32>,
    /// Numbers of deployments.
    pub(crate) deployments: Vec<i32>,
    /// Deployment and update.
    pub(crate) enforcements: Vec<(i32, i32)>,
}

impl Changed {
    /// Everything, and who it is.
    pub(crate) fn all() -> Self {
        Self {
            all: true,
            record: true,
            ..Self::default()
        }
    }

    /// Who it is.
    pub(crate) fn record() -> Self {
        Self {
            record: true,
            ..Self::default()
        }
    }

    fn keys(&self) -> usize {
        self.updates.len() + self.deployments.len() + self.enforcements.len()
    }

    fn add(&mut self, news: Self) {
        self.stands = news.stands.or(self.stands);
        self.all |= news.all;
        self.record |= news.record;
        self.reported |= news.reported;
        self.scan |= news.scan;
        self.restart |= news.restart;
        self.inventory |= news.inventory;
        self.health |= news.health;
        self.updates.extend(news.updates);
        self.deployments.extend(news.deployments);
        self.enforcements.extend(news.enforcements);
        if self.keys() > MAX_KEYS {
            self.tidy();
            self.all |= self.keys() > MAX_KEYS / 2;
        }
        if self.all {
            *self = Self {
                all: true,
                record: self.record,
                stands: self.stands,
                ..Self::default()
            };
        }
    }

    /// Each key once, ascending.
    pub(crate) fn tidy(&mut self) {
        fn once<T: Ord>(keys: &mut Vec<T>) {
            keys.sort_unstable();
            keys.dedup();
        }
        once(&mut self.updates);
        once(&mut self.deployments);
        once(&mut self.enforcements);
    }
}

/// What changed of all clients, and the marks in the database that stand for it.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) marks: BTreeSet<i64>,
    pub(crate) clients: BTreeMap<i32, Changed>,
    keys: usize,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.marks.is_empty() && self.clients.is_empty()
    }

    /// A transaction with this mark has committed.
    pub(crate) fn add(&mut self, mark: i64, news: impl IntoIterator<Item = (i32, Changed)>) {
        self.marks.insert(mark);
        for (client_no, mut changed) in news {
            if self.keys > MAX_ALL_KEYS {
                changed.all = true;
            }
            let held = self.clients.entry(client_no).or_default();
            let before = held.keys();
            held.add(changed);
            self.keys = (self.keys + held.keys()).saturating_sub(before);
        }
    }

    /// Nobody knows what changed of these clients.
    pub(crate) fn add_unknown(&mut self, mark: i64, clients: &[i32]) {
        self.add(mark, clients.iter().map(|no| (*no, Changed::all())));
    }

    /// Puts back what was taken out.
    pub(crate) fn put_back(&mut self, taken: Self) {
        self.marks.extend(taken.marks);
        for (client_no, changed) in taken.clients {
            let held = self.clients.entry(client_no).or_default();
            let (before, newer) = (held.keys(), held.stands);
            held.add(changed);
            held.stands = newer.or(held.stands);
            self.keys = (self.keys + held.keys()).saturating_sub(before);
        }
    }
}

/// What a batch of reports changed. Works with an id have moved the client's marks on.
pub(crate) fn of_batch<'a>(
    works: impl Iterator<Item = (&'a Work, Option<Uuid>)>,
    settled: &Settled,
    moves: &StateMoves,
) -> BTreeMap<i32, Changed> {
    let mut changes: BTreeMap<i32, Changed> = BTreeMap::new();
    for (work, id) in works {
        let changed = changes.entry(work.known.client_no).or_default();
        changed.reported = true;
        if let Some(id) = id {
            changed.stands = Some(Stands::of(id, &work.known));
        }
        for (report, taken) in &work.reports {
            // What a FULL report does not name any more is gone: only another FULL one says so.
            changed.all |= matches!(taken, Taken::Full(_));
            changed.scan |= report.scan.is_some();
            changed.restart |= report.restart.is_some();
            changed.inventory |= report.inventory.is_some();
            changed.health |= report.health.is_some();
        }
    }
    let number = |change: &muster_compliance::Change| i32::try_from(change.update_no.0).ok();
    for (client_no, _, cells) in &settled.changed {
        if let Some(changed) = changes.get_mut(client_no).filter(|it| !it.all) {
            changed.updates.extend(cells.iter().filter_map(number));
        }
    }
    for moved in &moves.deployments {
        if let Some(changed) = changes.get_mut(&moved.client_no).filter(|it| !it.all) {
            changed.deployments.push(moved.key);
        }
    }
    for moved in &moves.updates {
        if let Some(changed) = changes.get_mut(&moved.client_no).filter(|it| !it.all) {
            changed.enforcements.push(moved.key);
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn updates(numbers: std::ops::Range<i32>) -> Changed {
        Changed {
            updates: numbers.collect(),
            ..Changed::default()
        }
    }

    #[test]
    fn changes_of_a_client_come_together_and_beyond_a_bound_become_everything() {
        let mut changes = Changes::default();
        changes.add(1, [(7, updates(1..3))]);
        changes.add(2, [(7, updates(2..5)), (8, Changed::record())]);
        assert_eq!(changes.marks, BTreeSet::from([1, 2]));
        let mut held = changes.clients[&7].clone();
        held.tidy();
        assert_eq!(held, updates(1..5));
        assert!(changes.clients[&8].record);
        changes.add(3, [(8, updates(1..10_000))]);
        assert!(changes.clients[&8].all && changes.clients[&8].record);
        assert!(changes.clients[&8].updates.is_empty());
        assert_eq!(changes.keys, 5);
    }

    #[test]
    fn what_is_put_back_adds_to_what_came_meanwhile() {
        let mut changes = Changes::default();
        changes.add(1, [(7, updates(1..3))]);
        let taken = std::mem::take(&mut changes);
        changes.add_unknown(2, &[9]);
        changes.put_back(taken);
        assert_eq!(changes.marks, BTreeSet::from([1, 2]));
        assert_eq!(changes.clients.len(), 2);
        assert!(changes.clients[&9].all);
    }

    #[test]
    fn what_is_put_back_does_not_take_a_client_back() {
        let stands = |contiguous| {
            let stands = Stands {
                client_id: Uuid::nil(),
                epoch: 1,
                has_full: true,
                contiguous,
                has_row: true,
            };
            let changed = Changed {
                stands: Some(stands),
                ..updates(1..3)
            };
            [(7, changed)]
        };
        let serial = |changes: &Changes| changes.clients[&7].stands.map(|it| it.contiguous);
        let mut changes = Changes::default();
        changes.add(1, stands(3));
        let taken = std::mem::take(&mut changes);
        changes.add(2, stands(4));
        changes.put_back(taken);
        assert_eq!(serial(&changes), Some(4));
        changes.add(3, stands(5));
        assert_eq!(serial(&changes), Some(5));
        changes.add(4, [(7, updates(1..10_000))]);
        assert!(changes.clients[&7].all && !changes.clients[&7].record);
        assert_eq!(serial(&changes), Some(5));
    }
}
