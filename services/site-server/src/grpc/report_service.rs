//! `muster.report.v1.ReportService`

use std::sync::Arc;

use muster_proto::report as pb;
use muster_proto::report::report_service_server::ReportService;
use tonic::{Request, Response, Status};

use super::status;
use crate::app::{Site, keep_trend, read_compliance, read_failures, read_reports};

/// The door.
#[derive(Debug)]
pub(crate) struct Door(pub(crate) Arc<Site>);

#[tonic::async_trait]
impl ReportService for Door {
    async fn get_compliance(
        &self,
        request: Request<pb::GetComplianceRequest>,
    ) -> Result<Response<pb::GetComplianceResponse>, Status> {
        let response = read_compliance::get_compliance(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn list_compliance_clients(
        &self,
        request: Request<pb::ListComplianceClientsRequest>,
    ) -> Result<Response<pb::ListComplianceClientsResponse>, Status> {
        let response = read_compliance::list_compliance_clients(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn get_update_compliance(
        &self,
        request: Request<pb::GetUpdateComplianceRequest>,
    ) -> Result<Response<pb::GetUpdateComplianceResponse>, Status> {
        let response = read_compliance::get_update_compliance(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn list_update_clients(
        &self,
        request: Request<pb::ListUpdateClientsRequest>,
    ) -> Result<Response<pb::ListUpdateClientsResponse>, Status> {
        let response = read_compliance::list_update_clients(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn get_coverage(
        &self,
        request: Request<pb::GetCoverageRequest>,
    ) -> Result<Response<pb::GetCoverageResponse>, Status> {
        let response = read_compliance::get_coverage(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn list_coverage_clients(
        &self,
        request: Request<pb::ListCoverageClientsRequest>,
    ) -> Result<Response<pb::ListCoverageClientsResponse>, Status> {
        let response = read_compliance::list_coverage_clients(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn get_enforcement(
        &self,
        request: Request<pb::GetEnforcementRequest>,
    ) -> Result<Response<pb::GetEnforcementResponse>, Status> {
        let response = read_reports::get_enforcement(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn get_evaluation(
        &self,
        request: Request<pb::GetEvaluationRequest>,
    ) -> Result<Response<pb::GetEvaluationResponse>, Status> {
        let response = read_failures::get_evaluation(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn get_scans(
        &self,
        request: Request<pb::GetScansRequest>,
    ) -> Result<Response<pb::GetScansResponse>, Status> {
        let response = read_failures::get_scans(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn list_scan_clients(
        &self,
        request: Request<pb::ListScanClientsRequest>,
    ) -> Result<Response<pb::ListScanClientsResponse>, Status> {
        let response = read_failures::list_scan_clients(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn list_error_clients(
        &self,
        request: Request<pb::ListErrorClientsRequest>,
    ) -> Result<Response<pb::ListErrorClientsResponse>, Status> {
        let response = read_failures::list_error_clients(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn get_trend(
        &self,
        request: Request<pb::GetTrendRequest>,
    ) -> Result<Response<pb::GetTrendResponse>, Status> {
        let response = keep_trend::get_trend(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn list_errors(
        &self,
        request: Request<pb::ListErrorsRequest>,
    ) -> Result<Response<pb::ListErrorsResponse>, Status> {
        let response = read_failures::list_errors(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn get_client_report(
        &self,
        request: Request<pb::GetClientReportRequest>,
    ) -> Result<Response<pb::GetClientReportResponse>, Status> {
        let response = read_reports::get_client_report(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }
}
