//! Brings what distribution points have closer to what packages want: suites, files, removals.
//! Reads everything afresh each time, so a crash at any point costs nothing.

use std::collections::BTreeSet;
use std::time::Instant;

use muster_proto::catalog::{ArchiveSuite, FileRef, GetArchiveSnapshotRequest};
use muster_proto::content as pb;
use muster_runtime::grpc::Channel;

use super::{Error, Site};
use crate::domain::facts::Facts;
use crate::domain::suite;
use crate::store::packages::{self, Moved};
use crate::store::{sites, updates};

/// Files asked for in one call.
const CHUNK: usize = 500;
const ROLE: &str = "distribution point";

/// When distribution points deserve the next look; of several, the most urgent counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Progress {
    /// Nothing is missing that can be had now.
    Idle,
    /// One did not do what it was asked for.
    Failed,
    /// Files are on their way.
    UnderWay,
}

/// One pass over all distribution points. One that is away does not keep the others waiting.
pub(crate) async fn distribute_content(site: &Site) -> Result<Progress, Error> {
    let db = site.db().await?;
    packages::derive_files(&db).await?;
    drop(db);
    let mut progress = Progress::Idle;
    for (address, channel) in &site.distribution_points {
        let served = serve(site, address, channel).await;
        progress = progress.max(told(address, served));
    }
    Ok(progress)
}

/// Looks only at files that are on their way.
pub(crate) async fn fetch_content(site: &Site) -> Progress {
    let mut progress = Progress::Idle;
    for (address, channel) in &site.distribution_points {
        let fetched = fetch(site, address, channel).await;
        progress = progress.max(told(address, fetched));
    }
    progress
}

fn told(address: &str, outcome: Result<Progress, Error>) -> Progress {
    outcome.unwrap_or_else(|error| {
        tracing::warn!(address, error = %muster_runtime::status::chain(&error),
                       "content is not distributed");
        Progress::Failed
    })
}

async fn serve(site: &Site, address: &str, channel: &Channel) -> Result<Progress, Error> {
    want(site, address).await?;
    remove(site, address, channel).await?;
    verify(site, address, channel).await?;
    // Files are fetched while suites cannot be published, and the other way round.
    let published = publish(site, address, channel).await;
    let fetched = fetch(site, address, channel).await;
    if let (Err(error), Err(_)) = (&published, &fetched) {
        tracing::warn!(address, error = %muster_runtime::status::chain(error),
                       "suites are not published");
    }
    let progress = fetched?;
    match published {
        Ok(()) => Ok(progress),
        // What is on its way brings us back sooner than the failure does.
        Err(error) if progress == Progress::UnderWay => Ok(told(address, Err(error)).max(progress)),
        Err(error) => Err(error),
    }
}

/// Says what a distribution point should have. Clients are told of files that are to leave it
/// before they do.
async fn want(site: &Site, address: &str) -> Result<(), Error> {
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    if packages::want_files(&tx, address).await? > 0 {
        sites::raise_policy_revision(&tx).await?;
    }
    Ok(tx.commit().await?)
}

async fn remove(site: &Site, address: &str, channel: &Channel) -> Result<(), Error> {
    let mut db = site.db().await?;
    let files = packages::removable(&db, address).await?;
    if files.is_empty() {
        return Ok(());
    }
    let sha256 = files.iter().map(|hash| hash.clone().into()).collect();
    let request = pb::RemoveContentRequest { sha256 };
    Site::content(channel)
        .remove_content(request)
        .await
        .map_err(Error::service(ROLE))?;
    let tx = db.transaction().await?;
    packages::forget(&tx, address, &files).await?;
    Ok(tx.commit().await?)
}

