//! Files from distribution points, by their SHA-256. A file is in the cache only after its
//! size and hash were checked; what arrives in pieces is kept and resumed.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use muster_domain::error_code;
use muster_runtime::Backoff;
use muster_runtime::config::TlsConfig;
use muster_runtime::tls::ClientTls;
use reqwest::{StatusCode, header};
use sha2::{Digest, Sha256};

use crate::{Error, Failure};

/// How long a distribution point may say nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How often distribution points are asked once more after a transfer broke off.
const RESUMES: u32 = 5;

/// The cache of one agent: a private folder of files named by their SHA-256.
#[derive(Debug)]
pub struct Content {
    dir: PathBuf,
    http: Mutex<Option<reqwest::Client>>,
    pace: Pace,
}

/// How patient a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The first pause before everybody is asked again; it doubles up to `longest_pause`, and
    /// each pause is drawn from zero to that.
    pub first_pause: Duration,
    /// The longest such pause.
    pub longest_pause: Duration,
    /// How long one attempt may take in any case.
    pub grace: Duration,
    /// Bytes per second below which an attempt is given up once the grace is used.
    pub least_rate: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(8),
            grace: Duration::from_secs(60),
            least_rate: 8 * 1024,
        }
    }
}

impl Pace {
    /// How long one attempt at a file of `size` bytes may take.
    #[must_use]
    pub fn limit(&self, size: u64) -> Duration {
        self.grace + Duration::from_secs(size / self.least_rate.max(1))
    }
}

/// Why one attempt at one distribution point ended.
enum Broken {
    /// The connection ended; what arrived is kept.
    Interrupted(String),
    /// This distribution point will not give the file.
    Refused(Failure),
}

