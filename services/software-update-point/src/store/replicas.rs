//! The catalog as software update points hand it on: whole rows, in one state.

use std::pin::pin;

use muster_postgres::{Error, GenericClient, Transaction};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;

use super::updates::{classification, copy_leaves, signed, stored};
use super::{catalog, to_i32, to_i64, to_u64};
use crate::domain::channel::Channel;
use crate::domain::replica::{Replica, Row};

/// The next updates after a number that changed after a generation.
pub(crate) async fn page(
    db: &impl GenericClient,
    after_update_no: u32,
    after_generation: u64,
    limit: u32,
) -> Result<Vec<Row>, Error> {
    const SQL: &str = include_str!("sql/page_of_replicas.sql");
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [
        &to_i32(after_update_no),
        &to_i64(after_generation),
        &i64::from(limit),
    ];
    let rows = db.query(SQL, &params).await?;
    rows.iter()
        .map(|row| {
            Ok(Row {
                update: stored(row)?,
                channel_no: catalog::channel(row)?.0,
                scan_generation: to_u64(row.try_get(35)?),
                first_generation: to_u64(row.try_get(36)?),
                expired_generation: row.try_get::<_, Option<i64>>(37)?.map(to_u64),
            })
        })
        .collect()
}

/// Writes updates as the one above has them, in the place of those that are there. `numbers` are
/// those of `channels`.
pub(crate) async fn put(
    tx: &Transaction<'_>,
    replicas: &[Replica],
    channels: &[Channel],
    numbers: &[i32],
) -> Result<(), Error> {
    const LEAVES: &str = "DELETE FROM update_leaves WHERE update_no = ANY($1)";
    const OLD: &str = "DELETE FROM updates WHERE update_no = ANY($1)";
    const COPY: &str = "
        COPY updates (update_no, update_id, revision, generation, scan_generation,
            first_generation, channel_no, source_package, source_version, title, description,
            classification, severity, cve_ids, released_at, supersedes, superseded_by, expired_at,
            expired_generation, max_run_time_minutes, needs_exclusive_handling, content)
        FROM STDIN BINARY";
    if replicas.is_empty() {
        return Ok(());
    }
    let update_nos: Vec<i32> = replicas.iter().map(|it| to_i32(it.update_no)).collect();
    tx.execute(LEAVES, &[&update_nos]).await?;
    tx.execute(OLD, &[&update_nos]).await?;
    let types = [
        Type::INT4,
        Type::TEXT,
        Type::INT4,
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::INT4,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::INT2,
        Type::INT2,
        Type::TEXT_ARRAY,
        Type::TIMESTAMPTZ,
        Type::INT4_ARRAY,
        Type::INT4_ARRAY,
        Type::TIMESTAMPTZ,
        Type::INT8,
        Type::INT4,
        Type::BOOL,
        Type::BYTEA,
    ];
    let mut writer = pin!(BinaryCopyInWriter::new(tx.copy_in(COPY).await?, &types));
    for it in replicas {
        let incoming = &it.incoming;
        let channel = &channels[incoming.channel];
        writer
            .as_mut()
            .write(&[
                &to_i32(it.update_no),
                &incoming.update_id,
                &to_i32(it.revision),
                &to_i64(it.generation),
                &to_i64(it.scan_generation),
                &to_i64(it.first_generation),
                &numbers[incoming.channel],
                &incoming.source,
                &incoming.version,
                &incoming.title(channel),
                &incoming.description,
                &classification(channel),
                &it.severity,
                &it.cve_ids,
                &incoming.released_at,
                &signed(&it.supersedes),
                &signed(&it.superseded_by),
                &it.expired.map(|(_, at)| at),
                &it.expired.map(|(generation, _)| to_i64(generation)),
                &to_i32(it.max_run_time_minutes),
                &it.needs_exclusive_handling,
                &&incoming.content(channel)[..],
            ])
            .await?;
    }
    writer.finish().await?;
    let leaves = replicas
        .iter()
        .map(|it| (it.update_no, &it.incoming.leaves[..]));
    copy_leaves(tx, leaves).await
}
