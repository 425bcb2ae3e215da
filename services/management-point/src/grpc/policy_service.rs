//! `muster.policy.v1.PolicyService`.

use muster_proto::policy::policy_service_server::PolicyService;
use muster_proto::policy::{GetPolicyRequest, GetPolicyResponse};
use muster_runtime::status::to_status;
use tonic::{Request, Response, Status};

use super::{Door, from};
use crate::app;

#[tonic::async_trait]
impl PolicyService for Door {
    async fn get_policy(
        &self,
        request: Request<GetPolicyRequest>,
    ) -> Result<Response<GetPolicyResponse>, Status> {
        let (client, from) = (self.client(&request)?, from(&request)?);
        let answer = app::get_policy(&self.point, client, from, request.into_inner()).await;
        Ok(Response::new(answer.map_err(to_status)?))
    }
}