fn client_for(files: &TlsConfig) -> Result<reqwest::Client, Error> {
    let mut config = (*ClientTls::new(files)?.current()).clone();
    // reqwest sets the protocols itself.
    config.alpn_protocols = Vec::new();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .https_only(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .pool_max_idle_per_host(1)
        .build()?;
    Ok(client)
}

impl Content {
    /// Opens the cache. Without `tls` nothing can be fetched, only looked up.
    ///
    /// # Errors
    /// When the folder cannot be made or TLS cannot be set up.
    pub fn open(dir: &Path, tls: Option<&TlsConfig>) -> Result<Self, Error> {
        private_dir(dir)?;
        let http = tls.map(client_for).transpose()?;
        Ok(Self {
            dir: dir.to_owned(),
            http: Mutex::new(http),
            pace: Pace::default(),
        })
    }

    /// Goes on under another certificate.
    pub(crate) fn renew(&self, tls: &TlsConfig) -> Result<(), Error> {
        let fresh = client_for(tls)?;
        *self.http.lock().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
        Ok(())
    }

    fn http(&self) -> Option<reqwest::Client> {
        let http = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        http.clone()
    }

    /// As [`Content::open`] with a ready HTTP client, for tests.
    #[doc(hidden)]
    pub fn with_client(dir: &Path, http: reqwest::Client) -> Result<Self, Error> {
        private_dir(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            http: Mutex::new(Some(http)),
            pace: Pace::default(),
        })
    }

    /// Replaces the patience, for tests.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Where a file is, or will be.
    #[must_use]
    pub fn path(&self, sha256: &[u8; 32]) -> PathBuf {
        self.dir.join(hex::encode(sha256))
    }

    /// Whether a file is in the cache. Its hash was checked when it got there, and is checked
    /// again by whoever uses it.
    #[must_use]
    pub fn has(&self, sha256: &[u8; 32], size: u64) -> bool {
        fs::symlink_metadata(self.path(sha256)).is_ok_and(|m| m.is_file() && m.len() == size)
    }

    /// Brings a file into the cache, from the first distribution point that gives it. Those that
    /// do not answer, or break off, are asked again in turn after a pause, and what arrived is
    /// resumed.
    ///
    /// # Errors
    /// `CONTENT_UNREACHABLE`, `CONTENT_NOT_FOUND`, `CONTENT_MISMATCH` or `DISK_FULL`: the
    /// failure of the distribution point that came nearest to giving the file.
    pub async fn fetch(
        &self,
        sha256: &[u8; 32],
        size: u64,
        points: &[String],
    ) -> Result<PathBuf, Failure> {
        if self.has(sha256, size) {
            return Ok(self.path(sha256));
        }
        let unreachable = |why: String| Failure::new(error_code::CONTENT_UNREACHABLE, why);
        let mut last = unreachable("no distribution point is known".into());
        let mut refused: Option<Failure> = None;
        let mut left: Vec<&String> = points.iter().collect();
        let mut pauses = Backoff::new(self.pace.first_pause, self.pace.longest_pause);
        for round in 0..=RESUMES {
            if left.is_empty() {
                break;
            }
            if round > 0 {
                tokio::time::sleep(pauses.next_delay()).await;
            }
            let mut again = Vec::new();
            for point in left {
                match self.attempt_in_time(point, sha256, size).await {
                    Ok(path) => return Ok(path),
                    Err(Broken::Refused(failure)) => {
                        tracing::warn!(%point, %failure, "content not fetched");
                        let worse = refused.as_ref().is_some_and(|held| {
                            held.code != error_code::CONTENT_NOT_FOUND
                                && failure.code == error_code::CONTENT_NOT_FOUND
                        });
                        if !worse {
                            refused = Some(failure);
                        }
                    }
                    Err(Broken::Interrupted(why)) => {
                        tracing::debug!(%point, why, "content not fetched yet");
                        last = unreachable(format!("{point}: {why}"));
                        again.push(point);
                    }
                }
            }
            left = again;
        }
        let failure = refused.unwrap_or(last);
        tracing::warn!(%failure, "content not fetched");
        Err(failure)
    }

    /// One attempt, ended when it is slower than any line in use: a distribution point that sends
    /// a byte now and then must not hold an update for ever.
    async fn attempt_in_time(
        &self,
        point: &str,
        sha256: &[u8; 32],
        size: u64,
    ) -> Result<PathBuf, Broken> {
        let limit = self.pace.limit(size);
        let attempt = tokio::time::timeout(limit, self.attempt(point, sha256, size));
        attempt.await.unwrap_or_else(|_| {
            let seconds = limit.as_secs_f64();
            Err(Broken::Interrupted(format!("not done in {seconds} s")))
        })
    }

    async fn attempt(&self, point: &str, sha256: &[u8; 32], size: u64) -> Result<PathBuf, Broken> {
        let name = hex::encode(sha256);
        let Some(http) = self.http() else {
            return Err(Broken::Interrupted("not enrolled".into()));
        };
        let partial = self.dir.join(format!("{name}.part"));
        let (mut file, mut hash, mut have) = resume(&partial, size).map_err(disk)?;
        let tag = format!("\"{name}\"");
        let mut request = http.get(format!("{}/content/{name}", point.trim_end_matches('/')));
        if have > 0 && have < size {
            request = request
                .header(header::RANGE, format!("bytes={have}-"))
                .header(header::IF_RANGE, &tag);
        }
        if have < size {
            let answer = request.send().await.map_err(interrupted)?;
            match answer.status() {
                StatusCode::PARTIAL_CONTENT if starts_at(&answer, have) => {}
                StatusCode::OK => {
                    (file, hash, have) = restart(&partial).map_err(disk)?;
                }
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                    restart(&partial).map_err(disk)?;
                    return Err(Broken::Interrupted("another range than asked for".into()));
                }
                StatusCode::NOT_FOUND | StatusCode::GONE => {
                    return Err(Broken::Refused(Failure::new(
                        error_code::CONTENT_NOT_FOUND,
                        format!("{point} has no {name}"),
                    )));
                }
                status => return Err(Broken::Interrupted(format!("answered {status}"))),
            }
            let mut body = answer.bytes_stream();
            while let Some(chunk) = body.next().await {
                let chunk = chunk.map_err(interrupted)?;
                have += chunk.len() as u64;
                if have > size {
                    drop(file);
                    let _ = fs::remove_file(&partial);
                    return Err(mismatch(point, &name, &format!("more than {size} bytes")));
                }
                hash.update(&chunk);
                file.write_all(&chunk).map_err(disk)?;
            }
            if have < size {
                return Err(Broken::Interrupted(format!(
                    "ended after {have} of {size} bytes"
                )));
            }
        }
        let found: [u8; 32] = hash.finalize().into();
        if &found != sha256 {
            drop(file);
            let _ = fs::remove_file(&partial);
            let found = hex::encode(found);
            return Err(mismatch(point, &name, &format!("SHA-256 is {found}")));
        }
        file.sync_all().map_err(disk)?;
        let path = self.path(sha256);
        fs::rename(&partial, &path).map_err(disk)?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(disk)?;
        Ok(path)
    }

    /// Removes everything that is not in `keep`.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn prune(&self, keep: &BTreeSet<[u8; 32]>) -> Result<(), Error> {
        for entry in fs::read_dir(&self.dir).map_err(Error::file(&self.dir))? {
            let path = entry.map_err(Error::file(&self.dir))?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let hash = name.strip_suffix(".part").unwrap_or(name);
            let mut bytes = [0; 32];
            let wanted = hex::decode_to_slice(hash, &mut bytes).is_ok() && keep.contains(&bytes);
            if !wanted && path.is_file() {
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }
}

