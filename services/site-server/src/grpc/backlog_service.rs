//! `muster.state.v1.BacklogService`

use std::sync::Arc;

use muster_proto::state as pb;
use muster_proto::state::backlog_service_server::BacklogService;
use tonic::{Request, Response, Status};

use super::{administrator, status};
use crate::app::{Site, backlog, manage_quarantine};

/// The door.
#[derive(Debug)]
pub(crate) struct Door(pub(crate) Arc<Site>);

#[tonic::async_trait]
impl BacklogService for Door {
    async fn get_backlog(
        &self,
        request: Request<pb::GetBacklogRequest>,
    ) -> Result<Response<pb::GetBacklogResponse>, Status> {
        let pb::GetBacklogRequest {} = request.get_ref();
        let response = backlog::get_backlog(&self.0).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn list_quarantined(
        &self,
        request: Request<pb::ListQuarantinedRequest>,
    ) -> Result<Response<pb::ListQuarantinedResponse>, Status> {
        let response = manage_quarantine::list_quarantined(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn inspect_quarantined(
        &self,
        request: Request<pb::InspectQuarantinedRequest>,
    ) -> Result<Response<pb::InspectQuarantinedResponse>, Status> {
        let response = manage_quarantine::inspect_quarantined(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn redrive_quarantined(
        &self,
        request: Request<pb::RedriveQuarantinedRequest>,
    ) -> Result<Response<pb::RedriveQuarantinedResponse>, Status> {
        let who = administrator(&request)?;
        let done = manage_quarantine::redrive_quarantined(&self.0, &who, request.get_ref()).await;
        Ok(Response::new(done.map_err(status)?))
    }

    async fn drop_quarantined(
        &self,
        request: Request<pb::DropQuarantinedRequest>,
    ) -> Result<Response<pb::DropQuarantinedResponse>, Status> {
        let who = administrator(&request)?;
        let done = manage_quarantine::drop_quarantined(&self.0, &who, request.get_ref()).await;
        Ok(Response::new(done.map_err(status)?))
    }
}
