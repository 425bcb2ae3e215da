//! What packages say, on disk. Content never changes under its hash, so what was read once stays
//! true; what is lost or cannot be understood is read again from the package.

use std::fs;
use std::io;
use std::sync::Arc;

use super::{Content, Error, blocking, create_folder};
use crate::domain::digest::Digest;
use crate::domain::facts::Facts;

impl Content {
    /// What was kept of a file. `None`: nobody has looked into it.
    pub(crate) async fn kept_facts(
        self: &Arc<Self>,
        digest: Digest,
    ) -> Result<Option<Facts>, Error> {
        let path = self.facts_path(&digest);
        blocking(move || match fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::at("read", &path)(error)),
        })
        .await
    }

    /// Keeps what a file says.
    pub(crate) async fn keep_facts(
        self: &Arc<Self>,
        digest: Digest,
        facts: &Facts,
    ) -> Result<(), Error> {
        let path = self.facts_path(&digest);
        let text = serde_json::to_vec(facts);
        blocking(move || {
            let text = text.map_err(|error| Error::at("write", &path)(error.into()))?;
            let folder = path.parent().unwrap_or(&path);
            create_folder(folder)?;
            // A write that is cut leaves nothing to misunderstand: JSON ends with a brace.
            fs::write(&path, text).map_err(Error::at("write", &path))
        })
        .await
    }
}
