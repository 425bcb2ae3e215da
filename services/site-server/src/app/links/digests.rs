//! Comparing with a neighbour what it was told, and putting right what differs. The sender sums up some
//! buckets in each cycle; the receiver compares when it applies that batch, says which buckets differ, and
//! gets everything in them again, with a list of what there is.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use deadpool_postgres::{GenericClient, Transaction};
use muster_link::{BUCKETS, bucket};
use muster_proto::link as pb;
use muster_runtime::faults::{self, Control};
use tokio_postgres::IsolationLevel;
use uuid::Uuid;

use super::{Error, Neighbour, Site, client_digests, object_digests};
use crate::app::matrix;
use crate::domain::report::Refused;
use crate::store::dirty_clients::{self, Mark};
use crate::store::link_digests::{self as rows, Client};

/// A site with so many clients at most compares all of them in each cycle.
const SMALL: u64 = 1_000;
/// Clients that are sent again after one comparison: whole buckets up to here, or one bucket.
const MAX_REPAIRED: usize = 10_000;
/// Keys with changes under way; with more, nothing is compared in this cycle.
const MAX_DIRTY: i64 = 10_000;
/// Buckets that one batch lists.
const MAX_LISTED: i64 = 64;
/// Clients that one mark stands for.
const MARKED: usize = 200;

/// Buckets of which we have something else than the neighbour.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differing {
    pub(super) clients: Vec<u32>,
    pub(super) objects: Vec<u32>,
}

impl Differing {
    /// Also those of these clients.
    pub(super) fn add_clients(&mut self, clients: &[Uuid]) {
        let buckets = clients.iter().map(|id| number(bucket(id.as_bytes())));
        self.clients.extend(buckets);
        self.clients.sort_unstable();
        self.clients.dedup();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.objects.is_empty()
    }
}

/// How many buckets are compared in one cycle, so that all are in the time that is set.
pub(super) fn step(site: &Site) -> usize {
    if matrix::read(site).clients().len() <= SMALL {
        return BUCKETS;
    }
    let links = &site.config.links;
    let cycles = links.sweep.as_secs_f64() / links.cycle.as_secs_f64().max(0.001);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "1 to 1,024"
    )]
    let step = (BUCKETS as f64 / cycles.max(1.0)).ceil() as usize;
    step.clamp(1, BUCKETS)
}

/// Whether this site compares at all.
pub(super) fn compares() -> bool {
    !faults::without(Control::WithoutDigests)
}

fn numbers(buckets: &Range<usize>) -> Vec<i32> {
    let numbers = buckets.clone();
    numbers.filter_map(|it| i32::try_from(it).ok()).collect()
}

fn number(bucket: usize) -> u32 {
    u32::try_from(bucket).unwrap_or(u32::MAX)
}

