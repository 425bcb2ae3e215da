//! What the agent remembers: its identity, its states with their serials, the catalog it
//! scans with, its policy, and what it was about to do. One SQLite file; each change is on
//! disk before anybody hears of it.
//!
//! The state table *is* the spool: a state whose serial is above `acked_serial` has not been
//! acknowledged yet, and every report is made from those.

mod catalog;
mod schema;
mod states;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_domain::ClientId;
use muster_runtime::faults;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior};

pub use catalog::{CachedUpdate, Catalog};
pub(crate) use states::Attempts;
pub use states::{Kind, SavedState, key_of};

use crate::Error;

/// How long a process waits for another one (the daemon, a command) to finish its transaction.
const BUSY: Duration = Duration::from_secs(15);

/// Whether a commit waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Each commit is on disk when it returns: for every real machine.
    #[default]
    Full,
    /// A power failure may lose the last commits: for thousands of simulated clients on one disk.
    Relaxed,
}

/// The agent's database. One connection; clones of the agent share it.
#[derive(Debug)]
pub struct Store {
    db: Mutex<Connection>,
    path: PathBuf,
    /// Writes until a test's simulated crash; negative: never.
    crash_in: AtomicI64,
}

/// Who this client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Given by the site.
    pub client_id: ClientId,
    /// The site's code.
    pub site_code: String,
    /// Given by the site; a new one at each registration.
    pub epoch: u32,
    /// Ed25519 public keys that may sign policy.
    pub policy_keys: Vec<Vec<u8>>,
}

/// Names of single values. The file has them as text, so that a person can read it.
pub(crate) mod meta {
    pub(crate) const CLIENT_ID: &str = "client_id";
    pub(crate) const SITE_CODE: &str = "site_code";
    pub(crate) const EPOCH: &str = "epoch";
    pub(crate) const POLICY_KEYS: &str = "policy_keys";
    pub(crate) const LOCATIONS: &str = "locations";
    pub(crate) const INSTANCE: &str = "instance";
    pub(crate) const NEXT_IDENTITY: &str = "next_identity";
    pub(crate) const NEXT_SERIAL: &str = "next_serial";
    pub(crate) const ACKED_SERIAL: &str = "acked_serial";
    pub(crate) const ACKED_GENERATION: &str = "acked_generation";
    pub(crate) const FULL_WANTED: &str = "full_wanted";
    pub(crate) const FULL_AT: &str = "full_serial";
    pub(crate) const ASKED: &str = "asked_ranges";
    pub(crate) const MUST_REGISTER: &str = "must_register";
    pub(crate) const RUN: &str = "last_run";
    pub(crate) const SENT_SERIAL: &str = "sent_serial";
    pub(crate) const SENT_AT: &str = "last_report_at";
    pub(crate) const POLICY: &str = "policy";
    pub(crate) const POLICY_VERSION: &str = "policy_version";
    pub(crate) const POLICY_REVISION: &str = "policy_revision";
    pub(crate) const POLICY_RECEIVED_AT: &str = "policy_received_at";
    pub(crate) const CHECKED_UPDATES: &str = "checked_updates";
    pub(crate) const UNHEARD_UPDATES: &str = "unheard_updates";
    pub(crate) const GENERATION: &str = "catalog_generation";
    pub(crate) const SCANNED_GENERATION: &str = "scanned_generation";
    pub(crate) const LAST_ONLINE_SCAN: &str = "last_online_scan_at";
    pub(crate) const LAST_SCAN: &str = "last_scan_at";
    pub(crate) const LAST_SCHEDULED_SCAN: &str = "last_scheduled_scan_at";
    pub(crate) const FIRST_SCAN_DUE: &str = "first_scan_due_at";
    pub(crate) const LAST_REEVALUATION: &str = "last_reevaluation_at";
    pub(crate) const UPDATE_POINT: &str = "update_point";
}

impl Store {
    /// Opens or makes the file; brings an older schema forward.
    ///
    /// # Errors
    /// When the file cannot be opened, or belongs to a newer agent.
    pub fn open(path: &Path, durability: Durability) -> Result<Self, Error> {
        let mut db = Connection::open(path)?;
        db.busy_timeout(BUSY)?;
        db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        let synchronous = match durability {
            Durability::Full => "FULL",
            Durability::Relaxed => "NORMAL",
        };
        db.pragma_update(None, "synchronous", synchronous)?;
        db.pragma_update(None, "foreign_keys", "ON")?;
        db.set_prepared_statement_cache_capacity(64);
        // Reads every page: a damaged one is found before anything is built on it.
        let sound: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if sound != "ok" {
            return Err(Error::Damaged(sound));
        }
        schema::migrate(&mut db)?;
        Ok(Self {
            db: Mutex::new(db),
            path: path.to_owned(),
            crash_in: AtomicI64::new(-1),
        })
    }

