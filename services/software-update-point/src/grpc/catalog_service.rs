//! `CatalogService`: the catalog and the signed files, for site servers and distribution points.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use muster_proto::catalog as pb;
use muster_proto::catalog::catalog_service_server::CatalogService;
use muster_proto::convert::to_timestamp;
use muster_runtime::status::to_status;
use prost::Message;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::convert;
use crate::app::read_archive::{archive_snapshot, artifact};
use crate::app::stream_updates::Cursor;
use crate::app::{Error, Point};

/// A message of updates ends when it has this many bytes; tonic's limit is four times that.
const MESSAGE: usize = 1 << 20;
/// Bytes of an artifact in one message.
const CHUNK: usize = 256 << 10;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Catalog(pub(crate) Arc<Point>);

#[tonic::async_trait]
impl CatalogService for Catalog {
    async fn get_generation(
        &self,
        _: Request<pb::GetGenerationRequest>,
    ) -> Result<Response<pb::GetGenerationResponse>, Status> {
        let catalog = self.0.catalog();
        Ok(Response::new(pb::GetGenerationResponse {
            generation: catalog.generation,
            updates: u32::try_from(catalog.in_force()).unwrap_or(u32::MAX),
            created_at: Some(to_timestamp(catalog.changed_at)),
            stamp: catalog.stamp.clone().into(),
        }))
    }

    type StreamUpdatesStream = ReceiverStream<Result<pb::StreamUpdatesResponse, Status>>;

    async fn stream_updates(
        &self,
        request: Request<pb::StreamUpdatesRequest>,
    ) -> Result<Response<Self::StreamUpdatesStream>, Status> {
        let after = request.into_inner().after_generation;
        let cursor = Cursor::new(&self.0, after).map_err(to_status)?;
        let (sender, receiver) = mpsc::channel(2);
        let point = Arc::clone(&self.0);
        self.0.tasks.spawn("stream-updates", async move {
            if let Err(error) = stream(&point, cursor, &sender).await {
                let _ = sender.send(Err(to_status(error))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_archive_snapshot(
        &self,
        request: Request<pb::GetArchiveSnapshotRequest>,
    ) -> Result<Response<pb::GetArchiveSnapshotResponse>, Status> {
        let wanted = request.into_inner().generation;
        let (generation, suites) = archive_snapshot(&self.0, wanted).await.map_err(to_status)?;
        let suites = suites.into_iter().map(convert::archive_suite).collect();
        Ok(Response::new(pb::GetArchiveSnapshotResponse {
            generation,
            suites,
        }))
    }

    type GetArtifactStream = ReceiverStream<Result<pb::GetArtifactResponse, Status>>;

    async fn get_artifact(
        &self,
        request: Request<pb::GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        let path = artifact(&self.0, &request.into_inner().sha256).map_err(to_status)?;
        let failed = |source| {
            to_status(Error::File {
                what: "a signed file",
                source,
            })
        };
        let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
        let (sender, receiver) = mpsc::channel(4);
        self.0.tasks.spawn("send-artifact", async move {
            loop {
                let mut chunk = vec![0; CHUNK];
                let message = match fill(&mut file, &mut chunk).await {
                    Ok(0) => return,
                    Ok(read) => {
                        chunk.truncate(read);
                        Ok(pb::GetArtifactResponse {
                            chunk: Bytes::from(chunk),
                        })
                    }
                    Err(source) => Err(to_status(Error::File {
                        what: "a signed file",
                        source,
                    })),
                };
                let failed = message.is_err();
                if sender.send(message).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn fill(file: &mut tokio::fs::File, chunk: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match file.read(&mut chunk[filled..]).await? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

type Updates = mpsc::Sender<Result<pb::StreamUpdatesResponse, Status>>;

/// Sends everything after the cursor. A receiver that went away ends it quietly.
async fn stream(point: &Point, mut cursor: Cursor, sender: &Updates) -> Result<(), Error> {
    let mut updates = Vec::new();
    let mut size = 0;
    loop {
        let page = cursor.next(point).await?;
        let end = page.is_empty();
        for update in page.into_iter().map(convert::update) {
            let bytes = update.encoded_len();
            if !updates.is_empty() && (size + bytes > MESSAGE || updates.len() == 500) {
                let updates = std::mem::take(&mut updates);
                size = 0;
                let message = pb::StreamUpdatesResponse {
                    updates,
                    generation_reached: 0,
                };
                if sender.send(Ok(message)).await.is_err() {
                    return Ok(());
                }
            }
            size += bytes;
            updates.push(update);
        }
        if end {
            let generation_reached = cursor.up_to;
            let message = pb::StreamUpdatesResponse {
                updates,
                generation_reached,
            };
            let _ = sender.send(Ok(message)).await;
            return Ok(());
        }
    }
}
