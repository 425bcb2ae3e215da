//! Updates, their leaves and the channels they come from: what a synchronisation writes, and what the
//! site server reads.

use std::pin::pin;

use jiff::Timestamp;
use muster_postgres::{Error, GenericClient, Transaction};
use tokio_postgres::Row;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;

use super::{catalog, hash, to_i32, to_i64, to_u32, to_u64};
use crate::domain::channel::{Channel, Classification};
use crate::domain::collect::{Incoming, Leaf};
use crate::domain::diff::{New, Relation};
use crate::domain::update::StoredUpdate;

/// `muster.catalog.v1.Classification`.
pub(super) fn classification(channel: &Channel) -> i16 {
    match channel.classification() {
        Classification::Security => 2,
        Classification::FeaturePack => 4,
        Classification::Update => 8,
    }
}

/// Writes the channels and gives their numbers, in the same order.
pub(crate) async fn put_channels(
    db: &impl GenericClient,
    channels: &[Channel],
) -> Result<Vec<i32>, Error> {
    const SQL: &str = "
        INSERT INTO channels (archive_uri, suite, component, origin, label, archive_suite,
            codename, version, not_automatic, but_automatic_upgrades)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        ON CONFLICT (archive_uri, suite, component) DO UPDATE SET
            (origin, label, archive_suite, codename, version, not_automatic, but_automatic_upgrades)
            = (excluded.origin, excluded.label, excluded.archive_suite, excluded.codename,
               excluded.version, excluded.not_automatic, excluded.but_automatic_upgrades)
        RETURNING channel_no";
    let mut numbers = Vec::with_capacity(channels.len());
    for channel in channels {
        let row = db
            .query_one(
                SQL,
                &[
                    &channel.archive_uri,
                    &channel.suite,
                    &channel.component,
                    &channel.origin,
                    &channel.label,
                    &channel.archive_suite,
                    &channel.codename,
                    &channel.version,
                    &channel.not_automatic,
                    &channel.but_automatic_upgrades,
                ],
            )
            .await?;
        numbers.push(row.try_get(0)?);
    }
    Ok(numbers)
}

/// Writes new updates with their leaves. `numbers` are those of `channels`.
pub(crate) async fn insert(
    tx: &Transaction<'_>,
    new: &[New],
    channels: &[Channel],
    numbers: &[i32],
    generation: u64,
) -> Result<(), Error> {
    const COPY: &str = "
        COPY updates (update_no, update_id, revision, generation, scan_generation,
            first_generation, channel_no, source_package, source_version, title, description,
            classification, released_at, supersedes, superseded_by, content)
        FROM STDIN BINARY";
    if new.is_empty() {
        return Ok(());
    }
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
        Type::TIMESTAMPTZ,
        Type::INT4_ARRAY,
        Type::INT4_ARRAY,
        Type::BYTEA,
    ];
    let mut writer = pin!(BinaryCopyInWriter::new(tx.copy_in(COPY).await?, &types));
    let generation = to_i64(generation);
    for New { incoming, relation } in new {
        let channel = &channels[incoming.channel];
        writer
            .as_mut()
            .write(&[
                &to_i32(relation.update_no),
                &incoming.update_id,
                &1_i32,
                &generation,
                &generation,
                &generation,
                &numbers[incoming.channel],
                &incoming.source,
                &incoming.version,
                &incoming.title(channel),
                &incoming.description,
                &classification(channel),
                &incoming.released_at,
                &signed(&relation.supersedes),
                &signed(&relation.superseded_by),
                &&incoming.content(channel)[..],
            ])
            .await?;
    }
    writer.finish().await?;
    let leaves = new
        .iter()
        .map(|new| (new.relation.update_no, &new.incoming.leaves[..]));
    copy_leaves(tx, leaves).await
}

/// Replaces what changed of updates, and puts them in force if they had expired.
pub(crate) async fn modify(
    tx: &Transaction<'_>,
    modified: &[(u32, Incoming)],
    channels: &[Channel],
    numbers: &[i32],
    generation: u64,
) -> Result<(), Error> {
    const UPDATE: &str = "
        UPDATE updates u SET
            (channel_no, title, description, classification, content, revision, generation,
             scan_generation, expired_at, expired_generation)
            = (m.channel_no, m.title, m.description, m.classification, m.content, u.revision + 1,
               $7, $7, NULL, NULL)
        FROM unnest($1::int4[], $2::int4[], $3::text[], $4::text[], $5::int2[], $6::bytea[])
            AS m (update_no, channel_no, title, description, classification, content)
        WHERE u.update_no = m.update_no";
    if modified.is_empty() {
        return Ok(());
    }
    let of = |update: &Incoming| &channels[update.channel];
    let update_nos: Vec<i32> = modified
        .iter()
        .map(|(update_no, _)| to_i32(*update_no))
        .collect();
    let channel_nos: Vec<i32> = modified.iter().map(|(_, u)| numbers[u.channel]).collect();
    let titles: Vec<String> = modified.iter().map(|(_, u)| u.title(of(u))).collect();
    let descriptions: Vec<&str> = modified
        .iter()
        .map(|(_, u)| u.description.as_str())
        .collect();
    let classes: Vec<i16> = modified
        .iter()
        .map(|(_, u)| classification(of(u)))
        .collect();
    let contents: Vec<[u8; 16]> = modified.iter().map(|(_, u)| u.content(of(u))).collect();
    let contents: Vec<&[u8]> = contents.iter().map(|content| &content[..]).collect();
    tx.execute(
        UPDATE,
        &[
            &update_nos,
            &channel_nos,
            &titles,
            &descriptions,
            &classes,
            &contents,
            &to_i64(generation),
        ],
    )
    .await?;
    tx.execute(
        "DELETE FROM update_leaves WHERE update_no = ANY($1)",
        &[&update_nos],
    )
    .await?;
    copy_leaves(
        tx,
        modified
            .iter()
            .map(|(update_no, update)| (*update_no, &update.leaves[..])),
    )
    .await
}

