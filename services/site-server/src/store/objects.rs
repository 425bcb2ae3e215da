//! `objects`, `dirty_objects`: what administrators made as it travels, and which neighbours are to
//! hear of it. The tables of each kind are in `definitions.rs` (ours, on their way out) and
//! `foreign_objects.rs` (those of others).

use bytes::Bytes;
use deadpool_postgres::GenericClient;
use muster_domain::SiteCode;
use muster_proto::link as pb;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{execute, query};
use crate::app::Error;
use crate::domain::link::Neighbour;

/// Kind and id of an object.
pub(crate) type Key = (i16, Uuid);

/// Which neighbours are to hear of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Towards {
    All,
    Parent,
    Children,
}

/// An object as its row has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) key: Key,
    /// `None`: it is ours.
    pub(crate) owner: Option<String>,
    pub(crate) deleted: bool,
    pub(crate) definition: Bytes,
}

impl Held {
    /// As it goes to a neighbour.
    pub(crate) fn to_wire(&self, own: SiteCode) -> pb::Object {
        let owner = self.owner.as_deref().unwrap_or(own.as_str());
        pb::Object {
            kind: self.key.0.into(),
            object_id: Bytes::copy_from_slice(self.key.1.as_bytes()),
            owner_site_code: owner.to_owned(),
            deleted: self.deleted,
            definition: self.definition.clone(),
        }
    }
}

fn columns(keys: &[Key]) -> (Vec<i16>, Vec<Uuid>) {
    keys.iter().copied().unzip()
}

fn key(row: &Row) -> Key {
    (row.get("kind"), row.get("object_id"))
}

/// Neighbours are to hear of these objects. The row is written even when it is there: who takes it
/// off meanwhile waits for our commit, or we make a new one.
pub(crate) async fn mark(
    db: &impl GenericClient,
    keys: &[Key],
    towards: Towards,
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO dirty_objects AS held (peer_site_code, kind, object_id)
        SELECT l.peer_site_code, k.kind, k.object_id
        FROM links l CROSS JOIN unnest($1::int2[], $2::uuid[]) AS k (kind, object_id)
        WHERE $3::bool IS NULL OR l.is_parent = $3
        ORDER BY 1, 2, 3
        ON CONFLICT (peer_site_code, kind, object_id) DO UPDATE SET marked_at = held.marked_at";
    let parent = match towards {
        Towards::All => None,
        Towards::Parent => Some(true),
        Towards::Children => Some(false),
    };
    if keys.is_empty() {
        return Ok(());
    }
    let (kinds, ids) = columns(keys);
    execute(db, SQL, &[&kinds, &ids, &parent]).await?;
    Ok(())
}

/// The next objects of which a neighbour is to hear, held until the end of the transaction: what
/// is there in the order of kinds, then what was deleted, the other way round.
pub(crate) async fn next(
    db: &impl GenericClient,
    peer: SiteCode,
    limit: i64,
) -> Result<Vec<Key>, Error> {
    const SQL: &str = "
        SELECT d.kind, d.object_id FROM dirty_objects d
        LEFT JOIN objects o ON o.kind = d.kind AND o.object_id = d.object_id
        WHERE d.peer_site_code = $1
        ORDER BY COALESCE(o.deleted, false), CASE WHEN o.deleted THEN -d.kind ELSE d.kind END,
                 d.object_id
        LIMIT $2 FOR UPDATE OF d";
    let rows = query(db, SQL, &[&peer.as_str(), &limit]).await?;
    Ok(rows.iter().map(key).collect())
}

/// A neighbour's batch has these objects.
pub(crate) async fn unmark(
    db: &impl GenericClient,
    peer: SiteCode,
    keys: &[Key],
) -> Result<(), Error> {
    const SQL: &str = "
        DELETE FROM dirty_objects d
        USING unnest($2::int2[], $3::uuid[]) AS k (kind, object_id)
        WHERE d.peer_site_code = $1 AND d.kind = k.kind AND d.object_id = k.object_id";
    let (kinds, ids) = columns(keys);
    execute(db, SQL, &[&peer.as_str(), &kinds, &ids]).await?;
    Ok(())
}