/// Publishes suites that packages need and the distribution point has not got, or not as the
/// vendor signed them last.
async fn publish(site: &Site, address: &str, channel: &Channel) -> Result<(), Error> {
    let mut db = site.db().await?;
    let wanted = packages::wants_suites(&db, address).await?;
    if wanted.is_empty() {
        return Ok(());
    }
    let wanted: BTreeSet<(String, String)> = wanted.into_iter().collect();
    let snapshot = site
        .catalog()
        .get_archive_snapshot(GetArchiveSnapshotRequest { generation: 0 })
        .await
        .map_err(Error::service("software update point"))?
        .into_inner();
    // What is held already is sent again too: the distribution point may have lost it.
    let (mut offers, mut news) = (Vec::new(), false);
    for offered in snapshot.suites {
        let archive_uri = offered.archive_uri.trim_end_matches('/').to_owned();
        if !wanted.contains(&(offered.suite.clone(), archive_uri)) {
            continue;
        }
        let key = suite::key(&offered.archive_uri, &offered.suite);
        let hash = suite::snapshot_hash(&offered);
        let held = packages::published_snapshot(&db, address, &key).await?;
        news |= held.as_ref() != Some(&hash);
        offers.push((key, offered, hash));
    }
    if offers.is_empty() {
        tracing::debug!(
            ?wanted,
            "the software update point does not offer these suites"
        );
        return Ok(());
    }
    let request = pb::PublishSuitesRequest {
        software_update_point: site.config.roles.software_update_point.clone(),
        suites: offers.iter().map(publication).collect(),
    };
    Site::content(channel)
        .publish_suites(request)
        .await
        .map_err(Error::service(ROLE))?;
    let tx = db.transaction().await?;
    for (key, offered, hash) in &offers {
        packages::keep_published(&tx, address, key, offered, hash).await?;
    }
    if news {
        sites::raise_policy_revision(&tx).await?;
    }
    tx.commit().await?;
    if news {
        tracing::info!(address, suites = offers.len(), "suites are published");
    }
    Ok(())
}

fn publication((key, suite, _): &(String, ArchiveSuite, Vec<u8>)) -> pb::SuitePublication {
    pb::SuitePublication {
        key: key.clone(),
        suite: Some(suite.clone()),
    }
}

/// Asks for what is missing.
async fn fetch(site: &Site, address: &str, channel: &Channel) -> Result<Progress, Error> {
    let db = site.db().await?;
    let missing = packages::missing(&db, address).await?;
    drop(db);
    let mut progress = Progress::Idle;
    for files in missing.chunks(CHUNK) {
        let states = ask(channel, files).await?;
        let moving = [pb::FileState::Waiting, pb::FileState::Fetching];
        if states.iter().any(|file| moving.contains(&file.state())) {
            progress = Progress::UnderWay;
        }
        note(site, address, &states).await?;
    }
    Ok(progress)
}

/// Asks from time to time for what a distribution point said it has: its disk may have been
/// replaced, or a damaged file removed. What it lost is fetched again, and clients are not told
/// of it meanwhile.
async fn verify(site: &Site, address: &str, channel: &Channel) -> Result<(), Error> {
    if !site.content_checks.due(address, Instant::now()) {
        return Ok(());
    }
    let (mut after, mut lost) = (Vec::new(), 0);
    loop {
        let db = site.db().await?;
        let files = packages::available(&db, address, &after, CHUNK).await?;
        drop(db);
        let Some(last) = files.last() else { break };
        after = last.sha256.to_vec();
        let mut states = ask(channel, &files).await?;
        // All bytes are there: it is only looking into the file.
        let size = |hash: &[u8]| files.iter().find(|f| f.sha256 == hash).map(|f| f.size);
        states.retain(|file| {
            file.state() != pb::FileState::Fetching
                || size(&file.sha256) != Some(file.bytes_fetched)
        });
        lost += note(site, address, &states).await?.disappeared;
    }
    if lost > 0 {
        // Who lost files may have lost the vendor's signed files as well.
        packages::doubt_published(&site.db().await?, address).await?;
    }
    site.content_checks.done(address, Instant::now());
    Ok(())
}

/// Wants files of a distribution point; returns how far each is.
async fn ask(channel: &Channel, files: &[FileRef]) -> Result<Vec<pb::FileStatus>, Error> {
    let request = pb::EnsureContentRequest {
        files: files.to_vec(),
    };
    let response = Site::content(channel).ensure_content(request).await;
    Ok(response.map_err(Error::service(ROLE))?.into_inner().files)
}

/// Notes how far files are, and what they say of their updates. What clients may be told changes in the same transaction, so that no
/// later failure can keep it from them.
async fn note(site: &Site, address: &str, states: &[pb::FileStatus]) -> Result<Moved, Error> {
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let moved = packages::keep_states(&tx, address, states).await?;
    let facts: Vec<Facts> = states.iter().filter_map(Facts::of).collect();
    updates::learn(&tx, &facts).await?;
    if moved != Moved::default() {
        sites::raise_policy_revision(&tx).await?;
    }
    tx.commit().await?;
    if moved.appeared > 0 {
        tracing::info!(address, files = moved.appeared, "content is available");
    }
    if moved.disappeared > 0 {
        tracing::warn!(
            address,
            files = moved.disappeared,
            "content is lost and is fetched again"
        );
    }
    Ok(moved)
}
