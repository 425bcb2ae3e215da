//! `muster.catalog.v1.SyncService`: passed on to the software update point, with its answers and
//! its refusals.

use std::sync::Arc;

use muster_proto::catalog as pb;
use muster_proto::catalog::sync_service_server::SyncService;
use muster_runtime::Tasks;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::administrator;
use crate::app::Site;

/// The door.
#[derive(Debug)]
pub(crate) struct Door(pub(crate) Arc<Site>, pub(crate) Tasks);

#[tonic::async_trait]
impl SyncService for Door {
    async fn start_sync(
        &self,
        request: Request<pb::StartSyncRequest>,
    ) -> Result<Response<pb::StartSyncResponse>, Status> {
        let administrator = administrator(&request)?;
        let response = self
            .0
            .sync()
            .start_sync(request.into_inner())
            .await?
            .into_inner();
        let sync_no = response.sync.as_ref().map(|sync| sync.sync_no);
        tracing::info!(
            audit = true,
            administrator,
            sync_no,
            "synchronisation started"
        );
        Ok(Response::new(response))
    }

    type WatchSyncStream = ReceiverStream<Result<pb::WatchSyncResponse, Status>>;

    async fn watch_sync(
        &self,
        request: Request<pb::WatchSyncRequest>,
    ) -> Result<Response<Self::WatchSyncStream>, Status> {
        let mut stream = self
            .0
            .sync()
            .watch_sync(request.into_inner())
            .await?
            .into_inner();
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let (site, stop) = (Arc::clone(&self.0), self.1.token());
        self.1.spawn("watch-sync", async move {
            loop {
                let message = tokio::select! {
                    message = stream.message() => message.transpose(),
                    () = stop.cancelled() => return,
                    () = sender.closed() => return,
                };
                let Some(message) = message else {
                    // It ended: the catalog may have a new generation.
                    site.catalog_wanted.notify_one();
                    return;
                };
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn list_syncs(
        &self,
        request: Request<pb::ListSyncsRequest>,
    ) -> Result<Response<pb::ListSyncsResponse>, Status> {
        let response = self
            .0
            .sync()
            .list_syncs(request.into_inner())
            .await?
            .into_inner();
        Ok(Response::new(response))
    }
}
