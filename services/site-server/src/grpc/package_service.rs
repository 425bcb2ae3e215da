//! `muster.content.v1.PackageService`

use std::sync::Arc;

use muster_proto::content as pb;
use muster_proto::content::package_service_server::PackageService;
use tonic::{Request, Response, Status};

use super::administrator;
use super::status;
use crate::app::{Site, manage_packages};

/// The door.
#[derive(Debug)]
pub(crate) struct Door(pub(crate) Arc<Site>);

#[tonic::async_trait]
impl PackageService for Door {
    async fn create_package(
        &self,
        request: Request<pb::CreatePackageRequest>,
    ) -> Result<Response<pb::CreatePackageResponse>, Status> {
        let administrator = administrator(&request)?;
        let done =
            manage_packages::create_package(&self.0, &administrator, request.get_ref()).await;
        Ok(Response::new(done.map_err(status)?))
    }

    async fn list_packages(
        &self,
        request: Request<pb::ListPackagesRequest>,
    ) -> Result<Response<pb::ListPackagesResponse>, Status> {
        let response = manage_packages::list_packages(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn get_package(
        &self,
        request: Request<pb::GetPackageRequest>,
    ) -> Result<Response<pb::GetPackageResponse>, Status> {
        let response = manage_packages::get_package(&self.0, request.get_ref()).await;
        Ok(Response::new(response.map_err(status)?))
    }

    async fn delete_package(
        &self,
        request: Request<pb::DeletePackageRequest>,
    ) -> Result<Response<pb::DeletePackageResponse>, Status> {
        let administrator = administrator(&request)?;
        let done =
            manage_packages::delete_package(&self.0, &administrator, request.get_ref()).await;
        done.map_err(status)?;
        Ok(Response::new(pb::DeletePackageResponse {}))
    }
}
