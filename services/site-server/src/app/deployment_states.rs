//! What clients say of deployments, in memory: read from the rows at the start, told of every
//! change after its commit. Reports ask here for counts, and for the clients behind them.

use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use muster_compliance::RoaringBitmap;

use super::{Error, Site, directory, matrix};
use crate::domain::deployment_states::{DeploymentStates, StateMoves};
use crate::store::{deployment_states as states, deployments};

/// Rows read at a time at the start.
const PAGE: i64 = 50_000;
/// Moves that are taken over before readers get their turn.
const TURN: usize = 10_000;

/// For a look: nothing awaits while it is held.
pub(crate) fn read(site: &Site) -> RwLockReadGuard<'_, DeploymentStates> {
    let states = site.deployment_states.read();
    states.unwrap_or_else(PoisonError::into_inner)
}

fn write(site: &Site) -> RwLockWriteGuard<'_, DeploymentStates> {
    let states = site.deployment_states.write();
    states.unwrap_or_else(PoisonError::into_inner)
}

/// Reads everything that clients said.
pub(crate) async fn load(site: &Site) -> Result<(), Error> {
    let started = Instant::now();
    let db = site.db().await?;
    let mut all = DeploymentStates::default();
    let mut after = (0, 0);
    loop {
        let rows = states::deployments_after(&db, after, PAGE).await?;
        let Some((client_no, deployment_no, _)) = rows.last() else {
            break;
        };
        after = (*client_no, *deployment_no);
        for (client_no, deployment_no, said) in rows {
            all.load_deployment(client_no, deployment_no, said);
        }
    }
    let mut after = (0, (0, 0));
    loop {
        let rows = states::updates_after(&db, after, PAGE).await?;
        let Some((client_no, key, _)) = rows.last() else {
            break;
        };
        after = (*client_no, *key);
        for (client_no, key, said) in rows {
            all.load_update(client_no, key, said);
        }
    }
    tracing::info!(
        bytes = all.bytes(),
        seconds = started.elapsed().as_secs_f64(),
        "states of deployments read"
    );
    *write(site) = all;
    Ok(())
}

/// Takes over what a batch committed. The caller holds the shards of its clients.
pub(crate) fn apply(site: &Site, moves: &StateMoves) {
    if moves.deployments.len() + moves.updates.len() <= TURN {
        // One look of a reader sees all of a batch, or nothing.
        return write(site).apply(moves);
    }
    for turn in moves.deployments.chunks(TURN) {
        write(site).apply(&StateMoves {
            deployments: turn.to_vec(),
            updates: Vec::new(),
        });
    }
    for turn in moves.updates.chunks(TURN) {
        write(site).apply(&StateMoves {
            deployments: Vec::new(),
            updates: turn.to_vec(),
        });
    }
}

/// Takes these clients over from their rows (moves from nothing), whatever is held of them.
pub(crate) fn replace(site: &Site, clients: &[i32], rows: &StateMoves) {
    let mut held = write(site);
    held.remove_clients(&RoaringBitmap::from_iter(
        clients.iter().map(|no| no.unsigned_abs()),
    ));
    held.apply(rows);
}

/// A client was deleted.
pub(crate) fn remove_client(site: &Site, client_no: i32) {
    write(site).remove_clients(&RoaringBitmap::from_iter([client_no.unsigned_abs()]));
}

/// A deployment was deleted, with the shards of all clients held.
pub(crate) fn remove_deployment(site: &Site, deployment_no: i32) {
    write(site).remove_deployment(deployment_no);
}

/// The clients that a deployment is for. The caller has no database connection in hand.
pub(crate) async fn members(site: &Site, deployment_no: i32) -> Result<RoaringBitmap, Error> {
    let collection_no = deployments::collection(&site.db().await?, deployment_no).await?;
    members_in(site, collection_no).await
}

/// As [`members`], of a deployment that is for this collection.
pub(crate) async fn members_in(site: &Site, collection_no: i32) -> Result<RoaringBitmap, Error> {
    let members = directory::members_of(site, collection_no).await?;
    let matrix = matrix::read(site);
    let all = matrix.clients();
    Ok(members.map_or_else(|| all.clone(), |members| &*members & all))
}
