//! Every bad upstream has a clear reason, and the last good catalog stays in force.

use jiff::{SignedDuration, Timestamp};
use muster_proto::catalog::{self as pb, SyncKind, SyncPhase};
use muster_runtime::Role;

use crate::archive::{Release, new_key, package, sign, stanzas, xz};
use crate::point::{self, Point};

async fn with_a_good_catalog() -> Point {
    let point = point::start(&["one"]).await;
    let text = stanzas(&[package("openssl", "openssl", "3.0.1-1")]);
    point.archive.publish(&Release::new("one", &text));
    point.full().await;
    point
}

/// What comes after the good one: the same suite with a newer version, an hour old.
fn next() -> Release {
    let text = stanzas(&[package("openssl", "openssl", "3.0.2-1")]);
    Release::new("one", &text).at(Timestamp::now() - SignedDuration::from_hours(1))
}

/// Synchronises and expects this reason; the catalog is as it was and still answers.
async fn refused(point: &Point, reason: &str) -> pb::Sync {
    let sync = point.sync(SyncKind::Full).await;
    assert_eq!(
        (sync.phase(), sync.reason.as_str()),
        (SyncPhase::Failed, reason),
        "{}",
        sync.detail
    );
    assert_eq!((sync.generation, point.generation().await), (1, 1));
    let (updates, _) = point.updates(0).await;
    assert_eq!(updates.len(), 1);
    assert_eq!(updates[0].source_version, "3.0.1-1");
    sync
}

/// And the next good one is taken again.
async fn recovers(point: &Point) {
    point.archive.publish(&next());
    assert_eq!(point.full().await.updates_new, 1);
}

#[tokio::test]
async fn a_release_that_is_tampered_with_unsigned_or_signed_by_another_key_is_refused() {
    let point = with_a_good_catalog().await;
    let release = next();
    let signed = String::from_utf8(point.archive.sign(&release.text())).unwrap();
    let tampered = signed.replace("Label: Example", "Label: Exampel");
    point
        .archive
        .publish_signed(&release, tampered.into_bytes());
    refused(&point, "BAD_SIGNATURE").await;
    point
        .archive
        .publish_signed(&release, release.text().into_bytes());
    refused(&point, "NOT_SIGNED").await;
    point
        .archive
        .publish_signed(&release, sign(&release.text(), &new_key()));
    refused(&point, "UNKNOWN_KEY").await;
    let around = format!("Origin: Evil\n{signed}");
    point.archive.publish_signed(&release, around.into_bytes());
    refused(&point, "TEXT_OUTSIDE_SIGNATURE").await;
    recovers(&point).await;
}

#[tokio::test]
async fn a_release_that_expired_or_is_older_than_the_last_is_refused() {
    let point = with_a_good_catalog().await;
    let mut release = next();
    release.valid_until = Some(Timestamp::now() - SignedDuration::from_mins(1));
    point.archive.publish(&release);
    refused(&point, "RELEASE_EXPIRED").await;
    point
        .archive
        .publish(&next().at(Timestamp::now() - SignedDuration::from_hours(48)));
    refused(&point, "RELEASE_OLDER").await;
    point
        .archive
        .publish(&next().at(Timestamp::now() + SignedDuration::from_hours(48)));
    refused(&point, "RELEASE_FROM_FUTURE").await;
    recovers(&point).await;
}

#[tokio::test]
async fn an_unchanged_release_expires_too() {
    let point = point::start(&["one"]).await;
    let text = stanzas(&[package("openssl", "openssl", "3.0.1-1")]);
    let mut release = Release::new("one", &text);
    release.valid_until = Some(Timestamp::now() + SignedDuration::from_secs(2));
    point.archive.publish(&release);
    point.full().await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    refused(&point, "RELEASE_EXPIRED").await;
}

#[tokio::test]
async fn another_suites_release_is_refused_although_its_signature_is_good() {
    let point = with_a_good_catalog().await;
    let text = next()
        .text()
        .replace("Suite: one", "Suite: two")
        .replace("Codename: one", "Codename: two");
    point
        .archive
        .publish_signed(&next(), point.archive.sign(&text));
    refused(&point, "RELEASE_OTHER_SUITE").await;
}

