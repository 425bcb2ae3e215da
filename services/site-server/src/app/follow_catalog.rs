//! Takes over what is new at the software update point.

use std::sync::PoisonError;

use muster_proto::catalog as pb;

use super::links::objects;
use super::{Error, Site, directory, matrix};
use crate::store::{catalog, compliance, reports, sites};

const ROLE: &str = "software update point";

/// Brings the site's updates to the generation that is in force at the software update point.
/// Updates come in batches, each in a transaction of its own; the generation is noted with the
/// last one, so an interrupted run starts again where the last complete one ended.
pub(crate) async fn follow_catalog(site: &Site) -> Result<(), Error> {
    let mut db = site.db().await?;
    let held = sites::catalog_generation(&db).await?;
    let mut client = site.catalog();
    let request = pb::GetGenerationRequest {};
    let offered = client
        .get_generation(request)
        .await
        .map_err(Error::service(ROLE))?
        .into_inner();
    if i64::try_from(offered.generation).unwrap_or(i64::MAX) <= held {
        return Ok(());
    }
    let request = pb::StreamUpdatesRequest {
        after_generation: held.unsigned_abs(),
    };
    let mut stream = client
        .stream_updates(request)
        .await
        .map_err(Error::service(ROLE))?
        .into_inner();
    let mut count = 0;
    let mut reached = 0;
    while let Some(message) = stream.message().await.map_err(Error::service(ROLE))? {
        reached = reached.max(message.generation_reached);
        count += message.updates.len();
        let mut turn = directory::turn(site).await;
        let tx = db.transaction().await?;
        catalog::keep(&tx, &message.updates).await?;
        let numbers: Vec<u32> = message
            .updates
            .iter()
            .map(|update| update.update_no)
            .collect();
        let numbers = crate::store::numbers(&numbers)?;
        let grown = objects::updates_arrived(&tx, &numbers).await?;
        if catalog::any_deployed(&tx, &numbers).await? {
            sites::raise_policy_revision(&tx).await?;
        }
        let came = catalog::first_generations_of(&tx, &numbers).await?;
        let named = reports::named(&tx, &numbers).await?;
        turn.doubt();
        tx.commit().await?;
        matrix::register_updates(site, &came);
        turn.name_updates(named);
        for (list, updates) in grown {
            turn.add_list(list.number, &list.label(), &updates);
        }
        turn.settle();
    }
    // A stream that ended without saying how far it went was cut off.
    let reached = i64::try_from(reached).unwrap_or(0);
    if reached <= held {
        let cut = tonic::Status::unavailable("the stream of updates ended before its end");
        return Err(Error::service(ROLE)(cut));
    }
    sites::set_catalog_generation(&db, reached).await?;
    if compliance::forget_false_needs(&db).await? > 0 {
        let mut known = site
            .known_needs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.clear();
    }
    metrics::gauge!("muster_catalog_generation")
        .set(f64::from(u32::try_from(reached).unwrap_or(0)));
    tracing::info!(updates = count, generation = reached, "catalog taken over");
    site.content_wanted.notify_one();
    Ok(())
}