fn wire(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

/// Over what the neighbour was sent, in these buckets. Nothing may be numbered until this is in a
/// batch. `None`: too much is under way.
pub(super) async fn sent(
    site: &Site,
    peer: Neighbour,
    buckets: &Range<usize>,
) -> Result<Option<pb::Digests>, Error> {
    let numbers = numbers(buckets);
    let mut db = site.db().await?;
    // One moment: what has changed by then, and what is marked for that.
    let tx = db
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    let (objects, without_objects) =
        object_digests::sent(&tx, site.config.site_code, &peer, buckets).await?;
    let mut digests = pb::Digests {
        first_bucket: number(buckets.start),
        objects: objects.within(buckets).to_vec(),
        without_objects,
        ..pb::Digests::default()
    };
    if peer.is_parent {
        let dirty = rows::dirty_clients(&tx, &numbers, MAX_DIRTY + 1).await?;
        if i64::try_from(dirty.len()).unwrap_or(i64::MAX) > MAX_DIRTY {
            return Ok(None);
        }
        let clients = clean(rows::clients(&tx, None, &numbers).await?, &dirty);
        let sums = client_digests::sum(site, &tx, &clients).await?;
        digests.clients = sums.within(buckets).to_vec();
        digests.without_clients = dirty.into_iter().map(wire).collect();
    }
    tx.commit().await?;
    Ok(Some(digests))
}

fn clean(mut clients: Vec<Client>, dirty: &[Uuid]) -> Vec<Client> {
    let dirty: std::collections::HashSet<&Uuid> = dirty.iter().collect();
    clients.retain(|(_, id)| !dirty.contains(id));
    clients
}

/// Compares with what we hold. In the transaction that applies the batch, so that it is the same
/// moment.
pub(super) async fn compare(
    site: &Site,
    tx: &Transaction<'_>,
    peer: Neighbour,
    theirs: &pb::Digests,
) -> Result<Result<Differing, Refused>, Error> {
    let first = usize::try_from(theirs.first_bucket).unwrap_or(usize::MAX);
    let none = || Refused::new("INVALID_DIGESTS", "there are not so many buckets");
    let buckets = |sums: &[u64]| {
        let end = first.checked_add(sums.len()).filter(|end| *end <= BUCKETS);
        end.map(|end| first..end)
    };
    let (Some(of_clients), Some(of_objects)) = (buckets(&theirs.clients), buckets(&theirs.objects))
    else {
        return Ok(Err(none()));
    };
    if peer.is_parent && !of_clients.is_empty() {
        let why = "a parent says nothing of clients";
        return Ok(Err(Refused::new("NOT_A_CHILD", why)));
    }
    let own = site.config.site_code;
    let ours = object_digests::received(tx, own, &peer, &theirs.without_objects, &of_objects);
    let Some(objects) = ours.await?.differing(first, &theirs.objects) else {
        return Ok(Err(none()));
    };
    let mut differing = Differing {
        clients: Vec::new(),
        objects: objects.into_iter().map(number).collect(),
    };
    if !of_clients.is_empty() && rows::is_unsettled(tx, peer.code).await? {
        // The next time round.
        tracing::debug!(peer.code = %peer.code, "clients are not compared while objects are under way");
    } else if !of_clients.is_empty() {
        let dirty = ids(&theirs.without_clients);
        let held = rows::clients(tx, Some(peer.code), &numbers(&of_clients)).await?;
        let held = clean(held, &dirty);
        let sums = client_digests::sum(site, tx, &held).await?;
        let Some(found) = sums.differing(first, &theirs.clients) else {
            return Ok(Err(none()));
        };
        differing.clients = found.into_iter().map(number).collect();
    }
    Ok(Ok(differing))
}

/// Writes down, with the batch that showed it, that something differs.
pub(super) async fn note(
    tx: &impl GenericClient,
    peer: Neighbour,
    differing: &Differing,
) -> Result<(), Error> {
    if differing.is_empty() {
        return Ok(());
    }
    let buckets = differing.clients.len() + differing.objects.len();
    rows::differed(tx, peer.code, buckets).await
}

fn ids(ids: &[Bytes]) -> Vec<Uuid> {
    let ids = ids.iter();
    ids.filter_map(|id| Uuid::from_slice(id).ok()).collect()
}

/// Tells people what differs, and makes memory and counters say what the rows of those clients say:
/// from there on, what comes again moves everything by the difference.
pub(super) async fn differs(
    site: &Site,
    peer: Neighbour,
    differing: &Differing,
) -> Result<(), Error> {
    if differing.is_empty() {
        return Ok(());
    }
    let code = peer.code.to_string();
    for (what, buckets) in [
        ("clients", differing.clients.len()),
        ("objects", differing.objects.len()),
    ] {
        metrics::counter!("muster_link_divergence_total", "peer" => code.clone(), "what" => what)
            .increment(buckets as u64);
    }
    tracing::warn!(peer.code = %peer.code, clients = differing.clients.len(),
                   objects = differing.objects.len(),
                   "buckets differ from the neighbour's and are sent again");
    if differing.clients.is_empty() {
        return Ok(());
    }
    let buckets = wanted(&differing.clients);
    let held = rows::clients(&site.db().await?, Some(peer.code), &buckets).await?;
    super::agree::agree(site, &within_bounds(held, &buckets).1).await
}

/// The buckets that there are, each once.
fn wanted(buckets: &[u32]) -> Vec<i32> {
    let mut buckets: Vec<i32> = buckets
        .iter()
        .filter_map(|it| i32::try_from(*it).ok())
        .filter(|it| usize::try_from(*it).is_ok_and(|it| it < BUCKETS))
        .collect();
    buckets.sort_unstable();
    buckets.dedup();
    buckets
}

/// As many of the buckets as are sent again at once, and the clients in them; others are found
/// again.
fn within_bounds(clients: Vec<Client>, buckets: &[i32]) -> (Vec<i32>, Vec<Client>) {
    let mut sorted: BTreeMap<i32, Vec<Client>> = BTreeMap::new();
    for (client_no, id) in clients {
        let at = i32::try_from(bucket(id.as_bytes())).unwrap_or(0);
        sorted.entry(at).or_default().push((client_no, id));
    }
    let (mut taken, mut picked) = (Vec::new(), Vec::new());
    for at in buckets {
        let held = sorted.remove(at).unwrap_or_default();
        if !taken.is_empty() && picked.len() + held.len() > MAX_REPAIRED {
            break;
        }
        taken.push(*at);
        picked.extend(held);
    }
    (taken, picked)
}

/// The neighbour has something else in these buckets: everything in them is sent again, and listed.
/// Returns the marks that nobody knows anything of yet, and the first of the buckets.
pub(super) async fn repair(
    site: &Site,
    peer: Neighbour,
    repair: &pb::Repair,
) -> Result<(Vec<Mark>, Option<usize>), Error> {
    let of_objects = wanted(&repair.object_buckets);
    let of_clients = if peer.is_parent {
        wanted(&repair.client_buckets)
    } else {
        Vec::new()
    };
    let held = rows::clients(&site.db().await?, None, &of_clients).await?;
    let (of_clients, clients) = within_bounds(held, &of_clients);
    if !of_clients.is_empty() {
        // The rows are what is sent: they count here, too.
        super::agree::agree(site, &clients).await?;
    }
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    site.still_active(&tx).await?;
    let mut marks = Vec::new();
    for part in clients.chunks(MARKED) {
        let numbers: Vec<i32> = part.iter().map(|(client_no, _)| *client_no).collect();
        let mark = dirty_clients::mark(&tx, &numbers).await?;
        marks.push((mark, numbers));
    }
    let objects: Vec<u32> = of_objects.iter().map(|it| it.unsigned_abs()).collect();
    object_digests::mark_buckets(&tx, &peer, &objects).await?;
    rows::keep_repairs(&tx, peer.code, true, &of_clients).await?;
    rows::keep_repairs(&tx, peer.code, false, &of_objects).await?;
    tx.commit().await?;
    tracing::warn!(peer.code = %peer.code, buckets = of_clients.len() + of_objects.len(),
                   clients = clients.len(),
                   "the neighbour holds something else in these buckets: they are sent again");
    let first = of_clients.iter().chain(&of_objects).min();
    Ok((marks, first.and_then(|it| usize::try_from(*it).ok())))
}

/// What there is in buckets that are sent again. Read after what else is in the batch: a client that
/// came a moment ago is in both.
pub(super) async fn listings(
    tx: &impl GenericClient,
    peer: Neighbour,
) -> Result<Vec<pb::BucketListing>, Error> {
    let buckets = rows::take_repairs(tx, peer.code, MAX_LISTED).await?;
    let mut listings = Vec::with_capacity(buckets.len());
    for (clients, bucket) in buckets {
        let ids = if clients {
            let held = rows::clients(tx, None, &[bucket]).await?;
            held.into_iter().map(|(_, id)| wire(id)).collect()
        } else {
            object_digests::listing(tx, &peer, bucket.unsigned_abs()).await?
        };
        listings.push(pb::BucketListing {
            clients,
            bucket: bucket.unsigned_abs(),
            ids,
        });
    }
    Ok(listings)
}

/// Clients that the child told us of and does not list.
pub(super) async fn unlisted(
    site: &Site,
    child: Neighbour,
    listings: &[pb::BucketListing],
) -> Result<Vec<Uuid>, Error> {
    let mut gone = Vec::new();
    if listings.iter().any(|it| it.clients) {
        let db = site.db().await?;
        for listing in listings.iter().filter(|it| it.clients) {
            let bucket = i32::try_from(listing.bucket).unwrap_or(-1);
            let listed = ids(&listing.ids);
            gone.extend(rows::unlisted_clients(&db, child.code, bucket, &listed).await?);
        }
    }
    if !gone.is_empty() {
        tracing::warn!(peer.code = %child.code, clients = gone.len(),
                       "the neighbour does not have these clients");
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_buckets_are_sent_again_as_fit_and_at_least_one() {
        let clients: Vec<Client> = (0..30_000_u128)
            .map(|n| (i32::try_from(n).unwrap(), Uuid::from_u128(n)))
            .collect();
        let all = wanted(&(0..2_000).chain(5..9).collect::<Vec<u32>>());
        assert_eq!(all.len(), BUCKETS);
        let (buckets, picked) = within_bounds(clients.clone(), &all);
        assert!((300..400).contains(&buckets.len()), "{}", buckets.len());
        assert!(picked.len() <= MAX_REPAIRED);
        let crowd: Vec<Client> = clients
            .iter()
            .map(|(no, _)| (*no, Uuid::from_u128(7)))
            .collect();
        let one = i32::try_from(bucket(Uuid::from_u128(7).as_bytes())).unwrap();
        let (buckets, picked) = within_bounds(crowd, &[one]);
        assert_eq!((buckets, picked.len()), (vec![one], 30_000));
    }
}
