//! Wants files, and says how far each one is.

use muster_proto::catalog::FileRef;
use muster_proto::content::{FileState, FileStatus};

use super::{Error, MAX_FILES, Point, Source, Step};
use crate::domain::archive::{ArchivePath, ArchiveUri};
use crate::domain::digest::Digest;

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
    files
        .into_iter()
        .map(|(digest, source)| status(point, digest, &source))
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

fn status(point: &Point, digest: Digest, source: &Source) -> Result<FileStatus, Error> {
    let (state, bytes_fetched, detail) = match point.content.size(&digest) {
        Some(size) if size == source.size => (FileState::Available, size, String::new()),
        Some(size) => {
            let detail = format!(
                "SIZE_MISMATCH: held with {size} bytes, wanted {}",
                source.size
            );
            (FileState::Failed, 0, detail)
        }
        None => match want(point, digest, source)? {
            Step::Waiting => (FileState::Waiting, 0, String::new()),
            Step::Fetching { bytes } => (FileState::Fetching, bytes, String::new()),
            Step::Failed { detail, .. } => (FileState::Failed, 0, detail),
        },
    };
    let sha256 = digest.as_bytes().to_vec().into();
    Ok(FileStatus {
        sha256,
        state: state.into(),
        bytes_fetched,
        detail,
        ..Default::default()
    })
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
            at: std::time::Instant::now(),
        });
    }
    point
        .jobs
        .want(digest, source)
        .ok_or(Error::Full("too many files are waiting"))
}
