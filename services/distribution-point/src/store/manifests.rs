//! The manifest on disk and in memory. Readers take the one in force; writers come one after
//! another, and a change is on disk before anybody sees it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Mutex;

use super::{Error, blocking, sync_folder};
use crate::domain::manifest::Manifest;

/// The manifest of this distribution point.
#[derive(Debug)]
pub(crate) struct Manifests {
    folder: PathBuf,
    writing: Mutex<()>,
    current: RwLock<Arc<Manifest>>,
}

impl Manifests {
    /// Reads what was written last; nothing is offered when there is no file yet.
    pub(crate) async fn open(folder: &Path) -> Result<Self, Error> {
        let file = folder.join("manifest.json");
        let manifest = blocking(move || match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| Error::at("understand", &file)(error.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Manifest::default()),
            Err(error) => Err(Error::at("read", &file)(error)),
        });
        let current = RwLock::new(Arc::new(manifest.await?));
        Ok(Self {
            folder: folder.to_owned(),
            writing: Mutex::new(()),
            current,
        })
    }

    /// The manifest in force.
    pub(crate) fn current(&self) -> Arc<Manifest> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the manifest. `change` says what came of it and whether anything is different; it
    /// is in force when this returns, and on disk before that.
    pub(crate) async fn change<T>(
        &self,
        change: impl FnOnce(&mut Manifest) -> (T, bool),
    ) -> Result<T, Error> {
        let _turn = self.writing.lock().await;
        let mut next = Manifest::clone(&self.current());
        let (result, changed) = change(&mut next);
        if changed {
            let next = Arc::new(next);
            let (folder, written) = (self.folder.clone(), Arc::clone(&next));
            blocking(move || write(&folder, &written)).await?;
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        }
        Ok(result)
    }
}

fn write(folder: &Path, manifest: &Manifest) -> Result<(), Error> {
    let (file, new) = (
        folder.join("manifest.json"),
        folder.join("manifest.json.new"),
    );
    let text =
        serde_json::to_vec(manifest).map_err(|error| Error::at("write", &new)(error.into()))?;
    let mut out = File::create(&new).map_err(Error::at("create", &new))?;
    out.write_all(&text)
        .and_then(|()| out.sync_all())
        .map_err(Error::at("write", &new))?;
    fs::rename(&new, &file).map_err(Error::at("replace", &file))?;
    sync_folder(folder)
}
