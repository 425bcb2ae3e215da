//! How far this client has come, outside its database: a second file that says which serials the
//! site may have seen. A database that is behind it was restored from a copy, and would give the
//! same serials to other states; such a client registers again before it reports.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::agent::{Agent, write_file};
use crate::store::{Store, meta};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 4 * 1024;

/// The content of `serial.mark`. Unknown keys are left alone: a newer agent may have written it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// Which database; drawn when the first mark was written.
    instance: String,
    epoch: u32,
    /// The highest serial that was ever on its way to the site.
    serial: u64,
}

impl Mark {
    /// Whether a database that says `self` was overtaken by what the file says.
    fn is_behind(&self, file: &Self) -> bool {
        self.instance != file.instance || (self.epoch, self.serial) < (file.epoch, file.serial)
    }
}

impl Agent {
    /// Before a report leaves: notes the serials that are about to be seen, on disk when it
    /// returns. When the database was restored, it registers instead and says so.
    ///
    /// # Errors
    /// When no management point answers a registration, or the file cannot be used.
    pub(crate) async fn mark_serials(&self) -> Result<bool, Error> {
        let own = own(self.store())?;
        match self.read_mark()? {
            Some(file) if file == own => return Ok(false),
            Some(file) if own.is_behind(&file) => {
                tracing::warn!(
                    serial = own.serial,
                    seen = file.serial,
                    "the database was restored, registering again"
                );
                self.register().await?;
                self.write_mark(&self::own(self.store())?)?;
                return Ok(true);
            }
            Some(_) | None => {}
        }
        self.write_mark(&own)?;
        Ok(false)
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
    let saved = |r: &crate::store::Writer<'_>| -> Result<_, Error> {
        let registration = r.registration()?.ok_or(Error::NotEnrolled)?;
        let (serial, _) = r.marks()?;
        Ok((r.bytes(meta::INSTANCE)?, registration.epoch, serial))
    };
    let (instance, epoch, serial) = store.read(saved)?;
    let instance = match instance {
        Some(instance) => String::from_utf8_lossy(&instance).into_owned(),
        None => {
            let fresh = hex::encode(rand::random::<[u8; 16]>());
            store.write(|w| w.set_bytes(meta::INSTANCE, fresh.as_bytes()))?;
            fresh
        }
    };
    Ok(Mark {
        instance,
        epoch,
        serial,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_behind_by_epoch_then_serial_or_when_it_is_another() {
        let mark = |instance: &str, epoch, serial| Mark {
            instance: instance.into(),
            epoch,
            serial,
        };
        let file = mark("a", 2, 50);
        for (own, behind) in [
            (mark("a", 2, 50), false),
            (mark("a", 2, 51), false),
            (mark("a", 3, 1), false),
            (mark("a", 2, 49), true),
            (mark("a", 1, 99), true),
            (mark("b", 2, 50), true),
        ] {
            assert_eq!(own.is_behind(&file), behind, "{own:?}");
        }
    }
}
