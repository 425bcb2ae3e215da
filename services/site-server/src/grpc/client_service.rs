//! `muster.client.v1.ClientService`

use std::sync::Arc;

use muster_proto::client as pb;
use muster_proto::client::client_service_server::ClientService;
use tonic::{Request, Response, Status};

use super::administrator;
use super::status;
use crate::app::{Site, manage_clients, move_clients, resync_clients};

/// The door.
#[derive(Debug)]
pub(crate) struct Door(pub(crate) Arc<Site>);

#[tonic::async_trait]
impl ClientService for Door {
    async fn list_clients(
        &self,
        request: Request<pb::ListClientsRequest>,
    ) -> Result<Response<pb::ListClientsResponse>, Status> {
        let response = manage_clients::list_clients(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn get_client(
        &self,
        request: Request<pb::GetClientRequest>,
    ) -> Result<Response<pb::GetClientResponse>, Status> {
        let response = manage_clients::get_client(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn delete_client(
        &self,
        request: Request<pb::DeleteClientRequest>,
    ) -> Result<Response<pb::DeleteClientResponse>, Status> {
        let administrator = administrator(&request)?;
        let done = manage_clients::delete_client(&self.0, &administrator, request.get_ref()).await;
        done.map_err(status)?;
        Ok(Response::new(pb::DeleteClientResponse {}))
    }

    async fn resync_clients(
        &self,
        request: Request<pb::ResyncClientsRequest>,
    ) -> Result<Response<pb::ResyncClientsResponse>, Status> {
        let administrator = administrator(&request)?;
        let done = resync_clients::resync_clients(&self.0, &administrator, request.get_ref()).await;
        Ok(Response::new(done.map_err(status)?))
    }

    async fn move_client(
        &self,
        request: Request<pb::MoveClientRequest>,
    ) -> Result<Response<pb::MoveClientResponse>, Status> {
        let administrator = administrator(&request)?;
        let done = move_clients::move_client(&self.0, &administrator, request.get_ref()).await;
        Ok(Response::new(done.map_err(status)?))
    }

    async fn create_enrolment_tokens(
        &self,
        request: Request<pb::CreateEnrolmentTokensRequest>,
    ) -> Result<Response<pb::CreateEnrolmentTokensResponse>, Status> {
        let administrator = administrator(&request)?;
        let done = manage_clients::create_tokens(&self.0, &administrator, request.get_ref()).await;
        Ok(Response::new(done.map_err(status)?))
    }
}
