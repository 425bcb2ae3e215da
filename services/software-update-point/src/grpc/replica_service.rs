//! `ReplicaService`: the catalog, for software update points of the sites below.

use std::sync::Arc;
use std::time::Duration;

use muster_proto::catalog as pb;
use muster_proto::catalog::replica_service_server::ReplicaService;
use muster_runtime::status::{Kind, status, to_status};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::convert;
use crate::app::Point;
use crate::app::stream_catalog::{Part, stream_catalog};

/// A message of updates ends when it has this many bytes; tonic's limit is four times that.
const MESSAGE: usize = 1 << 20;
/// A reader that takes longer is cut off: its stream holds a state of the database.
const PATIENCE: Duration = Duration::from_secs(900);

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Replicas(pub(crate) Arc<Point>);

#[tonic::async_trait]
impl ReplicaService for Replicas {
    type StreamCatalogStream = ReceiverStream<Result<pb::StreamCatalogResponse, Status>>;

    async fn stream_catalog(
        &self,
        request: Request<pb::StreamCatalogRequest>,
    ) -> Result<Response<Self::StreamCatalogStream>, Status> {
        let request = request.into_inner();
        let (sender, receiver) = mpsc::channel(2);
        let point = Arc::clone(&self.0);
        let token = self.0.tasks.token();
        self.0.tasks.spawn("stream-catalog", async move {
            let (after, stamp) = (request.after_generation, &request.stamp[..]);
            let send = |part| {
                let sender = sender.clone();
                async move {
                    for message in messages(part) {
                        if sender.send(Ok(message)).await.is_err() {
                            return false;
                        }
                    }
                    true
                }
            };
            let work = stream_catalog(&point, after, stamp, request.full, send);
            let failure = tokio::select! {
                outcome = tokio::time::timeout(PATIENCE, work) => match outcome {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => to_status(error),
                    Err(_) => status(Kind::Unavailable, "TOO_SLOW", "the stream took too long"),
                },
                () = token.cancelled() => return,
            };
            let _ = sender.send(Err(failure)).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn messages(part: Part) -> Vec<pb::StreamCatalogResponse> {
    match part {
        Part::Head(head) => vec![pb::StreamCatalogResponse {
            head: Some(convert::head(*head)),
            ..Default::default()
        }],
        Part::End => vec![pb::StreamCatalogResponse {
            end: true,
            ..Default::default()
        }],
        Part::Page(rows) => {
            let mut messages = vec![pb::StreamCatalogResponse::default()];
            let mut size = 0;
            for (channel, row) in rows {
                let update = convert::replica(channel, row);
                let bytes = update.encoded_len();
                if size > 0 && size + bytes > MESSAGE {
                    messages.push(pb::StreamCatalogResponse::default());
                    size = 0;
                }
                size += bytes;
                if let Some(message) = messages.last_mut() {
                    message.updates.push(update);
                }
            }
            messages
        }
    }
}