    /// As [`Self::open`]; a damaged file is moved aside for whoever wants to look at it, and an
    /// empty one takes its place.
    ///
    /// # Errors
    /// As [`Self::open`], except for damage.
    pub(crate) fn open_or_replace(path: &Path, durability: Durability) -> Result<Self, Error> {
        let error = match Self::open(path, durability) {
            Err(error) if is_damage(&error) => error,
            opened => return opened,
        };
        tracing::error!(%error, "the database is damaged, starting with an empty one");
        for end in ["", "-wal", "-shm"] {
            let file = with_end(path, end);
            if file.exists() {
                let aside = with_end(path, &format!("{end}.damaged"));
                std::fs::rename(&file, aside).map_err(Error::file(&file))?;
            }
        }
        Self::open(path, durability)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For tests: the write after `writes` more, and all after it, fail as after a kill.
    #[doc(hidden)]
    pub fn crash_after(&self, writes: u32) {
        self.crash_in.store(i64::from(writes), Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere left no half transaction: they roll back when dropped.
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One transaction that writes. What `change` did is on disk when this returns.
    ///
    /// # Errors
    /// Those of `change` (then nothing is kept), and of the commit.
    pub fn write<T>(
        &self,
        change: impl FnOnce(&Writer<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match self.crash_in.load(Ordering::SeqCst) {
            0 => return Err(Error::Crashed),
            n if n > 0 => self.crash_in.store(n - 1, Ordering::SeqCst),
            _ => {}
        }
        let mut db = self.lock();
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let writer = Writer { tx };
        let value = change(&writer)?;
        faults::point("agent.spool.before_commit");
        writer.tx.commit()?;
        faults::point("agent.spool.after_commit");
        Ok(value)
    }

    /// Reads in one snapshot.
    ///
    /// # Errors
    /// Those of `look`, and of the database.
    pub fn read<T>(&self, look: impl FnOnce(&Writer<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let mut db = self.lock();
        let tx = db.transaction_with_behavior(TransactionBehavior::Deferred)?;
        let reader = Writer { tx };
        look(&reader)
    }

    /// Who this client is; `None` before enrolment.
    ///
    /// # Errors
    /// When the database fails or what it holds makes no sense.
    pub fn registration(&self) -> Result<Option<Registration>, Error> {
        self.read(|r| r.registration())
    }
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn is_damage(error: &Error) -> bool {
    let damaged = |error: &rusqlite::Error| {
        let code = error.sqlite_error_code();
        matches!(
            code,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        )
    };
    matches!(error, Error::Damaged(_)) || matches!(error, Error::Database(it) if damaged(it))
}

/// A transaction. Everything the agent saves goes through here.
#[derive(Debug)]
pub struct Writer<'c> {
    pub(super) tx: Transaction<'c>,
}

impl Writer<'_> {
    /// A single value.
    pub(crate) fn bytes(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let mut find = self
            .tx
            .prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
        Ok(find.query_row([key], |row| row.get(0)).optional()?)
    }

    /// Replaces a single value.
    pub(crate) fn set_bytes(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        self.tx
            .prepare_cached(
                "INSERT INTO meta (key, value) VALUES (?1, ?2)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            )?
            .execute((key, value))?;
        Ok(())
    }

    /// Forgets a single value.
    pub(crate) fn clear(&self, key: &str) -> Result<(), Error> {
        self.tx
            .prepare_cached("DELETE FROM meta WHERE key = ?1")?
            .execute([key])?;
        Ok(())
    }

    /// A number; `None` when it was never set.
    pub(crate) fn number(&self, key: &'static str) -> Result<Option<u64>, Error> {
        let Some(bytes) = self.bytes(key)? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes).ok();
        let number = text.and_then(|text| text.parse().ok());
        number.map(Some).ok_or(Error::Saved { what: key })
    }

    /// Replaces a number.
    pub(crate) fn set_number(&self, key: &str, value: u64) -> Result<(), Error> {
        self.set_bytes(key, value.to_string().as_bytes())
    }

    /// A time; `None` when it was never set.
    pub(crate) fn time(&self, key: &'static str) -> Result<Option<jiff::Timestamp>, Error> {
        let Some(millis) = self.number(key)? else {
            return Ok(None);
        };
        let millis = i64::try_from(millis).map_err(|_| Error::Saved { what: key })?;
        let time = jiff::Timestamp::from_millisecond(millis);
        time.map(Some).map_err(|_| Error::Saved { what: key })
    }

    /// Replaces a time.
    pub(crate) fn set_time(&self, key: &str, value: jiff::Timestamp) -> Result<(), Error> {
        self.set_number(key, u64::try_from(value.as_millisecond()).unwrap_or(0))
    }

    /// Who this client is.
    pub(crate) fn registration(&self) -> Result<Option<Registration>, Error> {
        let Some(id) = self.bytes(meta::CLIENT_ID)? else {
            return Ok(None);
        };
        let client_id = ClientId::from_slice(&id).map_err(|_| Error::Saved {
            what: meta::CLIENT_ID,
        })?;
        let site_code = self.bytes(meta::SITE_CODE)?.unwrap_or_default();
        let site_code = String::from_utf8(site_code).map_err(|_| Error::Saved {
            what: meta::SITE_CODE,
        })?;
        let epoch = self.number(meta::EPOCH)?.unwrap_or(0);
        let epoch = u32::try_from(epoch).map_err(|_| Error::Saved { what: meta::EPOCH })?;
        let keys = self.bytes(meta::POLICY_KEYS)?.unwrap_or_default();
        let policy_keys = keys.chunks_exact(32).map(<[u8]>::to_vec).collect();
        Ok(Some(Registration {
            client_id,
            site_code,
            epoch,
            policy_keys,
        }))
    }

    /// Takes over a registration. A new epoch starts with a full report: nothing of it has been
    /// acknowledged.
    pub(crate) fn set_registration(&self, registration: &Registration) -> Result<(), Error> {
        self.set_bytes(meta::CLIENT_ID, registration.client_id.as_bytes())?;
        self.set_bytes(meta::SITE_CODE, registration.site_code.as_bytes())?;
        self.set_bytes(meta::POLICY_KEYS, &registration.policy_keys.concat())?;
        self.set_number(meta::ACKED_GENERATION, 0)?;
        self.clear(meta::MUST_REGISTER)?;
        let mut sender = self.sender()?;
        sender.registered(registration.epoch);
        self.keep_sender(&sender)
    }

    /// What the agent was about to do when it was killed, if anything.
    pub(crate) fn open_intent(&self) -> Result<Option<Vec<u8>>, Error> {
        let mut find = self.tx.prepare_cached(
            "SELECT job FROM intents WHERE ended_at IS NULL ORDER BY intent_no DESC LIMIT 1",
        )?;
        Ok(find.query_row([], |row| row.get(0)).optional()?)
    }

    /// Writes down what is about to happen.
    pub(crate) fn begin_intent(&self, job: &[u8], now: jiff::Timestamp) -> Result<(), Error> {
        self.tx
            .prepare_cached("INSERT INTO intents (started_at, job) VALUES (?1, ?2)")?
            .execute((now.to_string(), job))?;
        Ok(())
    }

    /// All that was begun is over. Old entries beyond the last hundred are forgotten.
    pub(crate) fn end_intents(&self, outcome: &str, now: jiff::Timestamp) -> Result<(), Error> {
        self.tx
            .prepare_cached(
                "UPDATE intents SET ended_at = ?1, outcome = ?2 WHERE ended_at IS NULL",
            )?
            .execute((now.to_string(), outcome))?;
        self.tx
            .prepare_cached(
                "DELETE FROM intents WHERE intent_no <= (SELECT max(intent_no) FROM intents) - 100",
            )?
            .execute([])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("agent.db"), Durability::Full).unwrap();
        (dir, store)
    }

    #[test]
    fn a_commit_waits_for_the_disk() {
        let (_dir, store) = store();
        let mode: i64 = store
            .lock()
            .pragma_query_value(None, "synchronous", |row| row.get(0))
            .unwrap();
        assert_eq!(mode, 2, "synchronous = FULL");
    }

    #[test]
    fn a_registration_survives_a_kill() {
        let (dir, store) = store();
        let registration = Registration {
            client_id: ClientId::generate(),
            site_code: "P01".into(),
            epoch: 3,
            policy_keys: vec![vec![7; 32]],
        };
        store.write(|w| w.set_registration(&registration)).unwrap();
        // No orderly close: what a kill leaves.
        std::mem::forget(store);
        let store = Store::open(&dir.path().join("agent.db"), Durability::Full).unwrap();
        assert_eq!(store.registration().unwrap(), Some(registration));
    }

    #[test]
    fn a_file_of_a_newer_agent_is_refused() {
        let (dir, store) = store();
        store
            .lock()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        drop(store);
        let error = Store::open(&dir.path().join("agent.db"), Durability::Full).unwrap_err();
        assert!(
            matches!(error, Error::NewerSchema { found: 99, .. }),
            "{error}"
        );
    }

    #[test]
    fn an_intent_is_open_until_it_ends() {
        let (_dir, store) = store();
        let now = jiff::Timestamp::now();
        store.write(|w| w.begin_intent(b"job", now)).unwrap();
        assert_eq!(
            store.read(|r| r.open_intent()).unwrap().as_deref(),
            Some(&b"job"[..])
        );
        store.write(|w| w.end_intents("done", now)).unwrap();
        assert_eq!(store.read(|r| r.open_intent()).unwrap(), None);
    }

    #[test]
    fn a_simulated_crash_stops_every_later_write() {
        let (_dir, store) = store();
        store.crash_after(1);
        store.write(|w| w.set_number("a", 1)).unwrap();
        assert!(matches!(
            store.write(|w| w.set_number("a", 2)),
            Err(Error::Crashed)
        ));
        assert!(matches!(
            store.write(|w| w.set_number("a", 3)),
            Err(Error::Crashed)
        ));
        assert_eq!(store.read(|r| r.number("a")).unwrap(), Some(1));
    }
}
