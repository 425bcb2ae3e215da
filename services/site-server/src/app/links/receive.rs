//! Applies a batch of a neighbour, and keeps how far that is, in one transaction.

use jiff::Timestamp;
use muster_link::Mark;
use muster_proto::{convert, link as pb};
use muster_runtime::faults;

use super::digests::{self, Differing};
use super::object_digests::remove_unlisted;
use super::record::{self, OfClients};
use super::{Error, Neighbour, Site, objects, sites};
use crate::app::{choose_clients, directory};
use crate::domain::link;
use crate::domain::report::{Refused, read_needs};
use crate::store::{compliance, links, quarantine};

/// Applies a batch that follows `held`; afterwards the database is at `mark`. Answers how many keys were
/// in it, when it was numbered, and what differs from what the neighbour holds, if the batch showed
/// that. The inner error refuses the batch, and nothing of it was applied.
pub(super) async fn apply(
    site: &Site,
    peer: Neighbour,
    batch: &pb::Batch,
    held: Mark,
    mark: Mark,
) -> Result<Result<Arrived, Refused>, Error> {
    let mut opened = match open(peer, batch) {
        Ok(opened) => opened,
        Err(refused) => return Ok(Err(refused)),
    };
    if let Err(refused) = opened.clients.resolve(site, peer.code).await? {
        return Ok(Err(refused));
    }
    let applied = apply_opened(site, peer, opened, (held, mark)).await;
    match applied {
        Err(error) if error.is_data_error() => {
            let text = muster_runtime::status::chain(&error);
            Ok(Err(Refused::new("REFUSED_BY_DATABASE", text)))
        }
        Ok(Ok(arrived)) => {
            digests::differs(site, peer, &arrived.differing).await?;
            Ok(Ok(arrived))
        }
        other => other,
    }
}

/// A batch that was applied.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) items: usize,
    pub(super) numbered_at: Timestamp,
    /// What differs from what the neighbour holds.
    pub(super) differing: Differing,
}

struct Opened {
    body: pb::BatchBody,
    clients: OfClients,
    needs: Vec<(i32, String)>,
    arrived: Arrived,
}

fn open(peer: Neighbour, batch: &pb::Batch) -> Result<Opened, Refused> {
    let body = link::unpack(&batch.body)?;
    let now = Timestamp::now();
    let numbered_at = batch.numbered_at.as_ref();
    let numbered_at = numbered_at.and_then(|at| convert::from_timestamp("numbered_at", at).ok());
    let numbered_at = numbered_at.unwrap_or(now).min(now);
    let clients = OfClients::read(&body, numbered_at)?;
    let lists_clients = body.listings.iter().any(|it| it.clients);
    let about_clients = !clients.is_empty() || !body.needs.is_empty() || lists_clients;
    if peer.is_parent && about_clients {
        let why = "a parent says nothing of clients";
        return Err(Refused::new("NOT_A_CHILD", why));
    }
    let needs = read_needs(&body.needs)?;
    let items = body.needs.len() + body.sites.len() + body.objects.len() + clients.len();
    Ok(Opened {
        body,
        clients,
        needs,
        arrived: Arrived {
            items,
            numbered_at,
            differing: Differing::default(),
        },
    })
}

