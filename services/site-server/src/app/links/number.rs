//! Makes numbered batches of what is dirty for a neighbour. Taking the marks off, and keeping the batch
//! until the neighbour's database has it, is one transaction.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use deadpool_postgres::Transaction;
use jiff::Timestamp;
use muster_proto::state::LeafNeed;
use muster_proto::{convert, link as pb};
use muster_runtime::faults;
use prost::Message;

use super::report::{OfClient, put_together};
use super::{Error, Neighbour, Site, clients, digests, objects, sites};
use crate::domain::changed::Changes;
use crate::domain::link::{self, Kind};
use crate::domain::link_rows;
use crate::store::compliance;
use crate::store::dirty_clients;
use crate::store::links::{self, Numbered};

/// Objects and sites in one batch at most.
const MAX_OBJECTS: usize = 500;
/// Packages of updates that clients need, in one batch at most.
const MAX_NEEDS: i64 = 5_000;
/// Clients in one batch at most, and those of whom everything is said.
const MAX_CLIENTS: usize = 4_000;
const MAX_FULL: usize = 3_000;
/// So many changed clients wait for no more: the largest batch that is recorded here fits in beside them.
const ENOUGH: usize = 2_000;
/// A batch of this length takes no further client, in bytes before compression.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Marks that one mark takes the place of, when the parent does not listen.
const MAX_MARKS: usize = 4_096;

/// What was taken out of memory and is not in a batch yet. Each part has marks of its own.
#[derive(Debug, Default)]
pub(super) struct InHand(VecDeque<Changes>);

impl InHand {
    pub(super) fn has_mark(&self, mark: i64) -> bool {
        self.0.iter().any(|part| part.marks.contains(&mark))
    }

    pub(super) fn clients(&self) -> usize {
        self.0.iter().map(|part| part.clients.len()).sum()
    }

    /// Gives everything back to memory, for a parent that has to begin anew or is another one.
    pub(super) fn put_back(&mut self, site: &Site) {
        for part in self.0.drain(..) {
            clients::put_back(site, part);
        }
    }

    /// Takes what changed out of memory. Too much for one batch gets marks for each part, so that a
    /// part is done with when its batch is.
    async fn refill(&mut self, site: &Site) -> Result<(), Error> {
        if !self.0.is_empty() {
            return Ok(());
        }
        let taken = clients::take(site);
        if taken.is_empty() {
            return Ok(());
        }
        let full = taken.clients.values().filter(|it| it.all).count();
        if taken.clients.len() <= MAX_CLIENTS && full <= MAX_FULL {
            self.0.push_back(taken);
            return Ok(());
        }
        match divide(site, &taken).await {
            Ok(parts) => {
                self.0 = parts;
                Ok(())
            }
            Err(error) => {
                clients::put_back(site, taken);
                Err(error)
            }
        }
    }
}

/// Divides what changed into parts that fit into a batch, each with one new mark.
async fn divide(site: &Site, taken: &Changes) -> Result<VecDeque<Changes>, Error> {
    let mut parts: Vec<BTreeMap<i32, _>> = vec![BTreeMap::new()];
    let mut full = 0;
    for (client_no, changed) in &taken.clients {
        let last = parts.last().map_or(0, BTreeMap::len);
        if last >= MAX_CLIENTS || (changed.all && full >= MAX_FULL) {
            parts.push(BTreeMap::new());
            full = 0;
        }
        full += usize::from(changed.all);
        if let Some(part) = parts.last_mut() {
            part.insert(*client_no, changed.clone());
        }
    }
    let marks: Vec<i64> = taken.marks.iter().copied().collect();
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    site.still_active(&tx).await?;
    let since = dirty_clients::replace(&tx, &marks).await?;
    let mut divided = VecDeque::new();
    for part in parts {
        let numbers: Vec<i32> = part.keys().copied().collect();
        let mark = dirty_clients::mark_since(&tx, &numbers, since).await?;
        let mut changes = Changes::default();
        changes.add(mark, part);
        divided.push_back(changes);
    }
    tx.commit().await?;
    Ok(divided)
}