#[tokio::test]
async fn an_index_with_a_wrong_hash_or_size_or_cut_short_is_refused() {
    let point = with_a_good_catalog().await;
    let bend = |change: fn(&mut Vec<u8>)| {
        let mut release = next();
        // Signed as it was, served otherwise.
        change(&mut release.files[1].1);
        release
    };
    point.archive.publish(&bend(|bytes| bytes[20] ^= 1));
    refused(&point, "INDEX_HASH_MISMATCH").await;
    point.archive.publish(&bend(|bytes| bytes.push(0)));
    refused(&point, "INDEX_SIZE_MISMATCH").await;
    point
        .archive
        .publish(&bend(|bytes| bytes.truncate(bytes.len() - 7)));
    refused(&point, "INDEX_TRUNCATED").await;
    // The compressed file is as signed, what comes out of it is not.
    let mut release = next();
    release.files[0].3 = "00".repeat(32);
    point.archive.publish(&release);
    refused(&point, "INDEX_HASH_MISMATCH").await;
    let mut release = next();
    release.files.clear();
    release.add("contrib/binary-amd64/Packages.xz", Vec::new());
    point.archive.publish(&release);
    refused(&point, "INDEX_MISSING").await;
    recovers(&point).await;
}

#[tokio::test]
async fn a_decompression_bomb_is_stopped() {
    let point = with_a_good_catalog().await;
    let bomb = xz(&vec![b'x'; 100 << 20]);
    // With the plain size signed, one byte more is too much; without it, the ratio is.
    let mut release = next();
    release.files.pop();
    release.add("main/binary-amd64/Packages.xz", bomb.clone());
    point.archive.publish(&release);
    refused(&point, "DECOMPRESSION_LIMIT").await;
    let mut release = next();
    release.files.clear();
    release.add("main/binary-amd64/Packages.xz", bomb);
    point.archive.publish(&release);
    refused(&point, "DECOMPRESSION_LIMIT").await;
    recovers(&point).await;
}

#[tokio::test]
async fn a_file_that_is_not_there_fails_the_whole_synchronisation() {
    let point = with_a_good_catalog().await;
    let release = next();
    point
        .archive
        .remove("dists/one/main/binary-amd64/Packages.xz");
    point
        .archive
        .put("dists/one/InRelease", point.archive.sign(&release.text()));
    let sync = refused(&point, "FETCH_FAILED").await;
    assert!(
        sync.detail.contains("one: main/binary-amd64/Packages.xz"),
        "{}",
        sync.detail
    );
}

#[tokio::test]
async fn bad_stanzas_are_counted_and_the_good_ones_taken() {
    let point = point::start(&["one"]).await;
    let good = |name, version| stanzas(&[package(name, "src", version)]);
    let text = [
        good("aa", "1.0"),
        good("bb", "1.0").replace("Version: 1.0\n", ""),
        good("cc", "1.0").replace("Size: 1000", "Size: 99999999999999"),
        good("dd", "1.0").replace("pool/main", "../../../etc"),
        good("ee", "one two"),
        good("ff", "1.0").replace(
            "Description: the ff",
            &format!("Description: {}", "x".repeat(1_200_000)),
        ),
        good("gg", "1.0"),
    ]
    .concat();
    point.archive.publish(&Release::new("one", &text));
    let sync = point.full().await;
    assert_eq!(
        (sync.stanzas, sync.stanzas_rejected, sync.updates_new),
        (7, 5, 1)
    );
    let (updates, _) = point.updates(0).await;
    let names: Vec<_> = updates[0]
        .leaves
        .iter()
        .map(|leaf| leaf.package.as_str())
        .collect();
    assert_eq!(names, ["aa", "gg"]);
}

#[tokio::test]
async fn malformed_requests_are_refused() {
    let point = with_a_good_catalog().await;
    let ask = |packages: Vec<String>, base_generation| pb::GetScanMetadataRequest {
        base_generation,
        packages,
        ..pb::GetScanMetadataRequest::default()
    };
    let mut scans = point.scans();
    for packages in [
        vec!["b2".to_owned(), "a1".to_owned()],
        vec!["a1".to_owned(), "a1".to_owned()],
        vec!["../etc".to_owned()],
        (0..20_001).map(|n| format!("p{n:06}")).collect(),
    ] {
        let status = scans.get_scan_metadata(ask(packages, 0)).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    }
    let status = scans
        .get_scan_metadata(ask(Vec::new(), 99))
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert_eq!(
        muster_runtime::status::reason(&status).as_deref(),
        Some("GENERATION_UNKNOWN")
    );
    let mut catalog =
        pb::catalog_service_client::CatalogServiceClient::new(point.channel(Role::SiteServer));
    let status = catalog.get_artifact(pb::GetArtifactRequest {
        sha256: b"../../etc/passwd".to_vec().into(),
    });
    assert_eq!(
        status.await.unwrap_err().code(),
        tonic::Code::InvalidArgument
    );
}
