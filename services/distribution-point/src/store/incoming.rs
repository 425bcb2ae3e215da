//! A file on its way in. The only door to the content store: what does not have the size and the
//! SHA-256 that were promised never gets a name there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{Content, Error, blocking};
use crate::domain::digest::Digest;

/// How much is hashed at a time when a fetch is resumed, in bytes.
const CHUNK: usize = 1024 * 1024;

/// Why bytes are not what was promised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// More bytes than the promised size, or a wrong size in the headers.
    #[error("more than the {0} bytes that were promised")]
    TooLong(u64),
    /// It ended early. What came is kept, to be resumed.
    #[error("{got} of {wanted} bytes")]
    TooShort {
        /// Bytes so far.
        got: u64,
        /// Bytes promised.
        wanted: u64,
    },
    /// All bytes, but others.
    #[error("the SHA-256 is {0}")]
    WrongHash(Digest),
}

/// One file being received. Dropping it keeps what came.
#[derive(Debug)]
pub(crate) struct Incoming {
    store: Arc<Content>,
    digest: Digest,
    wanted: u64,
    path: PathBuf,
    state: Option<Receiving>,
    received: u64,
}

#[derive(Debug)]
struct Receiving {
    file: File,
    hash: Sha256,
}

impl Incoming {
    /// Begins, or goes on where an earlier attempt ended. `None`: somebody else is at it.
    pub(crate) async fn open(
        store: &Arc<Content>,
        digest: Digest,
        wanted: u64,
    ) -> Result<Option<Self>, Error> {
        if !store.claim(digest) {
            return Ok(None);
        }
        // From here on dropping it gives the claim back.
        let path = store.incoming_path(&digest);
        let mut incoming = Self {
            store: Arc::clone(store),
            digest,
            wanted,
            path,
            state: None,
            received: 0,
        };
        let path = incoming.path.clone();
        let (state, received) = blocking(move || resume(&path, wanted)).await?;
        incoming.state = Some(state);
        incoming.received = received;
        Ok(Some(incoming))
    }

    /// Bytes so far.
    pub(crate) const fn received(&self) -> u64 {
        self.received
    }

    /// Adds bytes.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<Result<(), Refused>, Error> {
        let received = self.received.saturating_add(bytes.len() as u64);
        if received > self.wanted {
            self.restart().await?;
            return Ok(Err(Refused::TooLong(self.wanted)));
        }
        let Some(mut state) = self.state.take() else {
            return Ok(Ok(()));
        };
        let path = self.path.clone();
        let state = blocking(move || {
            state.hash.update(&bytes);
            state
                .file
                .write_all(&bytes)
                .map_err(Error::at("write", &path))?;
            Ok(state)
        });
        self.state = Some(state.await?);
        self.received = received;
        Ok(Ok(()))
    }

    /// Throws away what came: the source has no ranges, or sent something else.
    pub(crate) async fn restart(&mut self) -> Result<(), Error> {
        let path = self.path.clone();
        self.state = Some(blocking(move || begin(&path)).await?);
        self.received = 0;
        Ok(())
    }

    /// Verifies size and hash; then the file is durable under its name, and held.
    pub(crate) async fn finish(mut self) -> Result<Result<(), Refused>, Error> {
        if self.received < self.wanted {
            return Ok(Err(Refused::TooShort {
                got: self.received,
                wanted: self.wanted,
            }));
        }
        let Some(state) = self.state.take() else {
            return Ok(Err(Refused::TooShort {
                got: 0,
                wanted: self.wanted,
            }));
        };
        let (store, digest, path, size) = (
            Arc::clone(&self.store),
            self.digest,
            self.path.clone(),
            self.wanted,
        );
        blocking(move || {
            let found = Digest::new(state.hash.finalize().into());
            if found != digest {
                fs::remove_file(&path).map_err(Error::at("remove", &path))?;
                return Ok(Err(Refused::WrongHash(found)));
            }
            state.file.sync_all().map_err(Error::at("sync", &path))?;
            store.admit(digest, &path, size).map(Ok)
        })
        .await
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.store.release(&self.digest);
    }
}

fn begin(path: &std::path::Path) -> Result<Receiving, Error> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path);
    Ok(Receiving {
        file: file.map_err(Error::at("create", path))?,
        hash: Sha256::new(),
    })
}

/// Hashes what an earlier attempt left; a file that is longer than promised is begun anew.
fn resume(path: &std::path::Path, wanted: u64) -> Result<(Receiving, u64), Error> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((begin(path)?, 0)),
        Err(error) => return Err(Error::at("open", path)(error)),
    };
    let (mut hash, mut buffer, mut received) = (Sha256::new(), vec![0; CHUNK], 0_u64);
    loop {
        let count = file.read(&mut buffer).map_err(Error::at("read", path))?;
        if count == 0 {
            return Ok((Receiving { file, hash }, received));
        }
        received = received.saturating_add(count as u64);
        if received > wanted {
            return Ok((begin(path)?, 0));
        }
        hash.update(&buffer[..count]);
    }
}
