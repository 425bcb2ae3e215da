//! `muster.catalog.v1.UpdateService`

use std::sync::Arc;

use muster_proto::catalog as pb;
use muster_proto::catalog::update_service_server::UpdateService;
use tonic::{Request, Response, Status};

use super::administrator;
use super::status;
use crate::app::{Site, manage_update_lists};

/// The door.
#[derive(Debug)]
pub(crate) struct Door(pub(crate) Arc<Site>);

#[tonic::async_trait]
impl UpdateService for Door {
    async fn list_updates(
        &self,
        request: Request<pb::ListUpdatesRequest>,
    ) -> Result<Response<pb::ListUpdatesResponse>, Status> {
        let response = manage_update_lists::list_updates(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn get_update(
        &self,
        request: Request<pb::GetUpdateRequest>,
    ) -> Result<Response<pb::GetUpdateResponse>, Status> {
        let update = manage_update_lists::get_update(&self.0, request.get_ref())
            .await
            .map_err(status)?;
        Ok(Response::new(pb::GetUpdateResponse {
            update: Some(update),
        }))
    }

    async fn create_update_list(
        &self,
        request: Request<pb::CreateUpdateListRequest>,
    ) -> Result<Response<pb::CreateUpdateListResponse>, Status> {
        let administrator = administrator(&request)?;
        let done =
            manage_update_lists::create_update_list(&self.0, &administrator, request.get_ref())
                .await;
        Ok(Response::new(done.map_err(status)?))
    }

    async fn list_update_lists(
        &self,
        request: Request<pb::ListUpdateListsRequest>,
    ) -> Result<Response<pb::ListUpdateListsResponse>, Status> {
        let response = manage_update_lists::list_update_lists(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn get_update_list(
        &self,
        request: Request<pb::GetUpdateListRequest>,
    ) -> Result<Response<pb::GetUpdateListResponse>, Status> {
        let response = manage_update_lists::get_update_list(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn delete_update_list(
        &self,
        request: Request<pb::DeleteUpdateListRequest>,
    ) -> Result<Response<pb::DeleteUpdateListResponse>, Status> {
        let administrator = administrator(&request)?;
        let done =
            manage_update_lists::delete_update_list(&self.0, &administrator, request.get_ref())
                .await;
        done.map_err(status)?;
        Ok(Response::new(pb::DeleteUpdateListResponse {}))
    }
}
