//! States with their serials, and the marks of what the site has got.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use muster_domain::{DeploymentId, UpdateNo};
use muster_stream::{Sender, SerialRange};
use prost::Message;
use rusqlite::Row;

use super::{Writer, meta};
use crate::Error;

/// Which state of the machine a row holds. Numbers of topics where there is one
/// (semantics.md 2.1); the number is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Kind {
    /// Whether a restart is pending.
    Restart = 1,
    /// Topics 300, 301 and 302 of one deployment; key: deployment id.
    Deployment = 301,
    /// Topic 402; key: deployment id, update number.
    UpdateEnforcement = 402,
    /// Topic 500; key: update number. The value is the state in one byte, then the installed
    /// binary packages of a required update, separated by line feeds.
    Detection = 500,
    /// Topic 501.
    Scan = 501,
    /// Topic 701, when there was nothing else to say.
    Heartbeat = 2,
    /// What the machine is; sent with the heartbeat topic 701.
    Inventory = 701,
    /// Topic 1300.
    Health = 1300,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Restart,
        Self::Heartbeat,
        Self::Deployment,
        Self::UpdateEnforcement,
        Self::Detection,
        Self::Scan,
        Self::Inventory,
        Self::Health,
    ];

    fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == number)
    }
}

/// The key of an update's state in a deployment.
#[must_use]
pub fn key_of(deployment: DeploymentId, update: UpdateNo) -> Vec<u8> {
    let mut key = deployment.as_bytes().to_vec();
    key.extend_from_slice(&update.0.to_be_bytes());
    key
}

/// A row of the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedState {
    /// Which state.
    pub kind: Kind,
    /// Of what.
    pub key: Vec<u8>,
    /// The state, encoded without serial and time.
    pub value: Vec<u8>,
    /// Given when it last changed.
    pub serial: u64,
    /// The client's clock then.
    pub changed_at: Timestamp,
}

/// What went wrong with an update so far, and when it may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempts {
    /// Failures of the update itself.
    pub(crate) failures: u32,
    /// Not before this.
    pub(crate) retry_at: Timestamp,
    /// Since when no distribution point has answered.
    pub(crate) away_since: Option<Timestamp>,
    /// How often one was asked since then.
    pub(crate) asked: u32,
}

