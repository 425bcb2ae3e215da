//! `muster.collection.v1.CollectionService`

use std::sync::Arc;

use muster_proto::collection as pb;
use muster_proto::collection::collection_service_server::CollectionService;
use tonic::{Request, Response, Status};

use super::administrator;
use super::status;
use crate::app::{Site, manage_collections};

/// The door.
#[derive(Debug)]
pub(crate) struct Door(pub(crate) Arc<Site>);

#[tonic::async_trait]
impl CollectionService for Door {
    async fn create_collection(
        &self,
        request: Request<pb::CreateCollectionRequest>,
    ) -> Result<Response<pb::CreateCollectionResponse>, Status> {
        let administrator = administrator(&request)?;
        let done =
            manage_collections::create_collection(&self.0, &administrator, request.get_ref()).await;
        let collection = Some(done.map_err(status)?);
        Ok(Response::new(pb::CreateCollectionResponse { collection }))
    }

    async fn list_collections(
        &self,
        request: Request<pb::ListCollectionsRequest>,
    ) -> Result<Response<pb::ListCollectionsResponse>, Status> {
        let response = manage_collections::list_collections(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn get_collection(
        &self,
        request: Request<pb::GetCollectionRequest>,
    ) -> Result<Response<pb::GetCollectionResponse>, Status> {
        let collection = manage_collections::get_collection(&self.0, request.get_ref())
            .await
            .map_err(status)?;
        Ok(Response::new(pb::GetCollectionResponse {
            collection: Some(collection),
        }))
    }

    async fn delete_collection(
        &self,
        request: Request<pb::DeleteCollectionRequest>,
    ) -> Result<Response<pb::DeleteCollectionResponse>, Status> {
        let administrator = administrator(&request)?;
        let done =
            manage_collections::delete_collection(&self.0, &administrator, request.get_ref()).await;
        done.map_err(status)?;
        Ok(Response::new(pb::DeleteCollectionResponse {}))
    }

    async fn change_members(
        &self,
        request: Request<pb::ChangeMembersRequest>,
    ) -> Result<Response<pb::ChangeMembersResponse>, Status> {
        let administrator = administrator(&request)?;
        let done =
            manage_collections::change_members(&self.0, &administrator, request.get_ref()).await;
        let collection = Some(done.map_err(status)?);
        Ok(Response::new(pb::ChangeMembersResponse { collection }))
    }
}
