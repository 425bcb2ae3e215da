//! This site becomes a child of another one: it asks there with a token, and remembers what it
//! needs for the link.

use std::time::Duration;

use jiff::Timestamp;
use muster_domain::SiteCode;
use muster_proto::link::join_service_client::JoinServiceClient;
use muster_proto::{convert, link as wire, site as pb};
use muster_runtime::Role;
use muster_runtime::grpc::{ChannelOptions, channel_pinned, is_foreign};
use muster_runtime::tls::ca::signing_request;
use tonic::{Code, Status};

use super::invite_site::authority;
use super::links::{self, Neighbour};
use super::{Error, Site, choose_clients};
use crate::domain::invitation::{self, Invitation};
use crate::domain::link::{protocol_refusal, spoken};
use crate::domain::names::cleaned;
use crate::store::invitations::{self, Access, Joining};
use crate::store::sites;

/// How long the parent may take: it makes a user at its broker meanwhile.
const PATIENCE: Duration = Duration::from_secs(25);

/// Joins the site that made the token.
pub(crate) async fn join_parent(
    site: &Site,
    administrator: &str,
    request: &pb::JoinParentRequest,
) -> Result<pb::JoinParentResponse, Error> {
    let token = request.token.trim();
    let invitation =
        Invitation::decode(token).map_err(|error| Error::conflict("TOKEN", error.to_string()))?;
    let (own, parent) = (site.config.site_code, invitation.parent);
    let db = site.db().await?;
    if parent == own {
        return Err(Error::conflict("LOOP", "the token is of this very site"));
    }
    if let Some(held) = invitations::parent(&db)
        .await?
        .filter(|it| it.code != parent.as_str())
    {
        return Err(has_parent(&held.code));
    }
    let descendants = sites::all_below(&db).await?;
    drop(db);
    if descendants.iter().any(|it| it == parent.as_str()) {
        let text = format!("{parent} is below this site");
        return Err(Error::conflict("LOOP", text));
    }
    let key = signing_request()?;
    let signed = invitation::signed_part(token, own.as_str(), &key.der);
    let asked = wire::JoinRequest {
        token: token.to_owned(),
        site_code: own.to_string(),
        name: site.config.site_name.clone(),
        public_key: site.policy_key.public(),
        protocol: spoken(),
        descendants,
        certificate_request: key.der.into(),
        signature: site.policy_key.sign(invitation::SIGNING_CONTEXT, &signed),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let answer = ask(&invitation, asked).await?;
    verify(site, &invitation, &answer)?;
    keep(site, &invitation, &answer, key.key_pem).await?;
    links::changed(site);
    links::wake(site);
    tracing::info!(audit = true, administrator, %parent, "this site has joined another");
    let db = site.db().await?;
    let known = sites::list(&db, own).await?;
    Ok(pb::JoinParentResponse {
        parent: known.into_iter().find(|it| it.site_code == parent.as_str()),
    })
}

fn has_parent(held: &str) -> Error {
    let text = format!("this site is a child of {held}: leave it first");
    Error::conflict("HAS_PARENT", text)
}

async fn ask(
    invitation: &Invitation,
    request: wire::JoinRequest,
) -> Result<wire::JoinResponse, Error> {
    let options = ChannelOptions {
        connect_timeout: Duration::from_secs(5),
        request_timeout: PATIENCE,
        server_role: Some(Role::SiteServer),
        ..ChannelOptions::default()
    };
    let channel = channel_pinned(&invitation.address, invitation.authority, &options)
        .map_err(|_| Error::conflict("TOKEN", "the address in the token is none"))?;
    let answer = JoinServiceClient::new(channel).join(request).await;
    Ok(answer
        .map_err(|status| refusal(&invitation.address, status))?
        .into_inner())
}

/// What the parent answered, for our administrator.
fn refusal(address: &str, status: Status) -> Error {
    /// What is told on under its own name.
    const REASONS: [&str; 5] = [
        "DUPLICATE_SITE_CODE",
        "LOOP",
        "PROTOCOL_TOO_OLD",
        "PROTOCOL_TOO_NEW",
        "BROKER",
    ];
    if is_foreign(&status) {
        let text = format!("who answers at {address} is not the site that made the token");
        return Error::conflict("FOREIGN_AUTHORITY", text);
    }
    let reason = muster_runtime::status::reason(&status).unwrap_or_default();
    let text = format!("the parent refuses: {}", cleaned(status.message(), 1_000));
    if let Some(reason) = REASONS.into_iter().find(|it| *it == reason) {
        return Error::conflict(reason, text);
    }
    if status.code() == Code::PermissionDenied {
        return Error::conflict(
            "TOKEN",
            "the parent does not accept the token: it is used, expired, or for another site code",
        );
    }
    Error::service("parent site")(status)
}

/// Whether the answer is that of the site that made the token, and fits us.
fn verify(site: &Site, invitation: &Invitation, answer: &wire::JoinResponse) -> Result<(), Error> {
    let own = site.config.site_code;
    if answer.site_code != invitation.parent.as_str()
        || authority(&answer.broker_ca)? != invitation.authority
        || answer.public_key.len() != 32
    {
        let text = "the parent's answer is not that of the site that made the token";
        return Err(Error::conflict("FOREIGN_AUTHORITY", text));
    }
    if answer.lineage.iter().any(|it| it == own.as_str()) {
        let text = format!("{} is below this site", invitation.parent);
        return Err(Error::conflict("LOOP", text));
    }
    match protocol_refusal(answer.protocol) {
        Some(refusal) => Err(Error::conflict(refusal.reason, refusal.detail)),
        None => Ok(()),
    }
}

async fn keep(
    site: &Site,
    invitation: &Invitation,
    answer: &wire::JoinResponse,
    key: String,
) -> Result<(), Error> {
    let (own, parent) = (site.config.site_code, invitation.parent);
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    site.still_active(&tx).await?;
    let known = sites::known(&tx).await?;
    let held = invitations::parent(&tx).await?;
    if let Some(other) = held.filter(|it| it.code != parent.as_str()) {
        return Err(has_parent(&other.code));
    }
    // A child that joined us while we asked.
    if known
        .iter()
        .any(|it| it.code == parent.as_str() && it.via.is_some() && !it.gone)
    {
        let text = format!("{parent} is below this site");
        return Err(Error::conflict("LOOP", text));
    }
    let name = cleaned(answer.name.trim(), 255);
    let joining = Joining {
        code: parent,
        name: &name,
        is_parent: true,
        public_key: &answer.public_key,
        protocol: answer.protocol,
        version: &cleaned(&answer.version, 64),
        lineage: &answer.lineage,
        fingerprint: None,
        password_hash: None,
    };
    let _sites = choose_clients::changing(site);
    let made = invitations::join(&tx, &joining).await?;
    let access = Access {
        address: invitation.address.clone(),
        broker_uri: answer.broker_uri.clone(),
        username: answer.broker_user.clone(),
        password: answer.broker_password.clone(),
        ca: answer.broker_ca.clone(),
        certificate: answer.certificate.clone(),
        key,
    };
    invitations::keep_access(&tx, parent, &access).await?;
    if made {
        above(&tx, parent, &name, answer).await?;
        sites::set_parent(&tx, own, Some(parent)).await?;
        let neighbour = Neighbour {
            code: parent,
            is_parent: true,
        };
        links::sites::all_dirty(&tx, neighbour).await?;
        // Those below learn under whom they are now.
        sites::mark_dirty(&tx, own, &[own.to_string(), parent.to_string()]).await?;
    } else {
        invitations::connect_again(&tx, parent).await?;
    }
    Ok(tx.commit().await?)
}

/// The parent's row, until its own record comes.
async fn above(
    tx: &deadpool_postgres::Transaction<'_>,
    parent: SiteCode,
    name: &str,
    answer: &wire::JoinResponse,
) -> Result<(), Error> {
    let grandparent = answer.lineage.iter().find(|it| *it != parent.as_str());
    let record = wire::SiteRecord {
        site_code: parent.to_string(),
        name: name.to_owned(),
        parent_site_code: grandparent.cloned().unwrap_or_default(),
        version: cleaned(&answer.version, 64),
        created_at: Some(convert::to_timestamp(Timestamp::now())),
        ..Default::default()
    };
    sites::keep(tx, &record, None).await
}