/// Which of these objects there are, as they travel.
pub(crate) async fn held(db: &impl GenericClient, keys: &[Key]) -> Result<Vec<Held>, Error> {
    const SQL: &str = "
        SELECT o.kind, o.object_id, o.owner_site_code, o.deleted, o.definition
        FROM objects o JOIN unnest($1::int2[], $2::uuid[]) AS k (kind, object_id)
            USING (kind, object_id)";
    let (kinds, ids) = columns(keys);
    let rows = query(db, SQL, &[&kinds, &ids]).await?;
    let held = |row: &Row| Held {
        key: key(row),
        owner: row.get("owner_site_code"),
        deleted: row.get("deleted"),
        definition: row.get::<_, Vec<u8>>("definition").into(),
    };
    Ok(rows.iter().map(held).collect())
}

/// Writes objects of ours, or those that a neighbour told us of.
pub(crate) async fn keep(
    db: &impl GenericClient,
    via: Option<SiteCode>,
    objects: &[Held],
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO objects (kind, object_id, owner_site_code, via_site_code, deleted, definition)
        SELECT kind, object_id, owner_site_code, $1, deleted, definition
        FROM unnest($2::int2[], $3::uuid[], $4::text[], $5::bool[], $6::bytea[])
            AS o (kind, object_id, owner_site_code, deleted, definition)
        ORDER BY kind, object_id
        ON CONFLICT (kind, object_id) DO UPDATE SET
            (owner_site_code, via_site_code, deleted, definition) =
            (excluded.owner_site_code, excluded.via_site_code, excluded.deleted,
             excluded.definition)";
    if objects.is_empty() {
        return Ok(());
    }
    let (kinds, ids): (Vec<i16>, Vec<Uuid>) = objects.iter().map(|o| o.key).unzip();
    let owners: Vec<Option<&str>> = objects.iter().map(|o| o.owner.as_deref()).collect();
    let deleted: Vec<bool> = objects.iter().map(|o| o.deleted).collect();
    let definitions: Vec<&[u8]> = objects.iter().map(|o| o.definition.as_ref()).collect();
    let via = via.map(|code| code.to_string());
    let params: super::Params<'_> = &[&via, &kinds, &ids, &owners, &deleted, &definitions];
    execute(db, SQL, params).await?;
    Ok(())
}

/// Marks everything that goes to a neighbour.
pub(crate) async fn mark_all(db: &impl GenericClient, peer: &Neighbour) -> Result<(), Error> {
    const CLEAR: &str = "DELETE FROM dirty_objects WHERE peer_site_code = $1";
    const SQL: &str = "
        INSERT INTO dirty_objects (peer_site_code, kind, object_id)
        SELECT $1, kind, object_id FROM travelling_objects($2)";
    execute(db, CLEAR, &[&peer.code.as_str()]).await?;
    execute(db, SQL, &[&peer.code.as_str(), &peer.is_parent]).await?;
    Ok(())
}

/// The keys of all that goes to a neighbour, whether it has it or not.
pub(crate) async fn keys_towards(
    db: &impl GenericClient,
    peer: &Neighbour,
) -> Result<Vec<Key>, Error> {
    const SQL: &str = "SELECT kind, object_id FROM travelling_objects($1)";
    let rows = query(db, SQL, &[&peer.is_parent]).await?;
    Ok(rows.iter().map(key).collect())
}

/// The keys of what a neighbour told us of.
pub(crate) async fn keys_from(db: &impl GenericClient, peer: SiteCode) -> Result<Vec<Key>, Error> {
    const SQL: &str = "SELECT kind, object_id FROM objects WHERE via_site_code = $1";
    let rows = query(db, SQL, &[&peer.as_str()]).await?;
    Ok(rows.iter().map(key).collect())
}

