//! Offers suites as an apt archive: copies the vendor's signed files from the software update
//! point, verifies each, and swaps the snapshot when all of them are held.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster_proto::catalog::catalog_service_client::CatalogServiceClient;
use muster_proto::catalog::{ArchiveSuite, GetArtifactRequest};
use muster_proto::content::{PublishSuitesRequest, SuitePublication};
use muster_runtime::Role;
use muster_runtime::grpc::{Channel, ChannelOptions, channel};
use tokio::sync::oneshot;

use super::{Error, Point};
use crate::domain::archive::{ArchivePath, ArchiveUri, SuiteKey};
use crate::domain::digest::Digest;
use crate::domain::manifest::Publication;
use crate::store::Incoming;

/// Suites in one request, and published in all.
const MAX_SUITES: usize = 64;
/// Files of one suite.
const MAX_SUITE_FILES: usize = 2_000;
/// Bytes of one index.
const MAX_INDEX: u64 = 512 * 1024 * 1024;
/// Longest silence of the software update point.
const SILENCE: Duration = Duration::from_secs(30);

/// What a suite is made of, checked.
struct Snapshot {
    key: SuiteKey,
    suite: ArchivePath,
    archive: ArchiveUri,
    files: Vec<(ArchivePath, Digest, u64)>,
}

/// Publishes suites. The work goes on when the caller gives up waiting; asking again then finds
/// it done.
pub(crate) async fn publish_suites(
    point: &Arc<Point>,
    request: PublishSuitesRequest,
) -> Result<(), Error> {
    if request.suites.len() > MAX_SUITES {
        return Err(Error::Invalid(format!("more than {MAX_SUITES} suites")));
    }
    let snapshots: Vec<Snapshot> = request.suites.iter().map(parse).collect::<Result<_, _>>()?;
    let options = ChannelOptions {
        server_role: Some(Role::SoftwareUpdatePoint),
        ..Default::default()
    };
    let source = channel(&request.software_update_point, point.tls(), &options)?;
    let (done, outcome) = oneshot::channel();
    let own = Arc::clone(point);
    point.tasks.spawn("publish-suites", async move {
        let token = own.tasks.token();
        let result = tokio::select! {
            result = publish_all(&own, source, snapshots) => result,
            () = token.cancelled() => Err(Error::Stopping),
        };
        // The caller may be gone, and that is fine.
        let _ = done.send(result);
    });
    outcome.await.unwrap_or(Err(Error::Stopping))
}

async fn publish_all(
    point: &Point,
    source: Channel,
    snapshots: Vec<Snapshot>,
) -> Result<(), Error> {
    let _turn = point.publishing.try_lock().map_err(|_| Error::Publishing)?;
    let mut source = CatalogServiceClient::new(source);
    for snapshot in snapshots {
        for (path, digest, size) in &snapshot.files {
            if point.content.size(digest) != Some(*size) {
                copy(point, &mut source, path, *digest, *size).await?;
            }
        }
        offer(point, snapshot).await?;
    }
    Ok(())
}

/// Swaps the snapshot, then removes what only the one before the last needed.
async fn offer(point: &Point, snapshot: Snapshot) -> Result<(), Error> {
    let (key, suite, count) = (snapshot.key, snapshot.suite, snapshot.files.len());
    let files: BTreeMap<_, _> = snapshot
        .files
        .into_iter()
        .map(|(path, digest, _)| (path, digest))
        .collect();
    let publication = Publication::new(snapshot.archive, files, jiff::Timestamp::now().as_second());
    tracing::info!(suite.key = %key, suite = suite.as_str(), files = count, "suite published");
    let dropped = point
        .manifests
        .change(|manifest| {
            let before = manifest.clone();
            let dropped = manifest.publish(key, suite, publication);
            if manifest.suites() > MAX_SUITES {
                return (None, false);
            }
            let changed = *manifest != before;
            (Some(dropped), changed)
        })
        .await?
        .ok_or(Error::Full("too many suites are published"))?;
    for digest in dropped {
        point.content.withdraw(digest).await?;
    }
    Ok(())
}

async fn copy(
    point: &Point,
    source: &mut CatalogServiceClient<Channel>,
    path: &ArchivePath,
    digest: Digest,
    size: u64,
) -> Result<(), Error> {
    let failed = |status: tonic::Status| Error::Upstream {
        path: path.as_str().to_owned(),
        source: Box::new(status),
    };
    let late = || tonic::Status::deadline_exceeded("no answer in time");
    let altered = |why| Error::Altered {
        path: path.as_str().to_owned(),
        why,
    };
    let incoming = Incoming::open(&point.content, digest, size).await?;
    let mut incoming = incoming.ok_or(Error::Publishing)?;
    incoming.restart().await?;
    let request = GetArtifactRequest {
        sha256: digest.as_bytes().to_vec().into(),
    };
    let stream = tokio::time::timeout(SILENCE, source.get_artifact(request)).await;
    let mut stream = stream
        .map_err(|_| failed(late()))?
        .map_err(failed)?
        .into_inner();
    loop {
        let next = tokio::time::timeout(SILENCE, stream.message()).await;
        match next.map_err(|_| failed(late()))?.map_err(failed)? {
            Some(part) => incoming.write(part.chunk).await?.map_err(altered)?,
            None => return incoming.finish().await?.map_err(altered),
        }
    }
}

fn parse(publication: &SuitePublication) -> Result<Snapshot, Error> {
    let invalid = |what: &str| {
        let key: String = publication.key.chars().take(32).collect();
        Error::Invalid(format!("{what} of suite {key:?}"))
    };
    let key = SuiteKey::parse(&publication.key).ok_or_else(|| invalid("invalid key"))?;
    let empty = ArchiveSuite::default();
    let wanted = publication.suite.as_ref().unwrap_or(&empty);
    let suite = ArchivePath::parse(&wanted.suite).ok_or_else(|| invalid("invalid name"))?;
    let archive =
        ArchiveUri::parse(&wanted.archive_uri).ok_or_else(|| invalid("invalid archive_uri"))?;
    if wanted.files.len() > MAX_SUITE_FILES {
        return Err(invalid("too many files"));
    }
    let mut files = Vec::with_capacity(wanted.files.len());
    for file in &wanted.files {
        let path = ArchivePath::parse(&file.path).ok_or_else(|| invalid("invalid path"))?;
        let digest = Digest::from_slice(&file.sha256).ok_or_else(|| invalid("invalid sha256"))?;
        if file.size > MAX_INDEX {
            return Err(invalid("an index over the size limit"));
        }
        files.push((path, digest, file.size));
    }
    let signed = files
        .iter()
        .any(|(path, ..)| matches!(path.as_str(), "InRelease" | "Release.gpg"));
    if !signed {
        return Err(invalid("no signed release file"));
    }
    Ok(Snapshot {
        key,
        suite,
        archive,
        files,
    })
}
