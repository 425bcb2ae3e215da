//! The site with its roles and what they say of themselves.

use std::time::Duration;

use muster_proto::site as pb;
use muster_runtime::grpc::{Channel, ChannelOptions, channel};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Error, Site, links};
use crate::store::sites;

/// How long a role may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// All sites this one knows.
pub(crate) async fn list_sites(site: &Site) -> Result<pb::ListSitesResponse, Error> {
    Ok(pb::ListSitesResponse {
        sites: known(site).await?,
    })
}

/// One site; its roles are asked only when it is this one.
pub(crate) async fn get_site(
    site: &Site,
    request: &pb::GetSiteRequest,
) -> Result<pb::GetSiteResponse, Error> {
    let own = site.config.site_code.to_string();
    let code = match request.site_code.trim() {
        "" => own.clone(),
        code => code.to_ascii_uppercase(),
    };
    let known = known(site).await?;
    let unknown = || Error::not_found("UNKNOWN_SITE", format!("there is no site {code:?}"));
    let found = known
        .into_iter()
        .find(|known| known.site_code == code)
        .ok_or_else(unknown)?;
    let roles = if code == own {
        roles(site).await
    } else {
        Vec::new()
    };
    Ok(pb::GetSiteResponse {
        site: Some(found),
        roles,
    })
}

/// The links to the neighbours, the parent first.
pub(crate) async fn list_links(site: &Site) -> Result<pb::ListLinksResponse, Error> {
    let links = links::shown(site, &site.db().await?).await?;
    Ok(pb::ListLinksResponse { links })
}

/// The sites that this one knows; of itself it says what it holds and how it is now.
async fn known(site: &Site) -> Result<Vec<pb::Site>, Error> {
    let db = site.db().await?;
    let mut known = sites::list(&db, site.config.site_code).await?;
    if let Some(own) = known.iter_mut().find(|it| it.own) {
        let status = links::sites::status(site, &db).await?;
        own.queued_messages = status.queued_messages;
        own.quarantined = status.quarantined;
        own.certificate_ends_at = status.certificate_ends_at;
        own.links = status.links;
    }
    Ok(known)
}

async fn roles(site: &Site) -> Vec<pb::SiteRole> {
    let roles = &site.config.roles;
    let mut asked = vec![("software-update-point", roles.software_update_point.clone())];
    let nearby = &site.config.secondary_sites;
    let points = nearby.iter().flat_map(|site| &site.software_update_points);
    asked.extend(points.map(|url| ("software-update-point", url.clone())));
    let points = nearby.iter().flat_map(|site| &site.management_points);
    let points = roles.management_points.iter().chain(points);
    asked.extend(points.map(|url| ("management-point", url.clone())));
    let points = site.config.distribution_points();
    asked.extend(points.map(|point| ("distribution-point", point.grpc.clone())));
    let asked = asked
        .into_iter()
        .map(|(role, address)| ask(site, role, address));
    futures::future::join_all(asked).await
}

async fn ask(site: &Site, role: &'static str, address: String) -> pb::SiteRole {
    let options = ChannelOptions {
        connect_timeout: PATIENCE,
        request_timeout: PATIENCE,
        ..ChannelOptions::default()
    };
    let outcome = match channel(&address, &site.config.tls, &options) {
        Ok(channel) => check(channel).await,
        Err(error) => Err(error.to_string()),
    };
    pb::SiteRole {
        role: role.to_owned(),
        address,
        reachable: outcome.is_ok(),
        detail: outcome.err().unwrap_or_default(),
    }
}

async fn check(channel: Channel) -> Result<(), String> {
    let question = HealthCheckRequest {
        service: String::new(),
    };
    let mut client = HealthClient::new(channel);
    let answer = client.check(question);
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving => Ok(()),
        Ok(Ok(_)) => Err("it says that it is not serving".to_owned()),
        Ok(Err(status)) => Err(format!("{:?}: {}", status.code(), status.message())),
        Err(_) => Err("it does not answer".to_owned()),
    }
}