/// What counts in the digest of an object: everything, with a hash in place of the definition.
#[derive(Debug)]
pub(crate) struct Summed {
    pub(crate) key: Key,
    pub(crate) owner: Option<String>,
    pub(crate) deleted: bool,
    pub(crate) hash: Vec<u8>,
}

fn summed(row: &Row) -> Summed {
    Summed {
        key: key(row),
        owner: row.get("owner_site_code"),
        deleted: row.get("deleted"),
        hash: row.get("hash"),
    }
}

/// What a neighbour was sent, and nothing that it is still to hear of.
pub(crate) async fn sent(
    db: &impl GenericClient,
    peer: &Neighbour,
    buckets: &[i32],
) -> Result<Vec<Summed>, Error> {
    // One of ours that nobody was told of yet has no row in objects.
    const SQL: &str = "
        SELECT t.kind, t.object_id, o.owner_site_code, COALESCE(o.deleted, false) AS deleted,
               sha256(COALESCE(o.definition, '')) AS hash
        FROM travelling_objects($2) t LEFT JOIN objects o USING (kind, object_id)
        WHERE link_bucket(t.object_id) = ANY ($3)
          AND NOT EXISTS (SELECT FROM dirty_objects d WHERE d.peer_site_code = $1
                          AND d.kind = t.kind AND d.object_id = t.object_id)";
    let params: super::Params<'_> = &[&peer.code.as_str(), &peer.is_parent, &buckets];
    Ok(query(db, SQL, params).await?.iter().map(summed).collect())
}

/// What a neighbour is still to hear of.
pub(crate) async fn dirty(
    db: &impl GenericClient,
    peer: SiteCode,
    buckets: &[i32],
) -> Result<Vec<Key>, Error> {
    const SQL: &str = "
        SELECT kind, object_id FROM dirty_objects
        WHERE peer_site_code = $1 AND link_bucket(object_id) = ANY ($2)";
    let rows = query(db, SQL, &[&peer.as_str(), &buckets]).await?;
    Ok(rows.iter().map(key).collect())
}

/// What a neighbour told us of, but for these ids.
pub(crate) async fn received(
    db: &impl GenericClient,
    peer: SiteCode,
    without: &[Uuid],
    buckets: &[i32],
) -> Result<Vec<Summed>, Error> {
    const SQL: &str = "
        SELECT kind, object_id, owner_site_code, deleted, sha256(definition) AS hash
        FROM objects
        WHERE via_site_code = $1 AND link_bucket(object_id) = ANY ($3)
          AND object_id <> ALL ($2)";
    let rows = query(db, SQL, &[&peer.as_str(), &without, &buckets]).await?;
    Ok(rows.iter().map(summed).collect())
}

/// Marks these keys for one neighbour.
pub(crate) async fn mark_for(
    db: &impl GenericClient,
    peer: SiteCode,
    keys: &[Key],
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO dirty_objects (peer_site_code, kind, object_id)
        SELECT $1, kind, object_id FROM unnest($2::int2[], $3::uuid[]) AS k (kind, object_id)
        ORDER BY 2, 3 ON CONFLICT DO NOTHING";
    let (kinds, ids) = columns(keys);
    execute(db, SQL, &[&peer.as_str(), &kinds, &ids]).await?;
    Ok(())
}

/// Of whom a neighbour may tell us objects: sites above us, or the child and the sites below it.
#[derive(Debug)]
pub(crate) struct Scope {
    owners: Vec<String>,
}

impl Scope {
    /// Reads it. Sites that travel in the same batch are there already.
    pub(crate) async fn of(
        db: &impl GenericClient,
        own: SiteCode,
        peer: &Neighbour,
    ) -> Result<Self, Error> {
        const ABOVE: &str = "
            SELECT unnest(lineage) AS site_code FROM links WHERE is_parent
            UNION SELECT site_code FROM sites WHERE via_site_code IS NULL";
        const BELOW: &str = "SELECT site_code FROM sites WHERE via_site_code = $1";
        let rows = if peer.is_parent {
            query(db, ABOVE, &[]).await?
        } else {
            query(db, BELOW, &[&peer.code.as_str()]).await?
        };
        let mut owners: Vec<String> = rows.iter().map(|row| row.get("site_code")).collect();
        owners.push(peer.code.to_string());
        owners.retain(|code| code != own.as_str());
        Ok(Self { owners })
    }

