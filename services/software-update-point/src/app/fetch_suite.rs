//! Fetches what is new of one suite: the signed release and the indexes that it names.

use jiff::Timestamp;
use muster_apt::index::{self, Checker, Index};
use muster_apt::openpgp::{self, Keyring};
use muster_apt::release::{File, Release, Stale};
use sha2::{Digest, Sha256};

use super::error::Cause;
use super::plan_sources::Followed;
use super::{Failure, Point};
use crate::domain::archive::{SignedFile, SuiteSnapshot, SuiteState};
use crate::domain::sync::Kind;
use crate::store::upstream::{FetchError, Page};

/// A suite after its release was looked at.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// As it was when it was last read, so nothing of it has to be read again.
    Unchanged(Box<SuiteState>),
    /// To be read.
    New(Box<NewSuite>),
}

/// A suite with a verified release and its verified indexes on disk.
#[derive(Debug)]
pub(crate) struct NewSuite {
    pub(crate) release: Release,
    /// Component and index.
    pub(crate) indexes: Vec<(String, Index)>,
    pub(crate) state: SuiteState,
}

impl Fetched {
    pub(crate) fn state(&self) -> &SuiteState {
        match self {
            Self::Unchanged(state) => state,
            Self::New(suite) => &suite.state,
        }
    }
}

/// Looks at the suite's release and fetches it if it changed.
pub(crate) async fn fetch_release(
    point: &Point,
    followed: &Followed,
    held: Option<&SuiteState>,
    kind: Kind,
    now: Timestamp,
) -> Result<Fetched, Failure> {
    let place = followed.suite.as_str();
    // What a delta left undone makes a full synchronisation read the suite again.
    let held = held.filter(|held| held.snapshot.suite == followed.suite);
    let current = held.filter(|held| {
        let files = &held.snapshot.files;
        held.followed_as == followed.followed_as()
            && (kind == Kind::Delta || held.fully_applied)
            && files
                .iter()
                .all(|file| point.artifacts.has(&file.sha256, file.size))
    });
    let url = format!("{}/dists/{}/InRelease", followed.uri, followed.suite);
    let page = point
        .upstream
        .page(
            &url,
            current.and_then(|held| held.etag.as_deref()),
            current.and_then(|held| held.last_modified.as_deref()),
            openpgp::MAX_SIZE,
        )
        .await
        .map_err(|source| {
            Cause::Fetch {
                file: "InRelease".into(),
                source,
            }
            .at(place)
        })?;
    let (bytes, etag, last_modified) = match (page, current) {
        (Page::Unchanged, Some(held)) => {
            still_valid(held, followed, now).map_err(|cause| cause.at(place))?;
            return Ok(Fetched::Unchanged(Box::new(held.clone())));
        }
        (Page::Unchanged, None) => {
            let source = FetchError::Status(reqwest::StatusCode::NOT_MODIFIED);
            return Err(Cause::Fetch {
                file: "InRelease".into(),
                source,
            }
            .at(place));
        }
        (
            Page::New {
                bytes,
                etag,
                last_modified,
            },
            _,
        ) => (bytes, etag, last_modified),
    };
    let sha256: [u8; 32] = Sha256::digest(&bytes).into();
    if let Some(held) = current.filter(|held| held.inrelease_sha256 == sha256) {
        still_valid(held, followed, now).map_err(|cause| cause.at(place))?;
        return Ok(Fetched::Unchanged(Box::new(held.clone())));
    }
    let accepted = held.map(|held| held.release_date);
    let (root, wanted) = (point.source.root.clone(), followed.clone());
    let work = move || -> Result<(Release, Vec<u8>), Cause> {
        let release = verify(&bytes, &root, &wanted, accepted, now)?;
        Ok((release, bytes))
    };
    let (release, bytes) = blocking(work).await?.map_err(|cause| cause.at(place))?;
    let size = bytes.len() as u64;
    let skipped = followed.only_automatic && release.not_automatic;
    let indexes = if skipped {
        Vec::new()
    } else {
        indexes(&release, followed).map_err(|c| c.at(place))?
    };
    keep(point, &sha256, bytes).await?;
    let inrelease = SignedFile {
        path: "InRelease".into(),
        sha256,
        size,
    };
    let files = indexes.iter().map(|(_, index)| SignedFile {
        path: index.path.clone(),
        sha256: index.compressed.sha256,
        size: index.compressed.size,
    });
    let files = if skipped {
        Vec::new()
    } else {
        std::iter::once(inrelease).chain(files).collect()
    };
    let state = SuiteState {
        followed_as: followed.followed_as(),
        release_date: release.date,
        valid_until: release.valid_until,
        not_automatic: skipped,
        // A suite that is read for the first time has nothing but new updates.
        fully_applied: kind == Kind::Full || held.is_none(),
        inrelease_sha256: sha256,
        etag,
        last_modified,
        snapshot: SuiteSnapshot {
            archive_uri: followed.uri.clone(),
            suite: followed.suite.clone(),
            components: followed.components.clone(),
            architectures: followed.architectures.clone(),
            signed_by: followed.signed_by_text(),
            ignore_valid_until: !followed.check_valid_until,
            files,
        },
    };
    Ok(Fetched::New(Box::new(NewSuite {
        release,
        indexes,
        state,
    })))
}

