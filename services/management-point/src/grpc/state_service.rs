//! `muster.state.v1.StateService`.

use muster_proto::state::state_service_server::StateService;
use muster_proto::state::{
    RelayReportsRequest, RelayReportsResponse, ReportStatesRequest, ReportStatesResponse,
};
use muster_runtime::status::to_status;
use tonic::{Request, Response, Status};

use super::Door;
use crate::app;

#[tonic::async_trait]
impl StateService for Door {
    async fn report_states(
        &self,
        request: Request<ReportStatesRequest>,
    ) -> Result<Response<ReportStatesResponse>, Status> {
        let client = self.client(&request)?;
        let reports = request.into_inner().reports;
        let answer = app::accept_states(&self.point, client, reports).await;
        Ok(Response::new(answer.map_err(to_status)?))
    }

    async fn relay_reports(
        &self,
        request: Request<RelayReportsRequest>,
    ) -> Result<Response<RelayReportsResponse>, Status> {
        let envelopes = request.into_inner().envelopes;
        app::relay_reports(&self.point, envelopes)
            .await
            .map_err(to_status)?;
        Ok(Response::new(RelayReportsResponse {}))
    }
}
