//! Makes memory and counters say what the rows say, for clients whose rows somebody else has changed:
//! by hand, or a disk. Everything else here moves both by the difference, which is right only as long
//! as they agree.

use std::collections::{BTreeMap, HashSet};

use deadpool_postgres::GenericClient;
use muster_compliance::RoaringBitmap;
use uuid::Uuid;

use super::{Error, Site};
use crate::app::{deployment_states, matrix};
use crate::domain::deployment_states::StateMoves;
use crate::store::link_digests::Client;
use crate::store::{clients, compliance, deployment_states as said};

/// Clients whose rows are in memory at a time.
const AT_ONCE: usize = 500;

/// Compares the counters with memory: at the start, when that comes from the rows, and now and then.
pub(crate) async fn check(site: &Site) -> Result<(), Error> {
    agree(site, &[]).await
}

/// Takes these clients over from their rows, and sets the counters to what is then in memory. No
/// report is recorded meanwhile.
pub(super) async fn agree(site: &Site, of: &[Client]) -> Result<(), Error> {
    let mut known = site.known_clients.lock_all().await;
    let _alone = site.summing.lock().await;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    site.still_active(&tx).await?;
    // Memory may not have what was committed of these.
    let mut numbers = known.doubtful();
    numbers.extend(of.iter().map(|(client_no, _)| *client_no));
    let here = clients::numbers(&tx).await?;
    let present = RoaringBitmap::from_iter(here.iter().map(|no| no.unsigned_abs()));
    let (gone, new) = {
        let matrix = matrix::read(site);
        (matrix.clients() - &present, &present - matrix.clients())
    };
    let signed = |clients: &RoaringBitmap| clients.iter().map(u32::cast_signed).collect();
    let gone: Vec<i32> = signed(&gone);
    numbers.extend(signed(&new) as Vec<i32>);
    // Rows of clients that there are not any more have nobody to belong to.
    compliance::forget(&tx, &gone).await?;
    said::remove_clients(&tx, &gone).await?;
    matrix::replace(site, &gone, &BTreeMap::new(), &[]);
    deployment_states::replace(site, &gone, &StateMoves::default());
    for part in numbers.chunks(AT_ONCE) {
        take_over(site, &tx, part).await?;
    }
    let ids: HashSet<Uuid> = of.iter().map(|(_, id)| *id).collect();
    known.forget_those(&ids);
    known.settle_doubts();
    let updates = matrix::read(site).per_update();
    let states = deployment_states::read(site).counters();
    compliance::sum_up(&tx).await?;
    let off = compliance::set_counters(&tx, &updates, &states).await?;
    tx.commit().await?;
    if off > 0 {
        tracing::warn!(counters = off, "counters were not what the rows say");
    }
    Ok(())
}

async fn take_over(site: &Site, db: &impl GenericClient, part: &[i32]) -> Result<(), Error> {
    let rows = compliance::load(db, part).await?;
    let known = clients::not_deleted(db, part).await?;
    matrix::replace(site, part, &rows, &known);
    let rows = said::of_clients(db, part).await?;
    deployment_states::replace(site, part, &rows);
    Ok(())
}