impl Writer<'_> {
    /// Saves a state if it differs from what is held, with the next serial. Says whether it did.
    pub(crate) fn put(
        &self,
        kind: Kind,
        key: &[u8],
        value: &[u8],
        now: Timestamp,
    ) -> Result<bool, Error> {
        if self.get(kind, key)?.is_some_and(|held| held == value) {
            return Ok(false);
        }
        let serial = self.number(meta::NEXT_SERIAL)?.unwrap_or(1);
        self.set_number(meta::NEXT_SERIAL, serial + 1)?;
        self.tx
            .prepare_cached(
                "INSERT INTO states (kind, key, value, serial, changed_at)
                 VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (kind, key) DO UPDATE SET
                     (value, serial, changed_at) =
                     (excluded.value, excluded.serial, excluded.changed_at)",
            )?
            .execute((
                kind as u16,
                key,
                value,
                serial.cast_signed(),
                now.as_millisecond(),
            ))?;
        Ok(true)
    }

    /// Gives a state the next serial without changing it, unless it changed meanwhile: it counts
    /// as news again.
    pub(crate) fn renumber(&self, state: &SavedState) -> Result<(), Error> {
        let serial = self.number(meta::NEXT_SERIAL)?.unwrap_or(1);
        let held = state.serial.cast_signed();
        let changed = self
            .tx
            .prepare_cached("UPDATE states SET serial = ?1 WHERE serial = ?2")?
            .execute((serial.cast_signed(), held))?;
        if changed > 0 {
            self.set_number(meta::NEXT_SERIAL, serial + 1)?;
        }
        Ok(())
    }

    /// Saves a state given as its message, which must have no serial and no time in it.
    pub(crate) fn put_message(
        &self,
        kind: Kind,
        key: &[u8],
        message: &impl Message,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.put(kind, key, &message.encode_to_vec(), now)
    }

    /// The value of one state.
    pub(crate) fn get(&self, kind: Kind, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        use rusqlite::OptionalExtension;
        let mut find = self
            .tx
            .prepare_cached("SELECT value FROM states WHERE kind = ?1 AND key = ?2")?;
        Ok(find
            .query_row((kind as u16, key), |row| row.get(0))
            .optional()?)
    }

    /// The value of one state as its message.
    pub(crate) fn get_message<M: Message + Default>(
        &self,
        kind: Kind,
        key: &[u8],
    ) -> Result<Option<M>, Error> {
        let Some(value) = self.get(kind, key)? else {
            return Ok(None);
        };
        M::decode(value.as_slice())
            .map(Some)
            .map_err(|_| Error::Saved { what: "state" })
    }

    /// Forgets one state without telling anybody.
    pub(crate) fn forget(&self, kind: Kind, key: &[u8]) -> Result<(), Error> {
        self.tx
            .prepare_cached("DELETE FROM states WHERE kind = ?1 AND key = ?2")?
            .execute((kind as u16, key))?;
        Ok(())
    }

    /// All states of a kind by their key.
    pub(crate) fn all(&self, kind: Kind) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
        let mut find = self
            .tx
            .prepare_cached("SELECT key, value FROM states WHERE kind = ?1")?;
        let rows = find.query_map([kind as u16], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// States with a serial above `after`, in the order of their serials.
    pub(crate) fn changed_after(&self, after: u64) -> Result<Vec<SavedState>, Error> {
        let mut find = self.tx.prepare_cached(
            "SELECT kind, key, value, serial, changed_at
             FROM states WHERE serial > ?1 ORDER BY serial",
        )?;
        let rows = find.query_map([after.cast_signed()], saved)?;
        let mut states = Vec::new();
        for row in rows {
            // A kind that a newer agent wrote is not ours to report.
            states.extend(row?);
        }
        Ok(states)
    }

    /// The client's end of its stream of reports; nothing of the epoch 0 before enrolment.
    pub(crate) fn sender(&self) -> Result<Sender, Error> {
        let epoch = self.number(meta::EPOCH)?.unwrap_or(0);
        let acked = self.number(meta::ACKED_SERIAL)?.unwrap_or(0);
        let asked = self.bytes(meta::ASKED)?.unwrap_or_default();
        let last = self
            .number(meta::NEXT_SERIAL)?
            .unwrap_or(1)
            .saturating_sub(1);
        Ok(Sender {
            epoch: u32::try_from(epoch).map_err(|_| Error::Saved { what: meta::EPOCH })?,
            last,
            // An older agent did not write it down.
            sent: self.number(meta::SENT_SERIAL)?.unwrap_or(last),
            acked,
            full_wanted: self.number(meta::FULL_WANTED)?.unwrap_or(0) != 0,
            // An older agent did not write it down.
            full_at: self.number(meta::FULL_AT)?.unwrap_or(acked),
            asked: read_ranges(&asked).ok_or(Error::Saved { what: meta::ASKED })?,
        })
    }

    pub(crate) fn keep_sender(&self, sender: &Sender) -> Result<(), Error> {
        self.set_number(meta::EPOCH, sender.epoch.into())?;
        self.set_number(meta::NEXT_SERIAL, sender.last + 1)?;
        self.set_number(meta::SENT_SERIAL, sender.sent)?;
        self.set_number(meta::ACKED_SERIAL, sender.acked)?;
        self.set_number(meta::FULL_WANTED, sender.full_wanted.into())?;
        self.set_number(meta::FULL_AT, sender.full_at)?;
        self.set_bytes(meta::ASKED, &write_ranges(&sender.asked))
    }

    /// Everything is to be told.
    pub(crate) fn want_full(&self) -> Result<(), Error> {
        let mut sender = self.sender()?;
        sender.refused();
        self.keep_sender(&sender)
    }

    /// Updates that wait for a restart.
    pub(crate) fn restart_pending(&self) -> Result<BTreeSet<UpdateNo>, Error> {
        let mut find = self
            .tx
            .prepare_cached("SELECT update_no FROM restart_pending")?;
        let rows = find.query_map([], |row| row.get(0).map(UpdateNo))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Replaces the updates that wait for a restart.
    pub(crate) fn set_restart_pending(&self, updates: &BTreeSet<UpdateNo>) -> Result<(), Error> {
        self.tx.execute("DELETE FROM restart_pending", [])?;
        let mut insert = self
            .tx
            .prepare_cached("INSERT INTO restart_pending (update_no) VALUES (?1)")?;
        for update in updates {
            insert.execute([update.0])?;
        }
        Ok(())
    }

    /// What went wrong with updates so far.
    pub(crate) fn attempts(&self) -> Result<BTreeMap<UpdateNo, Attempts>, Error> {
        let time = |millis| Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut find = self.tx.prepare_cached(
            "SELECT update_no, failures, retry_at, away_since, asked FROM attempts",
        )?;
        let rows = find.query_map([], |row| {
            let attempts = Attempts {
                failures: row.get(1)?,
                retry_at: time(row.get(2)?),
                away_since: row.get::<_, Option<i64>>(3)?.map(time),
                asked: row.get(4)?,
            };
            Ok((UpdateNo(row.get(0)?), attempts))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Writes down what went wrong with an update.
    pub(crate) fn set_attempts(&self, update: UpdateNo, attempts: &Attempts) -> Result<(), Error> {
        self.tx
            .prepare_cached(
                "INSERT INTO attempts (update_no, failures, retry_at, away_since, asked)
                 VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (update_no) DO UPDATE SET
                     (failures, retry_at, away_since, asked) =
                     (excluded.failures, excluded.retry_at, excluded.away_since, excluded.asked)",
            )?
            .execute((
                update.0,
                attempts.failures,
                attempts.retry_at.as_millisecond(),
                attempts.away_since.map(Timestamp::as_millisecond),
                attempts.asked,
            ))?;
        Ok(())
    }

    /// A distribution point gave what the update needs: the next time it is away counts anew.
    pub(crate) fn clear_away(&self, update: UpdateNo) -> Result<(), Error> {
        self.tx
            .prepare_cached(
                "UPDATE attempts SET away_since = NULL, asked = 0 WHERE update_no = ?1",
            )?
            .execute([update.0])?;
        Ok(())
    }

    /// The update no longer fails.
    pub(crate) fn clear_attempt(&self, update: UpdateNo) -> Result<(), Error> {
        self.tx
            .prepare_cached("DELETE FROM attempts WHERE update_no = ?1")?
            .execute([update.0])?;
        Ok(())
    }

    /// Every update may be tried again: the policy changed.
    pub(crate) fn clear_attempts(&self) -> Result<(), Error> {
        self.tx.execute("DELETE FROM attempts", [])?;
        Ok(())
    }
}

/// Pairs of serials, as text: a person can read it.
fn write_ranges(ranges: &[SerialRange]) -> Vec<u8> {
    let words = ranges
        .iter()
        .map(|range| format!("{}-{}", range.first, range.last));
    words.collect::<Vec<_>>().join(" ").into_bytes()
}

fn read_ranges(bytes: &[u8]) -> Option<Vec<SerialRange>> {
    let words = std::str::from_utf8(bytes).ok()?.split_whitespace();
    let range = |word: &str| {
        let (first, last) = word.split_once('-')?;
        Some(SerialRange {
            first: first.parse().ok()?,
            last: last.parse().ok()?,
        })
    };
    words.map(range).collect()
}

fn saved(row: &Row<'_>) -> rusqlite::Result<Option<SavedState>> {
    let Some(kind) = Kind::from_number(row.get(0)?) else {
        return Ok(None);
    };
    let serial: i64 = row.get(3)?;
    let millis: i64 = row.get(4)?;
    Ok(Some(SavedState {
        kind,
        key: row.get(1)?,
        value: row.get(2)?,
        serial: serial.cast_unsigned(),
        changed_at: Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::{Durability, Store};
    use super::*;

    #[test]
    fn a_serial_is_given_per_change_and_never_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.db");
        let store = Store::open(&path, Durability::Full).unwrap();
        let now = Timestamp::now();
        let put = |store: &Store, value: &[u8]| {
            store.write(|w| w.put(Kind::Scan, b"", value, now)).unwrap()
        };
        assert!(put(&store, b"running"));
        assert!(!put(&store, b"running"), "nothing changed");
        assert!(put(&store, b"completed"));
        std::mem::forget(store);
        let store = Store::open(&path, Durability::Full).unwrap();
        assert!(put(&store, b"running"));
        let spool = store.read(|r| r.changed_after(0)).unwrap();
        assert_eq!(spool.len(), 1, "one value per state");
        assert_eq!(spool[0].serial, 3);
    }

    #[test]
    fn the_end_of_the_stream_is_read_as_it_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("agent.db"), Durability::Full).unwrap();
        let range = |first, last| SerialRange { first, last };
        let sender = Sender {
            epoch: 3,
            last: 90,
            sent: 85,
            acked: 80,
            full_wanted: true,
            full_at: 7,
            asked: vec![range(8, 8), range(10, 70)],
        };
        store.write(|w| w.keep_sender(&sender)).unwrap();
        assert_eq!(store.read(|r| r.sender()).unwrap(), sender);
    }

    #[test]
    fn a_change_that_fails_gives_no_serial_away() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("agent.db"), Durability::Full).unwrap();
        let failed = store.write(|w| {
            w.put(Kind::Scan, b"", b"x", Timestamp::now())?;
            Err::<(), _>(Error::Busy)
        });
        assert!(failed.is_err());
        assert_eq!(store.read(|r| r.sender()).unwrap(), Sender::default());
    }
}
