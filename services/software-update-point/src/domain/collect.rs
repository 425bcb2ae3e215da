//! Stanzas become updates: one per source package version in a suite, its leaves the binary packages.

use std::collections::HashMap;

use jiff::Timestamp;
use muster_apt::packages::BinaryPackage;
use sha2::{Digest, Sha256};

use super::channel::Channel;

/// The most updates of one synchronisation, and the most leaves of one update.
pub(crate) const MAX_UPDATES: usize = 2_000_000;
const MAX_LEAVES: usize = 10_000;

/// A binary package of an update, and its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) package: String,
    pub(crate) version: String,
    pub(crate) architecture: String,
    /// 0 to 100; 100 when it is not phased.
    pub(crate) phased_percentage: u8,
    pub(crate) sha256: [u8; 32],
    pub(crate) size: u64,
    pub(crate) path: String,
}

/// An update as an index has it.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    pub(crate) update_id: String,
    /// Index into the channels that were read.
    pub(crate) channel: usize,
    pub(crate) source: String,
    pub(crate) version: String,
    pub(crate) description: String,
    /// The release's `Date`.
    pub(crate) released_at: Timestamp,
    /// Sorted by package, architecture and version.
    pub(crate) leaves: Vec<Leaf>,
}

impl Incoming {
    /// A digest of everything in it that can change, so that an unchanged update is known by 16 bytes.
    pub(crate) fn content(&self, channel: &Channel) -> [u8; 16] {
        let mut hash = Sha256::new();
        let mut text = |part: &str| {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        text(&channel.archive_uri);
        text(&channel.component);
        text(&self.description);
        for leaf in &self.leaves {
            text(&leaf.package);
            text(&leaf.version);
            text(&leaf.architecture);
            text(&leaf.path);
        }
        for leaf in &self.leaves {
            hash.update([leaf.phased_percentage]);
            hash.update(leaf.size.to_le_bytes());
            hash.update(leaf.sha256);
        }
        let mut content = [0; 16];
        content.copy_from_slice(&hash.finalize()[..16]);
        content
    }

    /// As a person would call it.
    pub(crate) fn title(&self, channel: &Channel) -> String {
        format!("{} {} ({})", self.source, self.version, channel.suite)
    }
}

/// Gathers the packages of all indexes of a synchronisation.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    channels: Vec<Channel>,
    by_id: HashMap<String, Incoming>,
}

/// The stanza was left out because a bound was reached.
#[derive(Debug, thiserror::Error)]
#[error("more than {MAX_UPDATES} updates, or more than {MAX_LEAVES} packages of one source")]
pub(crate) struct TooMany;

impl Collector {
    /// Announces a channel; its number is for [`Collector::add`].
    pub(crate) fn channel(&mut self, channel: Channel) -> usize {
        let known = self.channels.iter().position(|held| *held == channel);
        known.unwrap_or_else(|| {
            self.channels.push(channel);
            self.channels.len() - 1
        })
    }

    /// Adds a package of a channel.
    pub(crate) fn add(
        &mut self,
        channel: usize,
        released_at: Timestamp,
        package: BinaryPackage,
    ) -> Result<(), TooMany> {
        let held = &self.channels[channel];
        let update_id = update_id(held, &package.source, package.source_version.as_str());
        if self.by_id.len() >= MAX_UPDATES && !self.by_id.contains_key(&update_id) {
            return Err(TooMany);
        }
        let entry = self
            .by_id
            .entry(update_id.clone())
            .or_insert_with(|| Incoming {
                update_id,
                channel,
                source: package.source.clone(),
                version: package.source_version.as_str().to_owned(),
                description: String::new(),
                released_at,
                leaves: Vec::with_capacity(1),
            });
        if entry.leaves.len() >= MAX_LEAVES {
            return Err(TooMany);
        }
        // The package that is called like its source describes the whole; otherwise the first one.
        if entry.description.is_empty() || package.package == package.source {
            entry.description = package.description.chars().take(200).collect();
        }
        entry.leaves.push(Leaf {
            package: package.package,
            version: package.version.as_str().to_owned(),
            architecture: package.architecture,
            phased_percentage: package.phased_percentage.unwrap_or(100),
            sha256: package.sha256,
            size: package.size,
            path: package.filename,
        });
        Ok(())
    }

    /// The channels and updates, in an order that does not depend on that of the stanzas.
    pub(crate) fn finish(self) -> (Vec<Channel>, Vec<Incoming>) {
        let mut updates: Vec<Incoming> = self.by_id.into_values().collect();
        for update in &mut updates {
            let key = |leaf: &Leaf| {
                (
                    leaf.package.clone(),
                    leaf.architecture.clone(),
                    leaf.version.clone(),
                )
            };
            update.leaves.sort_by(|a, b| {
                (&a.package, &a.architecture, &a.version).cmp(&(
                    &b.package,
                    &b.architecture,
                    &b.version,
                ))
            });
            update.leaves.dedup_by_key(|leaf| key(leaf));
        }
        updates.sort_by(|a, b| a.update_id.cmp(&b.update_id));
        (self.channels, updates)
    }
}

/// The stable name of an update, such as `apt/debian/bookworm-security/openssl/3.0.11-1~deb12u2`.
fn update_id(channel: &Channel, source: &str, version: &str) -> String {
    format!(
        "apt/{}/{}/{source}/{version}",
        channel.distribution(),
        channel.suite
    )
}
