//! The catalog as it lies in memory, read from the tables; and the row that orders who writes.

use std::collections::HashMap;
use std::pin::pin;

use futures::TryStreamExt;
use jiff::Timestamp;
use muster_postgres::{Error, GenericClient};
use tokio_postgres::Row;

use super::{to_i32, to_i64, to_u32, to_u64};
use crate::domain::catalog::{Catalog, ScanLeaf, Texts, Update};
use crate::domain::channel::Channel;

/// Which generation is in force, and since when.
pub(crate) async fn generation(db: &impl GenericClient) -> Result<(u64, Timestamp), Error> {
    let row = db
        .query_one("SELECT generation, changed_at FROM catalog", &[])
        .await?;
    Ok((to_u64(row.try_get(0)?), row.try_get(1)?))
}

/// Locks the catalog for writing until the transaction ends; the generation and the next number.
pub(crate) async fn lock(db: &impl GenericClient) -> Result<(u64, u32), Error> {
    const SQL: &str = "SELECT generation, next_update_no FROM catalog FOR UPDATE";
    let row = db.query_one(SQL, &[]).await?;
    Ok((to_u64(row.try_get(0)?), to_u32(row.try_get(1)?)))
}

/// How many stamps are kept: who is further behind gets everything.
const STAMPS: i64 = 1_000;

/// Puts a generation in force. Its stamp is the parent's, or a new one.
pub(crate) async fn advance(
    db: &impl GenericClient,
    generation: u64,
    next_update_no: u32,
    now: Timestamp,
    stamp: Option<&[u8]>,
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE catalog SET (generation, next_update_no, changed_at) = ($1, $2, $3)";
    const STAMP: &str = "
        INSERT INTO generations (generation, stamp)
        VALUES ($1, coalesce($2, uuid_send(gen_random_uuid())))
        ON CONFLICT (generation) DO UPDATE SET stamp = excluded.stamp";
    const FORGET: &str = "DELETE FROM generations WHERE generation < $1::bigint - $2::bigint";
    let generation = to_i64(generation);
    db.execute(SQL, &[&generation, &to_i32(next_update_no), &now])
        .await?;
    db.execute(STAMP, &[&generation, &stamp]).await?;
    db.execute(FORGET, &[&generation, &STAMPS]).await?;
    Ok(())
}

/// The stamp of a generation; `None` when it is not known.
pub(crate) async fn stamp(
    db: &impl GenericClient,
    generation: u64,
) -> Result<Option<Vec<u8>>, Error> {
    const SQL: &str = "SELECT stamp FROM generations WHERE generation = $1";
    let row = db.query_opt(SQL, &[&to_i64(generation)]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

/// The generation in force, the next number of an update, and since when.
pub(crate) async fn in_force(db: &impl GenericClient) -> Result<(u64, u32, Timestamp), Error> {
    const SQL: &str = "SELECT generation, next_update_no, changed_at FROM catalog";
    let row = db.query_one(SQL, &[]).await?;
    let (generation, next) = (to_u64(row.try_get(0)?), to_u32(row.try_get(1)?));
    Ok((generation, next, row.try_get(2)?))
}

const CHANNELS: &str = "
    SELECT channel_no, archive_uri, suite, component, origin, label, archive_suite, codename,
           version, not_automatic, but_automatic_upgrades
    FROM channels ORDER BY channel_no";

/// All channels with their numbers.
pub(crate) async fn channels(db: &impl GenericClient) -> Result<Vec<(i32, Channel)>, Error> {
    let rows = db.query(CHANNELS, &[]).await?;
    rows.iter().map(channel).collect()
}

/// Reads all of it. The caller's transaction must be REPEATABLE READ, so that the parts belong
/// together.
pub(crate) async fn load(db: &impl GenericClient) -> Result<Catalog, Error> {
    const UPDATES: &str = "
        SELECT update_no, update_id, revision, scan_generation, first_generation,
               expired_generation, channel_no, source_package, source_version, content,
               max_run_time_minutes, supersedes, superseded_by
        FROM updates ORDER BY update_no";
    const LEAVES: &str = "
        SELECT update_no, package, version, architecture, phased_percentage
        FROM update_leaves ORDER BY update_no, leaf_no";
    let (generation, changed_at) = generation(db).await?;
    let stamp = stamp(db, generation).await?.unwrap_or_default();
    let channels = channels(db).await?;
    let index: HashMap<i32, usize> = channels
        .iter()
        .enumerate()
        .map(|(at, (number, _))| (*number, at))
        .collect();

    let mut texts = Texts::default();
    let mut updates: Vec<Update> = Vec::new();
    let none: [&str; 0] = [];
    let mut rows = pin!(db.query_raw(UPDATES, none).await?);
    while let Some(row) = rows.try_next().await? {
        let channel_no: i32 = row.try_get(6)?;
        let content: &[u8] = row.try_get(9)?;
        updates.push(Update {
            update_no: to_u32(row.try_get(0)?),
            update_id: texts.get(row.try_get(1)?),
            revision: to_u32(row.try_get(2)?),
            scan_generation: to_u64(row.try_get(3)?),
            first_generation: to_u64(row.try_get(4)?),
            expired_generation: row.try_get::<_, Option<i64>>(5)?.map(to_u64),
            channel: index.get(&channel_no).copied().unwrap_or(0),
            source: texts.get(row.try_get(7)?),
            version: texts.get(row.try_get(8)?),
            content: content.try_into().unwrap_or([0; 16]),
            max_run_time_minutes: to_u32(row.try_get(10)?),
            supersedes: numbers(row.try_get(11)?),
            superseded_by: numbers(row.try_get(12)?),
            leaves: Vec::new(),
        });
    }
    let mut rows = pin!(db.query_raw(LEAVES, none).await?);
    let mut at = 0;
    while let Some(row) = rows.try_next().await? {
        let update_no = to_u32(row.try_get(0)?);
        while updates
            .get(at)
            .is_some_and(|update| update.update_no < update_no)
        {
            at += 1;
        }
        let phased: i16 = row.try_get(4)?;
        let leaf = ScanLeaf {
            package: texts.get(row.try_get(1)?),
            version: texts.get(row.try_get(2)?),
            architecture: texts.get(row.try_get(3)?),
            phased_percentage: u8::try_from(phased).unwrap_or(100),
        };
        if let Some(update) = updates.get_mut(at) {
            update.leaves.push(leaf);
        }
    }
    let mut catalog = Catalog::new(generation, changed_at, channels, updates);
    catalog.stamp = stamp;
    Ok(catalog)
}

fn numbers(column: Vec<i32>) -> Vec<u32> {
    column.into_iter().map(to_u32).collect()
}

pub(super) fn channel(row: &Row) -> Result<(i32, Channel), Error> {
    Ok((
        row.try_get(0)?,
        Channel {
            archive_uri: row.try_get(1)?,
            suite: row.try_get(2)?,
            component: row.try_get(3)?,
            origin: row.try_get(4)?,
            label: row.try_get(5)?,
            archive_suite: row.try_get(6)?,
            codename: row.try_get(7)?,
            version: row.try_get(8)?,
            not_automatic: row.try_get(9)?,
            but_automatic_upgrades: row.try_get(10)?,
        },
    ))
}
