//! What administrators make, on its way to other sites and from them. Ours is marked in the
//! transaction that changes it and encoded when a batch takes it; what others own is kept as it
//! came, passed on byte for byte, and written into the tables of its kind beside ours.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_domain::SiteCode;
use muster_proto::link as pb;
use muster_proto::link::ObjectKind;
use muster_proto::{convert, policy::Verbosity};
use muster_runtime::status::{HasKind, Kind};
use prost::Message;
use uuid::Uuid;

use super::Neighbour;
use crate::app::directory::Turn;
use crate::app::{Error, Site, deployment_states};
use crate::domain::names::cleaned;
use crate::domain::report::Refused;
use crate::store::foreign_objects::{
    self as foreign, Membership, Numbered, OfKind, Removed, Replica,
};
use crate::store::objects::{self, Held, Key, Scope, Towards};
use crate::store::{client_moves, definitions, packages, sites};

/// Bytes of definitions in one batch; one object may be larger.
const BATCH_BYTES: usize = 1024 * 1024;
/// Objects read at a time.
const CHUNK: i64 = 16;
/// Longest name and description of another site's thing, in bytes.
const MAX_NAME: usize = 400;
const MAX_DESCRIPTION: usize = 4_096;

/// Our objects were made or changed. What they are is read when a batch takes them.
pub(crate) async fn changed(
    tx: &impl GenericClient,
    kind: ObjectKind,
    ids: &[Uuid],
) -> Result<(), Error> {
    let keys: Vec<Key> = ids.iter().map(|id| (kind as i16, *id)).collect();
    objects::mark(tx, &keys, Towards::All).await
}

/// An object of ours was deleted.
pub(crate) async fn deleted(
    tx: &impl GenericClient,
    kind: ObjectKind,
    id: Uuid,
) -> Result<(), Error> {
    let tombstone = Held {
        key: (kind as i16, id),
        owner: None,
        deleted: true,
        definition: Bytes::new(),
    };
    // Marks first, as those who take them off do.
    objects::mark(tx, &[tombstone.key], Towards::All).await?;
    objects::keep(tx, None, &[tombstone]).await
}

/// It was decided that clients move, or one is where it was to go. Only those below hear of it.
pub(crate) async fn client_moved(tx: &impl GenericClient, clients: &[Uuid]) -> Result<(), Error> {
    let keys: Vec<Key> = clients
        .iter()
        .map(|id| (ObjectKind::ClientMove as i16, *id))
        .collect();
    objects::mark(tx, &keys, Towards::Children).await
}

/// Clients joined these collections, or left them, in this transaction. Collections of others do
/// not change with it.
pub(crate) async fn members_changed(
    tx: &impl GenericClient,
    collections: &[i32],
) -> Result<(), Error> {
    if collections.is_empty() {
        return Ok(());
    }
    let ours = foreign::our_collections(tx, collections).await?;
    changed(tx, ObjectKind::Collection, &ours).await
}

/// The next objects of which a neighbour is to hear, in the order in which it is to apply them;
/// they count as sent with this transaction. At most `limit`, and about a mebibyte.
pub(crate) async fn take(
    site: &Site,
    tx: &impl GenericClient,
    peer: Neighbour,
    limit: usize,
) -> Result<Vec<pb::Object>, Error> {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    while taken.len() < limit && bytes < BATCH_BYTES {
        let left = i64::try_from(limit - taken.len()).unwrap_or(CHUNK);
        let keys = objects::next(tx, peer.code, left.min(CHUNK)).await?;
        if keys.is_empty() {
            break;
        }
        let mut done = Vec::with_capacity(keys.len());
        let mut read = read(tx, &keys).await?;
        for key in keys {
            if bytes >= BATCH_BYTES {
                break;
            }
            done.push(key);
            // One that was made and forgotten again is nothing to hear of.
            if let Some(held) = read.remove(&key) {
                bytes += held.definition.len();
                taken.push(held);
            }
        }
        objects::unmark(tx, peer.code, &done).await?;
    }
    // What was deleted while we waited for its mark comes last all the same.
    taken.sort_by_key(|held| order(held.key, held.deleted));
    let own = site.config.site_code;
    Ok(taken.iter().map(|held| held.to_wire(own)).collect())
}

