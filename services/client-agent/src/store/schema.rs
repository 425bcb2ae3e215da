//! The schema of the agent's database, forward only: `PRAGMA user_version` counts the steps.

use rusqlite::{Connection, TransactionBehavior};

use crate::Error;

/// Each step is applied once, in its own transaction together with its number.
const STEPS: &[&str] = &[
    "
    -- Single values: identity, marks, policy (see the names in store/mod.rs).
    CREATE TABLE meta (
        key   TEXT PRIMARY KEY,
        value BLOB NOT NULL
    ) WITHOUT ROWID, STRICT;

    -- What is so, per kind of state and thing. The serial grows by one with each change and is
    -- never given twice, whatever is killed when.
    CREATE TABLE states (
        kind       INTEGER NOT NULL,
        key        BLOB    NOT NULL,
        value      BLOB    NOT NULL,
        serial     INTEGER NOT NULL,
        changed_at INTEGER NOT NULL,   -- milliseconds since 1970
        PRIMARY KEY (kind, key)
    ) WITHOUT ROWID, STRICT;
    CREATE UNIQUE INDEX states_by_serial ON states (serial);

    -- The part of the catalog that concerns this machine.
    CREATE TABLE catalog_suites (
        suite_no INTEGER PRIMARY KEY,
        body     BLOB NOT NULL UNIQUE  -- an encoded muster.catalog.v1.ScanSuite
    ) STRICT;
    CREATE TABLE catalog_updates (
        update_no INTEGER PRIMARY KEY,
        suite_no  INTEGER NOT NULL REFERENCES catalog_suites (suite_no),
        body      BLOB    NOT NULL     -- an encoded muster.catalog.v1.ScanUpdate
    ) STRICT;
    -- Packages whose updates were asked for; others have to be asked for once installed.
    CREATE TABLE known_packages (
        name TEXT PRIMARY KEY
    ) WITHOUT ROWID, STRICT;

    -- Updates that are installed and wait for a restart.
    CREATE TABLE restart_pending (
        update_no INTEGER PRIMARY KEY
    ) STRICT;

    -- Updates that failed, and when they may be tried again.
    CREATE TABLE attempts (
        update_no INTEGER PRIMARY KEY,
        failures  INTEGER NOT NULL,
        retry_at  INTEGER NOT NULL     -- milliseconds since 1970
    ) STRICT;

    -- What was about to happen: written before each side effect.
    CREATE TABLE intents (
        intent_no  INTEGER PRIMARY KEY AUTOINCREMENT,
        started_at TEXT NOT NULL,
        job        BLOB NOT NULL,
        ended_at   TEXT,
        outcome    TEXT
    ) STRICT;
",
    "
    -- Updates that wait for a distribution point: since when, and how often one was asked since.
    ALTER TABLE attempts ADD COLUMN away_since INTEGER;  -- milliseconds since 1970
    ALTER TABLE attempts ADD COLUMN asked INTEGER NOT NULL DEFAULT 0;
",
];

pub(super) fn migrate(db: &mut Connection) -> Result<(), Error> {
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > known {
        return Err(Error::NewerSchema { found, known });
    }
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        tx.execute_batch(step)?;
    }
    tx.pragma_update(None, "user_version", known)?;
    tx.commit()?;
    Ok(())
}
