//! Who may call what at a site server. Everything that is not here is denied.

use muster_runtime::Role;
use muster_runtime::auth::{Caller, Table};

const ADMINISTRATOR: &[Caller] = &[Caller::Role(Role::Administrator)];
const CHILD_SITE: &[Caller] = &[Caller::Role(Role::ChildSite)];
/// What serves clients content and scans, and gets both from the parent's.
const SUPPLIED: &[Caller] = &[
    Caller::Role(Role::SoftwareUpdatePoint),
    Caller::Role(Role::DistributionPoint),
];
const MANAGEMENT_POINT: &[Caller] = &[Caller::Role(Role::ManagementPoint)];

/// One row per method.
pub(crate) const TABLE: Table = &[
    (
        "/muster.client.v1.ClientGatewayService/EnrolClient",
        MANAGEMENT_POINT,
    ),
    (
        "/muster.client.v1.ClientGatewayService/RegisterClient",
        MANAGEMENT_POINT,
    ),
    (
        "/muster.client.v1.ClientGatewayService/GetClientLocations",
        MANAGEMENT_POINT,
    ),
    (
        "/muster.client.v1.ClientGatewayService/GetClientPolicy",
        MANAGEMENT_POINT,
    ),
    (
        "/muster.client.v1.ClientGatewayService/RenewClientIdentity",
        MANAGEMENT_POINT,
    ),
    (
        "/muster.client.v1.ClientGatewayService/GetDirections",
        MANAGEMENT_POINT,
    ),
    ("/muster.client.v1.ClientService/ListClients", ADMINISTRATOR),
    ("/muster.client.v1.ClientService/GetClient", ADMINISTRATOR),
    (
        "/muster.client.v1.ClientService/DeleteClient",
        ADMINISTRATOR,
    ),
    (
        "/muster.client.v1.ClientService/ResyncClients",
        ADMINISTRATOR,
    ),
    ("/muster.client.v1.ClientService/MoveClient", ADMINISTRATOR),
    (
        "/muster.client.v1.ClientService/CreateEnrolmentTokens",
        ADMINISTRATOR,
    ),
    ("/muster.catalog.v1.SyncService/StartSync", ADMINISTRATOR),
    ("/muster.catalog.v1.SyncService/WatchSync", ADMINISTRATOR),
    ("/muster.catalog.v1.SyncService/ListSyncs", ADMINISTRATOR),
    (
        "/muster.catalog.v1.UpdateService/ListUpdates",
        ADMINISTRATOR,
    ),
    ("/muster.catalog.v1.UpdateService/GetUpdate", ADMINISTRATOR),
    (
        "/muster.catalog.v1.UpdateService/CreateUpdateList",
        ADMINISTRATOR,
    ),
    (
        "/muster.catalog.v1.UpdateService/ListUpdateLists",
        ADMINISTRATOR,
    ),
    (
        "/muster.catalog.v1.UpdateService/GetUpdateList",
        ADMINISTRATOR,
    ),
    (
        "/muster.catalog.v1.UpdateService/DeleteUpdateList",
        ADMINISTRATOR,
    ),
    (
        "/muster.collection.v1.CollectionService/CreateCollection",
        ADMINISTRATOR,
    ),
    (
        "/muster.collection.v1.CollectionService/ListCollections",
        ADMINISTRATOR,
    ),
    (
        "/muster.collection.v1.CollectionService/GetCollection",
        ADMINISTRATOR,
    ),
    (
        "/muster.collection.v1.CollectionService/DeleteCollection",
        ADMINISTRATOR,
    ),
    (
        "/muster.collection.v1.CollectionService/ChangeMembers",
        ADMINISTRATOR,
    ),
    (
        "/muster.content.v1.PackageService/CreatePackage",
        ADMINISTRATOR,
    ),
    (
        "/muster.content.v1.PackageService/ListPackages",
        ADMINISTRATOR,
    ),
    (
        "/muster.content.v1.PackageService/GetPackage",
        ADMINISTRATOR,
    ),
    (
        "/muster.content.v1.PackageService/DeletePackage",
        ADMINISTRATOR,
    ),
    (
        "/muster.deployment.v1.DeploymentService/CreateDeployment",
        ADMINISTRATOR,
    ),
    (
        "/muster.deployment.v1.DeploymentService/ListDeployments",
        ADMINISTRATOR,
    ),
    (
        "/muster.deployment.v1.DeploymentService/GetDeployment",
        ADMINISTRATOR,
    ),
    (
        "/muster.deployment.v1.DeploymentService/DeleteDeployment",
        ADMINISTRATOR,
    ),
    (
        "/muster.deployment.v1.DeploymentService/WatchDeployment",
        ADMINISTRATOR,
    ),
    (
        "/muster.report.v1.ReportService/GetCompliance",
        ADMINISTRATOR,
    ),
    (
        "/muster.report.v1.ReportService/ListComplianceClients",
        ADMINISTRATOR,
    ),
    (
        "/muster.report.v1.ReportService/GetUpdateCompliance",
        ADMINISTRATOR,
    ),
    (
        "/muster.report.v1.ReportService/ListUpdateClients",
        ADMINISTRATOR,
    ),
    ("/muster.report.v1.ReportService/GetCoverage", ADMINISTRATOR),
    (
        "/muster.report.v1.ReportService/ListCoverageClients",
        ADMINISTRATOR,
    ),
    (
        "/muster.report.v1.ReportService/GetEnforcement",
        ADMINISTRATOR,
    ),
    (
        "/muster.report.v1.ReportService/GetEvaluation",
        ADMINISTRATOR,
    ),
    ("/muster.report.v1.ReportService/GetScans", ADMINISTRATOR),
    (
        "/muster.report.v1.ReportService/ListScanClients",
        ADMINISTRATOR,
    ),
    (
        "/muster.report.v1.ReportService/ListErrorClients",
        ADMINISTRATOR,
    ),
    ("/muster.report.v1.ReportService/GetTrend", ADMINISTRATOR),
    ("/muster.report.v1.ReportService/ListErrors", ADMINISTRATOR),
    (
        "/muster.report.v1.ReportService/GetClientReport",
        ADMINISTRATOR,
    ),
    // The token in it is the proof.
    ("/muster.link.v1.JoinService/Join", &[Caller::Anyone]),
    ("/muster.link.v1.JoinService/Leave", CHILD_SITE),
    ("/muster.link.v1.UpstreamService/GetUpstream", SUPPLIED),
    ("/muster.link.v1.UpstreamService/GetRoles", CHILD_SITE),
    ("/muster.site.v1.SiteService/ListSites", ADMINISTRATOR),
    ("/muster.site.v1.SiteService/GetSite", ADMINISTRATOR),
    (
        "/muster.site.v1.SiteService/CreateInvitation",
        ADMINISTRATOR,
    ),
    ("/muster.site.v1.SiteService/JoinParent", ADMINISTRATOR),
    ("/muster.site.v1.SiteService/LeaveParent", ADMINISTRATOR),
    ("/muster.site.v1.SiteService/RemoveChild", ADMINISTRATOR),
    ("/muster.site.v1.SiteService/ListLinks", ADMINISTRATOR),
    ("/muster.state.v1.BacklogService/GetBacklog", ADMINISTRATOR),
    (
        "/muster.state.v1.BacklogService/ListQuarantined",
        ADMINISTRATOR,
    ),
    (
        "/muster.state.v1.BacklogService/InspectQuarantined",
        ADMINISTRATOR,
    ),
    (
        "/muster.state.v1.BacklogService/RedriveQuarantined",
        ADMINISTRATOR,
    ),
    (
        "/muster.state.v1.BacklogService/DropQuarantined",
        ADMINISTRATOR,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_a_site_server_has_a_row() {
        let services = [
            "muster.client.v1.ClientGatewayService",
            "muster.client.v1.ClientService",
            "muster.catalog.v1.SyncService",
            "muster.catalog.v1.UpdateService",
            "muster.collection.v1.CollectionService",
            "muster.content.v1.PackageService",
            "muster.deployment.v1.DeploymentService",
            "muster.link.v1.JoinService",
            "muster.link.v1.UpstreamService",
            "muster.report.v1.ReportService",
            "muster.site.v1.SiteService",
            "muster.state.v1.BacklogService",
        ];
        muster_runtime::auth::assert_covers(TABLE, muster_proto::DESCRIPTORS, &services);
    }
}
