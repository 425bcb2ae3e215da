//! Hashes over objects by bucket: with them two neighbours find what differs although all batches
//! arrived. The key of a bucket is the object's id.

use std::collections::HashSet;
use std::ops::Range;

use bytes::Bytes;
use deadpool_postgres::GenericClient;
use muster_domain::SiteCode;
use muster_link::{Digests, bucket};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Neighbour;
use super::objects::{Applied, remove};
use crate::app::Error;
use crate::store::definitions;
use crate::store::objects::{self, Key, Summed};

/// Objects whose definitions are in memory at a time.
const AT_ONCE: usize = 200;

/// Over what the neighbour was sent, in these buckets, and the ids of what it is still to hear of. Ours
/// count as the tables of their kinds have them, whatever was sent before.
pub(crate) async fn sent(
    tx: &impl GenericClient,
    own: SiteCode,
    peer: &Neighbour,
    buckets: &Range<usize>,
) -> Result<(Digests, Vec<Bytes>), Error> {
    let buckets = numbers(buckets);
    let mut sent = objects::sent(tx, peer, &buckets).await?;
    let ours = sent.iter().filter(|it| it.owner.is_none() && !it.deleted);
    let keys: Vec<Key> = ours.map(|it| it.key).collect();
    for keys in keys.chunks(AT_ONCE) {
        let definitions = definitions::ours(tx, keys).await?;
        for object in &mut sent {
            if let Some(definition) = definitions.get(&object.key) {
                object.hash = Sha256::digest(definition).to_vec();
            }
        }
    }
    let dirty = objects::dirty(tx, peer.code, &buckets).await?;
    Ok((sum(own, &sent), dirty.into_iter().map(wire).collect()))
}

fn numbers(buckets: &Range<usize>) -> Vec<i32> {
    let numbers = buckets.clone();
    numbers.filter_map(|it| i32::try_from(it).ok()).collect()
}

/// Over what the neighbour told us of, but for these ids.
pub(crate) async fn received(
    tx: &impl GenericClient,
    own: SiteCode,
    peer: &Neighbour,
    without: &[Bytes],
    buckets: &Range<usize>,
) -> Result<Digests, Error> {
    let without: Vec<Uuid> = without
        .iter()
        .filter_map(|id| Uuid::from_slice(id).ok())
        .collect();
    let held = objects::received(tx, peer.code, &without, &numbers(buckets)).await?;
    Ok(sum(own, &held))
}

fn sum(own: SiteCode, objects: &[Summed]) -> Digests {
    let mut digests = Digests::default();
    for object in objects {
        let owner = object.owner.as_deref().unwrap_or(own.as_str());
        let mut value = Vec::with_capacity(40);
        value.extend_from_slice(&object.key.0.to_be_bytes());
        value.push(object.deleted.into());
        value.extend_from_slice(owner.as_bytes());
        value.extend_from_slice(&object.hash);
        digests.add(object.key.1.as_bytes(), &value);
    }
    digests
}

fn wire((_, id): Key) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn within((_, id): &Key, wanted: u32) -> bool {
    u32::try_from(bucket(id.as_bytes())).is_ok_and(|at| at == wanted)
}

/// The neighbour has something else in these buckets: it is to hear of all in them.
pub(crate) async fn mark_buckets(
    tx: &impl GenericClient,
    peer: &Neighbour,
    buckets: &[u32],
) -> Result<(), Error> {
    let mut keys = objects::keys_towards(tx, peer).await?;
    keys.retain(|key| buckets.iter().any(|wanted| within(key, *wanted)));
    objects::mark_for(tx, peer.code, &keys).await
}

/// The ids of all in a bucket that goes to the neighbour.
pub(crate) async fn listing(
    tx: &impl GenericClient,
    peer: &Neighbour,
    bucket: u32,
) -> Result<Vec<Bytes>, Error> {
    let mut keys = objects::keys_towards(tx, peer).await?;
    keys.retain(|key| within(key, bucket));
    Ok(keys.into_iter().map(wire).collect())
}

/// Removes what the neighbour told us of in a bucket and does not list. The caller holds all of
/// `site.known_clients`: deployments may end with it.
pub(crate) async fn remove_unlisted(
    tx: &impl GenericClient,
    peer: &Neighbour,
    bucket: u32,
    listed: &[Bytes],
) -> Result<Applied, Error> {
    let listed: HashSet<&[u8]> = listed.iter().map(AsRef::as_ref).collect();
    let mut keys = objects::keys_from(tx, peer.code).await?;
    keys.retain(|key| within(key, bucket) && !listed.contains(key.1.as_bytes().as_slice()));
    if keys.is_empty() {
        return Ok(Applied::default());
    }
    tracing::warn!(peer = %peer.code, objects = keys.len(), "the neighbour does not have these");
    remove(tx, &keys).await
}
