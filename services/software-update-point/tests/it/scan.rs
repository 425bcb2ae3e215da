//! What clients are told.

use muster_proto::catalog as pb;

use crate::archive::{Release, package, stanzas};
use crate::point::{self, Point};

async fn ask(
    point: &Point,
    base_generation: u64,
    packages: &[&str],
) -> pb::GetScanMetadataResponse {
    let request = pb::GetScanMetadataRequest {
        base_generation,
        packages: packages.iter().map(|p| (*p).to_owned()).collect(),
        architecture: "amd64".to_owned(),
        os_id: "debian".to_owned(),
        os_version_id: "12".to_owned(),
    };
    let client = point
        .scans()
        .accept_compressed(tonic::codec::CompressionEncoding::Zstd);
    client
        .clone()
        .get_scan_metadata(request)
        .await
        .unwrap()
        .into_inner()
}

#[tokio::test]
async fn a_client_gets_its_slice_then_nothing_then_the_difference() {
    let point = point::start(&["one"]).await;
    let status = point
        .scans()
        .get_scan_metadata(pb::GetScanMetadataRequest::default())
        .await;
    assert_eq!(
        status.unwrap_err().code(),
        tonic::Code::FailedPrecondition,
        "no catalog yet"
    );

    let first = [
        package("libssl3", "openssl", "3.0.1-1"),
        package("openssl", "openssl", "3.0.1-1"),
        package("bash", "bash", "5.2-1"),
    ];
    point
        .archive
        .publish(&Release::new("one", &stanzas(&first)));
    point.full().await;
    let cold = ask(&point, 0, &["libssl3"]).await;
    assert_eq!(
        (cold.generation, cold.updates.len(), cold.suites.len()),
        (1, 1, 1)
    );
    let update = &cold.updates[0];
    assert_eq!(
        (update.source_package.as_str(), update.version.as_str()),
        ("openssl", "3.0.1-1")
    );
    assert_eq!(update.leaves.len(), 1, "only what it asked about");
    assert_eq!(
        (
            update.leaves[0].package.as_str(),
            update.leaves[0].version.as_str()
        ),
        ("libssl3", "")
    );
    let suite = &cold.suites[update.suite as usize];
    assert_eq!(
        (
            suite.codename.as_str(),
            suite.version.as_str(),
            suite.site.as_str()
        ),
        ("one", "12.1", "127.0.0.1")
    );

    let same = ask(&point, 1, &[]).await;
    assert_eq!(
        same,
        pb::GetScanMetadataResponse {
            generation: 1,
            ..Default::default()
        }
    );
    let installed_since = ask(&point, 1, &["openssl"]).await;
    assert_eq!(
        installed_since.updates[0].leaves.len(),
        2,
        "then the whole update"
    );

    let second = [
        package("libssl3", "openssl", "3.0.2-1"),
        package("bash", "bash", "5.2-1"),
    ];
    let date = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1);
    point
        .archive
        .publish(&Release::new("one", &stanzas(&second)).at(date));
    point.full().await;
    let difference = ask(&point, 1, &[]).await;
    assert_eq!(
        (difference.generation, &difference.removed[..]),
        (2, &[update.update_no][..])
    );
    let versions: Vec<_> = difference
        .updates
        .iter()
        .map(|u| u.version.as_str())
        .collect();
    assert_eq!(versions, ["3.0.2-1"]);
}