    pub(crate) fn has(&self, owner: &str) -> bool {
        self.owners.iter().any(|code| code == owner)
    }
}

/// Owners of objects that are neither above nor below us, nor neighbours.
pub(crate) async fn departed(
    db: &impl GenericClient,
    own: SiteCode,
) -> Result<Vec<SiteCode>, Error> {
    const SQL: &str = "
        SELECT DISTINCT o.owner_site_code FROM objects o
        WHERE o.owner_site_code <> $1
          AND NOT EXISTS (SELECT FROM sites s
                          WHERE s.site_code = o.owner_site_code AND s.gone_at IS NULL)
          AND NOT EXISTS (SELECT FROM links l
                          WHERE o.owner_site_code = ANY (l.peer_site_code || l.lineage))";
    let rows = query(db, SQL, &[&own.as_str()]).await?;
    let codes = rows
        .iter()
        .filter_map(|row| row.get::<_, &str>(0).parse().ok());
    Ok(codes.collect())
}

/// The neighbours hear what there still is beside these objects, and remove them.
pub(crate) async fn list_again(db: &impl GenericClient, keys: &[Key]) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO repair_buckets (peer_site_code, clients, bucket)
        SELECT DISTINCT l.peer_site_code, false, link_bucket(gone.object_id)
        FROM links l CROSS JOIN unnest($1::uuid[]) AS gone (object_id)
        ON CONFLICT DO NOTHING";
    let ids: Vec<Uuid> = keys.iter().map(|key| key.1).collect();
    execute(db, SQL, &[&ids]).await?;
    Ok(())
}

/// Forgets what these sites own, and whom to tell of it.
pub(crate) async fn forget_owned(
    db: &impl GenericClient,
    owners: &[&str],
) -> Result<Vec<Key>, Error> {
    const SQL: &str = "
        DELETE FROM objects WHERE owner_site_code = ANY ($1) RETURNING kind, object_id";
    let rows = query(db, SQL, &[&owners]).await?;
    let keys: Vec<Key> = rows.iter().map(key).collect();
    forget_marks(db, &keys).await?;
    Ok(keys)
}

/// Forgets these objects, and whom to tell of them.
pub(crate) async fn forget(db: &impl GenericClient, keys: &[Key]) -> Result<(), Error> {
    const SQL: &str = "
        DELETE FROM objects o USING unnest($1::int2[], $2::uuid[]) AS k (kind, object_id)
        WHERE o.kind = k.kind AND o.object_id = k.object_id";
    let (kinds, ids) = columns(keys);
    execute(db, SQL, &[&kinds, &ids]).await?;
    forget_marks(db, keys).await
}

async fn forget_marks(db: &impl GenericClient, keys: &[Key]) -> Result<(), Error> {
    const SQL: &str = "
        DELETE FROM dirty_objects d USING unnest($1::int2[], $2::uuid[]) AS k (kind, object_id)
        WHERE d.kind = k.kind AND d.object_id = k.object_id";
    let (kinds, ids) = columns(keys);
    execute(db, SQL, &[&kinds, &ids]).await?;
    Ok(())
}

/// Deployments of others for which there was no collection when they came.
pub(crate) async fn unfinished(db: &impl GenericClient) -> Result<Vec<Held>, Error> {
    const SQL: &str = "
        SELECT o.kind, o.object_id FROM objects o
        WHERE o.kind = 4 AND NOT o.deleted AND o.via_site_code IS NOT NULL
          AND NOT EXISTS (SELECT FROM deployments d WHERE d.deployment_id = o.object_id)
        LIMIT 1000";
    let keys: Vec<Key> = query(db, SQL, &[]).await?.iter().map(key).collect();
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    held(db, &keys).await
}
