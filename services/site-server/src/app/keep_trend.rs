//! Remembers from time to time what reports say, and tells it.
//!
//! A snapshot belongs to a period (the hour it is taken in) and commits as a whole: taken twice, or
//! by the process that takes over, it is the first one that stays.

use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use muster_domain::states::DeploymentEnforcement;
use muster_proto::convert;
use muster_proto::report as pb;

use super::{
    Error, Site, deployment_states, directory, manage_deployments, manage_update_lists, matrix,
};
use crate::store::trend::{self, ListNow, SiteNow, Span};
use crate::store::{deployments, sites};

/// Most points that one answer has.
const MAX_POINTS: i64 = 10_000;
/// What is shown when no beginning is named.
const USUAL: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Takes the snapshot of the present period, if it was not taken yet.
pub(crate) async fn keep_trend(site: &Site, now: Timestamp) -> Result<(), Error> {
    let every = seconds(site.config.trend.interval);
    let period = now.as_second().div_euclid(every) * every;
    if site.last_snapshot.load(Ordering::Relaxed) == period {
        return Ok(());
    }
    let at = Timestamp::from_second(period).map_err(|_| Error::Internal("no such time"))?;
    if !trend::is_taken(&site.db().await?, at).await? {
        let lists = lists_now(site);
        let deployments = deployments_now(site).await?;
        let mut db = site.db().await?;
        let generation = sites::catalog_generation(&db).await?;
        let tx = db.transaction().await?;
        site.still_active(&tx).await?;
        trend::make_partitions(&tx, at).await?;
        trend::keep_site(&tx, at, &site_now(site, generation)).await?;
        trend::keep_lists(&tx, at, &lists).await?;
        for (number, counts) in &deployments {
            trend::keep_deployment(&tx, at, *number, counts).await?;
        }
        let kept = SignedDuration::from_secs(seconds(site.config.trend.retention));
        let before = at.checked_sub(kept).unwrap_or(Timestamp::MIN);
        let dropped = trend::drop_partitions(&tx, before).await?;
        tx.commit().await?;
        tracing::debug!(
            lists = lists.len(),
            deployments = deployments.len(),
            dropped,
            "snapshot taken"
        );
    }
    site.last_snapshot.store(period, Ordering::Relaxed);
    Ok(())
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX).max(1)
}

fn site_now(site: &Site, generation: i64) -> SiteNow {
    let count = |clients: u64| i32::try_from(clients).unwrap_or(i32::MAX);
    let cells = |cells: u64| i64::try_from(cells).unwrap_or(i64::MAX);
    let matrix = matrix::read(site);
    let [installed, required, unknown] = matrix.totals().map(cells);
    SiteNow {
        clients: count(matrix.clients().len()),
        never_reported: count(matrix.silent(None).len()),
        old_catalog: count(matrix.behind(generation, None).len()),
        non_compliant: count(matrix.wanting().len()),
        installed,
        required,
        unknown,
    }
}

fn lists_now(site: &Site) -> Vec<ListNow> {
    let now = |(update_list_no, updates): (i32, std::sync::Arc<[muster_domain::UpdateNo]>)| {
        // Batches get their turn between two lists.
        let it = matrix::read(site).list_compliance(&updates, None);
        let counts = [
            it.clients,
            it.compliant,
            it.non_compliant,
            it.unknown,
            it.no_data,
        ];
        ListNow {
            update_list_no,
            clients: counts.map(u32::cast_signed),
        }
    };
    directory::lists(site).into_iter().map(now).collect()
}

/// Clients of each deployment by state of topic 301.
async fn deployments_now(
    site: &Site,
) -> Result<Vec<(i32, Vec<(DeploymentEnforcement, u32)>)>, Error> {
    let numbers = deployments::numbers(&site.db().await?).await?;
    let mut all = Vec::with_capacity(numbers.len());
    for number in numbers {
        match deployment_states::members(site, number).await {
            Ok(members) => {
                let counts = deployment_states::read(site).enforcement_counts(number, &members);
                all.push((number, counts));
            }
            // It was deleted just now.
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// How the counts of a list, of a deployment or of the site moved.
pub(crate) async fn get_trend(
    site: &Site,
    request: &pb::GetTrendRequest,
) -> Result<pb::GetTrendResponse, Error> {
    use pb::get_trend_request::Thing;
    let span = span(site, request, Timestamp::now())?;
    let db = site.db().await?;
    let mut answer = pb::GetTrendResponse::default();
    match &request.thing {
        None => answer.site = trend::site(&db, span).await?,
        Some(Thing::UpdateList(name)) => {
            let number = manage_update_lists::find(site, &db, name).await?.number;
            answer.update_list = trend::list(&db, number, span).await?;
        }
        Some(Thing::Deployment(name)) => {
            let number = manage_deployments::find(site, &db, name).await?.number;
            answer.deployment = trend::deployment(&db, number, span).await?;
        }
    }
    Ok(answer)
}

fn span(site: &Site, request: &pb::GetTrendRequest, now: Timestamp) -> Result<Span, Error> {
    let time = |field, time: &Option<prost_types::Timestamp>| {
        let time = time.as_ref();
        time.map(|time| convert::from_timestamp(field, time))
            .transpose()
    };
    let to = time("to", &request.to)?.unwrap_or(now);
    let from = match time("from", &request.from)? {
        Some(from) => from,
        None => to.checked_sub(USUAL).unwrap_or(Timestamp::MIN),
    };
    if from > to {
        return Err(Error::invalid("FROM", "the beginning is after the end"));
    }
    let step = match &request.step {
        None => seconds(site.config.trend.interval),
        Some(step) => seconds(convert::from_duration("step", step)?),
    };
    if (to.as_second() - from.as_second()) / step > MAX_POINTS {
        let message = format!("more than {MAX_POINTS} points: ask for a longer step");
        return Err(Error::invalid("STEP", message));
    }
    Ok(Span { from, to, step })
}
