//! `muster.client.v1.ClientGatewayService`: what management points ask on behalf of clients. They
//! have checked the client's certificate.

use std::net::IpAddr;
use std::sync::Arc;

use muster_domain::ClientId;
use muster_proto::client as pb;
use muster_proto::client::client_gateway_service_server::ClientGatewayService;
use tonic::{Request, Response, Status};

use super::status;
use crate::app::{
    Error, Site, enrol_client, get_policy, give_directions, register_client, renew_identity,
};

/// The door.
#[derive(Debug)]
pub(crate) struct Door(pub(crate) Arc<Site>);

fn client_id(bytes: &[u8]) -> Result<ClientId, Status> {
    ClientId::from_slice(bytes).map_err(|error| status(error.into()))
}

/// Where the client called from, as the management point saw it.
fn address(text: &str) -> Result<Option<IpAddr>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse().map(Some);
    parsed.map_err(|_| status(Error::invalid("INVALID_FIELD", "address is no IP address")))
}

fn part<T>(part: Option<&T>) -> Result<&T, Status> {
    part.ok_or_else(|| status(Error::invalid("INVALID_FIELD", "request is missing")))
}

#[tonic::async_trait]
impl ClientGatewayService for Door {
    async fn enrol_client(
        &self,
        request: Request<pb::EnrolClientRequest>,
    ) -> Result<Response<pb::EnrolClientResponse>, Status> {
        let request = request.get_ref();
        let from = address(&request.address)?;
        let request = part(request.request.as_ref())?;
        let response = enrol_client::enrol_client(&self.0, request, from)
            .await
            .map_err(status)?;
        Ok(Response::new(pb::EnrolClientResponse {
            response: Some(response),
        }))
    }

    async fn register_client(
        &self,
        request: Request<pb::RegisterClientRequest>,
    ) -> Result<Response<pb::RegisterClientResponse>, Status> {
        let request = request.get_ref();
        let (client_id, from) = (client_id(&request.client_id)?, address(&request.address)?);
        let request = part(request.request.as_ref())?;
        let response = register_client::register_client(&self.0, client_id, request, from).await;
        let response = Some(response.map_err(status)?);
        Ok(Response::new(pb::RegisterClientResponse { response }))
    }

    async fn get_client_locations(
        &self,
        request: Request<pb::GetClientLocationsRequest>,
    ) -> Result<Response<pb::GetClientLocationsResponse>, Status> {
        let request = request.get_ref();
        let (client_id, from) = (client_id(&request.client_id)?, address(&request.address)?);
        let locations = register_client::get_locations(&self.0, client_id, from).await;
        let locations = Some(locations.map_err(status)?);
        Ok(Response::new(pb::GetClientLocationsResponse { locations }))
    }

    async fn get_client_policy(
        &self,
        request: Request<pb::GetClientPolicyRequest>,
    ) -> Result<Response<pb::GetClientPolicyResponse>, Status> {
        let request = request.get_ref();
        let (client_id, from) = (client_id(&request.client_id)?, address(&request.address)?);
        let known = &request.known_version;
        let policy = get_policy::get_policy(&self.0, client_id, known, from).await;
        Ok(Response::new(policy.map_err(status)?))
    }

    async fn renew_client_identity(
        &self,
        request: Request<pb::RenewClientIdentityRequest>,
    ) -> Result<Response<pb::RenewClientIdentityResponse>, Status> {
        let request = request.get_ref();
        let (client_id, print) = (client_id(&request.client_id)?, &request.fingerprint);
        let request = part(request.request.as_ref())?;
        let response = renew_identity::renew_identity(&self.0, client_id, print, request).await;
        let response = Some(response.map_err(status)?);
        Ok(Response::new(pb::RenewClientIdentityResponse { response }))
    }

    async fn get_directions(
        &self,
        request: Request<pb::GetDirectionsRequest>,
    ) -> Result<Response<pb::GetDirectionsResponse>, Status> {
        let answer = give_directions::get_directions(&self.0, request.get_ref());
        Ok(Response::new(answer.map_err(status)?))
    }
}
