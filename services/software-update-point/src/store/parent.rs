//! The software update point of the parent site, over gRPC. Our own site server knows where it is
//! and with which certificate it is called; both may change between two synchronisations.

use std::time::Duration;

use muster_apt::index::Checker;
use muster_proto::catalog::catalog_service_client::CatalogServiceClient;
use muster_proto::catalog::replica_service_client::ReplicaServiceClient;
use muster_proto::catalog::{self as pb};
use muster_proto::link::upstream_service_client::UpstreamServiceClient;
use muster_proto::link::{GetUpstreamRequest, GetUpstreamResponse};
use muster_runtime::Role;
use muster_runtime::config::TlsConfig;
use muster_runtime::grpc::{Channel, ChannelOptions, channel, channel_with};
use muster_runtime::status::reason;
use muster_runtime::tls::ClientTls;
use std::io::Write;
use tonic::{Code, Status, Streaming};

use super::artifacts::Draft;

/// Longest silence of the parent.
const SILENCE: Duration = Duration::from_secs(60);

/// How the parent is found.
#[derive(Debug)]
pub(crate) struct Parent {
    site_server: Channel,
}

/// The parent's software update point, for one synchronisation.
#[derive(Debug)]
pub(crate) struct Upstream {
    channel: Channel,
    /// What it has in force.
    pub(crate) offered: pb::GetGenerationResponse,
}

/// Why the parent gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParentError {
    /// This site is the top one.
    #[error("this site has no parent")]
    None,
    /// It is away, or refuses.
    #[error("{0}")]
    Away(String),
    /// A file is not what was asked for.
    #[error(transparent)]
    Mismatch(#[from] muster_apt::index::Mismatch),
    /// The file could not be written.
    #[error("it cannot be written")]
    Write(#[source] std::io::Error),
}

impl Parent {
    /// Asks at this site server.
    pub(crate) fn new(
        site_server: &str,
        tls: &TlsConfig,
    ) -> Result<Self, muster_runtime::grpc::Error> {
        let options = ChannelOptions {
            server_role: Some(Role::SiteServer),
            ..ChannelOptions::default()
        };
        Ok(Self {
            site_server: channel(site_server, tls, &options)?,
        })
    }

    /// The first software update point of the parent that answers.
    pub(crate) async fn connect(&self) -> Result<Upstream, ParentError> {
        let answer = UpstreamServiceClient::new(self.site_server.clone())
            .get_upstream(GetUpstreamRequest {})
            .await;
        let upstream = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) if reason(&status).as_deref() == Some("NO_PARENT") => {
                return Err(ParentError::None);
            }
            Err(status) => return Err(away("our site server", &status)),
        };
        let points = upstream
            .roles
            .as_ref()
            .map(|it| &it.software_update_points[..]);
        let mut failure = ParentError::Away("it has no software update point".to_owned());
        for address in points.unwrap_or_default() {
            match try_one(&upstream, address).await {
                Ok(found) => return Ok(found),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

async fn try_one(upstream: &GetUpstreamResponse, address: &str) -> Result<Upstream, ParentError> {
    let options = ChannelOptions {
        connect_timeout: Duration::from_secs(5),
        server_role: Some(Role::SoftwareUpdatePoint),
        ..ChannelOptions::default()
    };
    let tls = ClientTls::from_pem(&upstream.ca, &upstream.certificate, &upstream.key)
        .map_err(|error| ParentError::Away(error.to_string()))?;
    let channel = channel_with(address, tls, &options)
        .map_err(|error| ParentError::Away(error.to_string()))?;
    let offered = CatalogServiceClient::new(channel.clone())
        .get_generation(pb::GetGenerationRequest {})
        .await
        .map_err(|status| away(address, &status))?
        .into_inner();
    Ok(Upstream { channel, offered })
}

impl Upstream {
    /// The catalog after a generation, or all of it.
    pub(crate) async fn stream(
        &self,
        after_generation: u64,
        stamp: &[u8],
        full: bool,
    ) -> Result<Parts, ParentError> {
        let request = pb::StreamCatalogRequest {
            after_generation,
            stamp: stamp.to_vec().into(),
            full,
        };
        let answer = ReplicaServiceClient::new(self.channel.clone())
            .stream_catalog(request)
            .await;
        Ok(Parts(
            answer.map_err(|status| away("it", &status))?.into_inner(),
        ))
    }

    /// A signed file of it, verified on the way; returns how many bytes came.
    pub(crate) async fn file(
        &self,
        sha256: &[u8; 32],
        mut checker: Checker,
        draft: &mut Draft,
    ) -> Result<u64, ParentError> {
        let request = pb::GetArtifactRequest {
            sha256: sha256.to_vec().into(),
        };
        let answer = CatalogServiceClient::new(self.channel.clone())
            .get_artifact(request)
            .await;
        let mut stream = answer.map_err(|status| away("it", &status))?.into_inner();
        let mut received = 0;
        while let Some(part) = next(&mut stream).await? {
            received += part.chunk.len() as u64;
            checker.update(&part.chunk)?;
            draft.write_all(&part.chunk).map_err(ParentError::Write)?;
        }
        draft.flush().map_err(ParentError::Write)?;
        checker.finish()?;
        Ok(received)
    }
}

/// The messages of a catalog.
#[derive(Debug)]
pub(crate) struct Parts(Streaming<pb::StreamCatalogResponse>);

impl Parts {
    /// The next one; `None` when the parent ends.
    pub(crate) async fn next(&mut self) -> Result<Option<pb::StreamCatalogResponse>, ParentError> {
        next(&mut self.0).await
    }
}

async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, ParentError> {
    let silent = || ParentError::Away("it says nothing any more".to_owned());
    let message = tokio::time::timeout(SILENCE, stream.message()).await;
    message
        .map_err(|_| silent())?
        .map_err(|status| away("it", &status))
}

fn away(who: &str, status: &Status) -> ParentError {
    let text: String = status.message().chars().take(300).collect();
    let refused = [Code::PermissionDenied, Code::Unauthenticated];
    let lacks = [Code::FailedPrecondition, Code::NotFound];
    let code = if refused.contains(&status.code()) {
        "refuses us"
    } else if lacks.contains(&status.code()) {
        "has not got it"
    } else {
        "does not answer"
    };
    ParentError::Away(format!("{who} {code}: {text}"))
}
