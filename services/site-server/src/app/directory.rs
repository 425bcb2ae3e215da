//! What reports name, in memory: updates, update lists with their updates, collections and sites as
//! bitmaps of clients. So a report over the matrix asks the database nothing.
//!
//! The rows are the truth: they are read at the start, and whoever changes them tells it here after
//! the commit. Two changes must arrive here in the order of their commits, so a change has its
//! [`Turn`] from before its transaction on. When nobody knows whether a change was committed, the
//! next question reads the rows again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use muster_compliance::RoaringBitmap;
use muster_domain::UpdateNo;
use tokio::sync as turns;

use super::choose_clients::ByOwner;
use super::{Error, Site, manage_collections, manage_update_lists, matrix};
use crate::store::reports::Named;
use crate::store::{clients, collections, reports, update_lists};

/// See the top of this file.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    held: RwLock<Held>,
    turns: turns::RwLock<()>,
    doubtful: AtomicBool,
}

#[derive(Debug, Default)]
struct Held {
    updates: HashMap<UpdateNo, Arc<Named>>,
    update_numbers: HashMap<String, UpdateNo>,
    lists: ByName<Arc<[UpdateNo]>>,
    collections: ByName<Arc<RoaringBitmap>>,
    /// Clients of sites below.
    owners: ByOwner,
}

/// Things that people name: ours by their names, those of others as `CEN/name`. Only a name as it
/// is written finds one here: what else means the same (another case, an id, the plain name of
/// another site's thing) the database knows.
#[derive(Debug)]
struct ByName<T> {
    things: HashMap<i32, (String, T)>,
    numbers: HashMap<String, i32>,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self {
            things: HashMap::new(),
            numbers: HashMap::new(),
        }
    }
}

impl<T> ByName<T> {
    fn insert(&mut self, number: i32, name: String, thing: T) {
        self.remove(number);
        self.numbers.insert(name.clone(), number);
        self.things.insert(number, (name, thing));
    }

    fn remove(&mut self, number: i32) {
        if let Some((name, _)) = self.things.remove(&number)
            && self.numbers.get(&name) == Some(&number)
        {
            self.numbers.remove(&name);
        }
    }

    fn get(&self, number: i32) -> Option<&T> {
        self.things.get(&number).map(|(_, thing)| thing)
    }

    fn named(&self, name: &str) -> Option<&T> {
        self.get(*self.numbers.get(name)?)
    }
}

impl Directory {
    fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to change what reports name.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    directory: &'a Directory,
    in_doubt: bool,
    _alone: Alone<'a>,
}

#[derive(Debug)]
enum Alone<'a> {
    Yes(#[allow(dead_code)] turns::RwLockWriteGuard<'a, ()>),
    No(#[allow(dead_code)] turns::RwLockReadGuard<'a, ()>),
}

/// Waits until nobody else changes anything. Take a database connection afterwards, never before.
pub(crate) async fn turn(site: &Site) -> Turn<'_> {
    let directory = &site.directory;
    Turn {
        directory,
        in_doubt: false,
        _alone: Alone::Yes(directory.turns.write().await),
    }
}

/// As [`turn`], beside others: for adding a client, which nobody else can name yet.
pub(crate) async fn shared_turn(site: &Site) -> Turn<'_> {
    let directory = &site.directory;
    Turn {
        directory,
        in_doubt: false,
        _alone: Alone::No(directory.turns.read().await),
    }
}