/// While the parent does not listen: many marks become few, so that they grow with the number of
/// clients and not with time.
pub(super) async fn compact(site: &Site) -> Result<(), Error> {
    if clients::size(site).1 <= MAX_MARKS {
        return Ok(());
    }
    let taken = clients::take(site);
    match divide(site, &taken).await {
        Ok(parts) => {
            for part in parts {
                clients::put_back(site, part);
            }
            Ok(())
        }
        Err(error) => {
            clients::put_back(site, taken);
            Err(error)
        }
    }
}

/// A batch that is committed.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) outbound: muster_link::Outbound,
    pub(super) message: Bytes,
    /// Keys in it.
    pub(super) items: usize,
    /// It has clients only, and all that had changed.
    pub(super) is_all: bool,
}

/// Whether a batch is worth its transactions without waiting for more.
pub(super) fn is_enough(site: &Site, peer: Neighbour, in_hand: &InHand) -> bool {
    peer.is_parent && (!in_hand.0.is_empty() || clients::size(site).0 >= ENOUGH)
}

/// Makes the next batch for a neighbour; `None` when nothing is dirty. The outbound end that comes
/// back is what the database has.
pub(super) async fn number(
    site: &Site,
    peer: Neighbour,
    outbound: &muster_link::Outbound,
    in_hand: &mut InHand,
) -> Result<Option<Made>, Error> {
    if !outbound.has_room() {
        return Ok(None);
    }
    if peer.is_parent {
        in_hand.refill(site).await?;
    }
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    site.still_active(&tx).await?;
    let (mut body, mut items) = things(site, &tx, peer).await?;
    // What a report names is there before it.
    let room = items < MAX_OBJECTS;
    let (taken, rows) = if peer.is_parent && room {
        take_clients(site, &tx, in_hand, &mut body).await?
    } else {
        (Taken::Nothing, 0)
    };
    body.listings = digests::listings(&tx, peer).await?;
    let is_all = items == 0 && body.listings.is_empty();
    items += body.clients.len().max(body.reports.len() + rows) + body.listings.len();
    if items == 0 && matches!(taken, Taken::Nothing) {
        return Ok(None);
    }
    let mut made = keep(site, tx, peer, outbound, (body, items)).await?;
    if let Some(made) = &mut made {
        taken.done(in_hand);
        made.is_all = is_all && in_hand.0.is_empty();
    }
    Ok(made)
}

/// Makes a batch of digests, which nobody may number anything before.
pub(super) async fn compare(
    site: &Site,
    peer: Neighbour,
    outbound: &muster_link::Outbound,
    digests: pb::Digests,
) -> Result<Option<Made>, Error> {
    let body = pb::BatchBody {
        digests: Some(digests),
        ..pb::BatchBody::default()
    };
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    site.still_active(&tx).await?;
    keep(site, tx, peer, outbound, (body, 0)).await
}

/// Gives a batch its number and commits.
async fn keep(
    site: &Site,
    tx: Transaction<'_>,
    peer: Neighbour,
    outbound: &muster_link::Outbound,
    (body, items): (pb::BatchBody, usize),
) -> Result<Option<Made>, Error> {
    let mut next = outbound.clone();
    let packed = link::pack(body).map_err(|_| Error::Internal("a batch cannot be compressed"))?;
    let Some(head) = next.number(&packed) else {
        return Ok(None);
    };
    let mark = head.mark(&packed);
    let batch = pb::Batch {
        epoch: head.epoch,
        seq: head.seq,
        after: Bytes::copy_from_slice(&head.after.0),
        body: packed.into(),
        numbered_at: Some(convert::to_timestamp(Timestamp::now())),
    };
    let kind = Kind::Batch(batch);
    let message = link::seal(&site.policy_key, site.config.site_code, peer.code, kind);
    let numbered = Numbered {
        mark,
        message: &message,
        items,
    };
    links::keep_batch(&tx, peer.code, &numbered).await?;
    faults::point("link.before_number");
    tx.commit().await?;
    faults::point("link.after_number");
    let code = peer.code.to_string();
    metrics::counter!("muster_link_batches_total", "peer" => code.clone(), "direction" => "out")
        .increment(1);
    metrics::counter!("muster_link_items_total", "peer" => code, "direction" => "out")
        .increment(items as u64);
    Ok(Some(Made {
        outbound: next,
        message,
        items,
        is_all: false,
    }))
}

