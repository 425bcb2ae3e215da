//! The matrix in memory: read from the rows at the start, told of every change after its commit.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

use muster_compliance::{Arrivals, Change, ClientStates, Matrix, RoaringBitmap};
use muster_domain::UpdateNo;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Error, Site};
use crate::domain::settle::{Held, Settled};
use crate::store::{catalog, clients, compliance};

/// Clients read at a time at the start.
const PAGE: i64 = 5_000;
/// Cells that are taken over before readers get their turn: a tenth of a millisecond.
const TURN: usize = 64;
/// Cells of clients' first rows that wait for each other, as long as nobody looks: some
/// milliseconds of work, and enough for a dozen to meet in each bitmap.
const TOGETHER: usize = 400_000;

/// For a look, at all that is committed: nothing awaits while it is held.
pub(crate) fn read(site: &Site) -> RwLockReadGuard<'_, Matrix> {
    welcome(site);
    site.matrix.read()
}

/// For who looks at clients whose first rows are in, as after [`welcome`], or at none.
pub(crate) fn look(site: &Site) -> RwLockReadGuard<'_, Matrix> {
    site.matrix.read()
}

/// Brings in the first rows that wait. They are sorted before anybody has to wait for the matrix.
pub(crate) fn welcome(site: &Site) {
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
    site.matrix.write()
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
    take_over(&site.matrix, &settled.changed);
}

/// A batch can be some thousand cells, each a few looks into memory that no cache holds: who asks
/// meanwhile gets in after the next [`TURN`], and finds each client with all or nothing of it. A
/// lock that does not hand itself over would be ours again before the one who waits is awake.
fn take_over(matrix: &RwLock<Matrix>, changed: &[(i32, i64, Vec<Change>)]) {
    let mut held = matrix.write();
    let mut cells = 0;
    for (client_no, generation, changes) in changed {
        if cells >= TURN {
            RwLockWriteGuard::bump(&mut held);
            cells = 0;
        }
        held.apply(client_no.unsigned_abs(), *generation, changes);
        cells += changes.len() + 1;
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

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use muster_domain::states::Detection;

    use super::*;

    const CLIENTS: u32 = 20_000;
    const CHANGES: u32 = 5;

    /// Everybody says the same of the same updates.
    fn batch(from: Detection, to: Detection) -> Vec<(i32, i64, Vec<Change>)> {
        let change = |number| Change {
            update_no: UpdateNo(number),
            from,
            to,
        };
        let changes: Vec<Change> = (1..=CHANGES).map(change).collect();
        let clients = (1..).take(CLIENTS as usize);
        clients.map(|no| (no, 1, changes.clone())).collect()
    }

    #[test]
    fn who_asks_during_a_large_batch_gets_in_and_finds_each_client_whole() {
        let matrix = RwLock::new(Matrix::new());
        let required = batch(Detection::NotRequired, Detection::Required);
        let installed = batch(Detection::Required, Detection::Installed);
        take_over(&matrix, &installed);
        for _ in 0..100 {
            take_over(&matrix, &required);
            let begin = Barrier::new(2);
            let partly = std::thread::scope(|scope| {
                scope.spawn(|| {
                    begin.wait();
                    take_over(&matrix, &installed);
                });
                begin.wait();
                let mut partly = 0;
                loop {
                    let held = matrix.read();
                    let done: Vec<u32> = (1..=CHANGES)
                        .map(|number| held.counts(UpdateNo(number), None).installed)
                        .collect();
                    assert!(done.iter().all(|of_one| *of_one == done[0]), "{done:?}");
                    match done[0] {
                        0 => {}
                        CLIENTS => return partly,
                        _ => partly += 1,
                    }
                }
            });
            if partly > 0 {
                return;
            }
        }
        panic!("nobody got in before a batch was over");
    }
}
