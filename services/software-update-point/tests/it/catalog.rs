//! What a synchronisation makes of an archive (semantics.md 2.6).

use muster_proto::catalog::catalog_service_client::CatalogServiceClient;
use muster_proto::catalog::{self as pb, Classification, SyncKind, SyncPhase};
use muster_runtime::Role;
use sha2::{Digest, Sha256};

use crate::archive::{Package, Release, package, stanzas};
use crate::point;

const OPENSSL: [Package; 2] = [
    package("libssl3", "openssl", "3.0.1-1"),
    package("openssl", "openssl", "3.0.1-1"),
];

#[tokio::test]
async fn an_archive_becomes_updates_and_an_unchanged_one_costs_nothing() {
    let mut point = point::start(&["one"]).await;
    let text = stanzas(&OPENSSL) + &stanzas(&[package("bash", "bash", "5.2-1")]);
    point.archive.publish(&Release::new("one", &text));
    let sync = point.full().await;
    assert_eq!(
        (sync.stanzas, sync.stanzas_rejected, sync.updates_new),
        (3, 0, 2)
    );
    assert_eq!(sync.generation, 1);

    let (updates, reached) = point.updates(0).await;
    assert_eq!((updates.len(), reached), (2, 1));
    let openssl = updates
        .iter()
        .find(|u| u.source_package == "openssl")
        .unwrap();
    assert_eq!(openssl.update_id, "apt/debian/one/openssl/3.0.1-1");
    assert_eq!(
        (openssl.product.as_str(), openssl.classification()),
        ("Debian 12", Classification::Update)
    );
    assert_eq!(
        (openssl.title.as_str(), openssl.description.as_str()),
        ("openssl 3.0.1-1 (one)", "the openssl")
    );
    assert_eq!(openssl.leaves.len(), 2);
    let file = openssl.leaves[0].file.as_ref().unwrap();
    assert_eq!(
        (file.path.as_str(), file.size),
        ("pool/main/openssl/libssl3_3.0.1-1_amd64.deb", 1000)
    );
    assert_eq!(file.archive_uri, point.archive.uri());

    point.archive.requests();
    let again = point.full().await;
    assert_eq!(
        (again.generation, again.stanzas, again.bytes_fetched),
        (1, 0, 0)
    );
    assert_eq!(
        point.archive.requests(),
        ["/debian/dists/one/InRelease"],
        "one conditional request"
    );

    point.restart().await;
    assert_eq!(
        point.generation().await,
        1,
        "the catalog is there after a restart"
    );
    assert_eq!(point.updates(1).await.0.len(), 0);
}

#[tokio::test]
async fn a_delta_takes_new_updates_and_only_a_full_one_expires() {
    let point = point::start(&["one"]).await;
    let text = stanzas(&OPENSSL) + &stanzas(&[package("bash", "bash", "5.2-1")]);
    point.archive.publish(&Release::new("one", &text));
    point.full().await;

    let newer = stanzas(&[package("openssl", "openssl", "3.0.2-1")]);
    let date = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1);
    point.archive.publish(&Release::new("one", &newer).at(date));
    let delta = point.sync(SyncKind::Delta).await;
    assert_eq!(delta.phase(), SyncPhase::Done);
    assert_eq!(
        (delta.updates_new, delta.updates_expired, delta.generation),
        (1, 0, 2)
    );
    let (updates, _) = point.updates(1).await;
    let new = updates
        .iter()
        .find(|u| u.source_version == "3.0.2-1")
        .unwrap();
    let old = updates
        .iter()
        .find(|u| u.source_version == "3.0.1-1")
        .unwrap();
    assert_eq!(
        (&new.supersedes, &old.superseded_by),
        (&vec![old.update_no], &vec![new.update_no])
    );
    assert_eq!((new.revision, old.revision, new.update_no), (1, 2, 3));

    let full = point.full().await;
    assert_eq!(
        (full.updates_new, full.updates_expired),
        (0, 2),
        "what the delta left undone"
    );
    let (updates, _) = point.updates(2).await;
    assert!(updates.iter().all(|u| u.expired && u.expired_at.is_some()));

    // Back in the archive: the same number, in force again.
    let date = jiff::Timestamp::now();
    point.archive.publish(&Release::new("one", &text).at(date));
    let full = point.full().await;
    assert_eq!(
        (
            full.updates_new,
            full.updates_modified,
            full.updates_expired
        ),
        (0, 2, 1)
    );
    let (updates, _) = point.updates(3).await;
    let bash = updates.iter().find(|u| u.source_package == "bash").unwrap();
    assert!(!bash.expired && bash.revision == 3);
}

