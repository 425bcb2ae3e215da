//! Brings what distribution points have closer to what packages want: suites, files, removals.
//! Reads everything afresh each time, so a crash at any point costs nothing.

use std::collections::BTreeSet;

use muster_proto::catalog::{ArchiveSuite, FileRef, GetArchiveSnapshotRequest};
use muster_proto::content as pb;
use muster_runtime::grpc::Channel;

use super::{Error, Site};
use crate::domain::suite;
use crate::store::packages::{self, Moved};
use crate::store::sites;

/// Files asked for in one call.
const CHUNK: usize = 500;
const ROLE: &str = "distribution point";

/// One pass over all distribution points. One that is away does not keep the others waiting.
pub(crate) async fn distribute_content(site: &Site) -> Result<(), Error> {
    let db = site.db().await?;
    packages::derive_files(&db).await?;
    drop(db);
    for (address, channel) in &site.distribution_points {
        if let Err(error) = serve(site, address, channel).await {
            tracing::warn!(address, error = %muster_runtime::status::chain(&error),
                           "content is not distributed");
        }
    }
    Ok(())
}

async fn serve(site: &Site, address: &str, channel: &Channel) -> Result<(), Error> {
    want(site, address).await?;
    remove(site, address, channel).await?;
    // Files are fetched while suites cannot be published, and the other way round.
    let published = publish(site, address, channel).await;
    let fetched = fetch(site, address, channel).await;
    if let (Err(error), Err(_)) = (&published, &fetched) {
        tracing::warn!(address, error = %muster_runtime::status::chain(error),
                       "suites are not published");
    }
    fetched.and(published)
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
    let mut fresh = Vec::new();
    let mut same = Vec::new();
    for offered in snapshot.suites {
        let archive_uri = offered.archive_uri.trim_end_matches('/').to_owned();
        if !wanted.contains(&(offered.suite.clone(), archive_uri)) {
            continue;
        }
        let key = suite::key(&offered.archive_uri, &offered.suite);
        let hash = suite::snapshot_hash(&offered);
        let held = packages::published_snapshot(&db, address, &key).await?;
        if held.as_ref() == Some(&hash) {
            &mut same
        } else {
            &mut fresh
        }
        .push((key, offered, hash));
    }
    if !fresh.is_empty() {
        let request = pb::PublishSuitesRequest {
            software_update_point: site.config.roles.software_update_point.clone(),
            suites: fresh.iter().map(publication).collect(),
        };
        Site::content(channel)
            .publish_suites(request)
            .await
            .map_err(Error::service(ROLE))?;
    }
    let tx = db.transaction().await?;
    for (key, offered, hash) in fresh.iter().chain(&same) {
        packages::keep_published(&tx, address, key, offered, hash).await?;
    }
    if !fresh.is_empty() {
        sites::raise_policy_revision(&tx).await?;
    }
    tx.commit().await?;
    if !fresh.is_empty() {
        tracing::info!(address, suites = fresh.len(), "suites are published");
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
async fn fetch(site: &Site, address: &str, channel: &Channel) -> Result<(), Error> {
    let db = site.db().await?;
    let missing = packages::missing(&db, address).await?;
    drop(db);
    for files in missing.chunks(CHUNK) {
        ensure(site, address, channel, files).await?;
    }
    Ok(())
}

/// Wants files of a distribution point and notes how far each is. What clients may be told
/// changes in the same transaction, so that no later failure can keep it from them.
async fn ensure(
    site: &Site,
    address: &str,
    channel: &Channel,
    files: &[FileRef],
) -> Result<Moved, Error> {
    let request = pb::EnsureContentRequest {
        files: files.to_vec(),
    };
    let response = Site::content(channel)
        .ensure_content(request)
        .await
        .map_err(Error::service(ROLE))?
        .into_inner();
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let moved = packages::keep_states(&tx, address, &response.files).await?;
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
