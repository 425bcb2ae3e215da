//! Packages and deployments.

use std::pin::Pin;
use std::time::Duration;

use muster_proto::content::{package_service_server::PackageService, *};
use muster_proto::deployment::{deployment_service_server::DeploymentService, *};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::{Fake, ago, check, id};

type Answer<T> = Result<Response<T>, Status>;
type Watch<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn package(name: &str, files_available: u32) -> Package {
    let broken = name == "broken";
    Package {
        package_id: id(0x66),
        name: name.to_owned(),
        created_at: ago(60),
        update_count: 12,
        file_count: 19,
        files_available,
        files_failed: u32::from(broken),
        total_bytes: 4_200_000,
        problem: if broken {
            "SHA-256 differs".to_owned()
        } else {
            String::new()
        },
        owner_site_code: "P01".to_owned(),
    }
}

#[tonic::async_trait]
impl PackageService for Fake {
    async fn create_package(
        &self,
        request: Request<CreatePackageRequest>,
    ) -> Answer<CreatePackageResponse> {
        let request = request.into_inner();
        check("package", &request.name).await?;
        self.ask(&request);
        let package = Some(package(&request.name, 0));
        Ok(Response::new(CreatePackageResponse {
            package,
            warnings: Vec::new(),
        }))
    }

    async fn list_packages(&self, _: Request<ListPackagesRequest>) -> Answer<ListPackagesResponse> {
        let packages = vec![package("june", 19), package("broken", 18)];
        Ok(Response::new(ListPackagesResponse {
            packages,
            ..Default::default()
        }))
    }

    async fn get_package(&self, request: Request<GetPackageRequest>) -> Answer<GetPackageResponse> {
        let name = request.into_inner().name;
        check("package", &name).await?;
        let available = if self.watch() > 1 { 18 } else { 7 };
        let available = if name == "broken" {
            18
        } else {
            available + u32::from(available == 18)
        };
        let state = if name == "broken" {
            FileState::Failed
        } else {
            FileState::Available
        };
        let files = vec![FileStatus {
            sha256: vec![0xab; 32].into(),
            state: state.into(),
            bytes_fetched: 2_019_000,
            detail: "SHA-256 differs".to_owned(),
            ..Default::default()
        }];
        let package = Some(package(&name, available));
        Ok(Response::new(GetPackageResponse { package, files }))
    }

    async fn delete_package(
        &self,
        request: Request<DeletePackageRequest>,
    ) -> Answer<DeletePackageResponse> {
        check("package", &request.into_inner().name).await?;
        Ok(Response::new(DeletePackageResponse {}))
    }
}

fn deployment(name: &str) -> Deployment {
    Deployment {
        deployment_id: id(0x77),
        name: name.to_owned(),
        collection: "Pilot".to_owned(),
        update_list: "june".to_owned(),
        created_at: ago(120),
        available_at: ago(120),
        deadline_at: ago(-7_201),
        update_count: 12,
        owner_site_code: "CEN".to_owned(),
        ..Default::default()
    }
}

fn progress(compliant: u32, in_progress: u32, failed: u32) -> DeploymentSummary {
    use muster_proto::state::{DeploymentEnforcement, UpdateEnforcement};
    DeploymentSummary {
        clients: 202,
        compliant,
        in_progress,
        failed,
        unknown: 202 - compliant - in_progress - failed,
        enforcement: vec![EnforcementCount {
            state: DeploymentEnforcement::SuccessfullyInstalled.into(),
            clients: compliant,
        }],
        updates: vec![UpdateEnforcementCount {
            state: UpdateEnforcement::SuccessfullyInstalled.into(),
            count: compliant * 12,
        }],
    }
}

#[tonic::async_trait]
impl DeploymentService for Fake {
    type WatchDeploymentStream = Watch<WatchDeploymentResponse>;

    async fn create_deployment(
        &self,
        request: Request<CreateDeploymentRequest>,
    ) -> Answer<CreateDeploymentResponse> {
        let request = request.into_inner();
        check("deployment", &request.name).await?;
        self.ask(&request);
        let deployment = Some(deployment(&request.name));
        Ok(Response::new(CreateDeploymentResponse {
            deployment,
            warnings: Vec::new(),
        }))
    }

    async fn list_deployments(
        &self,
        _: Request<ListDeploymentsRequest>,
    ) -> Answer<ListDeploymentsResponse> {
        let optional = Deployment {
            deadline_at: None,
            ..deployment("optional")
        };
        let deployments = vec![deployment("june"), optional];
        Ok(Response::new(ListDeploymentsResponse {
            deployments,
            ..Default::default()
        }))
    }

    async fn get_deployment(
        &self,
        request: Request<GetDeploymentRequest>,
    ) -> Answer<GetDeploymentResponse> {
        let name = request.into_inner().name;
        check("deployment", &name).await?;
        let summary = Some(progress(180, 20, 2));
        Ok(Response::new(GetDeploymentResponse {
            deployment: Some(deployment(&name)),
            summary,
        }))
    }

    async fn delete_deployment(
        &self,
        request: Request<DeleteDeploymentRequest>,
    ) -> Answer<DeleteDeploymentResponse> {
        check("deployment", &request.into_inner().name).await?;
        Ok(Response::new(DeleteDeploymentResponse {}))
    }

    /// `flaky` breaks once in the middle, `hanging` stays until the server ends.
    async fn watch_deployment(
        &self,
        request: Request<WatchDeploymentRequest>,
    ) -> Answer<Watch<WatchDeploymentResponse>> {
        let name = request.into_inner().name;
        check("deployment", &name).await?;
        let failed = if name == "failing" { 2 } else { 0 };
        let first = self.watch() == 1;
        let steps = [
            progress(0, 10, 0),
            progress(100, 50, failed),
            progress(202 - failed, 0, failed),
        ];
        let answers = steps.map(|summary| {
            Ok(WatchDeploymentResponse {
                summary: Some(summary),
            })
        });
        let answers = match name.as_str() {
            "flaky" if first => answers
                .into_iter()
                .take(1)
                .chain([Err(Status::unavailable("gone"))])
                .collect(),
            "hanging" if first => answers.into_iter().take(2).collect(),
            _ => answers.into_iter().collect::<Vec<_>>(),
        };
        let stream = tokio_stream::iter(answers).throttle(Duration::from_millis(20));
        if name == "hanging" && first {
            return Ok(Response::new(Box::pin(
                stream.chain(tokio_stream::pending()),
            )));
        }
        Ok(Response::new(Box::pin(stream)))
    }
}
