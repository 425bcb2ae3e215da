//! `muster.site.v1.SiteService`

use std::sync::Arc;

use muster_proto::site as pb;
use muster_proto::site::site_service_server::SiteService;
use tonic::{Request, Response, Status};

use super::{administrator, status};
use crate::app::{Site, invite_site, join_parent, leave_site, read_site};

/// The door.
#[derive(Debug)]
pub(crate) struct Door(pub(crate) Arc<Site>);

#[tonic::async_trait]
impl SiteService for Door {
    async fn list_sites(
        &self,
        request: Request<pb::ListSitesRequest>,
    ) -> Result<Response<pb::ListSitesResponse>, Status> {
        let pb::ListSitesRequest {} = request.get_ref();
        let response = read_site::list_sites(&self.0).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn get_site(
        &self,
        request: Request<pb::GetSiteRequest>,
    ) -> Result<Response<pb::GetSiteResponse>, Status> {
        let response = read_site::get_site(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn create_invitation(
        &self,
        request: Request<pb::CreateInvitationRequest>,
    ) -> Result<Response<pb::CreateInvitationResponse>, Status> {
        let administrator = administrator(&request)?;
        let response =
            invite_site::create_invitation(&self.0, &administrator, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn join_parent(
        &self,
        request: Request<pb::JoinParentRequest>,
    ) -> Result<Response<pb::JoinParentResponse>, Status> {
        let administrator = administrator(&request)?;
        let response = join_parent::join_parent(&self.0, &administrator, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn leave_parent(
        &self,
        request: Request<pb::LeaveParentRequest>,
    ) -> Result<Response<pb::LeaveParentResponse>, Status> {
        let administrator = administrator(&request)?;
        let done = leave_site::leave_parent(&self.0, &administrator, request.get_ref()).await;
        done.map_err(status)?;
        Ok(Response::new(pb::LeaveParentResponse {}))
    }

    async fn remove_child(
        &self,
        request: Request<pb::RemoveChildRequest>,
    ) -> Result<Response<pb::RemoveChildResponse>, Status> {
        let administrator = administrator(&request)?;
        let done = leave_site::remove_child(&self.0, &administrator, request.get_ref()).await;
        done.map_err(status)?;
        Ok(Response::new(pb::RemoveChildResponse {}))
    }

    async fn list_links(
        &self,
        request: Request<pb::ListLinksRequest>,
    ) -> Result<Response<pb::ListLinksResponse>, Status> {
        let pb::ListLinksRequest {} = request.get_ref();
        let response = read_site::list_links(&self.0).await;
        Ok(Response::new(response.map_err(status)?))
    }
}
