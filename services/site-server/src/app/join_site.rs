//! Another site becomes a child of this one. Everything it needs is made before anything is
//! remembered, and all of it can be made again: an answer that is lost costs a repeated call.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use muster_domain::SiteCode;
use muster_proto::{convert, link as pb};
use muster_rabbitmq::{Management, User};
use muster_runtime::tls::ca::SERVICE_VALIDITY;
use muster_runtime::{Identity, Role};

use super::enrol_client::MAX_CSR;
use super::links::{self, Neighbour};
use super::{Error, Site, choose_clients};
use crate::domain::invitation::{self, Invitation};
use crate::domain::link::{protocol_refusal, spoken};
use crate::domain::names::cleaned;
use crate::store::invitations::{self, Joining};
use crate::store::sites::{self, Known};

/// Most sites below one that joins.
const MAX_SITES: usize = 10_000;

/// Takes a site in that shows a token of ours.
pub(crate) async fn join_site(
    site: &Site,
    request: &pb::JoinRequest,
) -> Result<pb::JoinResponse, Error> {
    let code = check(site, request)?;
    let hash = invitation::hash(&request.token);
    let own = site.config.site_code;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let given = invitations::lock(&tx, &hash).await?;
    // Why a token is not accepted is one answer for all reasons.
    let given = given
        .filter(|it| it.expires_at > Timestamp::now() && it.site_code == code.as_str())
        .ok_or_else(refused)?;
    if let Some(refusal) = protocol_refusal(request.protocol) {
        return Err(Error::conflict(refusal.reason, refusal.detail));
    }
    site.still_active(&tx).await?;
    let known = sites::known(&tx).await?;
    let above = crate::store::links::lineage(&tx, own).await?;
    match &given.used_key {
        Some(key) => {
            // The same site again, unless it was removed meanwhile.
            let held = invitations::child(&tx, code).await?;
            let same = held.is_some_and(|held| held.public_key == request.public_key);
            if !same || *key != request.public_key {
                return Err(refused());
            }
        }
        None => {
            fits(&above, &known, code, &request.descendants)?;
            invitations::mark_used(&tx, &hash, &request.public_key).await?;
        }
    }
    let password = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let password_hash = muster_rabbitmq::password_hash(&password);
    let user = user_name(code);
    make_user(site, code, &password_hash).await?;
    let identity = Identity::new(Role::ChildSite, own.as_str(), code.as_str())
        .map_err(|_| Error::Internal("a site code is no name"))?;
    let certificate =
        site.ca
            .sign_csr(&request.certificate_request, &identity, SERVICE_VALIDITY)?;
    let name = cleaned(request.name.trim(), 255);
    let joining = Joining {
        code,
        name: &name,
        is_parent: false,
        public_key: &request.public_key,
        protocol: request.protocol,
        version: &cleaned(&request.version, 64),
        lineage: &[],
        fingerprint: Some(&certificate.fingerprint),
        password_hash: Some(&password_hash),
    };
    let _sites = choose_clients::changing(site);
    if invitations::join(&tx, &joining).await? {
        let record = pb::SiteRecord {
            site_code: code.to_string(),
            name: name.clone(),
            parent_site_code: own.to_string(),
            version: cleaned(&request.version, 64),
            created_at: Some(convert::to_timestamp(Timestamp::now())),
            ..Default::default()
        };
        sites::keep(&tx, &record, Some(code.as_str())).await?;
        sites::mark_dirty(&tx, own, &[own.to_string(), code.to_string()]).await?;
        let child = Neighbour {
            code,
            is_parent: false,
        };
        links::sites::all_dirty(&tx, child).await?;
    }
    tx.commit().await?;
    links::changed(site);
    links::wake(site);
    tracing::info!(audit = true, child = %code, "site joined");
    Ok(pb::JoinResponse {
        site_code: own.to_string(),
        name: site.config.site_name.clone(),
        public_key: site.policy_key.public(),
        protocol: spoken(),
        lineage: above,
        broker_uri: broker_uri(site).to_owned(),
        broker_user: user,
        broker_password: password,
        broker_ca: authorities(site).await?,
        certificate: certificate.pem,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// What can be said without looking anything up; returns the caller's code.
fn check(site: &Site, request: &pb::JoinRequest) -> Result<SiteCode, Error> {
    let invalid = |text: &str| Error::invalid("INVALID_FIELD", text);
    let invitation = Invitation::decode(&request.token).map_err(|_| refused())?;
    if invitation.parent != site.config.site_code {
        return Err(refused());
    }
    let code: SiteCode = request.site_code.parse()?;
    if request.name.trim().is_empty() {
        return Err(invalid("a site needs a name for people"));
    }
    if request.certificate_request.len() > MAX_CSR || request.descendants.len() > MAX_SITES {
        return Err(invalid("the request is too long"));
    }
    let signed = invitation::signed_part(
        &request.token,
        &request.site_code,
        &request.certificate_request,
    );
    UnparsedPublicKey::new(&ED25519, &request.public_key)
        .verify(
            &[invitation::SIGNING_CONTEXT, &signed].concat(),
            &request.signature,
        )
        .map_err(|_| invalid("the request is not signed by the key that it shows"))?;
    Ok(code)
}

/// Whether the hierarchy stays one: every code once, and nobody below itself.
fn fits(
    above: &[String],
    known: &[Known],
    code: SiteCode,
    descendants: &[String],
) -> Result<(), Error> {
    if let Some(ours) = above.iter().find(|it| descendants.contains(it)) {
        return Err(Error::conflict(
            "LOOP",
            format!("{ours} is below {code}, so {code} cannot be below {ours}"),
        ));
    }
    let joining = descendants.iter().map(String::as_str);
    for wanted in std::iter::once(code.as_str()).chain(joining) {
        let taken = known.iter().any(|it| it.code == wanted && !it.gone);
        if taken || above.iter().any(|it| it == wanted) {
            return Err(Error::SiteExists {
                code: wanted.to_owned(),
            });
        }
    }
    Ok(())
}

fn refused() -> Error {
    Error::denied("TOKEN_REFUSED", "the token is not accepted")
}

/// The broker user of a child.
pub(super) fn user_name(child: SiteCode) -> String {
    format!("site-{child}")
}

fn broker_uri(site: &Site) -> &str {
    let links = &site.config.links;
    links
        .broker_uri
        .as_deref()
        .unwrap_or(&site.config.rabbitmq.uri)
}

/// Our authority, and those of the broker, which may be another's.
async fn authorities(site: &Site) -> Result<String, Error> {
    let own = site.ca.pem().to_owned();
    let Some(tls) = &site.config.rabbitmq.tls else {
        return Ok(own);
    };
    let brokers = tokio::fs::read_to_string(&tls.ca)
        .await
        .map_err(|_| Error::Internal("the authorities of the broker are not readable"))?;
    if brokers.trim() == own.trim() {
        return Ok(own);
    }
    Ok(format!("{own}\n{brokers}"))
}

/// Makes the user of a child again, for a broker that has lost everything. Without the broker's
/// management interface somebody else has to.
pub(crate) async fn make_user_again(site: &Site, child: SiteCode) -> Result<(), Error> {
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    // A site that joins again gets a new password: nobody may put the old one back.
    sites::known(&tx).await?;
    let hash = crate::store::links::password_hash(&tx, child).await?;
    match hash {
        Some(hash) if site.config.rabbitmq.management.is_some() => {
            make_user(site, child, &hash).await
        }
        Some(_) | None => Ok(()),
    }
}

/// Makes the child's user at our broker: it publishes up, consumes down, and can do nothing else.
async fn make_user(site: &Site, child: SiteCode, password_hash: &str) -> Result<(), Error> {
    let user = &user_name(child);
    let vhost = site.config.rabbitmq.vhost()?;
    let own = site.config.site_code;
    let write = format!("^link\\.{own}\\.{child}\\.up$");
    let read = format!("^link\\.{own}\\.{child}\\.down$");
    let Some(management) = &site.config.rabbitmq.management else {
        return Err(Error::conflict(
            "BROKER",
            format!(
                "this site may not make users at its broker: set rabbitmq.management in its \
                 configuration, for a user with the tag administrator; joining then makes the \
                 user {user} and gives it its rights, as these commands would: \
                 rabbitmqctl add_user {user} PASSWORD; \
                 rabbitmqctl set_permissions -p {vhost} {user} '' '{write}' '{read}'"
            ),
        ));
    };
    let user = User {
        name: user,
        configure: "",
        write: &write,
        read: &read,
    };
    let made = async {
        let management = Management::new(management)?;
        management.set_user(&vhost, user, password_hash).await
    };
    made.await.map_err(|error| {
        let text = muster_runtime::status::chain(&error);
        Error::conflict("BROKER", format!("cannot make the broker's user: {text}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(outcome: Result<(), Error>) -> &'static str {
        use muster_runtime::status::HasKind;
        outcome.map_or_else(|error| error.reason(), |()| "")
    }

    #[test]
    fn a_site_is_in_the_hierarchy_once_and_never_below_itself() {
        let code = |code: &str| code.parse::<SiteCode>().unwrap();
        let text = |codes: &[&str]| codes.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let site = |code: &str, gone| Known {
            code: code.to_owned(),
            via: None,
            gone,
        };
        // We are P01 below CEN, with S11 below us; S12 has left.
        let above = text(&["P01", "CEN"]);
        let known = [
            site("P01", false),
            site("CEN", false),
            site("S11", false),
            site("S12", true),
        ];
        let fits = |new: &str, below: &[&str]| {
            reason(super::fits(&above, &known, code(new), &text(below)))
        };
        assert_eq!(fits("S13", &["T01"]), "");
        assert_eq!(fits("S12", &[]), "");
        assert_eq!(fits("S11", &[]), "DUPLICATE_SITE_CODE");
        assert_eq!(fits("S13", &["S11"]), "DUPLICATE_SITE_CODE");
        assert_eq!(fits("P01", &[]), "DUPLICATE_SITE_CODE");
        assert_eq!(fits("XXX", &["S99", "P01"]), "LOOP");
        assert_eq!(fits("XXX", &["CEN"]), "LOOP");
    }
}
