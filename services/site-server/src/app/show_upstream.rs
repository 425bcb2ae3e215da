//! Where the roles of this site get what they serve when the site has a parent: from the parent's
//! roles, with the certificate that the parent gave this site when it joined.

use muster_domain::SiteCode;
use muster_proto::link as pb;
use muster_proto::link::upstream_service_client::UpstreamServiceClient;
use muster_runtime::tls::Peer;

use super::{Error, Site, leave_site};
use crate::store::invitations;

/// What our roles need to call the parent's. Where those are is asked of the parent each time: it
/// may move them.
pub(crate) async fn upstream(site: &Site) -> Result<pb::GetUpstreamResponse, Error> {
    let db = site.db().await?;
    let no_parent = || Error::conflict("NO_PARENT", "this site has no parent");
    let parent = invitations::parent(&db).await?.ok_or_else(no_parent)?;
    let access = invitations::access(&db).await?.ok_or_else(no_parent)?;
    drop(db);
    let roles = UpstreamServiceClient::new(leave_site::parent_channel(&access)?)
        .get_roles(pb::GetRolesRequest {})
        .await
        .map_err(Error::service("parent site"))?
        .into_inner();
    Ok(pb::GetUpstreamResponse {
        site_code: parent.code,
        roles: Some(roles),
        ca: access.ca,
        certificate: access.certificate,
        key: access.key,
    })
}

/// Our roles, for a child that shows the certificate that it got last.
pub(crate) async fn roles_for(
    site: &Site,
    code: &str,
    peer: Option<&Peer>,
) -> Result<pb::GetRolesResponse, Error> {
    let code: SiteCode = code.parse()?;
    let child = invitations::child(&site.db().await?, code).await?;
    let shown = peer.and_then(|peer| peer.fingerprint.as_deref());
    let current =
        child.is_some_and(|child| shown.is_some() && child.fingerprint.as_deref() == shown);
    if !current {
        return Err(Error::denied(
            "OLD_CERTIFICATE",
            "this certificate is not that of a child of this site",
        ));
    }
    let roles = &site.config.roles;
    let mut software_update_points = roles.software_update_points.clone();
    if software_update_points.is_empty() {
        software_update_points.push(roles.software_update_point.clone());
    }
    let content = roles
        .distribution_points
        .iter()
        .map(|it| it.content.clone());
    Ok(pb::GetRolesResponse {
        software_update_points,
        distribution_points: content.collect(),
    })
}
