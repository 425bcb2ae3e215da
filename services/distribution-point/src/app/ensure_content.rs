//! Wants files, and says how far each one is.

use std::sync::Arc;
use std::time::Instant;

use muster_proto::catalog::FileRef;
use muster_proto::content::{FileState, FileStatus};

use super::{Error, MAX_FILES, Point, Source, Step};
use crate::domain::archive::{ArchivePath, ArchiveUri};
use crate::domain::digest::Digest;
use crate::domain::facts::{self, Facts};

/// CVE ids in one answer, so that it fits into a message; a file whose ids have no room is
/// answered as not ready, and asked for again.
const MAX_CVES: usize = 50_000;

/// Wants every file that is not held. The paths are on disk before the answer; the bytes come
/// in the background, and the caller asks again.
pub(crate) async fn ensure_content(
    point: &Point,
    files: &[FileRef],
) -> Result<Vec<FileStatus>, Error> {
    if files.len() > MAX_FILES {
        return Err(Error::Invalid(format!("more than {MAX_FILES} files")));
    }
    let files: Vec<(Digest, Source)> = files
        .iter()
        .map(|file| parse(file, point))
        .collect::<Result<_, _>>()?;
    offer_paths(point, &files).await?;
    let mut room = MAX_CVES;
    files
        .into_iter()
        .map(|(digest, source)| status(point, digest, &source, &mut room))
        .collect()
}

fn parse(file: &FileRef, point: &Point) -> Result<(Digest, Source), Error> {
    let invalid = |what: &str| {
        let path: String = file.path.chars().take(200).collect();
        Error::Invalid(format!("{what} of file {path:?}"))
    };
    let digest = Digest::from_slice(&file.sha256).ok_or_else(|| invalid("invalid sha256"))?;
    let path = ArchivePath::parse(&file.path).ok_or_else(|| invalid("invalid path"))?;
    let archive =
        ArchiveUri::parse(&file.archive_uri).ok_or_else(|| invalid("invalid archive_uri"))?;
    if file.size > point.config.limits.file_bytes {
        return Err(invalid("size over the limit"));
    }
    Ok((
        digest,
        Source {
            archive,
            path,
            size: file.size,
        },
    ))
}

async fn offer_paths(point: &Point, files: &[(Digest, Source)]) -> Result<(), Error> {
    let limit = point.config.limits.paths;
    let full = point
        .manifests
        .change(|manifest| {
            let mut changed = false;
            for (digest, source) in files {
                changed |= manifest.add_file(&source.archive, &source.path, *digest);
            }
            let full = manifest.paths() > limit;
            (full, changed && !full)
        })
        .await?;
    if full {
        Err(Error::Full("too many paths are offered"))
    } else {
        Ok(())
    }
}

fn status(
    point: &Point,
    digest: Digest,
    source: &Source,
    room: &mut usize,
) -> Result<FileStatus, Error> {
    let mut status = FileStatus {
        sha256: digest.as_bytes().to_vec().into(),
        ..Default::default()
    };
    let step = match point.content.size(&digest) {
        Some(size) if size == source.size => {
            status.bytes_fetched = size;
            match known(point, digest, source) {
                Some(facts) if facts.cve_ids.len() > *room => Step::Fetching { bytes: size },
                Some(facts) => {
                    *room -= facts.cve_ids.len();
                    status.cve_ids.clone_from(&facts.cve_ids);
                    status.urgency.clone_from(&facts.urgency);
                    status.set_state(FileState::Available);
                    return Ok(status);
                }
                None => Step::Fetching { bytes: size },
            }
        }
        Some(size) => Step::Failed {
            detail: format!(
                "SIZE_MISMATCH: held with {size} bytes, wanted {}",
                source.size
            ),
            at: Instant::now(),
        },
        None => want(point, digest, source)?,
    };
    match step {
        Step::Waiting => status.set_state(FileState::Waiting),
        Step::Fetching { bytes } => {
            status.set_state(FileState::Fetching);
            status.bytes_fetched = bytes;
        }
        Step::Failed { detail, .. } => {
            status.set_state(FileState::Failed);
            status.detail = detail;
        }
    }
    Ok(status)
}

/// What a file that is held says. `None`: it is still being looked at.
fn known(point: &Point, digest: Digest, source: &Source) -> Option<Arc<Facts>> {
    let facts = point.content.facts(&digest);
    if facts.is_some() || facts::package(&source.path).is_none() {
        return Some(facts.unwrap_or_default());
    }
    match point.jobs.look(digest, source) {
        Some(Step::Waiting | Step::Fetching { .. }) => None,
        // The file matters more than what it says.
        Some(Step::Failed { .. }) | None => Some(Arc::default()),
    }
}

fn want(point: &Point, digest: Digest, source: &Source) -> Result<Step, Error> {
    let to_come = point
        .jobs
        .bytes_to_come()
        .saturating_add(point.content.bytes());
    if to_come.saturating_add(source.size) > point.config.limits.content_bytes {
        let detail = "STORE_FULL: no room for this file".to_owned();
        return Ok(Step::Failed {
            detail,
            at: Instant::now(),
        });
    }
    point
        .jobs
        .want(digest, source)
        .ok_or(Error::Full("too many files are waiting"))
}
