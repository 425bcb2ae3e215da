//! Reads what a package says about its update, once, when it has become available. Never a reason
//! to withhold a file: a package that cannot be read says nothing.

use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use muster_apt::deb::{self, Limits};
use tokio_util::sync::CancellationToken;

use super::{Point, Source};
use crate::domain::digest::Digest;
use crate::domain::facts::{Facts, package};
use crate::store;

/// Time for one package; the largest take seconds.
const TIME: Duration = Duration::from_secs(30);

/// Why a package could not be looked into.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error("cannot use the content store")]
    Store(#[from] store::Error),
    #[error(transparent)]
    Package(#[from] deb::Error),
    #[error("the look was cut off")]
    Cut(#[from] tokio::task::JoinError),
}

/// Notes what the file says, unless that is known.
pub(crate) async fn read_facts(point: &Point, digest: Digest, source: &Source) {
    let Some(package) = package(&source.path) else {
        return;
    };
    if point.content.facts(&digest).is_some() {
        return;
    }
    let facts = match kept_or_read(point, digest, package).await {
        Ok(facts) => facts,
        // It is looked at again after the next start.
        Err(_) if point.token().is_cancelled() => return,
        Err(error) => {
            let error = muster_runtime::status::chain(&error);
            let path = source.path.as_str();
            tracing::info!(content.sha256 = %digest, path, error, "a package says nothing");
            Facts::default()
        }
    };
    point.content.note_facts(&digest, facts);
}

async fn kept_or_read(point: &Point, digest: Digest, package: &str) -> Result<Facts, Unread> {
    if let Some(facts) = point.content.kept_facts(digest).await? {
        return Ok(facts);
    }
    let facts = look(point, digest, package.to_owned()).await?;
    point.content.keep_facts(digest, &facts).await?;
    Ok(facts)
}

async fn look(point: &Point, digest: Digest, package: String) -> Result<Facts, Unread> {
    let Some((file, _)) = point.content.open_file(digest).await? else {
        return Ok(Facts::default());
    };
    let file = InTime {
        file,
        until: Instant::now() + TIME,
        stop: point.token(),
    };
    let found = tokio::task::spawn_blocking(move || {
        deb::changelog(file, &package, Limits::default())
            .map(|text| text.map_or_else(Facts::default, |text| Facts::of_changelog(&text)))
    });
    Ok(found.await??)
}

/// A file whose reader must not take longer than this, nor than our process.
struct InTime {
    file: File,
    until: Instant,
    stop: CancellationToken,
}

impl Read for InTime {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() || Instant::now() > self.until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.file.read(buffer)
    }
}