/// What is there before what names it; deletions afterwards, the other way round.
fn order((kind, _): Key, deleted: bool) -> (bool, i16) {
    (deleted, if deleted { -kind } else { kind })
}

/// These objects as they are now; ours are written down as they go out.
async fn read(tx: &impl GenericClient, keys: &[Key]) -> Result<HashMap<Key, Held>, Error> {
    let ours = definitions::ours(tx, keys).await?;
    let of_ours = |(key, definition): (&Key, &Bytes)| Held {
        key: *key,
        owner: None,
        deleted: false,
        definition: definition.clone(),
    };
    let encoded: Vec<Held> = ours.iter().map(of_ours).collect();
    objects::keep(tx, None, &encoded).await?;
    let held = objects::held(tx, keys).await?;
    Ok(held.into_iter().map(|held| (held.key, held)).collect())
}

/// A link starts again: its neighbour is to hear of everything.
pub(crate) async fn all_dirty(tx: &impl GenericClient, peer: Neighbour) -> Result<(), Error> {
    objects::mark_all(tx, &peer).await
}

/// What a transaction changed, for [`remember`].
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(super) lists: Vec<(Numbered, Vec<i32>)>,
    pub(super) collections: Vec<(Numbered, Vec<i32>)>,
    pub(super) removed: Removed,
    pub(super) content: bool,
    pub(super) moves: bool,
}

/// Whether these objects end deployments: reports must wait meanwhile, so the caller holds all of
/// `site.known_clients` before it takes its turn.
pub(crate) fn deletes_deployments(objects: &[pb::Object]) -> bool {
    let ends = |object: &pb::Object| object.deleted && object.kind() == ObjectKind::Deployment;
    objects.iter().any(ends)
}

/// Takes over what a neighbour tells us; the inner error refuses its batch. The caller has its turn
/// in the directory, says there that it is in doubt before the commit, and calls [`remember`] after
/// it.
pub(crate) async fn apply(
    site: &Site,
    tx: &impl GenericClient,
    peer: Neighbour,
    received: &[pb::Object],
) -> Result<Result<Applied, Refused>, Error> {
    match apply_allowed(site.config.site_code, tx, &peer, received).await {
        Ok(applied) => Ok(Ok(applied)),
        Err(error) => match error.kind() {
            Kind::Invalid | Kind::Denied => Ok(Err(Refused::new(error.reason(), error))),
            Kind::NotFound
            | Kind::Conflict
            | Kind::Unavailable
            | Kind::Exhausted
            | Kind::Internal => Err(error),
        },
    }
}

async fn apply_allowed(
    own: SiteCode,
    tx: &impl GenericClient,
    peer: &Neighbour,
    received: &[pb::Object],
) -> Result<Applied, Error> {
    if received.is_empty() {
        return Ok(Applied::default());
    }
    let mut objects: BTreeMap<Key, Held> = BTreeMap::new();
    for object in received {
        let held = checked(object)?;
        objects.insert(held.key, held);
    }
    let keys: Vec<Key> = objects.keys().copied().collect();
    let before = may_tell(tx, own, peer, &objects, &keys).await?;

    let mut objects: Vec<Held> = objects.into_values().collect();
    objects.sort_by_key(|held| order(held.key, held.deleted));
    let news: Vec<Key> = objects
        .iter()
        .filter(|held| before.get(&held.key) != Some(held))
        .map(|held| held.key)
        .collect();
    objects::keep(tx, Some(peer.code), &objects).await?;

    let mut changes = Changes::default();
    for held in objects.iter().filter(|held| !held.deleted) {
        if held.key.0 == ObjectKind::ClientMove as i16 {
            let owner = held.owner.as_deref();
            client_moves::keep(tx, held.key.1, &held.definition, owner).await?;
            changes.moves = true;
            continue;
        }
        changes.keep(tx, &replica(held)?).await?;
    }
    if !changes.collections.is_empty() {
        // Deployments that came before their collection.
        for held in objects::unfinished(tx).await? {
            changes.keep(tx, &replica(&held)?).await?;
        }
    }
    let gone = objects.iter().filter(|held| held.deleted);
    let gone: Vec<Key> = gone.map(|held| held.key).collect();
    let towards = if peer.is_parent {
        Towards::Children
    } else {
        Towards::Parent
    };
    objects::mark(tx, &news, towards).await?;
    changes.finish(tx, &gone).await
}

