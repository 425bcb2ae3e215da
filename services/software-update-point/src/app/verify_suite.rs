//! Verifies the vendor's signed files again when they come from the software update point above:
//! with our own keyring, and never older than what we accepted before.

use std::path::PathBuf;

use jiff::Timestamp;
use muster_apt::index::{Checker, Mismatch};
use muster_apt::openpgp;
use muster_apt::release::File;
use muster_apt::sources::SignedBy;

use super::error::Cause;
use super::fetch_suite::{NewSuite, blocking, indexes, verify};
use super::plan_sources::Followed;
use super::{Error, Failure, Point};
use crate::config::Source;
use crate::domain::archive::{SignedFile, SuiteSnapshot, SuiteState};
use crate::store::parent::{ParentError, Upstream};

/// Folders whose keyrings count when the parent names one: an administrator of this machine put
/// them there.
const KEYRINGS: [&str; 3] = [
    "/usr/share/keyrings/",
    "/etc/apt/keyrings/",
    "/etc/apt/trusted.gpg.d/",
];
const INRELEASE: &str = "InRelease";

/// A suite of the parent's with its release verified. Its indexes are fetched when they are read.
pub(crate) async fn verify_suite(
    point: &Point,
    upstream: &Upstream,
    snapshot: SuiteSnapshot,
    fully_applied: bool,
    own: &[Followed],
    held: Option<&SuiteState>,
    now: Timestamp,
) -> Result<(NewSuite, u64), Failure> {
    let place = snapshot.suite.clone();
    let at = |cause: Cause| cause.at(&place);
    let signed = snapshot
        .files
        .iter()
        .find(|file| file.path == INRELEASE)
        .cloned()
        .ok_or_else(|| at(Cause::Malformed("a suite without InRelease".to_owned())))?;
    let received = fetch(point, upstream, &signed, openpgp::MAX_SIZE as u64)
        .await
        .map_err(at)?;
    let followed = followed(&point.source, own, &snapshot);
    let (root, path) = (
        point.source.root.clone(),
        point.artifacts.path(&signed.sha256),
    );
    let accepted = held.map(|held| held.release_date);
    let wanted = followed.clone();
    let release = blocking(move || {
        let bytes = std::fs::read(path).map_err(|source| {
            let what = "a signed file";
            Cause::Own(Error::File { what, source })
        })?;
        verify(&bytes, &root, &wanted, accepted, now)
    })
    .await?
    .map_err(at)?;
    let indexes = indexes(&release, &followed).map_err(at)?;
    let files = indexes.iter().map(|(_, index)| SignedFile {
        path: index.path.clone(),
        sha256: index.compressed.sha256,
        size: index.compressed.size,
    });
    let files: Vec<SignedFile> = std::iter::once(signed.clone()).chain(files).collect();
    let state = SuiteState {
        followed_as: format!("parent; {}", followed.followed_as()),
        release_date: release.date,
        valid_until: release.valid_until,
        not_automatic: false,
        fully_applied,
        inrelease_sha256: signed.sha256,
        etag: None,
        last_modified: None,
        // The files are those of the release that we verified, not those that the parent lists.
        snapshot: SuiteSnapshot { files, ..snapshot },
    };
    let suite = NewSuite {
        release,
        indexes,
        state,
    };
    Ok((suite, received))
}

/// Fetches the indexes of a verified suite that are not on disk; returns how many bytes came.
pub(crate) async fn fetch_files(
    point: &Point,
    upstream: &Upstream,
    suite: &NewSuite,
) -> Result<u64, Failure> {
    let mut received = 0;
    for file in &suite.state.snapshot.files {
        received += fetch(point, upstream, file, point.fetch.index_bytes)
            .await
            .map_err(|cause| cause.at(&suite.state.snapshot.suite))?;
    }
    Ok(received)
}

async fn fetch(
    point: &Point,
    upstream: &Upstream,
    file: &SignedFile,
    limit: u64,
) -> Result<u64, Cause> {
    let (size, sha256) = (file.size, file.sha256);
    if point.artifacts.has(&sha256, size) {
        return Ok(0);
    }
    if size > limit {
        let name = file.path.clone();
        return Err(Mismatch::Bomb { name, limit }.into());
    }
    let own = |source| {
        let what = "a signed file";
        Cause::Own(Error::File { what, source })
    };
    let mut draft = point.artifacts.draft().map_err(own)?;
    let checker = Checker::new(&file.path, File { size, sha256 });
    let received = upstream.file(&sha256, checker, &mut draft).await;
    let received = received.map_err(|error| match error {
        ParentError::Mismatch(mismatch) => Cause::Mismatch(mismatch),
        ParentError::Write(source) => own(source),
        ParentError::None | ParentError::Away(_) => {
            Cause::Parent(format!("{}: {error}", file.path))
        }
    })?;
    point.artifacts.keep(draft, &sha256).map_err(own)?;
    Ok(received)
}

/// The suite as we follow it: what decides whom to believe is ours.
fn followed(source: &Source, own: &[Followed], snapshot: &SuiteSnapshot) -> Followed {
    let known = own
        .iter()
        .find(|it| it.uri == snapshot.archive_uri && it.suite == snapshot.suite);
    let keyrings = &source.parent.keyrings;
    let signed_by = if !keyrings.is_empty() {
        SignedBy::Files(keyrings.clone())
    } else if let Some(known) = known {
        known.signed_by.clone()
    } else {
        named(&snapshot.signed_by)
    };
    let checks = super::plan_sources::checks_valid_until(source);
    Followed {
        uri: snapshot.archive_uri.clone(),
        suite: snapshot.suite.clone(),
        components: snapshot.components.clone(),
        architectures: snapshot.architectures.clone(),
        signed_by,
        check_valid_until: known.map_or(checks, |known| known.check_valid_until),
        only_automatic: false,
    }
}

/// Of what the parent names only what lies where this machine keeps its keyrings.
fn named(signed_by: &str) -> SignedBy {
    let paths: Vec<PathBuf> = signed_by
        .split(',')
        .filter(|path| {
            let inside = KEYRINGS.iter().any(|folder| path.starts_with(folder));
            inside && !path.contains("..")
        })
        .map(PathBuf::from)
        .collect();
    if paths.is_empty() {
        SignedBy::Default
    } else {
        SignedBy::Files(paths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_cannot_say_whom_to_believe() {
        assert!(matches!(
            named("/usr/share/keyrings/a.gpg,/etc/apt/keyrings/b.asc"),
            SignedBy::Files(files) if files.len() == 2
        ));
        for text in [
            "",
            "/tmp/mine.asc",
            "/usr/share/keyrings/../../../tmp/mine.asc",
            "-----BEGIN PGP PUBLIC KEY BLOCK-----",
            "0123456789ABCDEF0123456789ABCDEF01234567",
        ] {
            assert!(matches!(named(text), SignedBy::Default), "{text}");
        }
    }
}
