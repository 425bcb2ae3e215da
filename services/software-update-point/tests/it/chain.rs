//! A software update point that follows the one of the site above (semantics.md 2.6): the same
//! numbers and generations, the vendor's signatures verified again, the last good catalog kept.

use jiff::{SignedDuration, Timestamp};
use muster_proto::catalog::catalog_service_client::CatalogServiceClient;
use muster_proto::catalog::replica_service_client::ReplicaServiceClient;
use muster_proto::catalog::{self as pb, SyncKind, SyncPhase};
use muster_runtime::Role;
use sha2::{Digest, Sha256};
use tonic::Code;

use crate::archive::{Release, new_key, package, sign, stanzas};
use crate::point::{self, Child, Point};

/// A top one with two updates, and one below it that has them.
async fn chain() -> (Point, Child) {
    let top = point::start(&["one"]).await;
    let packages = [
        package("openssl", "openssl", "3.0.1-1"),
        package("bash", "bash", "5.2-1"),
    ];
    top.archive
        .publish(&Release::new("one", &stanzas(&packages)));
    top.full().await;
    let child = Child::of(&top).await;
    let sync = child.point.full().await;
    assert_eq!((sync.updates_new, sync.generation), (2, 1));
    (top, child)
}

/// A newer openssl, and no bash any more.
fn next() -> Release {
    let text = stanzas(&[package("openssl", "openssl", "3.0.2-1")]);
    Release::new("one", &text).at(Timestamp::now() - SignedDuration::from_hours(1))
}

/// What both say, without the times at which they say it.
async fn agree(top: &Point, child: &Point) {
    let (theirs, ours) = (top.updates(0).await, child.updates(0).await);
    assert_eq!(theirs, ours);
}

/// Synchronises and expects this reason; the catalog of two updates stays.
async fn refused(child: &Point, kind: SyncKind, reason: &str) {
    let sync = child.sync(kind).await;
    assert_eq!(
        (sync.phase(), sync.reason.as_str()),
        (SyncPhase::Failed, reason),
        "{}",
        sync.detail
    );
    let (updates, generation) = child.updates(0).await;
    assert_eq!((updates.len(), generation), (2, 1));
    assert!(updates.iter().all(|update| !update.expired));
}

#[tokio::test]
async fn a_child_has_the_parents_numbers_and_generations_and_takes_only_what_changed() {
    let (top, mut child) = chain().await;
    agree(&top, &child.point).await;

    top.archive.publish(&next());
    top.full().await;
    let delta = child.point.sync(SyncKind::Delta).await;
    assert_eq!(delta.phase(), SyncPhase::Done, "{}", delta.detail);
    assert_eq!(
        (delta.updates_new, delta.updates_expired, delta.generation),
        (1, 2, 2)
    );
    agree(&top, &child.point).await;
    // Another one that begins now has the same.
    let second = Child::of(&top).await;
    let sync = second.point.full().await;
    assert_eq!((sync.updates_new, sync.generation), (3, 2));
    agree(&top, &second.point).await;

    let again = child.point.sync(SyncKind::Delta).await;
    assert_eq!((again.bytes_fetched, again.stanzas), (0, 0));
    let again = child.point.full().await;
    assert_eq!(
        (again.updates_new, again.updates_modified, again.stanzas),
        (0, 0, 0),
        "nothing had to be proven again"
    );
    child.point.restart().await;
    agree(&top, &child.point).await;
}

#[tokio::test]
async fn the_vendors_signed_files_go_down_to_the_last_one() {
    let (top, child) = chain().await;
    let grandchild = Child::of(&child.point).await;
    // Who believes only its own keys believes nothing that comes from above.
    let sync = grandchild.point.sync(SyncKind::Full).await;
    assert_eq!(sync.reason, "UNKNOWN_KEY", "{}", sync.detail);
    let grandchild = Child::start(&top.archive).await;
    grandchild.join(&child.point);
    grandchild.point.full().await;
    agree(&top, &grandchild.point).await;

    let mut catalog = CatalogServiceClient::new(grandchild.point.channel(Role::DistributionPoint));
    let ask = pb::GetArchiveSnapshotRequest { generation: 0 };
    let snapshot = catalog
        .get_archive_snapshot(ask)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((snapshot.generation, snapshot.suites.len()), (1, 1));
    let suite = &snapshot.suites[0];
    assert_eq!(suite.archive_uri, top.archive.uri());
    for file in &suite.files {
        let request = pb::GetArtifactRequest {
            sha256: file.sha256.clone(),
        };
        let mut stream = catalog.get_artifact(request).await.unwrap().into_inner();
        let mut bytes = Vec::new();
        while let Some(message) = stream.message().await.unwrap() {
            bytes.extend_from_slice(&message.chunk);
        }
        assert_eq!(&Sha256::digest(&bytes)[..], &file.sha256[..]);
    }
    let asked = grandchild.point.archive.requests();
    assert!(asked.is_empty(), "an archive was asked: {asked:?}");
}

