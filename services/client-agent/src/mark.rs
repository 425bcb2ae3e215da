//! How far this client has come, outside its database: a second file that says which serials the
//! site may have seen. A database that is behind it was restored from a copy, and would give the
//! same serials to other states; such a client registers again before it reports. What the file
//! means is decided in `muster-stream`.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use muster_stream::{Mark, Marked};

use crate::Error;
use crate::agent::{Agent, write_file};
use crate::store::{Store, meta};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 4 * 1024;

impl Agent {
    /// Before a report leaves. When the database was restored or replaced, or the site wants it so,
    /// it registers and says so: the report begins again.
    ///
    /// # Errors
    /// When no management point answers a registration, or the file cannot be used.
    pub(crate) async fn registers_first(&self) -> Result<bool, Error> {
        let own = own(self.store())?;
        let file = self.read_mark()?;
        let told = self.must_register()?;
        if !told && own.against(file.as_ref()) != Marked::Overtaken {
            return Ok(false);
        }
        let seen = file.as_ref().map_or(0, |file| file.serial);
        tracing::warn!(serial = own.serial, seen, told, "registering again");
        // A copy does not know the epochs after it.
        self.register_after(file.map_or(0, |file| file.epoch))
            .await?;
        self.note_mark()?;
        Ok(true)
    }

    /// Notes which serials are about to be seen, on disk when it returns.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub(crate) fn note_mark(&self) -> Result<(), Error> {
        let own = own(self.store())?;
        if self.read_mark()?.as_ref() == Some(&own) {
            return Ok(());
        }
        self.write_mark(&own)
    }

    /// Whether nothing may be reported before a registration.
    pub(crate) fn must_register(&self) -> Result<bool, Error> {
        let told = self.store().read(|r| r.number(meta::MUST_REGISTER))?;
        Ok(told.is_some())
    }

    fn mark_file(&self) -> PathBuf {
        self.dir().join("serial.mark")
    }

    fn write_mark(&self, mark: &Mark) -> Result<(), Error> {
        let text = serde_json::to_vec(mark).map_err(|_| Error::Saved { what: "mark" })?;
        write_file(&self.mark_file(), &text, self.options().durability)
    }

    /// A file that makes no sense counts as none: it is written anew.
    fn read_mark(&self) -> Result<Option<Mark>, Error> {
        let path = self.mark_file();
        match fs::metadata(&path) {
            Ok(found) if found.len() <= MAX_FILE => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file(&path)(error)),
        }
        let bytes = fs::read(&path).map_err(Error::file(&path))?;
        let mark = serde_json::from_slice(&bytes);
        Ok(mark
            .inspect_err(|error| tracing::warn!(%error, "serial.mark cannot be read"))
            .ok())
    }
}

/// What the database says.
fn own(store: &Store) -> Result<Mark, Error> {
    let (sender, instance) = store.read(|r| Ok((r.sender()?, r.bytes(meta::INSTANCE)?)))?;
    let instance = match instance {
        Some(instance) => String::from_utf8_lossy(&instance).into_owned(),
        None => {
            let fresh = hex::encode(rand::random::<[u8; 16]>());
            store.write(|w| w.set_bytes(meta::INSTANCE, fresh.as_bytes()))?;
            fresh
        }
    };
    Ok(sender.mark(instance))
}
