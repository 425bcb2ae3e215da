//! Files named by their SHA-256. What is held is known from a listing at the start, and from
//! then on by admitting and withdrawing; a file is trusted because nothing unverified is ever
//! renamed to its place, and looked at again by the scrub.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirEntry, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use muster_runtime::faults;
use sha2::{Digest as _, Sha256};

use super::{Error, blocking, create_folder, sync_folder};
use crate::domain::digest::Digest;
use crate::domain::facts::Facts;

/// What was begun and not finished for this long is thrown away at the start.
const ABANDONED: Duration = Duration::from_secs(7 * 24 * 3600);
/// How much the scrub reads before it pauses, in bytes.
const SCRUB_CHUNK: usize = 1024 * 1024;

/// The content store.
#[derive(Debug)]
pub(crate) struct Content {
    folder: PathBuf,
    incoming: PathBuf,
    facts: PathBuf,
    /// What is held, and its size.
    held: RwLock<Held>,
    /// What is being received, by whom does not matter.
    claimed: Mutex<HashSet<Digest>>,
}

#[derive(Debug, Default)]
struct Held {
    files: HashMap<Digest, HeldFile>,
    bytes: u64,
}

#[derive(Debug)]
struct HeldFile {
    size: u64,
    /// What the file says of its update, once somebody has looked since our start.
    facts: Option<Arc<Facts>>,
}

impl Content {
    /// Opens the store below `data_dir`, makes its folders, and lists what is held.
    pub(crate) async fn open(data_dir: &Path) -> Result<Arc<Self>, Error> {
        let (folder, incoming) = (data_dir.join("content"), data_dir.join("incoming"));
        let facts = data_dir.join("facts");
        blocking(move || {
            create_folder(&folder)?;
            create_folder(&incoming)?;
            create_folder(&facts)?;
            let mut held = Held::default();
            for shelf in list(&folder)? {
                if !shelf.path().is_dir() {
                    continue;
                }
                for entry in list(&shelf.path())? {
                    held.add(&shelf, &entry)?;
                }
            }
            remove_abandoned(&incoming)?;
            let store = Self {
                folder,
                incoming,
                facts,
                held: RwLock::new(held),
                claimed: Mutex::default(),
            };
            store.count();
            Ok(Arc::new(store))
        })
        .await
    }

