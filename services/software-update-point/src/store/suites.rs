//! What was last accepted of each suite, and which signed files belong to a generation.

use std::collections::HashSet;

use muster_postgres::{Error, GenericClient};
use tokio_postgres::Row;

use super::{hash, to_i64, to_u64};
use crate::domain::archive::{SignedFile, SuiteSnapshot, SuiteState};

/// What was accepted of every suite.
pub(crate) async fn all(db: &impl GenericClient) -> Result<Vec<SuiteState>, Error> {
    const SQL: &str = "
        SELECT archive_uri, suite, components, architectures, signed_by, ignore_valid_until,
               paths, hashes, sizes, followed_as, release_date, valid_until, not_automatic,
               fully_applied, inrelease_sha256, etag, last_modified
        FROM suites ORDER BY archive_uri, suite";
    let rows = db.query(SQL, &[]).await?;
    rows.iter()
        .map(|row| {
            Ok(SuiteState {
                snapshot: snapshot(row)?,
                followed_as: row.try_get(9)?,
                release_date: row.try_get(10)?,
                valid_until: row.try_get(11)?,
                not_automatic: row.try_get(12)?,
                fully_applied: row.try_get(13)?,
                inrelease_sha256: hash(row.try_get(14)?),
                etag: row.try_get(15)?,
                last_modified: row.try_get(16)?,
            })
        })
        .collect()
}

/// Replaces what was accepted of a suite.
pub(crate) async fn put(db: &impl GenericClient, state: &SuiteState) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO suites (archive_uri, suite, components, architectures, signed_by,
            ignore_valid_until, paths, hashes, sizes, followed_as, release_date, valid_until,
            not_automatic, fully_applied, inrelease_sha256, etag, last_modified)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
        ON CONFLICT (archive_uri, suite) DO UPDATE SET
            (components, architectures, signed_by, ignore_valid_until, paths, hashes, sizes,
             followed_as, release_date, valid_until, not_automatic, fully_applied,
             inrelease_sha256, etag, last_modified) =
            (excluded.components, excluded.architectures, excluded.signed_by,
             excluded.ignore_valid_until, excluded.paths, excluded.hashes, excluded.sizes,
             excluded.followed_as, excluded.release_date, excluded.valid_until,
             excluded.not_automatic, excluded.fully_applied, excluded.inrelease_sha256,
             excluded.etag, excluded.last_modified)";
    let snapshot = &state.snapshot;
    let (paths, hashes, sizes) = columns(&snapshot.files);
    db.execute(
        SQL,
        &[
            &snapshot.archive_uri,
            &snapshot.suite,
            &snapshot.components,
            &snapshot.architectures,
            &snapshot.signed_by,
            &snapshot.ignore_valid_until,
            &paths,
            &hashes,
            &sizes,
            &state.followed_as,
            &state.release_date,
            &state.valid_until,
            &state.not_automatic,
            &state.fully_applied,
            &&state.inrelease_sha256[..],
            &state.etag,
            &state.last_modified,
        ],
    )
    .await?;
    Ok(())
}

/// Forgets suites that are no longer followed.
pub(crate) async fn forget(
    db: &impl GenericClient,
    keys: &[(String, String)],
) -> Result<(), Error> {
    const SQL: &str = "
        DELETE FROM suites s USING unnest($1::text[], $2::text[]) AS gone (archive_uri, suite)
        WHERE s.archive_uri = gone.archive_uri AND s.suite = gone.suite";
    let (uris, suites): (Vec<&str>, Vec<&str>) = keys
        .iter()
        .map(|(uri, suite)| (uri.as_str(), suite.as_str()))
        .unzip();
    db.execute(SQL, &[&uris, &suites]).await?;
    Ok(())
}

/// Makes the accepted suites the snapshot of a generation, and keeps the newest two.
pub(crate) async fn take_snapshot(db: &impl GenericClient, generation: u64) -> Result<(), Error> {
    const OLD: &str = "DELETE FROM snapshots WHERE generation = $1";
    const TAKE: &str = "
        INSERT INTO snapshots
        SELECT $1, archive_uri, suite, components, architectures, signed_by, ignore_valid_until,
               paths, hashes, sizes
        FROM suites WHERE cardinality(paths) > 0";
    const DROP: &str = "
        DELETE FROM snapshots WHERE generation < (
            SELECT max(generation) FROM snapshots WHERE generation < $1)";
    let generation = to_i64(generation);
    db.execute(OLD, &[&generation]).await?;
    db.execute(TAKE, &[&generation]).await?;
    db.execute(DROP, &[&generation]).await?;
    Ok(())
}

/// The snapshot of a generation; of the newest one for `None`. Empty when it is not held.
pub(crate) async fn of_generation(
    db: &impl GenericClient,
    generation: Option<u64>,
) -> Result<(u64, Vec<SuiteSnapshot>), Error> {
    const SQL: &str = "
        SELECT archive_uri, suite, components, architectures, signed_by, ignore_valid_until,
               paths, hashes, sizes, generation
        FROM snapshots
        WHERE generation = coalesce($1, (SELECT max(generation) FROM snapshots))
        ORDER BY archive_uri, suite";
    let rows = db.query(SQL, &[&generation.map(to_i64)]).await?;
    let found = match rows.first() {
        Some(row) => to_u64(row.try_get(9)?),
        None => 0,
    };
    Ok((found, rows.iter().map(snapshot).collect::<Result<_, _>>()?))
}

/// The hashes of every file that a snapshot or suite names.
pub(crate) async fn wanted(db: &impl GenericClient) -> Result<HashSet<[u8; 32]>, Error> {
    const SQL: &str =
        "SELECT unnest(hashes) FROM snapshots UNION SELECT unnest(hashes) FROM suites";
    let rows = db.query(SQL, &[]).await?;
    rows.iter().map(|row| Ok(hash(row.try_get(0)?))).collect()
}

fn snapshot(row: &Row) -> Result<SuiteSnapshot, Error> {
    let paths: Vec<String> = row.try_get(6)?;
    let hashes: Vec<Vec<u8>> = row.try_get(7)?;
    let sizes: Vec<i64> = row.try_get(8)?;
    let files = paths
        .into_iter()
        .zip(hashes)
        .zip(sizes)
        .map(|((path, sha256), size)| SignedFile {
            path,
            sha256: hash(&sha256),
            size: to_u64(size),
        });
    Ok(SuiteSnapshot {
        archive_uri: row.try_get(0)?,
        suite: row.try_get(1)?,
        components: row.try_get(2)?,
        architectures: row.try_get(3)?,
        signed_by: row.try_get(4)?,
        ignore_valid_until: row.try_get(5)?,
        files: files.collect(),
    })
}

fn columns(files: &[SignedFile]) -> (Vec<&str>, Vec<&[u8]>, Vec<i64>) {
    (
        files.iter().map(|file| file.path.as_str()).collect(),
        files.iter().map(|file| &file.sha256[..]).collect(),
        files.iter().map(|file| to_i64(file.size)).collect(),
    )
}
