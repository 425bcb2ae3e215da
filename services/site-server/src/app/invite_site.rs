//! A token with which another site becomes a child of this one.

use jiff::Timestamp;
use muster_domain::SiteCode;
use muster_proto::{convert, site as pb};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use super::{Error, Site};
use crate::domain::invitation::{self, Invitation};
use crate::store::{invitations, links, sites};

/// How long a token is good when nobody says, in seconds.
const VALID_FOR: i64 = 3600;
/// The longest, in seconds.
const LONGEST: i64 = 7 * 24 * 3600;

/// Makes a one-use token; only its hash is kept.
pub(crate) async fn create_invitation(
    site: &Site,
    administrator: &str,
    request: &pb::CreateInvitationRequest,
) -> Result<pb::CreateInvitationResponse, Error> {
    let code: SiteCode = request.site_code.parse()?;
    let valid_for = request.valid_for.unwrap_or(prost_types::Duration {
        seconds: VALID_FOR,
        nanos: 0,
    });
    if !(60..=LONGEST).contains(&valid_for.seconds) {
        return Err(Error::invalid(
            "VALID_FOR",
            "valid_for must be 1 minute to 7 days",
        ));
    }
    let expires_at = Timestamp::now()
        .checked_add(convert::from_duration("valid_for", &valid_for)?)
        .map_err(|_| Error::invalid("VALID_FOR", "valid_for is too long"))?;
    let invitation = Invitation::new(
        site.config.site_code,
        authority(site.ca.pem())?,
        &address(site)?,
    );
    let token = invitation.encode();
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let known = sites::known(&tx).await?;
    // Those above us may not have told us of themselves yet.
    let above = links::lineage(&tx, site.config.site_code).await?;
    if known.iter().any(|it| it.code == code.as_str() && !it.gone)
        || above.iter().any(|it| it == code.as_str())
    {
        return Err(Error::SiteExists {
            code: code.to_string(),
        });
    }
    invitations::add(&tx, &invitation::hash(&token), code, expires_at).await?;
    tx.commit().await?;
    tracing::info!(audit = true, administrator, invited = %code, "site invited");
    Ok(pb::CreateInvitationResponse {
        token,
        expires_at: Some(convert::to_timestamp(expires_at)),
    })
}

/// What names an authority in a token: SHA-256 of its certificate.
pub(super) fn authority(pem: &str) -> Result<[u8; 32], Error> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| Error::Internal("the site CA's certificate is not readable"))?;
    Ok(Sha256::digest(&der).into())
}

/// Where sites below reach us.
fn address(site: &Site) -> Result<String, Error> {
    let listen = site.config.listen;
    match &site.config.links.address {
        Some(address) => Ok(address.trim_end_matches('/').to_owned()),
        None if !listen.ip().is_unspecified() => Ok(format!("https://{listen}")),
        None => Err(Error::conflict(
            "NO_ADDRESS",
            "the configuration does not say where other sites reach this one: set links.address",
        )),
    }
}
