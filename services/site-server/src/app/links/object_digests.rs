//! Hashes over objects by bucket: with them two neighbours find what differs although all batches
//! arrived. The key of a bucket is the object's id.

#![allow(dead_code, reason = "links do not compare yet")]

use std::collections::HashSet;

use bytes::Bytes;
use deadpool_postgres::GenericClient;
use muster_domain::SiteCode;
use muster_link::{Digests, bucket};
use uuid::Uuid;

use super::Neighbour;
use super::objects::{Applied, remove};
use crate::app::Error;
use crate::store::objects::{self, Key, Summed};

/// Over what the neighbour was sent, and the ids of what it is still to hear of.
pub(crate) async fn sent(
    tx: &impl GenericClient,
    own: SiteCode,
    peer: &Neighbour,
) -> Result<(Digests, Vec<Bytes>), Error> {
    let digests = sum(own, &objects::sent(tx, peer).await?);
    let dirty = objects::dirty(tx, peer.code).await?;
    Ok((digests, dirty.into_iter().map(wire).collect()))
}

/// Over what the neighbour told us of, but for these ids.
pub(crate) async fn received(
    tx: &impl GenericClient,
    own: SiteCode,
    peer: &Neighbour,
    without: &[Bytes],
) -> Result<Digests, Error> {
    let without: Vec<Uuid> = without
        .iter()
        .filter_map(|id| Uuid::from_slice(id).ok())
        .collect();
    let held = objects::received(tx, peer.code, &without).await?;
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
