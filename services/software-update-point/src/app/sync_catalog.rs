//! One synchronisation, from the sources to the next generation in force.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::error::Cause;
use super::fetch_suite::{Fetched, blocking, fetch_indexes, fetch_release};
use super::plan_sources::{Followed, plan_sources};
use super::read_indexes::{Reading, read_indexes};
use super::{Failure, Point};
use crate::domain::archive::SuiteState;
use crate::domain::diff::{Scope, SuiteKey, diff};
use crate::domain::sync::{Kind, Phase, RejectedStanza, Sync};
use crate::store;

/// Runs the synchronisation that `sync` describes, tells its progress, and returns the stanzas that
/// were rejected. On an error nothing of the catalog has changed.
pub(crate) async fn sync_catalog(
    point: &Point,
    sync: &mut Sync,
) -> Result<Vec<RejectedStanza>, Failure> {
    let now = Timestamp::now();
    let before = point.upstream.received();
    point.refresh().await?;
    tell(point, sync, Phase::Fetching, "reading the sources");
    let source = point.source.clone();
    let plan = blocking(move || plan_sources(&source)).await??;
    let held = {
        let db = point
            .pool
            .get()
            .await
            .map_err(muster_postgres::Error::from)?;
        store::suites::all(&db).await?
    };
    let mut fetched = Vec::with_capacity(plan.len());
    for followed in &plan {
        tell(
            point,
            sync,
            Phase::Fetching,
            &format!("{}: InRelease", followed.suite),
        );
        let known = held.iter().find(|state| key(state) == followed.key());
        fetched.push(fetch_release(point, followed, known, sync.kind, now).await?);
        sync.counts.bytes_fetched = point.upstream.received() - before;
    }
    let dropped = dropped(sync.kind, &plan, &held);
    let unchanged = fetched
        .iter()
        .all(|suite| matches!(suite, Fetched::Unchanged(_)));
    if unchanged && dropped.is_empty() {
        sync.generation = point.catalog().generation;
        sync.detail = format!("{} suites, none has changed", plan.len());
        return Ok(Vec::new());
    }
    let followed = plan
        .iter()
        .zip(&fetched)
        .filter(|(_, suite)| !suite.state().not_automatic)
        .map(|(followed, _)| followed.key())
        .collect();
    let mut suites = Vec::new();
    for suite in fetched {
        if let Fetched::New(suite) = suite {
            tell(
                point,
                sync,
                Phase::Fetching,
                &format!("{}: indexes", suite.state.snapshot.suite),
            );
            fetch_indexes(point, &suite).await?;
            sync.counts.bytes_fetched = point.upstream.received() - before;
            suites.push(suite);
        }
    }
    tell(point, sync, Phase::Fetching, "reading the indexes");
    let (artifacts, text_bytes) = (point.artifacts.clone(), point.fetch.text_bytes);
    let read = suites.iter().map(|suite| key(&suite.state)).collect();
    let states: Vec<SuiteState> = suites.iter().map(|suite| suite.state.clone()).collect();
    let reading = blocking(move || read_indexes(&artifacts, &suites, text_bytes)).await??;
    sync.counts.stanzas = reading.stanzas;
    sync.counts.stanzas_rejected = reading.stanzas_rejected;

    tell(point, sync, Phase::Recording, "recording what has changed");
    let scope = Scope {
        kind: sync.kind,
        read,
        followed,
    };
    let rejected = record(point, sync, scope, reading, &states, &dropped, now).await?;
    point.refresh().await?;
    sweep(point).await;
    sync.detail = format!("{} suites, {} of them read", plan.len(), states.len());
    Ok(rejected)
}

/// Suites that were followed and no longer are. Only a full synchronisation lets go of them.
fn dropped(kind: Kind, plan: &[Followed], held: &[SuiteState]) -> Vec<SuiteKey> {
    let followed: HashSet<SuiteKey> = plan.iter().map(Followed::key).collect();
    let gone = held
        .iter()
        .map(key)
        .filter(|key| kind == Kind::Full && !followed.contains(key));
    gone.collect()
}

fn key(state: &SuiteState) -> SuiteKey {
    (
        state.snapshot.archive_uri.clone(),
        state.snapshot.suite.clone(),
    )
}

/// Compares with the catalog and writes the difference: one transaction, which puts the next
/// generation in force.
async fn record(
    point: &Point,
    sync: &mut Sync,
    scope: Scope,
    reading: Reading,
    states: &[SuiteState],
    dropped: &[SuiteKey],
    now: Timestamp,
) -> Result<Vec<RejectedStanza>, Failure> {
    let held = point.catalog();
    let mut db = point
        .pool
        .get()
        .await
        .map_err(muster_postgres::Error::from)?;
    let tx = db.transaction().await?;
    let (generation, next_update_no) = store::catalog::lock(&tx).await?;
    if generation != held.generation {
        return Err(Cause::Overtaken.at("the catalog"));
    }
    let Reading {
        channels,
        updates,
        rejected,
        ..
    } = reading;
    let (channels, changes) = {
        let held = Arc::clone(&held);
        blocking(move || {
            let changes = diff(&held, next_update_no, &channels, updates, &scope);
            (channels, changes)
        })
        .await?
    };
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    sync.counts.updates_new = count(changes.new.len());
    sync.counts.updates_modified = count(changes.modified.len());
    sync.counts.updates_expired = count(changes.expired.len());
    let next = generation + 1;
    let numbers = store::updates::put_channels(&tx, &channels).await?;
    if !changes.is_empty() {
        store::updates::insert(&tx, &changes.new, &channels, &numbers, next).await?;
        store::updates::modify(&tx, &changes.modified, &channels, &numbers, next).await?;
        store::updates::expire(&tx, &changes.expired, next, now).await?;
        store::updates::relate(&tx, &changes.relations, next).await?;
    }
    for state in states {
        store::suites::put(&tx, state).await?;
    }
    store::suites::forget(&tx, dropped).await?;
    // New signed files are a generation too: distribution points take them over before the old
    // ones expire. To a client such a generation is a difference without content.
    store::suites::take_snapshot(&tx, next).await?;
    let next_update_no = next_update_no + count(changes.new.len());
    store::catalog::advance(&tx, next, next_update_no, now, None).await?;
    tx.commit().await?;
    sync.generation = next;
    Ok(rejected)
}

/// Removes files that no snapshot names. A failure costs only space, and the next one tries again.
pub(super) async fn sweep(point: &Point) {
    let wanted = async {
        let db = point
            .pool
            .get()
            .await
            .map_err(muster_postgres::Error::from)?;
        store::suites::wanted(&db).await
    };
    match wanted.await {
        Ok(wanted) => {
            let artifacts = point.artifacts.clone();
            match blocking(move || artifacts.sweep(&wanted)).await {
                Ok(Ok(0)) | Err(_) => {}
                Ok(Ok(removed)) => tracing::info!(removed, "signed files removed"),
                Ok(Err(error)) => tracing::warn!(%error, "signed files could not be removed"),
            }
        }
        Err(error) => tracing::warn!(%error, "signed files could not be removed"),
    }
}

/// Shows where the synchronisation is.
pub(super) fn tell(point: &Point, sync: &mut Sync, phase: Phase, detail: &str) {
    if sync.phase != phase {
        metrics::gauge!("muster_sup_sync_phase").set(f64::from(phase.code()));
    }
    sync.phase = phase;
    detail.clone_into(&mut sync.detail);
    point.progress.send_replace(Some(sync.clone()));
}