#[tokio::test]
async fn a_changed_file_is_a_new_revision_of_the_same_update() {
    let point = point::start(&["one"]).await;
    point
        .archive
        .publish(&Release::new("one", &stanzas(&OPENSSL)));
    point.full().await;
    let [first, second] = OPENSSL;
    let other = stanzas(&[
        first,
        Package {
            size: 1001,
            ..second
        },
    ]);
    point
        .archive
        .publish(&Release::new("one", &other).at(jiff::Timestamp::now()));
    let full = point.full().await;
    assert_eq!(
        (
            full.updates_new,
            full.updates_modified,
            full.updates_expired
        ),
        (0, 1, 0)
    );
    let (updates, _) = point.updates(1).await;
    assert_eq!(
        (updates.len(), updates[0].revision, updates[0].update_no),
        (1, 2, 1)
    );
    assert_eq!(updates[0].leaves[1].file.as_ref().unwrap().size, 1001);
}

#[tokio::test]
async fn suites_of_a_release_supersede_each_other_and_security_is_classified() {
    let point = point::start(&["one", "one-security"]).await;
    point
        .archive
        .publish(&Release::new("one", &stanzas(&OPENSSL)));
    let security = stanzas(&[package("libssl3", "openssl", "3.0.1-1+deb1")]);
    point
        .archive
        .publish(&Release::new("one-security", &security));
    point.full().await;
    let (updates, _) = point.updates(0).await;
    let security = updates.iter().find(|u| u.suite == "one-security").unwrap();
    let base = updates.iter().find(|u| u.suite == "one").unwrap();
    assert_eq!(security.classification(), Classification::Security);
    assert_eq!(
        (&security.supersedes, &base.superseded_by),
        (&vec![base.update_no], &vec![security.update_no])
    );
}

#[tokio::test]
async fn distribution_points_get_the_signed_files_of_the_last_two_generations() {
    let point = point::start(&["one"]).await;
    for round in ["1", "2", "3"] {
        let version = if round == "1" {
            "3.0.1-1"
        } else if round == "2" {
            "3.0.2-1"
        } else {
            "3.0.3-1"
        };
        let text = stanzas(&[package("openssl", "openssl", version)]);
        let date = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(10);
        point.archive.publish(&Release::new("one", &text).at(date));
        point.full().await;
    }
    let mut catalog = CatalogServiceClient::new(point.channel(Role::DistributionPoint));
    let ask = pb::GetArchiveSnapshotRequest { generation: 0 };
    let snapshot = catalog
        .get_archive_snapshot(ask)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((snapshot.generation, snapshot.suites.len()), (3, 1));
    let suite = &snapshot.suites[0];
    let paths: Vec<_> = suite.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["InRelease", "main/binary-amd64/Packages.xz"]);
    assert!(suite.signed_by.ends_with("archive.asc") && !suite.ignore_valid_until);
    for file in &suite.files {
        let request = pb::GetArtifactRequest {
            sha256: file.sha256.clone(),
        };
        let mut stream = catalog.get_artifact(request).await.unwrap().into_inner();
        let mut bytes = Vec::new();
        while let Some(message) = stream.message().await.unwrap() {
            bytes.extend_from_slice(&message.chunk);
        }
        assert_eq!(bytes.len() as u64, file.size);
        assert_eq!(&Sha256::digest(&bytes)[..], &file.sha256[..]);
    }
    let held = |generation| pb::GetArchiveSnapshotRequest { generation };
    assert!(catalog.get_archive_snapshot(held(2)).await.is_ok());
    let gone = catalog.get_archive_snapshot(held(1)).await.unwrap_err();
    assert_eq!(gone.code(), tonic::Code::NotFound);
    let files = std::fs::read_dir(point.data().join("data/artifacts"))
        .unwrap()
        .count();
    assert_eq!(files, 4, "two files for each of two generations");
}

#[tokio::test]
async fn the_history_shows_what_happened() {
    let point = point::start(&["one"]).await;
    point
        .archive
        .publish(&Release::new("one", &stanzas(&OPENSSL)));
    let full = point.full().await;
    point.archive.put("dists/one/InRelease", b"no".to_vec());
    point.sync(SyncKind::Full).await;
    let request = pb::ListSyncsRequest { page_size: 0 };
    let syncs = point
        .syncs()
        .list_syncs(request)
        .await
        .unwrap()
        .into_inner()
        .syncs;
    assert_eq!(syncs.len(), 2);
    assert_eq!(
        (syncs[0].reason.as_str(), syncs[0].phase()),
        ("NOT_SIGNED", SyncPhase::Failed)
    );
    assert_eq!((syncs[1].sync_no, syncs[1].stanzas), (full.sync_no, 2));
    let next = syncs[0].next_scheduled_at.unwrap().seconds - syncs[0].ended_at.unwrap().seconds;
    assert_eq!(next, 3600, "a failure is tried again after an hour");
}