/// What neighbours said of the objects of sites that left, goes, here and at the other neighbours.
pub(crate) async fn remove_owned(
    tx: &impl GenericClient,
    sites: &[SiteCode],
) -> Result<Applied, Error> {
    let owners: Vec<&str> = sites.iter().map(SiteCode::as_str).collect();
    let gone = objects::forget_owned(tx, &owners).await?;
    objects::list_again(tx, &gone).await?;
    Changes::default().finish(tx, &gone).await
}

/// Objects that a neighbour told us of and does not have any more, go.
pub(super) async fn remove(tx: &impl GenericClient, gone: &[Key]) -> Result<Applied, Error> {
    objects::forget(tx, gone).await?;
    objects::list_again(tx, gone).await?;
    Changes::default().finish(tx, gone).await
}

/// What has changed in the tables of the kinds so far.
#[derive(Debug, Default)]
struct Changes {
    lists: BTreeSet<i32>,
    collections: BTreeSet<i32>,
    packages: bool,
    moves: bool,
}

impl Changes {
    async fn keep(&mut self, tx: &impl GenericClient, replica: &Replica) -> Result<(), Error> {
        let written = foreign::keep(tx, replica).await?;
        let numbers = [
            written.number,
            written.gave_way.map(|numbered| numbered.number),
        ];
        let numbers = numbers.into_iter().flatten();
        match replica.of_kind {
            OfKind::Collection { .. } => self.collections.extend(numbers),
            OfKind::UpdateList { .. } => self.lists.extend(numbers),
            OfKind::Package { .. } => self.packages = true,
            OfKind::Deployment { .. } if written.number.is_none() => {
                // Nobody that this site knows is meant.
                tracing::debug!(deployment = replica.name, "no such collection here");
            }
            OfKind::Deployment { .. } => {}
        }
        Ok(())
    }

    /// Removes what is gone, and reads what reports are to know.
    async fn finish(self, tx: &impl GenericClient, gone: &[Key]) -> Result<Applied, Error> {
        let mut removed = Removed::default();
        foreign::remove(tx, gone, &mut removed).await?;
        let moves = gone
            .iter()
            .filter(|it| it.0 == ObjectKind::ClientMove as i16);
        client_moves::forget(tx, &moves.map(|it| it.1).collect::<Vec<_>>()).await?;
        foreign::sweep(tx, &mut removed).await?;
        if self.packages {
            // Files of a package may be newer than the suites that were published here.
            packages::doubt_all_published(tx).await?;
        }
        sites::raise_policy_revision(tx).await?;
        let numbers = |numbers: &BTreeSet<i32>| numbers.iter().copied().collect::<Vec<_>>();
        let content = self.packages || removed.packages;
        Ok(Applied {
            lists: foreign::lists(tx, &numbers(&self.lists)).await?,
            collections: foreign::collections(tx, &numbers(&self.collections)).await?,
            removed,
            content,
            moves: self.moves,
        })
    }
}

/// After the commit: reports know the names, and content is looked at.
pub(crate) fn remember(site: &Site, turn: &Turn<'_>, applied: &Applied) {
    for collection_no in &applied.removed.collections {
        turn.remove_collection(*collection_no);
    }
    for list_no in &applied.removed.lists {
        turn.remove_list(*list_no);
    }
    for deployment_no in &applied.removed.deployments {
        deployment_states::remove_deployment(site, *deployment_no);
    }
    for (it, updates) in &applied.lists {
        turn.add_list(it.number, &it.label(), updates);
    }
    for (it, members) in &applied.collections {
        turn.add_collection(it.number, &it.label(), members);
    }
    if applied.content {
        site.content_wanted.notify_one();
    }
    if applied.moves {
        site.clients_moved.notify_one();
    }
}

/// Who joined which collections, and who left which.
#[derive(Debug, Default)]
pub(crate) struct Members {
    pub(crate) joined: Vec<Membership>,
    pub(crate) left: Vec<Membership>,
}

/// Clients are known now that collections of others may have named before.
pub(crate) async fn members_arrived(
    tx: &impl GenericClient,
    clients: &[Uuid],
) -> Result<Members, Error> {
    let joined = foreign::members_arrived(tx, clients).await?;
    if !joined.is_empty() {
        sites::raise_policy_revision(tx).await?;
    }
    let left = Vec::new();
    Ok(Members { joined, left })
}

