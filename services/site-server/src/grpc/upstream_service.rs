//! `muster.link.v1.UpstreamService`

use std::sync::Arc;

use muster_proto::link as pb;
use muster_proto::link::upstream_service_server::UpstreamService;
use muster_runtime::auth;
use tonic::{Request, Response, Status};

use super::status;
use crate::app::{Site, show_upstream};

/// The door.
#[derive(Debug)]
pub(crate) struct Door(pub(crate) Arc<Site>);

#[tonic::async_trait]
impl UpstreamService for Door {
    async fn get_upstream(
        &self,
        _: Request<pb::GetUpstreamRequest>,
    ) -> Result<Response<pb::GetUpstreamResponse>, Status> {
        let response = show_upstream::upstream(&self.0).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn get_roles(
        &self,
        request: Request<pb::GetRolesRequest>,
    ) -> Result<Response<pb::GetRolesResponse>, Status> {
        let child = auth::identity(&request)?.name.clone();
        let peer = auth::peer(&request);
        let response = show_upstream::roles_for(&self.0, &child, peer).await;
        Ok(Response::new(response.map_err(status)?))
    }
}
