//! `muster.site.v1.SiteService`

use std::sync::Arc;

use muster_proto::site as pb;
use muster_proto::site::site_service_server::SiteService;
use tonic::{Request, Response, Status};

use super::status;
use crate::app::{Site, read_site};

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
}
