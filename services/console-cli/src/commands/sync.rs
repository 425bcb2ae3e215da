//! `muster sync`: the catalog and its source.

use clap::Subcommand;
use muster_proto::catalog::{
    ListSyncsRequest, StartSyncRequest, SyncKind, SyncPhase, WatchSyncRequest, WatchSyncResponse,
};

use super::follow;
use crate::client::Site;
use crate::failure::{Failure, Kind};
use crate::output::Printer;

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum SyncCommand {
    /// Synchronise now, or join the synchronisation that runs
    #[command(after_help = "Example:\n  muster sync run --full --watch")]
    Run {
        /// Also find what changed and expire what is gone, not only what is new
        #[arg(long)]
        full: bool,
        /// Stay until it ends
        #[arg(long)]
        watch: bool,
    },
    /// List the last synchronisations, newest first
    #[command(after_help = "Example:\n  muster sync list --limit 5")]
    List {
        /// At most so many, up to 100
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
}

impl SyncCommand {
    /// Whether it watches.
    pub(crate) const fn lasts(&self) -> bool {
        matches!(self, Self::Run { watch: true, .. })
    }
}

/// Runs what was typed.
pub(crate) async fn run(
    command: SyncCommand,
    site: &Site,
    printer: &Printer,
) -> Result<(), Failure> {
    let (full, watch) = match command {
        SyncCommand::List { limit } => {
            let request = ListSyncsRequest {
                page_size: limit.clamp(1, 100),
            };
            let answer = site.syncs().list_syncs(request).await?;
            return printer.show(&answer.into_inner());
        }
        SyncCommand::Run { full, watch } => (full, watch),
    };
    let kind = if full {
        SyncKind::Full
    } else {
        SyncKind::Delta
    };
    let started = site
        .syncs()
        .start_sync(StartSyncRequest { kind: kind.into() })
        .await?;
    let started = started.into_inner();
    if !watch {
        return printer.show(&started);
    }
    let sync_no = started.sync.unwrap_or_default().sync_no;
    let open = async || {
        let stream = site
            .syncs()
            .watch_sync(WatchSyncRequest { sync_no })
            .await?;
        Ok(stream.into_inner())
    };
    let ended = follow(printer, open, |answer: &WatchSyncResponse| {
        let phase = answer.sync.as_ref().map(muster_proto::catalog::Sync::phase);
        matches!(phase, Some(SyncPhase::Done | SyncPhase::Failed))
    });
    let sync = ended.await?.sync.unwrap_or_default();
    if sync.phase() == SyncPhase::Failed {
        let reason = if sync.reason.is_empty() {
            "SYNC_FAILED"
        } else {
            &sync.reason
        };
        let text = format!("the synchronisation failed: {}", sync.detail);
        return Err(Failure::new(Kind::General, reason, text)
            .hint("the last good catalog stays in force; `muster sync list` shows the history"));
    }
    Ok(())
}