    /// The size of a file that is held.
    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        self.read().files.get(digest).map(|held| held.size)
    }

    /// What is known in memory of a file that is held.
    pub(crate) fn facts(&self, digest: &Digest) -> Option<Arc<Facts>> {
        self.read().files.get(digest)?.facts.clone()
    }

    /// Remembers what a file says, as long as it is held.
    pub(crate) fn note_facts(&self, digest: &Digest, facts: Facts) {
        if let Some(held) = self.write().files.get_mut(digest) {
            held.facts = Some(Arc::new(facts));
        }
    }

    /// All that is held.
    pub(crate) fn digests(&self) -> Vec<Digest> {
        self.read().files.keys().copied().collect()
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.read().bytes
    }

    /// Opens a file that is held, for reading. `None`: not held, or its size on disk is not the
    /// one it came with, and then it is withdrawn.
    pub(crate) async fn open_file(
        self: &Arc<Self>,
        digest: Digest,
    ) -> Result<Option<(File, u64)>, Error> {
        let Some(size) = self.size(&digest) else {
            return Ok(None);
        };
        let path = self.path(&digest);
        let opened = blocking(move || match File::open(&path) {
            Ok(file) => {
                let len = file.metadata().map_err(Error::at("look at", &path))?.len();
                Ok((len == size).then_some((file, size)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::at("open", &path)(error)),
        })
        .await?;
        if opened.is_none() && self.size(&digest).is_some() {
            self.withdraw_damaged(digest, "its size changed").await?;
        }
        Ok(opened)
    }

    /// Removes a file. Returns its size, or 0 when it was not held.
    pub(crate) async fn withdraw(self: &Arc<Self>, digest: Digest) -> Result<u64, Error> {
        let store = Arc::clone(self);
        blocking(move || {
            let Some(size) = store.forget(&digest) else {
                return Ok(0);
            };
            remove(&store.path(&digest))?;
            remove(&store.facts_path(&digest))?;
            Ok(size)
        })
        .await
    }

    /// Reads a file again, slowly, and withdraws it when its bytes are not what its name says.
    /// Returns how many bytes were read.
    pub(crate) async fn verify(
        self: &Arc<Self>,
        digest: Digest,
        bytes_per_second: u64,
    ) -> Result<u64, Error> {
        let Some((file, size)) = self.open_file(digest).await? else {
            return Ok(0);
        };
        let (path, mut file, mut hash) = (self.path(&digest), Some(file), Sha256::new());
        let mut read = 0;
        while let Some(mut open) = file.take() {
            let at = path.clone();
            let (open, next, count) = blocking(move || {
                let mut buffer = Vec::with_capacity(SCRUB_CHUNK);
                let chunk = open
                    .by_ref()
                    .take(SCRUB_CHUNK as u64)
                    .read_to_end(&mut buffer);
                let count = chunk.map_err(Error::at("read", &at))?;
                hash.update(&buffer);
                Ok((open, hash, count))
            })
            .await?;
            hash = next;
            read += count as u64;
            if count > 0 {
                file = Some(open);
                let pause = count as f64 / bytes_per_second.max(1) as f64;
                tokio::time::sleep(Duration::from_secs_f64(pause)).await;
            }
        }
        if read != size || Digest::new(hash.finalize().into()) != digest {
            self.withdraw_damaged(digest, "its bytes changed").await?;
        }
        Ok(read)
    }

    async fn withdraw_damaged(self: &Arc<Self>, digest: Digest, why: &str) -> Result<(), Error> {
        tracing::error!(content.sha256 = %digest, why, "withdrew a damaged file");
        metrics::counter!("muster_content_damaged_total").increment(1);
        self.withdraw(digest).await.map(drop)
    }

    /// Takes the right to receive a file; `false` when somebody has it.
    pub(super) fn claim(&self, digest: Digest) -> bool {
        self.claimed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(digest)
    }

    pub(super) fn release(&self, digest: &Digest) {
        self.claimed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(digest);
    }

    /// Where it is kept what a file says.
    pub(super) fn facts_path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.facts.join(&name[..2]).join(name)
    }

    pub(super) fn incoming_path(&self, digest: &Digest) -> PathBuf {
        self.incoming.join(digest.to_string())
    }

    /// Gives a verified, synced file its name. It is offered when this returns.
    pub(super) fn admit(&self, digest: Digest, from: &Path, size: u64) -> Result<(), Error> {
        let path = self.path(&digest);
        let shelf = path.parent().unwrap_or(&self.folder);
        if !shelf.is_dir() {
            create_folder(shelf)?;
            sync_folder(&self.folder)?;
        }
        faults::point("dp.content.before_rename");
        fs::rename(from, &path).map_err(Error::at("rename", from))?;
        faults::point("dp.content.renamed");
        sync_folder(shelf)?;
        self.write().insert(digest, size);
        self.count();
        Ok(())
    }

    fn forget(&self, digest: &Digest) -> Option<u64> {
        let size = self.write().remove(digest);
        self.count();
        size
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.folder.join(&name[..2]).join(name)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Held> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) {
        let held = self.read();
        metrics::gauge!("muster_content_files").set(held.files.len() as f64);
        metrics::gauge!("muster_content_bytes").set(held.bytes as f64);
    }
}

impl Held {
    /// Notes a file of the listing; what has no name of ours is left alone and not offered.
    fn add(&mut self, shelf: &DirEntry, entry: &DirEntry) -> Result<(), Error> {
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        let meta = entry
            .metadata()
            .map_err(Error::at("look at", &entry.path()))?;
        let digest = Digest::parse(name)
            .filter(|_| meta.is_file() && shelf.file_name().to_str() == name.get(..2));
        match digest {
            Some(digest) => self.insert(digest, meta.len()),
            None => {
                tracing::warn!(path = %entry.path().display(), "not content, left alone");
            }
        }
        Ok(())
    }

    fn insert(&mut self, digest: Digest, size: u64) {
        self.remove(&digest);
        let facts = None;
        self.files.insert(digest, HeldFile { size, facts });
        self.bytes += size;
    }

