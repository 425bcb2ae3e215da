//! Who may call what.

use muster_proto::catalog as pb;
use muster_proto::catalog::catalog_service_client::CatalogServiceClient;
use muster_proto::catalog::scan_service_client::ScanServiceClient;
use muster_proto::catalog::sync_service_client::SyncServiceClient;
use muster_runtime::Role;
use tonic::Code;

use crate::point;

#[tokio::test]
async fn roles_are_kept_apart() {
    let point = point::start(&["one"]).await;
    let client = || point.channel(Role::Client);
    let start = pb::StartSyncRequest { kind: 2 };
    let refused = SyncServiceClient::new(client())
        .start_sync(start)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let ask = pb::GetGenerationRequest {};
    let refused = CatalogServiceClient::new(client())
        .get_generation(ask)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let distribution_point = point.channel(Role::DistributionPoint);
    let refused = SyncServiceClient::new(distribution_point)
        .start_sync(start)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let site_server = point.channel(Role::SiteServer);
    let ask = pb::GetScanMetadataRequest::default();
    let refused = ScanServiceClient::new(site_server)
        .get_scan_metadata(ask)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}