pub(super) async fn copy_leaves<'a>(
    tx: &Transaction<'_>,
    leaves: impl Iterator<Item = (u32, &'a [Leaf])>,
) -> Result<(), Error> {
    const COPY: &str = "
        COPY update_leaves (update_no, leaf_no, package, version, architecture,
            phased_percentage, sha256, size, path)
        FROM STDIN BINARY";
    let types = [
        Type::INT4,
        Type::INT4,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::INT2,
        Type::BYTEA,
        Type::INT8,
        Type::TEXT,
    ];
    let mut writer = pin!(BinaryCopyInWriter::new(tx.copy_in(COPY).await?, &types));
    for (update_no, leaves) in leaves {
        for (leaf, leaf_no) in leaves.iter().zip(1_i32..) {
            writer
                .as_mut()
                .write(&[
                    &to_i32(update_no),
                    &leaf_no,
                    &leaf.package,
                    &leaf.version,
                    &leaf.architecture,
                    &i16::from(leaf.phased_percentage),
                    &&leaf.sha256[..],
                    &to_i64(leaf.size),
                    &leaf.path,
                ])
                .await?;
        }
    }
    writer.finish().await?;
    Ok(())
}

/// Expires updates.
pub(crate) async fn expire(
    db: &impl GenericClient,
    update_nos: &[u32],
    generation: u64,
    now: Timestamp,
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE updates SET (expired_at, expired_generation, revision, generation, scan_generation)
            = ($2, $3, revision + 1, $3, $3)
        WHERE update_no = ANY($1)";
    if !update_nos.is_empty() {
        db.execute(SQL, &[&signed(update_nos), &now, &to_i64(generation)])
            .await?;
    }
    Ok(())
}

/// Moves updates to their place in the order of versions. A scan does not see it.
pub(crate) async fn relate(
    db: &impl GenericClient,
    relations: &[Relation],
    generation: u64,
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE updates SET (supersedes, superseded_by, revision, generation)
            = ($2, $3, revision + 1, $4)
        WHERE update_no = $1";
    if relations.is_empty() {
        return Ok(());
    }
    let statement = db.prepare(SQL).await?;
    for relation in relations {
        let (older, newer) = (
            signed(&relation.supersedes),
            signed(&relation.superseded_by),
        );
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] = [
            &to_i32(relation.update_no),
            &older,
            &newer,
            &to_i64(generation),
        ];
        db.execute(&statement, &params).await?;
    }
    Ok(())
}

/// The next updates after a place in the order of generation and number, up to a generation.
pub(crate) async fn page(
    db: &impl GenericClient,
    after: (u64, u32),
    up_to: u64,
    limit: u32,
) -> Result<Vec<StoredUpdate>, Error> {
    const SQL: &str = include_str!("sql/page_of_updates.sql");
    let (generation, update_no) = (to_i64(after.0), to_i32(after.1));
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
        [&generation, &update_no, &to_i64(up_to), &i64::from(limit)];
    let rows = db.query(SQL, &params).await?;
    rows.iter().map(stored).collect()
}

/// A row as the pages' statements have it.
pub(super) fn stored(row: &Row) -> Result<StoredUpdate, Error> {
    let packages: Vec<String> = row.try_get(28)?;
    let versions: Vec<String> = row.try_get(29)?;
    let architectures: Vec<String> = row.try_get(30)?;
    let phased: Vec<i16> = row.try_get(31)?;
    let hashes: Vec<&[u8]> = row.try_get(32)?;
    let sizes: Vec<i64> = row.try_get(33)?;
    let paths: Vec<String> = row.try_get(34)?;
    let leaves = packages
        .into_iter()
        .zip(versions)
        .zip(architectures)
        .zip(phased)
        .zip(hashes)
        .zip(sizes)
        .zip(paths)
        .map(
            |((((((package, version), architecture), phased), sha256), size), path)| Leaf {
                package,
                version,
                architecture,
                phased_percentage: u8::try_from(phased).unwrap_or(100),
                sha256: hash(sha256),
                size: to_u64(size),
                path,
            },
        );
    let numbers = |column: Vec<i32>| column.into_iter().map(to_u32).collect();
    Ok(StoredUpdate {
        channel: catalog::channel(row)?.1,
        update_no: to_u32(row.try_get(11)?),
        update_id: row.try_get(12)?,
        revision: to_u32(row.try_get(13)?),
        generation: to_u64(row.try_get(14)?),
        source: row.try_get(15)?,
        version: row.try_get(16)?,
        title: row.try_get(17)?,
        description: row.try_get(18)?,
        classification: row.try_get(19)?,
        severity: row.try_get(20)?,
        cve_ids: row.try_get(21)?,
        released_at: row.try_get(22)?,
        supersedes: numbers(row.try_get(23)?),
        superseded_by: numbers(row.try_get(24)?),
        expired_at: row.try_get(25)?,
        max_run_time_minutes: to_u32(row.try_get(26)?),
        needs_exclusive_handling: row.try_get(27)?,
        leaves: leaves.collect(),
    })
}

pub(super) fn signed(numbers: &[u32]) -> Vec<i32> {
    numbers.iter().copied().map(to_i32).collect()
}
