//! How far a client has come, kept outside its database.

use serde::{Deserialize, Serialize};

/// Which serials the site may have seen, in a file beside the database. Unknown keys are left
/// alone: a newer agent may have written it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mark {
    /// Which database; drawn when the first mark was written.
    pub instance: String,
    /// The epoch of the serial.
    pub epoch: u32,
    /// The highest serial that a report on its way to the site was ever built on.
    pub serial: u64,
}

/// What a mark says about the database that is to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// The file says what the database says.
    Current,
    /// The database is further on: the file is written before anything is sent.
    Behind,
    /// The site may have seen more than the database knows of: it was restored from a copy, or is
    /// another one. It would give the same serials to other states, and registers first.
    Overtaken,
}

impl Mark {
    /// Holds what the database says against what the file says.
    #[must_use]
    pub fn against(&self, file: Option<&Self>) -> Marked {
        match file {
            Some(file) if file == self => Marked::Current,
            Some(file)
                if self.instance != file.instance
                    || (self.epoch, self.serial) < (file.epoch, file.serial) =>
            {
                Marked::Overtaken
            }
            Some(_) | None => Marked::Behind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_overtaken_by_epoch_then_serial_or_when_it_is_another() {
        let mark = |instance: &str, epoch, serial| Mark {
            instance: instance.into(),
            epoch,
            serial,
        };
        let file = mark("a", 2, 50);
        for (own, marked) in [
            (mark("a", 2, 50), Marked::Current),
            (mark("a", 2, 51), Marked::Behind),
            (mark("a", 3, 1), Marked::Behind),
            (mark("a", 2, 49), Marked::Overtaken),
            (mark("a", 1, 99), Marked::Overtaken),
            (mark("b", 2, 50), Marked::Overtaken),
        ] {
            assert_eq!(own.against(Some(&file)), marked, "{own:?}");
            assert_eq!(own.against(None), Marked::Behind);
        }
    }
}
