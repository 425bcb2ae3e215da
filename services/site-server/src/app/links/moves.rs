//! Clients that become another site's, as the links of the sites above both see it. The decision of the
//! central site says whose word counts: until the new site has the client, that of the old one, and from
//! then on nothing that the old one said or still says. Nobody else moves a client: a child that speaks of
//! one that came another way, and of which nothing was decided, is refused (S-07).

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::Transaction;
use muster_domain::SiteCode;
use prost::Message;
use uuid::Uuid;

use super::{Error, objects};
use crate::store::client_moves::{self, Move};
use crate::store::replicas::{Held, Replica};

/// What a batch says of clients that are or were moved.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// Their new site has them, and it is below this child: until now they came by another one.
    pub(super) arriving: Vec<Uuid>,
    /// What the child says of them is past.
    pub(super) stale: BTreeSet<Uuid>,
    /// Their new site has them, which those below are to hear.
    arrived: Vec<Move>,
}

/// Looks for moves of the clients that a child names, by what is held of them.
pub(super) async fn sort(
    tx: &Transaction<'_>,
    child: SiteCode,
    replicas: &[Replica],
    held: &BTreeMap<Uuid, Held>,
) -> Result<Sorted, Error> {
    // One that was ours itself and is not any more may come back by a child.
    let foreign =
        |it: &Held| it.via.as_deref() != Some(child.as_str()) && (it.via.is_some() || it.deleted);
    let by_move: BTreeMap<Uuid, &Replica> = replicas
        .iter()
        .filter(|it| it.move_no > 0 && !it.deleted)
        .map(|it| (it.client_id, it))
        .collect();
    let others = held.iter().filter(|(_, it)| foreign(it));
    let others: BTreeSet<Uuid> = others.map(|(id, _)| *id).collect();
    let ask: BTreeSet<Uuid> = others.iter().chain(by_move.keys()).copied().collect();
    let ask: Vec<Uuid> = ask.into_iter().collect();
    let mut sorted = Sorted::default();
    for (id, it) in client_moves::of(tx, &ask).await? {
        let came = by_move.get(&id).is_some_and(|replica| {
            replica.move_no.unsigned_abs() == it.definition.move_no
                && replica.owner == it.definition.to_site_code
        });
        match (others.contains(&id), came) {
            (true, true) => sorted.arriving.push(id),
            (true, false) => {
                sorted.stale.insert(id);
            }
            (false, _) => {}
        }
        if came && it.ours && !it.definition.arrived {
            sorted.arrived.push(it);
        }
    }
    Ok(sorted)
}

/// Takes over the clients that come by this child from now on, and says where that was decided that they
/// are there. What the child calls those that it had before stays known, as it may go on for a while.
pub(super) async fn take_over(
    tx: &Transaction<'_>,
    child: SiteCode,
    sorted: &Sorted,
    replicas: &[Replica],
) -> Result<(), Error> {
    let stale = replicas
        .iter()
        .filter(|it| sorted.stale.contains(&it.client_id));
    let stale: Vec<(i32, Uuid)> = stale
        .filter(|it| !it.deleted)
        .map(|it| (it.number, it.client_id))
        .collect();
    if !stale.is_empty() {
        client_moves::name(tx, child, &stale).await?;
    }
    if !sorted.arriving.is_empty() {
        client_moves::take_over(tx, child, &sorted.arriving).await?;
        let count = sorted.arriving.len();
        tracing::info!(audit = true, child = %child, count, "clients come by another child now");
    }
    let mut told = Vec::new();
    for it in &sorted.arrived {
        let mut definition = it.definition.clone();
        definition.arrived = true;
        client_moves::keep(tx, it.client_id, &definition.encode_to_vec(), None).await?;
        told.push(it.client_id);
    }
    objects::client_moved(tx, &told).await
}
