//! The domain's words as messages.

use std::collections::HashMap;

use bytes::Bytes;
use jiff::Timestamp;
use muster_proto::catalog as pb;
use muster_proto::convert::to_timestamp;

use crate::domain::archive::SuiteSnapshot;
use crate::domain::catalog::Catalog;
use crate::domain::collect::Leaf;
use crate::domain::replica::{Head, Row};
use crate::domain::scan::Selected;
use crate::domain::sync::{Kind, Phase, Sync};
use crate::domain::update::StoredUpdate;

pub(super) fn sync(sync: &Sync, next: Option<Timestamp>) -> pb::Sync {
    let kind = match sync.kind {
        Kind::Delta => pb::SyncKind::Delta,
        Kind::Full => pb::SyncKind::Full,
    };
    let phase = match sync.phase {
        Phase::Started => pb::SyncPhase::Started,
        Phase::Fetching => pb::SyncPhase::Fetching,
        Phase::Recording => pb::SyncPhase::Recording,
        Phase::Done => pb::SyncPhase::Done,
        Phase::Failed => pb::SyncPhase::Failed,
    };
    pb::Sync {
        sync_no: sync.sync_no,
        kind: kind.into(),
        phase: phase.into(),
        started_at: Some(to_timestamp(sync.started_at)),
        ended_at: sync.ended_at.map(to_timestamp),
        detail: sync.detail.clone(),
        reason: sync.reason.clone(),
        stanzas: sync.counts.stanzas,
        stanzas_rejected: sync.counts.stanzas_rejected,
        updates_new: sync.counts.updates_new,
        updates_modified: sync.counts.updates_modified,
        updates_expired: sync.counts.updates_expired,
        bytes_fetched: sync.counts.bytes_fetched,
        generation: sync.generation,
        next_scheduled_at: next.map(to_timestamp),
    }
}

pub(super) fn update(update: StoredUpdate) -> pb::Update {
    let channel = update.channel;
    pb::Update {
        update_no: update.update_no,
        update_id: update.update_id,
        revision: update.revision,
        title: update.title,
        description: update.description,
        classification: update.classification.into(),
        severity: update.severity.into(),
        product: channel.product(),
        suite: channel.suite,
        source_package: update.source,
        source_version: update.version,
        cve_ids: update.cve_ids,
        released_at: Some(to_timestamp(update.released_at)),
        supersedes: update.supersedes,
        superseded_by: update.superseded_by,
        expired: update.expired_at.is_some(),
        expired_at: update.expired_at.map(to_timestamp),
        leaves: update
            .leaves
            .into_iter()
            .map(|l| leaf(l, &channel.archive_uri))
            .collect(),
        max_run_time_minutes: update.max_run_time_minutes,
        needs_exclusive_handling: update.needs_exclusive_handling,
        generation: update.generation,
    }
}

fn leaf(leaf: Leaf, archive_uri: &str) -> pb::Leaf {
    pb::Leaf {
        package: leaf.package,
        version: leaf.version,
        architecture: leaf.architecture,
        file: Some(pb::FileRef {
            sha256: Bytes::copy_from_slice(&leaf.sha256),
            size: leaf.size,
            path: leaf.path,
            archive_uri: archive_uri.to_owned(),
        }),
        phased_percentage: leaf.phased_percentage.into(),
    }
}

pub(super) fn archive_suite(suite: SuiteSnapshot) -> pb::ArchiveSuite {
    let files = suite.files.into_iter().map(|file| pb::ArchiveFile {
        path: file.path,
        sha256: Bytes::copy_from_slice(&file.sha256),
        size: file.size,
    });
    pb::ArchiveSuite {
        files: files.collect(),
        suite: suite.suite,
        archive_uri: suite.archive_uri,
        components: suite.components,
        architectures: suite.architectures,
        signed_by: suite.signed_by,
        ignore_valid_until: suite.ignore_valid_until,
    }
}

/// A slice as a message. What a reader can infer is left out: it is most of the bytes.
pub(super) fn scan(
    catalog: &Catalog,
    updates: &[Selected<'_>],
    removed: Vec<u32>,
) -> pb::GetScanMetadataResponse {
    let mut suites = Vec::new();
    let mut index: HashMap<usize, u32> = HashMap::new();
    let updates = updates.iter().map(|selected| {
        let update = selected.update;
        let suite = *index.entry(update.channel).or_insert_with(|| {
            suites.push(scan_suite(catalog, update.channel));
            u32::try_from(suites.len() - 1).unwrap_or(u32::MAX)
        });
        let leaves = selected.leaves.iter().map(|leaf| {
            let own = leaf.version != update.version;
            pb::ScanLeaf {
                package: leaf.package.to_string(),
                version: if own {
                    leaf.version.to_string()
                } else {
                    String::new()
                },
                // Left out: the client's architecture or "all", and others are not sent to it.
                architecture: String::new(),
                phased_percentage: match leaf.phased_percentage {
                    100.. => 0,
                    // 0 on the wire says "not phased", so an update at 0 % is told as 1 %.
                    percentage => u32::from(percentage.max(1)),
                },
            }
        });
        pb::ScanUpdate {
            update_no: update.update_no,
            revision: update.revision,
            suite,
            source_package: update.source.to_string(),
            version: update.version.to_string(),
            leaves: leaves.collect(),
            is_installed: None,
            is_installable: None,
            max_run_time_minutes: update.max_run_time_minutes,
        }
    });
    let updates = updates.collect();
    pb::GetScanMetadataResponse {
        generation: catalog.generation,
        restart_cold: false,
        updates,
        removed,
        suites,
    }
}

fn scan_suite(catalog: &Catalog, channel: usize) -> pb::ScanSuite {
    let channel = &catalog.channels[channel].1;
    pb::ScanSuite {
        origin: channel.origin.clone(),
        label: channel.label.clone(),
        suite: channel.archive_suite.clone(),
        codename: channel.codename.clone(),
        version: channel.version.clone(),
        component: channel.component.clone(),
        site: channel.site().to_owned(),
        not_automatic: channel.not_automatic,
        but_automatic_upgrades: channel.but_automatic_upgrades,
    }
}

pub(super) fn head(head: Head) -> pb::CatalogHead {
    let suites = head.suites.into_iter().map(|(suite, fully_applied)| {
        let suite = Some(archive_suite(suite));
        pb::ReplicaSuite {
            suite,
            fully_applied,
        }
    });
    let channels = head.channels.into_iter().map(|it| pb::ReplicaChannel {
        archive_uri: it.archive_uri,
        suite: it.suite,
        component: it.component,
        origin: it.origin,
        label: it.label,
        archive_suite: it.archive_suite,
        codename: it.codename,
        version: it.version,
        not_automatic: it.not_automatic,
        but_automatic_upgrades: it.but_automatic_upgrades,
    });
    pb::CatalogHead {
        generation: head.generation,
        stamp: head.stamp.into(),
        created_at: Some(to_timestamp(head.changed_at)),
        next_update_no: head.next_update_no,
        full: head.full,
        known: head.known,
        suites: suites.collect(),
        channels: channels.collect(),
    }
}

pub(super) fn replica(channel: usize, row: Row) -> pb::ReplicaUpdate {
    pb::ReplicaUpdate {
        channel: u32::try_from(channel).unwrap_or(u32::MAX),
        scan_generation: row.scan_generation,
        first_generation: row.first_generation,
        expired_generation: row.expired_generation.unwrap_or(0),
        update: Some(update(row.update)),
    }
}