/// An unchanged release can still expire.
fn still_valid(held: &SuiteState, followed: &Followed, now: Timestamp) -> Result<(), Cause> {
    match held.valid_until {
        Some(valid_until) if followed.check_valid_until && valid_until < now => {
            Err(Stale::Expired { valid_until }.into())
        }
        _ => Ok(()),
    }
}

/// Signature, then meaning, then dates: nothing of a file is believed before its signature is good.
pub(super) fn verify(
    bytes: &[u8],
    root: &std::path::Path,
    followed: &Followed,
    accepted: Option<Timestamp>,
    now: Timestamp,
) -> Result<Release, Cause> {
    let keyring = Keyring::for_source(root, &followed.signed_by)?;
    let verified = openpgp::verify(bytes, &keyring, now)?;
    let release = Release::parse(&verified.text)?;
    // The same key signs all suites of an archive: an old main could be served as security.
    let names = [release.suite.as_deref(), release.codename.as_deref()];
    let known: Vec<&str> = names.into_iter().flatten().collect();
    if !known.is_empty() && !known.contains(&followed.suite.as_str()) {
        return Err(Cause::OtherSuite {
            wanted: followed.suite.clone(),
            got: known.join(" or "),
        });
    }
    release.check_dates(now, accepted, followed.check_valid_until)?;
    Ok(release)
}

pub(super) fn indexes(
    release: &Release,
    followed: &Followed,
) -> Result<Vec<(String, Index)>, Cause> {
    let mut indexes = Vec::new();
    for component in &followed.components {
        for architecture in &followed.architectures {
            let index = index::choose(release, component, architecture)
                .ok_or_else(|| Cause::NoIndex(format!("{component}/binary-{architecture}")))?;
            indexes.push((component.clone(), index));
        }
    }
    Ok(indexes)
}

pub(super) async fn keep(point: &Point, sha256: &[u8; 32], bytes: Vec<u8>) -> Result<(), Failure> {
    let (artifacts, sha256) = (point.artifacts.clone(), *sha256);
    let file = |source| super::Error::File {
        what: "a signed file",
        source,
    };
    blocking(move || {
        use std::io::Write;
        let mut draft = artifacts.draft()?;
        draft.write_all(&bytes)?;
        artifacts.keep(draft, &sha256)
    })
    .await?
    .map_err(file)?;
    Ok(())
}

/// Fetches the indexes that are not on disk yet: an interrupted synchronisation goes on where it was.
pub(crate) async fn fetch_indexes(point: &Point, suite: &NewSuite) -> Result<(), Failure> {
    let snapshot = &suite.state.snapshot;
    let place = snapshot.suite.as_str();
    let base = format!("{}/dists/{}", snapshot.archive_uri, snapshot.suite);
    for (_, index) in &suite.indexes {
        let File { size, sha256 } = index.compressed;
        if point.artifacts.has(&sha256, size) {
            continue;
        }
        let too_large = size > point.fetch.index_bytes;
        if too_large {
            let (name, limit) = (index.path.clone(), point.fetch.index_bytes);
            return Err(Cause::Mismatch(index::Mismatch::Bomb { name, limit }).at(place));
        }
        let mut paths = vec![index.fetch_path.as_str()];
        if index.fetch_path != index.path {
            // Some archives promise files under their hash and do not keep the promise.
            paths.push(index.path.as_str());
        }
        let mut failure = None;
        for path in paths {
            let checker = Checker::new(&index.path, index.compressed);
            let draft = point.artifacts.draft();
            let mut draft = draft.map_err(|source| super::Error::File {
                what: "a signed file",
                source,
            })?;
            match point
                .upstream
                .file(&format!("{base}/{path}"), checker, &mut draft)
                .await
            {
                Ok(()) => {
                    let artifacts = point.artifacts.clone();
                    blocking(move || artifacts.keep(draft, &sha256))
                        .await?
                        .map_err(|source| super::Error::File {
                            what: "a signed file",
                            source,
                        })?;
                    failure = None;
                    break;
                }
                Err(source) => {
                    let missing = matches!(source, FetchError::Status(_));
                    failure = Some(Cause::Fetch {
                        file: index.path.clone(),
                        source,
                    });
                    if !missing {
                        break;
                    }
                }
            }
        }
        if let Some(cause) = failure {
            return Err(cause.at(place));
        }
    }
    Ok(())
}

/// Runs work that blocks. It fails only when the process ends meanwhile.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Cause::Stopping.at("the work"))
}
