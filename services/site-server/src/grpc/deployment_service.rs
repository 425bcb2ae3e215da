//! `muster.deployment.v1.DeploymentService`

use std::sync::Arc;
use std::time::Duration;

use muster_proto::deployment as pb;
use muster_proto::deployment::deployment_service_server::DeploymentService;
use muster_runtime::Tasks;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{administrator, status};
use crate::app::{Site, manage_deployments};

/// How often a watched deployment is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The door.
#[derive(Debug)]
pub(crate) struct Door(pub(crate) Arc<Site>, pub(crate) Tasks);

#[tonic::async_trait]
impl DeploymentService for Door {
    async fn create_deployment(
        &self,
        request: Request<pb::CreateDeploymentRequest>,
    ) -> Result<Response<pb::CreateDeploymentResponse>, Status> {
        let administrator = administrator(&request)?;
        let request = request.get_ref();
        let done = manage_deployments::create_deployment(&self.0, &administrator, request).await;
        Ok(Response::new(done.map_err(status)?))
    }

    async fn list_deployments(
        &self,
        request: Request<pb::ListDeploymentsRequest>,
    ) -> Result<Response<pb::ListDeploymentsResponse>, Status> {
        let response = manage_deployments::list_deployments(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn get_deployment(
        &self,
        request: Request<pb::GetDeploymentRequest>,
    ) -> Result<Response<pb::GetDeploymentResponse>, Status> {
        let response = manage_deployments::get_deployment(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn delete_deployment(
        &self,
        request: Request<pb::DeleteDeploymentRequest>,
    ) -> Result<Response<pb::DeleteDeploymentResponse>, Status> {
        let administrator = administrator(&request)?;
        let request = request.get_ref();
        let done = manage_deployments::delete_deployment(&self.0, &administrator, request).await;
        done.map_err(status)?;
        Ok(Response::new(pb::DeleteDeploymentResponse {}))
    }

    type WatchDeploymentStream = ReceiverStream<Result<pb::WatchDeploymentResponse, Status>>;

    async fn watch_deployment(
        &self,
        request: Request<pb::WatchDeploymentRequest>,
    ) -> Result<Response<Self::WatchDeploymentStream>, Status> {
        let pb::WatchDeploymentRequest { name, until_done } = request.into_inner();
        let number = manage_deployments::number_of(&self.0, &name)
            .await
            .map_err(status)?;
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let (site, stop) = (Arc::clone(&self.0), self.1.token());
        self.1.spawn("watch-deployment", async move {
            let mut shown = None;
            while !sender.is_closed() {
                let summary = manage_deployments::summary(&site, number)
                    .await
                    .map_err(status);
                let ended = match &summary {
                    Ok(summary) => until_done && summary.in_progress == 0 && summary.unknown == 0,
                    Err(_) => true,
                };
                // The last one is sent even when it did not change: it says that this is the end.
                if summary.as_ref().ok() != shown.as_ref() || ended {
                    shown = summary.as_ref().ok().cloned();
                    let message = summary.map(|summary| pb::WatchDeploymentResponse {
                        summary: Some(summary),
                    });
                    if sender.send(message).await.is_err() || ended {
                        return;
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    () = stop.cancelled() => return,
                    () = sender.closed() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
