//! `SyncService`: start, watch and list synchronisations.

use std::sync::Arc;

use muster_proto::catalog as pb;
use muster_proto::catalog::sync_service_server::SyncService;
use muster_runtime::status::to_status;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::convert;
use crate::app::list_syncs::{get_sync, list_syncs, next_scheduled};
use crate::app::start_sync::start_sync;
use crate::app::{Error, Point};
use crate::domain::sync::Kind;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Syncs(pub(crate) Arc<Point>);

#[tonic::async_trait]
impl SyncService for Syncs {
    async fn start_sync(
        &self,
        request: Request<pb::StartSyncRequest>,
    ) -> Result<Response<pb::StartSyncResponse>, Status> {
        let kind = match request.into_inner().kind() {
            pb::SyncKind::Delta => Kind::Delta,
            pb::SyncKind::Full => Kind::Full,
            pb::SyncKind::Unspecified => {
                return Err(to_status(Error::Invalid(
                    "the kind is unspecified".to_owned(),
                )));
            }
        };
        let sync = start_sync(&self.0, kind).await.map_err(to_status)?;
        let sync = Some(convert::sync(&sync, None));
        Ok(Response::new(pb::StartSyncResponse { sync }))
    }

    type WatchSyncStream = ReceiverStream<Result<pb::WatchSyncResponse, Status>>;

    async fn watch_sync(
        &self,
        request: Request<pb::WatchSyncRequest>,
    ) -> Result<Response<Self::WatchSyncStream>, Status> {
        let sync_no = request.into_inner().sync_no;
        let mut progress = self.0.progress.subscribe();
        let (sender, receiver) = mpsc::channel(8);
        let here = progress
            .borrow()
            .as_ref()
            .is_some_and(|sync| sync.sync_no == sync_no);
        if !here {
            // Of the history: its last state is all there is to see.
            let sync = get_sync(&self.0, sync_no).await.map_err(to_status)?;
            let sync = Some(convert::sync(&sync, None));
            let _ = sender.send(Ok(pb::WatchSyncResponse { sync })).await;
            return Ok(Response::new(ReceiverStream::new(receiver)));
        }
        let token = self.0.tasks.token();
        self.0.tasks.spawn("watch-sync", async move {
            loop {
                let sync = progress.borrow_and_update().clone();
                let Some(sync) = sync.filter(|sync| sync.sync_no == sync_no) else {
                    return;
                };
                let last = sync.phase.is_final();
                let sync = Some(convert::sync(&sync, None));
                if sender
                    .send(Ok(pb::WatchSyncResponse { sync }))
                    .await
                    .is_err()
                    || last
                {
                    return;
                }
                tokio::select! {
                    changed = progress.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                    () = token.cancelled() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn list_syncs(
        &self,
        request: Request<pb::ListSyncsRequest>,
    ) -> Result<Response<pb::ListSyncsResponse>, Status> {
        let limit = match request.into_inner().page_size {
            0 => 20,
            size => size.min(100),
        };
        let next = next_scheduled(&self.0).await.map_err(to_status)?;
        let held = list_syncs(&self.0, limit).await.map_err(to_status)?;
        let running = self.0.progress.borrow().clone();
        let syncs = held.iter().map(|sync| {
            // The row of a running one is written when it ends.
            let newest = running
                .as_ref()
                .filter(|running| running.sync_no == sync.sync_no);
            convert::sync(newest.unwrap_or(sync), next)
        });
        Ok(Response::new(pb::ListSyncsResponse {
            syncs: syncs.collect(),
        }))
    }
}