#[tokio::test]
async fn a_client_that_moves_between_them_gets_the_same_difference() {
    let (top, child) = chain().await;
    top.archive.publish(&next());
    top.full().await;
    child.point.sync(SyncKind::Delta).await;
    let ask = |base_generation, packages: &[&str]| pb::GetScanMetadataRequest {
        base_generation,
        packages: packages.iter().map(|it| (*it).to_owned()).collect(),
        architecture: "amd64".to_owned(),
        os_id: "debian".to_owned(),
        os_version_id: "12".to_owned(),
    };
    for request in [ask(0, &["bash", "openssl"]), ask(1, &[]), ask(2, &[])] {
        let theirs = top.scans().get_scan_metadata(request.clone()).await;
        let ours = child.point.scans().get_scan_metadata(request).await;
        assert_eq!(theirs.unwrap().into_inner(), ours.unwrap().into_inner());
    }
}

#[tokio::test]
async fn altered_signed_files_are_refused_and_the_last_good_catalog_stays() {
    let (mut top, child) = chain().await;
    top.archive.publish(&next());
    top.full().await;
    let folder = top.data().join("data/artifacts");
    let inrelease = top.archive.sign(&next().text());
    let release = next();
    let good = String::from_utf8(inrelease).unwrap();
    let hash = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    // The parent's tables name another InRelease, and it has it.
    for (bytes, reason) in [
        (
            good.replace("Label: Example", "Label: Exampel")
                .into_bytes(),
            "BAD_SIGNATURE",
        ),
        (sign(&release.text(), &new_key()), "UNKNOWN_KEY"),
        (release.text().into_bytes(), "NOT_SIGNED"),
    ] {
        let statement = format!(
            "UPDATE suites SET (hashes[1], sizes[1]) = (decode('{}', 'hex'), {})",
            hash(&bytes),
            bytes.len()
        );
        top.sql(&statement).await;
        // Not what it is called.
        std::fs::write(folder.join(hash(&bytes)), vec![b'x'; bytes.len()]).unwrap();
        refused(&child.point, SyncKind::Full, "INDEX_HASH_MISMATCH").await;
        std::fs::write(folder.join(hash(&bytes)), &bytes).unwrap();
        refused(&child.point, SyncKind::Delta, reason).await;
    }
    // Gone altogether, which may pass.
    let statement = format!(
        "UPDATE suites SET hashes[1] = decode('{}', 'hex')",
        hash(b"no")
    );
    top.sql(&statement).await;
    refused(&child.point, SyncKind::Delta, "PARENT_UNAVAILABLE").await;
    top.config().data_dir = top.data().join("anew");
    top.restart().await;
    child.join(&top);
    top.full().await;
    child.point.full().await;
    agree(&top, &child.point).await;
}

#[tokio::test]
async fn an_older_release_and_an_expired_one_are_refused() {
    let (top, child) = chain().await;
    top.archive.publish(&next());
    top.full().await;
    child.point.full().await;
    let before = child.point.updates(0).await;
    top.sql(
        "UPDATE suites s SET (paths, hashes, sizes) =
            (SELECT paths, hashes, sizes FROM snapshots WHERE generation = 1)",
    )
    .await;
    let sync = child.point.sync(SyncKind::Full).await;
    assert_eq!(sync.reason, "RELEASE_OLDER", "{}", sync.detail);
    assert_eq!(child.point.updates(0).await, before);

    let top = point::start(&["one"]).await;
    let text = stanzas(&[package("openssl", "openssl", "3.0.1-1")]);
    let mut release = Release::new("one", &text);
    release.valid_until = Some(Timestamp::now() + SignedDuration::from_secs(2));
    top.archive.publish(&release);
    top.full().await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let child = Child::of(&top).await;
    let sync = child.point.sync(SyncKind::Full).await;
    assert_eq!(sync.reason, "RELEASE_EXPIRED", "{}", sync.detail);
}

#[tokio::test]
async fn what_the_parent_says_and_the_vendor_did_not_sign_is_refused() {
    let (top, child) = chain().await;
    top.sql(
        "UPDATE update_leaves SET sha256 = decode(repeat('66', 32), 'hex') WHERE update_no = 1",
    )
    .await;
    refused(&child.point, SyncKind::Full, "UPDATE_NOT_SIGNED").await;
    top.sql("UPDATE update_leaves SET path = 'pool/other.deb' WHERE update_no = 2")
        .await;
    let fresh = Child::of(&top).await;
    let sync = fresh.point.sync(SyncKind::Full).await;
    assert_eq!(sync.reason, "UPDATE_NOT_SIGNED", "{}", sync.detail);
    assert_eq!(fresh.point.generation().await, 0);
}

#[tokio::test]
async fn a_delta_of_the_top_one_leaves_nothing_in_force_that_nobody_can_prove() {
    let (top, child) = chain().await;
    top.archive.publish(&next());
    let delta = top.sync(SyncKind::Delta).await;
    assert_eq!((delta.updates_new, delta.updates_expired), (1, 0));
    child.point.sync(SyncKind::Delta).await;
    // What was proven once is as it is at the top.
    agree(&top, &child.point).await;
    // Who comes now cannot prove what left the archive.
    let late = Child::of(&top).await;
    late.point.full().await;
    let (updates, generation) = late.point.updates(0).await;
    let in_force = updates.iter().filter(|update| !update.expired).count();
    assert_eq!((updates.len(), in_force, generation), (3, 1, 2));
    top.full().await;
    late.point.sync(SyncKind::Delta).await;
    child.point.sync(SyncKind::Delta).await;
    agree(&top, &child.point).await;
    agree(&top, &late.point).await;
}

