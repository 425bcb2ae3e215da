//! The catalog as it lies in memory: what scans need and what the next synchronisation is compared
//! with. Files and descriptions stay in the database. Texts that repeat are held once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::channel::Channel;

/// One generation of the catalog. It never changes: the next one replaces it whole.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) generation: u64,
    /// Which generation of this number it is; empty for none.
    pub(crate) stamp: Vec<u8>,
    pub(crate) changed_at: Timestamp,
    /// By number, ascending.
    pub(crate) channels: Vec<(i32, Channel)>,
    /// By number: update 1 is the first.
    pub(crate) updates: Vec<Update>,
    by_package: HashMap<Arc<str>, Vec<u32>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Update {
    pub(crate) update_no: u32,
    pub(crate) update_id: Arc<str>,
    pub(crate) revision: u32,
    /// In which it came or last changed for a scan.
    pub(crate) scan_generation: u64,
    pub(crate) first_generation: u64,
    pub(crate) expired_generation: Option<u64>,
    /// Index into the channels.
    pub(crate) channel: usize,
    pub(crate) source: Arc<str>,
    pub(crate) version: Arc<str>,
    pub(crate) content: [u8; 16],
    pub(crate) max_run_time_minutes: u32,
    pub(crate) supersedes: Vec<u32>,
    pub(crate) superseded_by: Vec<u32>,
    pub(crate) leaves: Vec<ScanLeaf>,
}

#[derive(Debug, Clone)]
pub(crate) struct ScanLeaf {
    pub(crate) package: Arc<str>,
    /// The same text as the update's when they are equal.
    pub(crate) version: Arc<str>,
    pub(crate) architecture: Arc<str>,
    pub(crate) phased_percentage: u8,
}

impl Catalog {
    pub(crate) fn new(
        generation: u64,
        changed_at: Timestamp,
        channels: Vec<(i32, Channel)>,
        updates: Vec<Update>,
    ) -> Self {
        let mut by_package: HashMap<Arc<str>, Vec<u32>> = HashMap::new();
        for update in &updates {
            for leaf in &update.leaves {
                match by_package.get_mut(&leaf.package) {
                    // Architectures of one package follow each other.
                    Some(numbers) if numbers.last() == Some(&update.update_no) => {}
                    Some(numbers) => numbers.push(update.update_no),
                    None => {
                        by_package.insert(Arc::clone(&leaf.package), vec![update.update_no]);
                    }
                }
            }
        }
        Self {
            generation,
            stamp: Vec::new(),
            changed_at,
            channels,
            updates,
            by_package,
        }
    }

    pub(crate) fn update(&self, update_no: u32) -> Option<&Update> {
        let at = usize::try_from(update_no).ok()?.checked_sub(1)?;
        self.updates
            .get(at)
            .filter(|update| update.update_no == update_no)
    }

    pub(crate) fn channel_of(&self, update: &Update) -> &Channel {
        &self.channels[update.channel].1
    }

    /// The updates with a leaf of this name, ascending.
    pub(crate) fn with_package(&self, package: &str) -> &[u32] {
        self.by_package.get(package).map_or(&[], Vec::as_slice)
    }

    /// How many updates are in force.
    pub(crate) fn in_force(&self) -> usize {
        self.updates
            .iter()
            .filter(|update| update.expired_generation.is_none())
            .count()
    }
}

/// Holds each text once while a catalog is read.
#[derive(Debug, Default)]
pub(crate) struct Texts(HashSet<Arc<str>>);

impl Texts {
    pub(crate) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(held) = self.0.get(text) {
            return Arc::clone(held);
        }
        let new: Arc<str> = Arc::from(text);
        self.0.insert(Arc::clone(&new));
        new
    }
}