    fn remove(&mut self, digest: &Digest) -> Option<u64> {
        let size = self.files.remove(digest)?.size;
        self.bytes -= size;
        Some(size)
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::at("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn list(folder: &Path) -> Result<Vec<DirEntry>, Error> {
    fs::read_dir(folder)
        .and_then(Iterator::collect)
        .map_err(Error::at("list", folder))
}

fn remove_abandoned(incoming: &Path) -> Result<(), Error> {
    for entry in list(incoming)? {
        let age = entry.metadata().and_then(|meta| meta.modified());
        if age.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > ABANDONED)) {
            let path = entry.path();
            fs::remove_file(&path).map_err(Error::at("remove", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Incoming, Refused};
    use bytes::Bytes;

    fn sha(bytes: &[u8]) -> Digest {
        Digest::new(Sha256::digest(bytes).into())
    }

    async fn put(store: &Arc<Content>, bytes: &'static [u8], size: u64) -> Result<(), Refused> {
        let mut incoming = Incoming::open(store, sha(b"content"), size)
            .await
            .unwrap()
            .unwrap();
        incoming.write(Bytes::from_static(bytes)).await.unwrap()?;
        incoming.finish().await.unwrap()
    }

    #[tokio::test]
    async fn what_is_admitted_is_held_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let digest = sha(b"content");
        let store = Content::open(folder.path()).await.unwrap();
        put(&store, b"content", 7).await.unwrap();
        assert_eq!((store.size(&digest), store.bytes()), (Some(7), 7));
        drop(store);
        fs::write(folder.path().join("content").join("passwd"), "x").unwrap();
        let store = Content::open(folder.path()).await.unwrap();
        assert_eq!(store.digests(), vec![digest]);
        assert_eq!(store.withdraw(digest).await.unwrap(), 7);
        assert_eq!(store.withdraw(digest).await.unwrap(), 0);
        assert!(
            Content::open(folder.path())
                .await
                .unwrap()
                .digests()
                .is_empty()
        );
    }

    #[tokio::test]
    async fn bytes_that_are_not_what_was_promised_are_never_held() {
        let folder = tempfile::tempdir().unwrap();
        let store = Content::open(folder.path()).await.unwrap();
        let short = Refused::TooShort { got: 3, wanted: 7 };
        assert_eq!(put(&store, b"con", 7).await, Err(short));
        // The three bytes are kept, and now there are too many.
        assert_eq!(put(&store, b"content", 7).await, Err(Refused::TooLong(7)));
        assert_eq!(
            put(&store, b"contend", 7).await,
            Err(Refused::WrongHash(sha(b"contend")))
        );
        assert_eq!(store.size(&sha(b"content")), None);
        assert_eq!(
            put(&store, b"con", 7).await,
            Err(Refused::TooShort { got: 3, wanted: 7 })
        );
        let resumed = Incoming::open(&store, sha(b"content"), 7)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(resumed.received(), 3);
        assert!(
            Incoming::open(&store, sha(b"content"), 7)
                .await
                .unwrap()
                .is_none(),
            "claimed"
        );
        drop(resumed);
        put(&store, b"tent", 7).await.unwrap();
        assert_eq!(store.size(&sha(b"content")), Some(7));
    }

    #[tokio::test]
    async fn a_file_that_changed_on_disk_is_withdrawn() {
        let folder = tempfile::tempdir().unwrap();
        let (store, digest) = (Content::open(folder.path()).await.unwrap(), sha(b"content"));
        let path = store.path(&digest);
        put(&store, b"content", 7).await.unwrap();
        assert_eq!(store.verify(digest, u64::MAX).await.unwrap(), 7);
        assert!(store.open_file(digest).await.unwrap().is_some());
        fs::write(&path, "contend").unwrap();
        store.verify(digest, u64::MAX).await.unwrap();
        assert!(store.size(&digest).is_none() && !path.exists());
        put(&store, b"content", 7).await.unwrap();
        fs::write(&path, "cont").unwrap();
        assert!(
            store.open_file(digest).await.unwrap().is_none(),
            "seen before it is served"
        );
        assert!(store.size(&digest).is_none() && !path.exists());
    }
}
