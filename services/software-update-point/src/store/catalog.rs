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

/// Puts the next generation in force.
pub(crate) async fn advance(
    db: &impl GenericClient,
    generation: u64,
    next_update_no: u32,
    now: Timestamp,
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE catalog SET (generation, next_update_no, changed_at) = ($1, $2, $3)";
    db.execute(SQL, &[&to_i64(generation), &to_i32(next_update_no), &now])
        .await?;
    Ok(())
}

/// Reads all of it. The caller's transaction must be REPEATABLE READ, so that the parts belong
/// together.
pub(crate) async fn load(db: &impl GenericClient) -> Result<Catalog, Error> {
    const CHANNELS: &str = "
        SELECT channel_no, archive_uri, suite, component, origin, label, archive_suite, codename,
               version, not_automatic, but_automatic_upgrades
        FROM channels ORDER BY channel_no";
    const UPDATES: &str = "
        SELECT update_no, update_id, revision, scan_generation, first_generation,
               expired_generation, channel_no, source_package, source_version, content,
               max_run_time_minutes, supersedes, superseded_by
        FROM updates ORDER BY update_no";
    const LEAVES: &str = "
        SELECT update_no, package, version, architecture, phased_percentage
        FROM update_leaves ORDER BY update_no, leaf_no";
    let (generation, changed_at) = generation(db).await?;
    let rows = db.query(CHANNELS, &[]).await?;
    let channels: Vec<(i32, Channel)> = rows.iter().map(channel).collect::<Result<_, _>>()?;
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
    Ok(Catalog::new(generation, changed_at, channels, updates))
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
