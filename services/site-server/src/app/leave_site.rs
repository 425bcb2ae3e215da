//! A link ends: this site leaves its parent, or a child leaves or is removed.

use std::time::Duration;

use muster_domain::SiteCode;
use muster_proto::link::join_service_client::JoinServiceClient;
use muster_proto::{link as wire, site as pb};
use muster_rabbitmq::Management;
use muster_runtime::Role;
use muster_runtime::grpc::{Channel, ChannelOptions, channel_with};
use muster_runtime::status::chain;
use muster_runtime::tls::{ClientTls, Peer};

use super::{Error, Site, choose_clients, directory, join_site, links, manage_clients};
use crate::store::{clients, invitations, objects, sites};

/// Clients of a site that is gone that are looked up at once.
const CLIENTS: i64 = 500;
/// How long the parent may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Leaves the parent: it is told first, so that nothing of ours stays behind there unnoticed.
pub(crate) async fn leave_parent(
    site: &Site,
    administrator: &str,
    request: &pb::LeaveParentRequest,
) -> Result<(), Error> {
    let mut db = site.db().await?;
    let no_parent = || Error::conflict("NO_PARENT", "this site has no parent");
    let parent = invitations::parent(&db).await?.ok_or_else(no_parent)?;
    let access = invitations::access(&db).await?.ok_or_else(no_parent)?;
    if let Err(error) = tell(&access).await {
        if !request.without_parent {
            return Err(error);
        }
        tracing::warn!(error = %chain(&error), "the parent does not know that we leave");
    }
    let own = site.config.site_code;
    let _sites = choose_clients::changing(site);
    let tx = db.transaction().await?;
    site.still_active(&tx).await?;
    sites::known(&tx).await?;
    invitations::end(&tx, &parent.code).await?;
    let above = sites::forget_above(&tx, own).await?;
    sites::set_parent(&tx, own, None).await?;
    sites::mark_dirty(&tx, own, &[own.to_string()]).await?;
    tx.commit().await?;
    links::changed(site);
    links::wake(site);
    site.site_gone.notify_one();
    tracing::info!(
        audit = true,
        administrator,
        parent = parent.code,
        ?above,
        "parent left"
    );
    Ok(())
}

async fn tell(access: &invitations::Access) -> Result<(), Error> {
    JoinServiceClient::new(parent_channel(access)?)
        .leave(wire::LeaveRequest {})
        .await
        .map_err(Error::service("parent site"))?;
    Ok(())
}

/// To the parent's site server, as the child that it knows.
pub(super) fn parent_channel(access: &invitations::Access) -> Result<Channel, Error> {
    let options = ChannelOptions {
        connect_timeout: Duration::from_secs(5),
        request_timeout: PATIENCE,
        server_role: Some(Role::SiteServer),
        ..ChannelOptions::default()
    };
    let tls = ClientTls::from_pem(&access.ca, &access.certificate, &access.key)?;
    channel_with(&access.address, tls, &options)
        .map_err(|_| Error::Internal("the parent's address is none"))
}

/// A child says that it leaves. Only with the certificate that it got last: an older one may be in
/// the hands of who had the code before.
pub(crate) async fn child_leaves(
    site: &Site,
    code: &str,
    peer: Option<&Peer>,
) -> Result<(), Error> {
    let code: SiteCode = code.parse()?;
    let shown = peer.and_then(|peer| peer.fingerprint.as_deref());
    end(site, code, shown, "itself").await.map(drop)
}

/// Removes a child that cannot leave by itself.
pub(crate) async fn remove_child(
    site: &Site,
    administrator: &str,
    request: &pb::RemoveChildRequest,
) -> Result<(), Error> {
    let code: SiteCode = request.site_code.parse()?;
    if end(site, code, None, administrator).await? {
        return Ok(());
    }
    let text = format!("{code} is no child of this site");
    Err(Error::not_found("UNKNOWN_SITE", text))
}

/// Ends the link to a child; `false` when there is none. `certificate` must be its last one, if given.
async fn end(
    site: &Site,
    code: SiteCode,
    certificate: Option<&str>,
    by: &str,
) -> Result<bool, Error> {
    let own = site.config.site_code;
    let _sites = choose_clients::changing(site);
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    site.still_active(&tx).await?;
    sites::known(&tx).await?;
    let Some(child) = invitations::child(&tx, code).await? else {
        return Ok(false);
    };
    if certificate.is_some() && certificate != child.fingerprint.as_deref() {
        return Err(Error::denied(
            "OLD_CERTIFICATE",
            "the site has joined again since this certificate was issued",
        ));
    }
    // First its way in: what it would still send is refused by the broker.
    remove_user(site, code).await?;
    let gone = sites::mark_gone(&tx, code).await?;
    invitations::end(&tx, code.as_str()).await?;
    sites::mark_dirty(&tx, own, &gone).await?;
    tx.commit().await?;
    links::changed(site);
    links::wake(site);
    site.site_gone.notify_one();
    tracing::info!(audit = true, by, child = %code, ?gone, "child removed");
    Ok(true)
}

/// Removes what sites that are gone have left behind: objects that they own, and clients.
pub(crate) async fn clear_away(site: &Site) -> Result<(), Error> {
    clear_objects(site).await?;
    loop {
        let clients = clients::of_gone_sites(&site.db().await?, CLIENTS).await?;
        if clients.is_empty() {
            return Ok(());
        }
        let count = clients.len();
        for client in clients {
            manage_clients::remove(site, client, false).await?;
        }
        tracing::info!(count, "clients of sites that are gone are removed");
    }
}

/// Removes objects of sites that are neither above nor below us any more.
async fn clear_objects(site: &Site) -> Result<(), Error> {
    let own = site.config.site_code;
    if objects::departed(&site.db().await?, own).await?.is_empty() {
        return Ok(());
    }
    // Deployments may end: no report is recorded meanwhile, and nobody else names anything.
    let _known = site.known_clients.lock_all().await;
    let mut turn = directory::turn(site).await;
    let _names = site.known_deployments.forget_at_end();
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    site.still_active(&tx).await?;
    // Nobody joins until this is done.
    sites::known(&tx).await?;
    let departed = objects::departed(&tx, own).await?;
    let removed = links::objects::remove_owned(&tx, &departed).await?;
    turn.doubt();
    tx.commit().await?;
    links::objects::remember(site, &turn, &removed);
    turn.settle();
    links::wake(site);
    tracing::info!(?departed, "objects of sites that are gone are removed");
    Ok(())
}

async fn remove_user(site: &Site, child: SiteCode) -> Result<(), Error> {
    let Some(management) = &site.config.rabbitmq.management else {
        return Ok(());
    };
    let management = Management::new(management)?;
    let user = join_site::user_name(child);
    Ok(management.remove_user(&user).await?)
}
