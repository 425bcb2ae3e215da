//! What is on the disk of a distribution point:
//!
//! ```text
//! content/<2 hex>/<64 hex>   files, named by their SHA-256; only verified bytes get here
//! incoming/<64 hex>          what is being fetched; kept over a restart and resumed
//! facts/<2 hex>/<64 hex>     what a package says, so that it is looked into once; can be lost
//! manifest.json              which paths are offered, see domain::manifest
//! ```

mod content;
mod facts;
mod incoming;
mod manifests;

pub(crate) use content::Content;
pub(crate) use incoming::{Incoming, Refused};
pub(crate) use manifests::Manifests;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The disk did not do what it should.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}", path.display())]
pub(crate) struct Error {
    pub(crate) what: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

impl Error {
    fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self {
            what,
            path: path.to_owned(),
            source,
        }
    }
}

/// Runs work that blocks on the disk beside the event loop.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(Error {
                what: "finish work on",
                path: PathBuf::new(),
                source: io::Error::other(error),
            })
        })
}

/// Makes a rename in `folder` durable.
fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::at("sync", folder))
}

fn create_folder(folder: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(Error::at("create", folder))
}