async fn things(
    site: &Site,
    tx: &Transaction<'_>,
    peer: Neighbour,
) -> Result<(pb::BatchBody, usize), Error> {
    let needs = if peer.is_parent {
        needs(tx).await?
    } else {
        Vec::new()
    };
    let body = pb::BatchBody {
        needs,
        sites: sites::take(site, tx, peer, MAX_OBJECTS).await?,
        objects: objects::take(site, tx, peer, MAX_OBJECTS).await?,
        ..pb::BatchBody::default()
    };
    let items = body.sites.len() + body.objects.len() + body.needs.len();
    Ok((body, items))
}

/// What clients need and the parent has not heard of, by update.
async fn needs(tx: &Transaction<'_>) -> Result<Vec<LeafNeed>, Error> {
    let mut by_update: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for (update_no, package) in compliance::tell_needs(tx, MAX_NEEDS).await? {
        by_update.entry(update_no).or_default().push(package);
    }
    let needs = by_update.into_iter().map(|(update_no, packages)| LeafNeed {
        update_no: update_no.unsigned_abs(),
        packages,
    });
    Ok(needs.collect())
}

/// What a batch has taken of what is in hand, for when it has committed.
#[derive(Debug)]
enum Taken {
    Nothing,
    /// The first part, whole.
    Part,
    /// Of the first part, the clients up to this one.
    UpTo(i32),
}

impl Taken {
    fn done(self, in_hand: &mut InHand) {
        match self {
            Self::Nothing => {}
            Self::Part => {
                in_hand.0.pop_front();
            }
            Self::UpTo(last) => {
                if let Some(part) = in_hand.0.front_mut() {
                    part.clients.retain(|client_no, _| *client_no > last);
                }
            }
        }
    }
}

/// Puts clients into a batch; answers what was taken, and how many of them are rows.
async fn take_clients(
    site: &Site,
    tx: &Transaction<'_>,
    in_hand: &InHand,
    body: &mut pb::BatchBody,
) -> Result<(Taken, usize), Error> {
    let Some(part) = in_hand.0.front() else {
        return Ok((Taken::Nothing, 0));
    };
    let (mut bytes, mut last, mut all) = (0, None, true);
    let mut rows = Vec::new();
    for (client_no, of_client) in put_together(site, tx, &part.clients).await? {
        if bytes >= MAX_BYTES {
            all = false;
            break;
        }
        let OfClient {
            record,
            row,
            reports,
        } = of_client;
        bytes += record.as_ref().map_or(0, Message::encoded_len);
        bytes += row.as_ref().map_or(0, |(_, row)| row.length());
        bytes += reports.iter().map(Vec::len).sum::<usize>();
        body.clients.extend(record);
        rows.extend(row);
        body.reports.extend(reports.into_iter().map(Bytes::from));
        last = Some(client_no);
    }
    body.rows = (!rows.is_empty()).then(|| link_rows::pack(&rows));
    if let (false, Some(last)) = (all, last) {
        // The marks stay until the last of their clients is in a batch.
        return Ok((Taken::UpTo(last), rows.len()));
    }
    let marks: Vec<i64> = part.marks.iter().copied().collect();
    dirty_clients::remove(tx, &marks).await?;
    Ok((Taken::Part, rows.len()))
}
