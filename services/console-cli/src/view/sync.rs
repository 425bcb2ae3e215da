//! Synchronisations of the catalog.

use jiff::Timestamp;
use muster_proto::catalog::{
    ListSyncsResponse, StartSyncResponse, Sync, SyncKind, SyncPhase, WatchSyncResponse,
};

use super::Answer;
use crate::output::table::Block;
use crate::output::text::{ago, at, size, took, word};

fn kind(sync: &Sync) -> String {
    word(SyncKind::as_str_name(&sync.kind()), "SYNC_KIND_")
}

fn phase(sync: &Sync) -> String {
    word(SyncPhase::as_str_name(&sync.phase()), "SYNC_PHASE_")
}

fn detail(sync: &Sync) -> String {
    if sync.reason.is_empty() {
        sync.detail.clone()
    } else {
        format!("{} ({})", sync.detail, sync.reason)
    }
}

impl Answer for ListSyncsResponse {
    const MESSAGE: &'static str = "muster.catalog.v1.ListSyncsResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let row = |sync: &Sync| {
            vec![
                sync.sync_no.to_string(),
                kind(sync),
                phase(sync),
                ago(sync.started_at.as_ref(), now),
                took(sync.started_at.as_ref(), sync.ended_at.as_ref()),
                sync.updates_new.to_string(),
                sync.updates_modified.to_string(),
                sync.updates_expired.to_string(),
                size(sync.bytes_fetched),
                sync.generation.to_string(),
                detail(sync),
            ]
        };
        const HEADER: &[&str] = &[
            "NO#",
            "KIND",
            "PHASE",
            "STARTED",
            "TOOK",
            "NEW#",
            "MODIFIED#",
            "EXPIRED#",
            "FETCHED#",
            "GENERATION#",
            "DETAIL",
        ];
        vec![Block::Table {
            header: HEADER,
            rows: self.syncs.iter().map(row).collect(),
        }]
    }

    fn names(&self) -> Vec<String> {
        self.syncs
            .iter()
            .map(|sync| sync.sync_no.to_string())
            .collect()
    }
}

fn describe(sync: &Sync, now: Timestamp) -> Vec<Block> {
    vec![Block::Pairs(vec![
        ("Sync", sync.sync_no.to_string()),
        ("Kind", kind(sync)),
        ("Phase", phase(sync)),
        ("Detail", detail(sync)),
        ("Started", at(sync.started_at.as_ref(), now)),
        (
            "Took",
            took(sync.started_at.as_ref(), sync.ended_at.as_ref()),
        ),
        ("Stanzas", sync.stanzas.to_string()),
        ("Stanzas rejected", sync.stanzas_rejected.to_string()),
        ("Updates new", sync.updates_new.to_string()),
        ("Updates modified", sync.updates_modified.to_string()),
        ("Updates expired", sync.updates_expired.to_string()),
        ("Fetched", size(sync.bytes_fetched)),
        ("Generation", sync.generation.to_string()),
        ("Next scheduled", at(sync.next_scheduled_at.as_ref(), now)),
    ])]
}

impl Answer for StartSyncResponse {
    const MESSAGE: &'static str = "muster.catalog.v1.StartSyncResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        let sync = self.sync.clone().unwrap_or_default();
        let text = format!(
            "synchronisation {} ({}) is {}",
            sync.sync_no,
            kind(&sync),
            phase(&sync)
        );
        vec![Block::Line(text)]
    }

    fn names(&self) -> Vec<String> {
        self.sync
            .iter()
            .map(|sync| sync.sync_no.to_string())
            .collect()
    }
}

impl Answer for WatchSyncResponse {
    const MESSAGE: &'static str = "muster.catalog.v1.WatchSyncResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        describe(&self.sync.clone().unwrap_or_default(), now)
    }

    fn names(&self) -> Vec<String> {
        self.sync
            .iter()
            .map(|sync| sync.sync_no.to_string())
            .collect()
    }

    fn line(&self, _now: Timestamp) -> String {
        let sync = self.sync.clone().unwrap_or_default();
        let detail = match detail(&sync) {
            text if text.is_empty() => text,
            text => format!("  {text}"),
        };
        format!(
            "{}: {} stanzas, {} new, {} modified, {} expired, {} fetched{detail}",
            phase(&sync),
            sync.stanzas,
            sync.updates_new,
            sync.updates_modified,
            sync.updates_expired,
            size(sync.bytes_fetched),
        )
    }
}