/// Clients go: out of our collections, which change with it; in those of others they wait.
pub(crate) async fn members_left(
    tx: &impl GenericClient,
    clients: &[i32],
) -> Result<Members, Error> {
    let (left, ours) = foreign::members_left(tx, clients).await?;
    changed(tx, ObjectKind::Collection, &ours).await?;
    let joined = Vec::new();
    Ok(Members { joined, left })
}

/// As [`remember`], for members.
pub(crate) fn remember_members(turn: &Turn<'_>, members: &Members) {
    let by_collection = |memberships: &[Membership]| {
        let mut sorted: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for (collection_no, client_no) in memberships {
            sorted.entry(*collection_no).or_default().push(*client_no);
        }
        sorted
    };
    for (collection_no, clients) in by_collection(&members.joined) {
        turn.change_members(collection_no, &clients, &[]);
    }
    for (collection_no, clients) in by_collection(&members.left) {
        turn.change_members(collection_no, &[], &clients);
    }
}

/// Updates came that lists, packages and deployments of others named before. Returns the lists that
/// have more of them now.
pub(crate) async fn updates_arrived(
    tx: &impl GenericClient,
    updates: &[i32],
) -> Result<Vec<(Numbered, Vec<i32>)>, Error> {
    let (kinds, lists) = foreign::updates_arrived(tx, updates).await?;
    if kinds.contains(&(ObjectKind::Package as i16)) {
        packages::doubt_all_published(tx).await?;
    }
    if lists.is_empty() {
        return Ok(Vec::new());
    }
    foreign::lists(tx, &lists).await
}

/// Refuses what the neighbour may not tell us; returns what we hold of these objects.
async fn may_tell(
    tx: &impl GenericClient,
    own: SiteCode,
    peer: &Neighbour,
    objects: &BTreeMap<Key, Held>,
    keys: &[Key],
) -> Result<HashMap<Key, Held>, Error> {
    let scope = Scope::of(tx, own, peer).await?;
    for held in objects.values() {
        if held.key.0 == ObjectKind::ClientMove as i16 && !peer.is_parent {
            let message = format!("site {} wants to move a client", peer.code);
            return Err(Error::denied("FOREIGN_OBJECT", message));
        }
        let owner = held.owner.as_deref().unwrap_or_default();
        if !scope.has(owner) {
            let message = format!(
                "site {} sent {}, which site {owner} owns",
                peer.code,
                named(held.key)
            );
            return Err(Error::denied("FOREIGN_OBJECT", message));
        }
    }
    // Nobody takes over what somebody else owns: not ours, which may be in the tables of their kind
    // only, and not that of others.
    let before = objects::held(tx, keys).await?;
    let owners = before.iter().map(|held| (held.key, held.owner.clone()));
    for (key, owner) in owners.chain(foreign::owners(tx, keys).await?) {
        let says = objects.get(&key).and_then(|held| held.owner.as_deref());
        if says.is_some_and(|says| owner.as_deref() != Some(says)) {
            let owner = owner.unwrap_or_else(|| own.to_string());
            let message = format!(
                "site {} sent {} as if site {} owned it, and site {owner} does",
                peer.code,
                named(key),
                says.unwrap_or_default()
            );
            return Err(Error::denied("FOREIGN_OBJECT", message));
        }
    }
    Ok(before.into_iter().map(|held| (held.key, held)).collect())
}

fn named((kind, id): Key) -> String {
    let kind = match ObjectKind::try_from(i32::from(kind)) {
        Ok(ObjectKind::Collection) => "collection",
        Ok(ObjectKind::UpdateList) => "update list",
        Ok(ObjectKind::Package) => "package",
        Ok(ObjectKind::Deployment) => "deployment",
        Ok(ObjectKind::ClientMove) => "the move of client",
        Ok(ObjectKind::Unspecified) | Err(_) => "object",
    };
    format!("{kind} {id}")
}

