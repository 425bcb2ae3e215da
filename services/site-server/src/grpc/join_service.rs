//! `muster.link.v1.JoinService`

use std::sync::Arc;

use muster_proto::link as pb;
use muster_proto::link::join_service_server::JoinService;
use muster_runtime::auth;
use tonic::{Request, Response, Status};

use super::status;
use crate::app::{Site, join_site, leave_site};

/// The door.
#[derive(Debug)]
pub(crate) struct Door(pub(crate) Arc<Site>);

#[tonic::async_trait]
impl JoinService for Door {
    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        let response = join_site::join_site(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn leave(
        &self,
        request: Request<pb::LeaveRequest>,
    ) -> Result<Response<pb::LeaveResponse>, Status> {
        let child = auth::identity(&request)?.name.clone();
        let peer = auth::peer(&request);
        let done = leave_site::child_leaves(&self.0, &child, peer).await;
        done.map_err(status)?;
        Ok(Response::new(pb::LeaveResponse {}))
    }
}
