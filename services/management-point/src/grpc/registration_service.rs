//! `muster.client.v1.RegistrationService`.

use muster_proto::client::registration_service_server::RegistrationService;
use muster_proto::client::{
    EnrolRequest, EnrolResponse, GetLocationsRequest, GetLocationsResponse, RegisterRequest,
    RegisterResponse, RenewIdentityRequest, RenewIdentityResponse,
};
use muster_runtime::auth;
use muster_runtime::status::to_status;
use tonic::{Request, Response, Status};

use super::{Door, from};
use crate::app;

#[tonic::async_trait]
impl RegistrationService for Door {
    async fn enrol(
        &self,
        request: Request<EnrolRequest>,
    ) -> Result<Response<EnrolResponse>, Status> {
        let from = from(&request)?;
        let answer = app::enrol(&self.point, from, request.into_inner()).await;
        Ok(Response::new(answer.map_err(to_status)?))
    }

    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let (client, from) = (self.client(&request)?, from(&request)?);
        let answer = app::register(&self.point, client, from, request.into_inner()).await;
        Ok(Response::new(answer.map_err(to_status)?))
    }

    async fn renew_identity(
        &self,
        request: Request<RenewIdentityRequest>,
    ) -> Result<Response<RenewIdentityResponse>, Status> {
        let client = self.even_replaced(&request)?;
        let peer = auth::peer(&request).and_then(|peer| peer.fingerprint.clone());
        let peer = peer.ok_or_else(|| Status::internal("a client without a certificate"))?;
        let answer = app::renew_identity(&self.point, client, &peer, request.into_inner()).await;
        Ok(Response::new(answer.map_err(to_status)?))
    }

    async fn get_locations(
        &self,
        request: Request<GetLocationsRequest>,
    ) -> Result<Response<GetLocationsResponse>, Status> {
        let (client, from) = (self.client(&request)?, from(&request)?);
        let answer = app::get_locations(&self.point, client, from).await;
        Ok(Response::new(answer.map_err(to_status)?))
    }
}
