//! `ScanService`: what clients evaluate themselves with.

use std::sync::Arc;

use muster_apt::packages::{is_architecture, is_package_name};
use muster_proto::catalog as pb;
use muster_proto::catalog::scan_service_server::ScanService;
use muster_runtime::status::to_status;
use tonic::{Request, Response, Status};

use super::convert;
use crate::app::{Error, Point};
use crate::domain::scan::{Answer, MAX_PACKAGES, Query, slice};

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Scan(pub(crate) Arc<Point>);

#[tonic::async_trait]
impl ScanService for Scan {
    async fn get_scan_metadata(
        &self,
        request: Request<pb::GetScanMetadataRequest>,
    ) -> Result<Response<pb::GetScanMetadataResponse>, Status> {
        let request = request.into_inner();
        check(&request).map_err(to_status)?;
        let catalog = self.0.catalog();
        let query = Query {
            base: request.base_generation,
            packages: &request.packages,
            architecture: &request.architecture,
            os_id: &request.os_id,
            os_version_id: &request.os_version_id,
        };
        let kind = if query.base == 0 {
            "cold"
        } else {
            "difference"
        };
        metrics::counter!("muster_sup_scans_total", "kind" => kind).increment(1);
        let answer = match slice(&catalog, query) {
            Answer::UnknownBase if catalog.generation == 0 => {
                return Err(to_status(Error::NoCatalog));
            }
            Answer::UnknownBase => return Err(to_status(Error::GenerationUnknown(query.base))),
            Answer::RestartCold => pb::GetScanMetadataResponse {
                generation: query.base,
                restart_cold: true,
                ..pb::GetScanMetadataResponse::default()
            },
            Answer::Slice { updates, removed } => convert::scan(&catalog, &updates, removed),
        };
        Ok(Response::new(answer))
    }
}

fn check(request: &pb::GetScanMetadataRequest) -> Result<(), Error> {
    let packages = &request.packages;
    if packages.len() > MAX_PACKAGES {
        return Err(Error::Invalid(format!("more than {MAX_PACKAGES} packages")));
    }
    if !packages.iter().all(|name| is_package_name(name)) {
        return Err(Error::Invalid("a package name is malformed".to_owned()));
    }
    if !packages.is_sorted_by(|a, b| a < b) {
        return Err(Error::Invalid(
            "the packages are not sorted, or one stands twice".to_owned(),
        ));
    }
    if !request.architecture.is_empty() && !is_architecture(&request.architecture) {
        return Err(Error::Invalid("the architecture is malformed".to_owned()));
    }
    if request.os_id.len() > 64 || request.os_version_id.len() > 64 {
        return Err(Error::Invalid(
            "os_id or os_version_id is too long".to_owned(),
        ));
    }
    Ok(())
}