impl Turn<'_> {
    /// Right before the commit: until [`Self::settle`], the rows are asked.
    pub(crate) fn doubt(&mut self) {
        self.in_doubt = true;
    }

    /// The change was committed, and memory has it.
    pub(crate) fn settle(mut self) {
        self.in_doubt = false;
    }

    /// Updates came, or are called something else.
    pub(crate) fn name_updates(&self, updates: Vec<Named>) {
        let mut held = self.directory.write();
        updates.into_iter().for_each(|named| held.name(named));
    }

    /// A list was made.
    pub(crate) fn add_list(&self, list_no: i32, name: &str, updates: &[i32]) {
        let mut held = self.directory.write();
        held.lists.insert(list_no, name.to_owned(), listed(updates));
    }

    /// A list was deleted.
    pub(crate) fn remove_list(&self, list_no: i32) {
        self.directory.write().lists.remove(list_no);
    }

    /// A collection was made.
    pub(crate) fn add_collection(&self, collection_no: i32, name: &str, members: &[i32]) {
        let members = Arc::new(bitmap(members));
        let mut held = self.directory.write();
        held.collections
            .insert(collection_no, name.to_owned(), members);
    }

    /// A collection was deleted.
    pub(crate) fn remove_collection(&self, collection_no: i32) {
        self.directory.write().collections.remove(collection_no);
    }

    /// Clients joined a collection, others left it. Who is in both left.
    pub(crate) fn change_members(&self, collection_no: i32, add: &[i32], remove: &[i32]) {
        let mut held = self.directory.write();
        if let Some((_, members)) = held.collections.things.get_mut(&collection_no) {
            let members = Arc::make_mut(members);
            *members |= bitmap(add);
            *members -= bitmap(remove);
        }
    }

    /// Clients of sites below came, or report to another site now.
    pub(crate) fn set_owners(&self, owners: &[(i32, String)]) {
        let owners = owners.iter().map(|(no, owner)| (*no, owner.as_str()));
        self.directory.write().owners.set(owners);
    }

    /// A client was deleted.
    pub(crate) fn remove_client(&self, client_no: i32) {
        let mut held = self.directory.write();
        held.owners.remove(client_no);
        for (_, members) in held.collections.things.values_mut() {
            if members.contains(client_no.unsigned_abs()) {
                Arc::make_mut(members).remove(client_no.unsigned_abs());
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.in_doubt {
            self.directory.doubtful.store(true, Ordering::Release);
        }
    }
}

impl Held {
    fn name(&mut self, named: Named) {
        let update_no = UpdateNo(named.update_no);
        let id = named.update_id.clone();
        if let Some(before) = self.updates.insert(update_no, Arc::new(named))
            && before.update_id != id
        {
            self.update_numbers.remove(&before.update_id);
        }
        self.update_numbers.insert(id, update_no);
    }
}

fn listed(updates: &[i32]) -> Arc<[UpdateNo]> {
    let mut updates: Vec<UpdateNo> = updates
        .iter()
        .map(|no| UpdateNo(no.unsigned_abs()))
        .collect();
    updates.sort_unstable();
    updates.into()
}

fn bitmap(clients: &[i32]) -> RoaringBitmap {
    clients.iter().map(|no| no.unsigned_abs()).collect()
}

/// Reads everything from the rows.
pub(crate) async fn load(site: &Site) -> Result<(), Error> {
    let turn = turn(site).await;
    load_in_turn(site, &turn).await
}

async fn load_in_turn(site: &Site, turn: &Turn<'_>) -> Result<(), Error> {
    let db = site.db().await?;
    let mut held = Held::default();
    for named in reports::all_named(&db).await? {
        held.name(named);
    }
    for (list_no, name, updates) in update_lists::all(&db).await? {
        held.lists.insert(list_no, name, listed(&updates));
    }
    for (collection_no, name, members) in collections::all(&db).await? {
        let members = Arc::new(bitmap(&members));
        held.collections.insert(collection_no, name, members);
    }
    let owners = clients::owners(&db).await?;
    let owners = owners.iter().map(|(no, owner)| (*no, owner.as_str()));
    held.owners.set(owners);
    tracing::info!(
        updates = held.updates.len(),
        lists = held.lists.things.len(),
        collections = held.collections.things.len(),
        "names read"
    );
    *turn.directory.write() = held;
    Ok(())
}

/// Reads the rows again if something is in doubt.
async fn settled(site: &Site) -> Result<(), Error> {
    let directory = &site.directory;
    if !directory.doubtful.load(Ordering::Acquire) {
        return Ok(());
    }
    let turn = turn(site).await;
    if directory.doubtful.load(Ordering::Acquire) {
        load_in_turn(site, &turn).await?;
        // Who enrolled in doubt is a client.
        matrix::add_clients(site, &clients::numbers(&site.db().await?).await?);
        directory.doubtful.store(false, Ordering::Release);
    }
    Ok(())
}

/// The updates of a list, ascending.
pub(crate) async fn update_list(site: &Site, name: &str) -> Result<Arc<[UpdateNo]>, Error> {
    settled(site).await?;
    if let Some(updates) = site.directory.read().lists.named(name.trim()) {
        return Ok(Arc::clone(updates));
    }
    let found = manage_update_lists::find(site, &site.db().await?, name).await?;
    let number = found.number;
    if let Some(updates) = site.directory.read().lists.get(number) {
        return Ok(Arc::clone(updates));
    }
    // Somebody else put it there.
    load(site).await?;
    let unknown = || Error::not_found("UNKNOWN_UPDATE_LIST", "the update list was deleted");
    let held = site.directory.read();
    held.lists.get(number).cloned().ok_or_else(unknown)
}

/// All lists with their updates.
pub(crate) fn lists(site: &Site) -> Vec<(i32, Arc<[UpdateNo]>)> {
    let held = site.directory.read();
    let lists = held.lists.things.iter();
    lists
        .map(|(number, (_, updates))| (*number, Arc::clone(updates)))
        .collect()
}

/// The clients of a collection; `None` is all.
pub(crate) async fn members(site: &Site, name: &str) -> Result<Option<Arc<RoaringBitmap>>, Error> {
    if name.trim().is_empty() {
        return Ok(None);
    }
    settled(site).await?;
    if let Some(members) = site.directory.read().collections.named(name.trim()) {
        return Ok(Some(Arc::clone(members)));
    }
    let found = manage_collections::find(site, &site.db().await?, name).await?;
    members_of(site, found.number).await
}

/// The clients of the collection with this number; `None` is all.
pub(crate) async fn members_of(
    site: &Site,
    collection_no: i32,
) -> Result<Option<Arc<RoaringBitmap>>, Error> {
    if collection_no == collections::ALL_SYSTEMS {
        return Ok(None);
    }
    settled(site).await?;
    if let Some(members) = site.directory.read().collections.get(collection_no) {
        return Ok(Some(Arc::clone(members)));
    }
    // Somebody else put it there.
    load(site).await?;
    let unknown = || Error::not_found("UNKNOWN_COLLECTION", "the collection was deleted");
    let held = site.directory.read();
    let members = held.collections.get(collection_no).cloned();
    members.map(Some).ok_or_else(unknown)
}

/// The clients that report to these sites, none of which is ours.
pub(crate) async fn owned_by(site: &Site, codes: &[String]) -> Result<RoaringBitmap, Error> {
    settled(site).await?;
    Ok(site.directory.read().owners.of(codes))
}

/// What updates are called, in their order; `None` for one that the site does not know.
pub(crate) fn named(site: &Site, updates: &[UpdateNo]) -> Vec<Option<Arc<Named>>> {
    let held = site.directory.read();
    let named = |update_no| held.updates.get(update_no).cloned();
    updates.iter().map(named).collect()
}

/// What one update is called, by its number.
pub(crate) fn update(site: &Site, update_no: u32) -> Result<Arc<Named>, Error> {
    let held = site.directory.read();
    let found = held.updates.get(&UpdateNo(update_no)).cloned();
    found.ok_or_else(|| {
        Error::not_found("UNKNOWN_UPDATE", format!("there is no update {update_no}"))
    })
}

/// The same by its id.
pub(crate) fn update_by_id(site: &Site, update_id: &str) -> Result<Arc<Named>, Error> {
    let held = site.directory.read();
    let number = held.update_numbers.get(update_id.trim());
    let found = number.and_then(|number| held.updates.get(number)).cloned();
    found.ok_or_else(|| {
        Error::not_found(
            "UNKNOWN_UPDATE",
            format!("there is no update {update_id:?}"),
        )
    })
}