#[tokio::test]
async fn while_the_parent_is_away_the_last_good_catalog_stays() {
    let (mut top, child) = chain().await;
    top.stop().await;
    refused(&child.point, SyncKind::Full, "PARENT_UNAVAILABLE").await;
    refused(&child.point, SyncKind::Delta, "PARENT_UNAVAILABLE").await;
    top.start().await;
    child.join(&top);
    top.archive.publish(&next());
    top.full().await;
    child.point.sync(SyncKind::Delta).await;
    agree(&top, &child.point).await;
}

#[tokio::test]
async fn a_parent_that_comes_from_a_backup_is_followed_when_it_has_passed_us() {
    let (top, child) = chain().await;
    let other = point::start(&["one"]).await;
    // The same numbers in another catalog: everything is compared, and nothing has changed.
    top.sql("UPDATE generations SET stamp = decode(repeat('01', 16), 'hex')")
        .await;
    let sync = child.point.sync(SyncKind::Delta).await;
    assert_eq!(sync.phase(), SyncPhase::Done, "{}", sync.detail);
    top.sql("UPDATE updates SET revision = 7 WHERE update_no = 1")
        .await;
    top.sql("UPDATE generations SET stamp = decode(repeat('02', 16), 'hex')")
        .await;
    refused(&child.point, SyncKind::Full, "PARENT_OLDER").await;
    top.archive.publish(&next());
    top.full().await;
    let sync = child.point.sync(SyncKind::Delta).await;
    assert_eq!(sync.phase(), SyncPhase::Done, "{}", sync.detail);
    let (updates, generation) = child.point.updates(1).await;
    assert_eq!((updates.len(), generation), (3, 2));

    // Another one's numbers are not ours.
    let packages = [
        package("aaa", "aaa", "1-1"),
        package("bash", "bash", "5.2-1"),
        package("openssl", "openssl", "3.0.1-1"),
    ];
    for version in 0..3 {
        let date = Timestamp::now() - SignedDuration::from_mins(30 - version);
        let release = Release::new("one", &stanzas(&packages)).at(date);
        other.archive.publish(&release);
        other.full().await;
    }
    child.join(&other);
    let sync = child.point.sync(SyncKind::Delta).await;
    assert_ne!(sync.phase(), SyncPhase::Done);
    assert_eq!(child.point.updates(1).await, (updates, generation));
}

#[tokio::test]
async fn a_parent_is_followed_by_itself_as_soon_as_there_is_one() {
    let top = point::start(&["one"]).await;
    let mut child = Child::start(&top.archive).await;
    child.point.config().source.parent.poll_interval = std::time::Duration::from_millis(100);
    child.point.restart().await;
    let sync = child.point.sync(SyncKind::Full).await;
    assert_eq!(sync.reason, "NO_PARENT", "{}", sync.detail);
    child.join(&top);
    top.archive.publish(&next());
    top.full().await;
    let reached = async |generation| {
        for _ in 0..200 {
            if child.point.generation().await == generation {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("generation {generation} was not reached");
    };
    reached(1).await;
    let text = stanzas(&[package("openssl", "openssl", "3.0.3-1")]);
    top.archive
        .publish(&Release::new("one", &text).at(Timestamp::now()));
    top.full().await;
    reached(2).await;
    agree(&top, &child.point).await;
}

#[tokio::test]
async fn only_a_child_site_gets_the_catalog_as_a_replica_and_nothing_else() {
    let (top, child) = chain().await;
    let ask = pb::StreamCatalogRequest::default();
    for role in Role::ALL.into_iter().filter(|role| role.calls()) {
        let answer = ReplicaServiceClient::new(top.channel(role))
            .stream_catalog(ask.clone())
            .await;
        let code = answer.err().map(|status| status.code());
        let expected = (role != Role::ChildSite).then_some(Code::PermissionDenied);
        assert_eq!(code, expected, "{role}");
    }
    let mut catalog = CatalogServiceClient::new(top.channel(Role::ChildSite));
    assert!(
        catalog
            .get_generation(pb::GetGenerationRequest {})
            .await
            .is_ok()
    );
    let refused = catalog
        .stream_updates(pb::StreamUpdatesRequest::default())
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let refused = catalog
        .get_archive_snapshot(pb::GetArchiveSnapshotRequest::default())
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let start = pb::StartSyncRequest { kind: 2 };
    let refused = pb::sync_service_client::SyncServiceClient::new(top.channel(Role::ChildSite))
        .start_sync(start)
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    // A child of somebody else.
    let foreign = child.point.channel_to(&top, Role::ChildSite);
    let refused = ReplicaServiceClient::new(foreign).stream_catalog(ask).await;
    assert!(refused.is_err());
}