/// Copies a cached file to where it is used and checks its size and hash on the way: what is
/// used is what was checked.
///
/// # Errors
/// `CONTENT_MISMATCH`, or a failure of the disk.
pub fn copy_verified(from: &Path, to: &Path, sha256: &[u8; 32], size: u64) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::disk("copy a package", &error);
    let mut source = File::open(from).map_err(failed)?;
    let mut target = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)
        .map_err(failed)?;
    let (mut hash, mut total, mut buffer) = (Sha256::new(), 0_u64, vec![0; 256 * 1024]);
    loop {
        let read = source.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            break;
        }
        total += read as u64;
        hash.update(&buffer[..read]);
        target.write_all(&buffer[..read]).map_err(failed)?;
    }
    let found: [u8; 32] = hash.finalize().into();
    if &found != sha256 || total != size {
        let _ = fs::remove_file(to);
        let _ = fs::remove_file(from);
        return Err(Failure::new(
            error_code::CONTENT_MISMATCH,
            format!(
                "cached file {} is not what the policy names",
                hex::encode(sha256)
            ),
        ));
    }
    target.sync_all().map_err(failed)
}

/// Makes a folder that only this user can enter.
pub(crate) fn private_dir(dir: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(Error::file(dir))
}

/// Opens what arrived before and hashes it again.
fn resume(partial: &Path, size: u64) -> io::Result<(File, Sha256, u64)> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(partial)?;
    if file.metadata()?.len() > size {
        file.set_len(0)?;
    }
    let (mut hash, mut have, mut buffer) = (Sha256::new(), 0, vec![0; 256 * 1024]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((file, hash, have));
        }
        hash.update(&buffer[..read]);
        have += read as u64;
    }
}

fn restart(partial: &Path) -> io::Result<(File, Sha256, u64)> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(partial)?;
    Ok((file, Sha256::new(), 0))
}

fn starts_at(answer: &reqwest::Response, have: u64) -> bool {
    let range = answer
        .headers()
        .get(header::CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    range
        .and_then(|range| range.strip_prefix("bytes "))
        .and_then(|range| range.split('-').next())
        .is_some_and(|start| start.parse() == Ok(have))
}

fn mismatch(point: &str, name: &str, found: &str) -> Broken {
    Broken::Refused(Failure::new(
        error_code::CONTENT_MISMATCH,
        format!("{point}: {name} is not what the policy names: {found}"),
    ))
}

// By value: for `map_err`.
#[allow(clippy::needless_pass_by_value)]
fn interrupted(error: reqwest::Error) -> Broken {
    Broken::Interrupted(muster_runtime::status::chain(&error))
}

#[allow(clippy::needless_pass_by_value)]
fn disk(error: io::Error) -> Broken {
    Broken::Refused(Failure::disk("save content", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cached_file_that_was_altered_is_not_used_and_is_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path(), None).unwrap();
        let sha256: [u8; 32] = Sha256::digest(b"good").into();
        fs::write(content.path(&sha256), b"evil").unwrap();
        assert!(content.has(&sha256, 4), "same size");
        let target = dir.path().join("target");
        let failure = copy_verified(&content.path(&sha256), &target, &sha256, 4).unwrap_err();
        assert_eq!(failure.code, error_code::CONTENT_MISMATCH);
        assert!(!target.exists() && !content.has(&sha256, 4));
    }

    #[test]
    fn the_cache_keeps_what_is_wanted_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path(), None).unwrap();
        let (keep, lose) = ([1; 32], [2; 32]);
        fs::write(content.path(&keep), b"x").unwrap();
        fs::write(content.path(&lose), b"x").unwrap();
        fs::write(dir.path().join(format!("{}.part", hex::encode(lose))), b"x").unwrap();
        content.prune(&BTreeSet::from([keep])).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(content.has(&keep, 1));
    }
}
