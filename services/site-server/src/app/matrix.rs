//! The matrix in memory: read from the rows at the start, told of every change after its commit.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use muster_compliance::{Arrivals, ClientStates, Matrix, RoaringBitmap};
use muster_domain::UpdateNo;

use super::{Error, Site};
use crate::domain::settle::{Held, Settled};
use crate::store::{catalog, clients, compliance};

/// Clients read at a time at the start.
const PAGE: i64 = 5_000;
/// Cells that are taken over before readers get their turn.
const TURN: usize = 100_000;
/// Cells of clients' first rows that wait for each other, as long as nobody looks: some
/// milliseconds of work, and enough for a dozen to meet in each bitmap.
const TOGETHER: usize = 400_000;

/// For a look, at all that is committed: nothing awaits while it is held.
pub(crate) fn read(site: &Site) -> RwLockReadGuard<'_, Matrix> {
    welcome(site);
    site.matrix.read().unwrap_or_else(PoisonError::into_inner)
}

/// For who looks at no client.
pub(crate) fn read_none(site: &Site) -> RwLockReadGuard<'_, Matrix> {
    site.matrix.read().unwrap_or_else(PoisonError::into_inner)
}

/// Brings in the first rows that wait. They are sorted before anybody has to wait for the matrix.
fn welcome(site: &Site) {
    let mut waiting = arrivals(site);
    if !waiting.is_empty() {
        let mut arrived = std::mem::take(&mut *waiting);
        arrived.sort();
        // Still with the others waiting outside: whatever follows finds these clients.
        write(site).welcome(arrived);
    }
}

fn arrivals(site: &Site) -> MutexGuard<'_, Arrivals> {
    site.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write(site: &Site) -> RwLockWriteGuard<'_, Matrix> {
    site.matrix.write().unwrap_or_else(PoisonError::into_inner)
}

/// Reads everything that clients said, and the updates and clients there are.
pub(crate) async fn load(site: &Site) -> Result<(), Error> {
    let started = Instant::now();
    let db = site.db().await?;
    let mut matrix = Matrix::new();
    for (update_no, generation) in catalog::first_generations(&db).await? {
        matrix.register_update(UpdateNo(update_no.unsigned_abs()), generation);
    }
    for client_no in clients::numbers(&db).await? {
        matrix.add_client(client_no.unsigned_abs());
    }
    let mut after = 0;
    loop {
        let rows = compliance::load_after(&db, after, PAGE).await?;
        let Some((last, _)) = rows.last_key_value() else {
            break;
        };
        after = *last;
        matrix.load_all(columns(&rows));
    }
    tracing::info!(
        clients = matrix.clients().len(),
        updates = matrix.updates(),
        bytes = matrix.bytes(),
        seconds = started.elapsed().as_secs_f64(),
        "matrix read"
    );
    *write(site) = matrix;
    Ok(())
}

fn columns(rows: &BTreeMap<i32, Held>) -> impl Iterator<Item = (u32, i64, &ClientStates)> {
    rows.iter()
        .map(|(no, held)| (no.unsigned_abs(), held.catalog_generation, &held.states))
}

/// Takes over what a batch committed. The caller holds the shards of its clients.
pub(crate) fn apply(site: &Site, settled: &Settled) {
    if !settled.first.is_empty() {
        let mut waiting = arrivals(site);
        for at in &settled.first {
            let (client_no, held) = &settled.rows[*at];
            let generation = held.catalog_generation;
            waiting.add(client_no.unsigned_abs(), generation, &held.states);
        }
        let enough = waiting.cells() >= TOGETHER;
        drop(waiting);
        if enough {
            welcome(site);
        }
    }
    if !settled.changed.is_empty() {
        welcome(site);
    }
    for turn in settled
        .changed
        .chunk_by(turns(|changed: &(_, _, Vec<_>)| changed.2.len()))
    {
        let mut matrix = write(site);
        for (client_no, generation, changes) in turn {
            matrix.apply(client_no.unsigned_abs(), *generation, changes);
        }
    }
}

/// Cuts a sequence where [`TURN`] cells have come together.
fn turns<T>(cells: impl Fn(&T) -> usize) -> impl FnMut(&T, &T) -> bool {
    let mut sum = 0;
    move |one, _| {
        sum += cells(one) + 1;
        let same = sum < TURN;
        if !same {
            sum = 0;
        }
        same
    }
}

/// Takes these clients over from the rows, whatever the matrix has of them.
pub(crate) fn replace(site: &Site, clients: &[i32], rows: &BTreeMap<i32, Held>, known: &[i32]) {
    welcome(site);
    let mut matrix = write(site);
    matrix.remove_clients(&RoaringBitmap::from_iter(
        clients.iter().map(|no| no.unsigned_abs()),
    ));
    for client_no in known {
        matrix.add_client(client_no.unsigned_abs());
    }
    matrix.load_all(columns(rows));
}

/// Clients enrolled, or may have.
pub(crate) fn add_clients(site: &Site, clients: &[i32]) {
    let mut matrix = write(site);
    for client_no in clients {
        matrix.add_client(client_no.unsigned_abs());
    }
}

/// A client was deleted.
pub(crate) fn remove_client(site: &Site, client_no: i32) {
    welcome(site);
    write(site).remove_clients(&RoaringBitmap::from_iter([client_no.unsigned_abs()]));
}

/// Updates came or changed: number and the generation in which each came.
pub(crate) fn register_updates(site: &Site, updates: &[(i32, i64)]) {
    let mut matrix = write(site);
    for (update_no, generation) in updates {
        matrix.register_update(UpdateNo(update_no.unsigned_abs()), *generation);
    }
}
