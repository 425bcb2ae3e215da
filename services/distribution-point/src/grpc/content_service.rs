//! `muster.content.v1.ContentService`.

use std::sync::Arc;

use muster_proto::content::content_service_server::ContentService;
use muster_proto::content::{
    EnsureContentRequest, EnsureContentResponse, PublishSuitesRequest, PublishSuitesResponse,
    RemoveContentRequest, RemoveContentResponse,
};
use muster_runtime::status::{Kind, status, to_status};
use tonic::{Request, Response, Status};

use crate::app::{self, Point};

/// Opens the message, calls the use case, closes the reply.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) point: Arc<Point>,
}

impl Door {
    fn admit<T>(&self, request: Request<T>) -> Result<T, Status> {
        let caller = muster_runtime::auth::identity(&request)?;
        if caller.site != self.point.config.site_code {
            return Err(status(
                Kind::Denied,
                "FOREIGN_SITE",
                "the caller is of another site",
            ));
        }
        Ok(request.into_inner())
    }
}

#[tonic::async_trait]
impl ContentService for Door {
    async fn ensure_content(
        &self,
        request: Request<EnsureContentRequest>,
    ) -> Result<Response<EnsureContentResponse>, Status> {
        let request = self.admit(request)?;
        let files = app::ensure_content(&self.point, &request.files)
            .await
            .map_err(to_status)?;
        Ok(Response::new(EnsureContentResponse { files }))
    }

    async fn publish_suites(
        &self,
        request: Request<PublishSuitesRequest>,
    ) -> Result<Response<PublishSuitesResponse>, Status> {
        let request = self.admit(request)?;
        app::publish_suites(&self.point, request)
            .await
            .map_err(to_status)?;
        Ok(Response::new(PublishSuitesResponse {}))
    }

    async fn remove_content(
        &self,
        request: Request<RemoveContentRequest>,
    ) -> Result<Response<RemoveContentResponse>, Status> {
        let request = self.admit(request)?;
        let bytes_freed = app::remove_content(&self.point, &request.sha256)
            .await
            .map_err(to_status)?;
        Ok(Response::new(RemoveContentResponse { bytes_freed }))
    }
}
