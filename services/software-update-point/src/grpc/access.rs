//! Who may call what.

use muster_runtime::Role;
use muster_runtime::auth::{Caller, Table};

const SITE_SERVER: &[Caller] = &[Caller::Role(Role::SiteServer)];
const SERVERS: &[Caller] = &[
    Caller::Role(Role::SiteServer),
    Caller::Role(Role::DistributionPoint),
];
/// What a software update point of a site below needs too: it shows its site's certificate.
const SERVERS_AND_BELOW: &[Caller] = &[
    Caller::Role(Role::SiteServer),
    Caller::Role(Role::DistributionPoint),
    Caller::Role(Role::ChildSite),
];
const CHILD_SITE: &[Caller] = &[Caller::Role(Role::ChildSite)];
const CLIENT: &[Caller] = &[Caller::Role(Role::Client)];

/// Every method of this server. What is not here nobody may call.
pub(crate) const ACCESS: Table = &[
    ("/muster.catalog.v1.SyncService/StartSync", SITE_SERVER),
    ("/muster.catalog.v1.SyncService/WatchSync", SITE_SERVER),
    ("/muster.catalog.v1.SyncService/ListSyncs", SITE_SERVER),
    (
        "/muster.catalog.v1.CatalogService/GetGeneration",
        SERVERS_AND_BELOW,
    ),
    ("/muster.catalog.v1.CatalogService/StreamUpdates", SERVERS),
    (
        "/muster.catalog.v1.CatalogService/GetArchiveSnapshot",
        SERVERS,
    ),
    (
        "/muster.catalog.v1.CatalogService/GetArtifact",
        SERVERS_AND_BELOW,
    ),
    (
        "/muster.catalog.v1.ReplicaService/StreamCatalog",
        CHILD_SITE,
    ),
    ("/muster.catalog.v1.ScanService/GetScanMetadata", CLIENT),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_a_row() {
        let services = [
            "muster.catalog.v1.SyncService",
            "muster.catalog.v1.CatalogService",
            "muster.catalog.v1.ReplicaService",
            "muster.catalog.v1.ScanService",
        ];
        muster_runtime::auth::assert_covers(ACCESS, muster_proto::DESCRIPTORS, &services);
    }
}
