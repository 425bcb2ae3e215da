//! Brings what distribution points have closer to what packages want: suites, files, removals.
//! Reads everything afresh each time, so a crash at any point costs nothing.

use std::collections::BTreeSet;

use muster_proto::catalog::{ArchiveSuite, GetArchiveSnapshotRequest};
use muster_proto::content as pb;
use muster_runtime::grpc::Channel;

use super::{Error, Site};
use crate::domain::suite;
use crate::store::{packages, sites};

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
    let db = site.db().await?;
    packages::want_files(&db, address).await?;
    remove(site, address, channel).await?;
    // Files are fetched while suites cannot be published, and the other way round.
    let publication = publish(site, address, channel).await;
    let available = fetch(site, address, channel).await?;
    let published = *publication.as_ref().unwrap_or(&false);
    if published || available > 0 {
        sites::raise_policy_revision(&db).await?;
        tracing::info!(
            address,
            files = available,
            published,
            "content is available"
        );
    }
    Ok(())
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
/// vendor signed them last. Returns whether clients can see something new.
async fn publish(site: &Site, address: &str, channel: &Channel) -> Result<bool, Error> {
    let db = site.db().await?;
    let wanted = packages::wants_suites(&db, address).await?;
    if wanted.is_empty() {
        return Ok(false);
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
    for (key, offered, hash) in fresh.iter().chain(&same) {
        packages::keep_published(&db, address, key, offered, hash).await?;
    }
    Ok(!fresh.is_empty())
}

fn publication((key, suite, _): &(String, ArchiveSuite, Vec<u8>)) -> pb::SuitePublication {
    pb::SuitePublication {
        key: key.clone(),
        suite: Some(suite.clone()),
    }
}

/// Asks for what is missing; returns how many files became available.
async fn fetch(site: &Site, address: &str, channel: &Channel) -> Result<u64, Error> {
    let db = site.db().await?;
    let missing = packages::missing(&db, address).await?;
    let mut available = 0;
    for files in missing.chunks(CHUNK) {
        let request = pb::EnsureContentRequest {
            files: files.to_vec(),
        };
        let response = Site::content(channel)
            .ensure_content(request)
            .await
            .map_err(Error::service(ROLE))?
            .into_inner();
        available += packages::keep_states(&db, address, &response.files).await?;
    }
    Ok(available)
}