/// An object from the wire whose key and owner are well formed.
fn checked(object: &pb::Object) -> Result<Held, Error> {
    let bad = |what| Error::invalid("INVALID_OBJECT", format!("an object has {what}"));
    let kind = match object.kind() {
        ObjectKind::Unspecified => return Err(bad("an unknown kind")),
        kind @ (ObjectKind::Collection
        | ObjectKind::UpdateList
        | ObjectKind::Package
        | ObjectKind::Deployment
        | ObjectKind::ClientMove) => kind,
    };
    let id = id(&object.object_id)?;
    let owner: SiteCode = object.owner_site_code.parse()?;
    Ok(Held {
        key: (kind as i16, id),
        owner: Some(owner.to_string()),
        deleted: object.deleted,
        definition: object.definition.clone(),
    })
}

fn id(bytes: &[u8]) -> Result<Uuid, Error> {
    let bad = |_| Error::invalid("INVALID_OBJECT", "an id must have 16 bytes");
    Uuid::from_slice(bytes).map_err(bad)
}

fn optional_id(bytes: &[u8]) -> Result<Option<Uuid>, Error> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        id(bytes).map(Some)
    }
}

/// What an object says, for the tables of its kind.
fn replica(held: &Held) -> Result<Replica, Error> {
    let owner = held.owner.clone().unwrap_or_default();
    let bytes = held.definition.clone();
    let replica = |name: &str, created_at: Option<prost_types::Timestamp>, of_kind| {
        Ok::<_, Error>(Replica {
            id: held.key.1,
            owner,
            name: cleaned(name.trim(), MAX_NAME),
            created_at: time("created_at", created_at.as_ref())?,
            of_kind,
        })
    };
    match ObjectKind::try_from(i32::from(held.key.0)) {
        Ok(ObjectKind::Collection) => {
            let it: pb::CollectionDefinition = decoded(bytes)?;
            let members = it.client_ids.iter().map(|bytes| id(bytes));
            let of_kind = OfKind::Collection {
                description: cleaned(&it.description, MAX_DESCRIPTION),
                members: members.collect::<Result<_, _>>()?,
            };
            replica(&it.name, it.created_at, of_kind)
        }
        Ok(ObjectKind::UpdateList) => {
            let it: pb::UpdateListDefinition = decoded(bytes)?;
            let of_kind = OfKind::UpdateList {
                description: cleaned(&it.description, MAX_DESCRIPTION),
                updates: crate::store::numbers(&it.update_numbers)?,
            };
            replica(&it.name, it.created_at, of_kind)
        }
        Ok(ObjectKind::Package) => {
            let it: pb::PackageDefinition = decoded(bytes)?;
            let of_kind = OfKind::Package {
                all_leaves: it.all_leaves,
                list: optional_id(&it.update_list_id)?,
                updates: crate::store::numbers(&it.update_numbers)?,
            };
            replica(&it.name, it.created_at, of_kind)
        }
        Ok(ObjectKind::Deployment) => {
            let it: pb::DeploymentDefinition = decoded(bytes)?;
            let available_at = time("available_at", it.available_at.as_ref())?;
            let verbosity = i32::try_from(it.verbosity).ok();
            let verbosity = verbosity.and_then(|number| Verbosity::try_from(number).ok());
            let of_kind = OfKind::Deployment {
                collection: id(&it.collection_id)?,
                list: optional_id(&it.update_list_id)?,
                updates: crate::store::numbers(&it.update_numbers)?,
                available_at: available_at.unwrap_or_else(Timestamp::now),
                deadline_at: time("deadline_at", it.deadline_at.as_ref())?,
                suppress_restart: it.suppress_restart,
                verbosity: verbosity.unwrap_or(Verbosity::All) as i16,
            };
            replica(&it.name, it.created_at, of_kind)
        }
        Ok(ObjectKind::Unspecified | ObjectKind::ClientMove) | Err(_) => Err(Error::invalid(
            "INVALID_OBJECT",
            "an object has an unknown kind",
        )),
    }
}

fn decoded<M: Message + Default>(bytes: Bytes) -> Result<M, Error> {
    let bad = |error| {
        Error::invalid(
            "INVALID_OBJECT",
            format!("a definition is unreadable: {error}"),
        )
    };
    M::decode(bytes).map_err(bad)
}

fn time(
    field: &'static str,
    time: Option<&prost_types::Timestamp>,
) -> Result<Option<Timestamp>, Error> {
    let read = time.map(|time| convert::from_timestamp(field, time));
    Ok(read.transpose()?)
}

#[cfg(test)]
mod tests;