async fn apply_opened(
    site: &Site,
    peer: Neighbour,
    opened: Opened,
    (held, mark): (Mark, Mark),
) -> Result<Result<Arrived, Refused>, Error> {
    let Opened {
        body,
        mut clients,
        needs,
        mut arrived,
    } = opened;
    // Nobody but us knows clients by this child: they stay as they are until the batch is applied.
    let unlisted = digests::unlisted(site, peer, &body.listings).await?;
    clients.delete(peer.code, unlisted);
    let ids = clients.ids();
    let lists_objects = body.listings.iter().any(|it| !it.clients);
    let about_objects = lists_objects || !body.objects.is_empty();
    // Shards, then the turn, then a connection: as everybody else.
    let mut known = if lists_objects || objects::deletes_deployments(&body.objects) {
        site.known_clients.lock_all().await
    } else {
        site.known_clients.lock(ids.iter().copied()).await
    };
    let mut turn = if clients.names_clients() || about_objects {
        Some(directory::turn(site).await)
    } else {
        None
    };
    // Whatever becomes of the commit: a name may mean another deployment from then on.
    let _names = about_objects.then(|| site.known_deployments.forget_at_end());
    let _sites = (!body.sites.is_empty()).then(|| choose_clients::changing(site));
    crate::app::record_states::prepare(site, &mut known, &ids).await?;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    site.still_active(&tx).await?;
    if !links::applied(&tx, peer.code, held, mark).await? {
        return Err(Error::Internal(
            "the link is elsewhere than this process thinks",
        ));
    }
    let mut differing = match &body.digests {
        Some(theirs) => match digests::compare(site, &tx, peer, theirs).await? {
            Ok(differing) => differing,
            Err(refused) => return Ok(Err(refused)),
        },
        None => Differing::default(),
    };
    if let Err(refused) = sites::apply(site, &tx, peer, &body.sites).await? {
        return Ok(Err(refused));
    }
    let mut objects = match objects::apply(site, &tx, peer, &body.objects).await? {
        Ok(objects) => vec![objects],
        Err(refused) => return Ok(Err(refused)),
    };
    let clients = if clients.is_empty() {
        None
    } else {
        match record::apply(site, &tx, &known, peer.code, clients).await? {
            Ok(done) => Some(done),
            Err(refused) => return Ok(Err(refused)),
        }
    };
    let needs: Vec<&(i32, String)> = needs.iter().collect();
    let needs = compliance::add_needs(&tx, &needs).await?;
    for listing in body.listings.iter().filter(|it| !it.clients) {
        let removed = remove_unlisted(&tx, &peer, listing.bucket, &listing.ids);
        objects.push(removed.await?);
    }
    if let Some(done) = &clients {
        differing.add_clients(&done.missing);
        done.doubt(&mut known);
    }
    digests::note(&tx, peer, &differing).await?;
    if let Some(turn) = &mut turn {
        turn.doubt();
    }
    faults::point("link.before_apply");
    tx.commit().await?;
    faults::point("link.after_apply");
    if let Some(done) = clients {
        done.remember(site, &mut known, turn.as_ref());
    }
    if let Some(turn) = turn {
        for applied in &objects {
            objects::remember(site, &turn, applied);
        }
        turn.settle();
    }
    crate::app::record_states::remember_needs(site, needs);
    super::wake(site);
    if body.sites.iter().any(|it| it.gone) {
        site.site_gone.notify_one();
    }
    let code = peer.code.to_string();
    metrics::counter!("muster_link_batches_total", "peer" => code.clone(), "direction" => "in")
        .increment(1);
    metrics::counter!("muster_link_items_total", "peer" => code, "direction" => "in")
        .increment(arrived.items as u64);
    arrived.differing = differing;
    Ok(Ok(arrived))
}

/// Keeps a message that cannot be applied for people to look at.
pub(super) async fn keep_aside(
    site: &Site,
    origin: &str,
    refused: &Refused,
    bytes: &[u8],
) -> Result<(), Error> {
    tracing::warn!(
        origin,
        reason = refused.reason,
        detail = refused.detail,
        "message of a link quarantined"
    );
    metrics::counter!("muster_link_refused_total", "reason" => refused.reason).increment(1);
    let aside = quarantine::Aside {
        origin,
        reason: &crate::app::record_states::reason(refused),
        body: bytes,
        whole_batch: true,
        // Nothing in it may ever be taken for reports of clients.
        trusted: false,
        client_id: None,
    };
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    site.still_active(&tx).await?;
    if !quarantine::keep(&tx, &aside).await? {
        metrics::counter!("muster_state_quarantine_overflow_total").increment(1);
    }
    Ok(tx.commit().await?)
}
