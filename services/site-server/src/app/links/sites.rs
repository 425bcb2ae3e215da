//! Which sites there are, on its way to the neighbours and from them. A site tells its parent of
//! itself and of all below it, and its children of itself and of all above it.

use deadpool_postgres::{GenericClient, Transaction};
use muster_domain::SiteCode;
use muster_proto::{convert, link as pb};

use super::{Error, Neighbour, Site};
use crate::app::move_clients;
use crate::domain::names::cleaned;
use crate::domain::report::Refused;
use crate::store::sites;

/// Takes what is dirty for a neighbour, `limit` at most.
pub(crate) async fn take(
    site: &Site,
    tx: &Transaction<'_>,
    peer: Neighbour,
    limit: usize,
) -> Result<Vec<pb::SiteRecord>, Error> {
    let codes = sites::take_dirty(tx, peer.code, limit).await?;
    let mut records = sites::records(tx, &codes).await?;
    let own = site.config.site_code;
    for record in &mut records {
        if record.site_code == own.as_str() {
            record.version = env!("CARGO_PKG_VERSION").to_owned();
            record.status = Some(status(site, tx).await?);
            record.reception = Some(move_clients::reception(site)?);
        }
    }
    Ok(records)
}

/// What this site says of itself.
pub(crate) async fn status(site: &Site, db: &impl GenericClient) -> Result<pb::SiteStatus, Error> {
    let counts = sites::counts(db).await?;
    let links = super::shown(site, db).await?;
    Ok(pb::SiteStatus {
        at: Some(convert::to_timestamp(jiff::Timestamp::now())),
        clients: counts.clients,
        own_clients: counts.own_clients,
        catalog_generation: counts.generation,
        updates: counts.updates,
        queued_messages: site.rates.queued(),
        quarantined: counts.quarantined,
        certificate_ends_at: certificate_ends_at(site),
        links: links
            .iter()
            .map(|link| pb::LinkStatus {
                peer_site_code: link.peer_site_code.clone(),
                health: link.health,
                heard_at: link.heard_at,
                items_behind: link
                    .sending
                    .as_ref()
                    .map_or(0, |direction| direction.items_behind),
            })
            .collect(),
    })
}

/// When the certificate that we serve with ends, if its file says so.
fn certificate_ends_at(site: &Site) -> Option<prost_types::Timestamp> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    use x509_parser::prelude::{FromDer, X509Certificate};

    let der = CertificateDer::from_pem_file(&site.config.tls.cert).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

/// Does what a neighbour said; the inner error refuses its batch. A child speaks of itself and of
/// sites below it, the parent of itself and of sites above it; nobody speaks of a site that we know
/// in another way.
pub(crate) async fn apply(
    site: &Site,
    tx: &Transaction<'_>,
    peer: Neighbour,
    records: &[pb::SiteRecord],
) -> Result<Result<(), Refused>, Error> {
    if records.is_empty() {
        return Ok(Ok(()));
    }
    let own = site.config.site_code;
    let known = sites::known(tx).await?;
    let via = |code: &str| known.iter().find(|it| it.code == code && !it.gone);
    // Sites of which this batch says where they hang: a parent may stand after its child.
    let mut below: Vec<&str> = vec![peer.code.as_str()];
    if !peer.is_parent {
        loop {
            let before = below.len();
            for record in records {
                let code = record.site_code.as_str();
                let parent = record.parent_site_code.as_str();
                let hangs = below.contains(&parent)
                    || via(parent).is_some_and(|it| it.via.as_deref() == Some(peer.code.as_str()));
                if hangs && !below.contains(&code) {
                    below.push(code);
                }
            }
            if below.len() == before {
                break;
            }
        }
    }
    let mut codes = Vec::new();
    for record in records {
        let Ok(code) = record.site_code.parse::<SiteCode>() else {
            return Ok(Err(invalid("a site code is none")));
        };
        if code.as_str() != record.site_code {
            return Ok(Err(invalid("a site code is none")));
        }
        let twice = format!("{code} is known in another way");
        if code == own {
            return Ok(Err(Refused::new("DUPLICATE_SITE_CODE", twice)));
        }
        let from = (!peer.is_parent).then_some(peer.code.as_str());
        if via(code.as_str()).is_some_and(|it| it.via.as_deref() != from) {
            return Ok(Err(Refused::new("DUPLICATE_SITE_CODE", twice)));
        }
        let direct = !peer.is_parent && code == peer.code;
        let inner = below.contains(&record.site_code.as_str());
        if !peer.is_parent && !inner && !record.gone {
            let text = format!("{code} is not below {}", peer.code);
            return Ok(Err(Refused::new("NOT_A_CHILD", text)));
        }
        let kept = pb::SiteRecord {
            name: cleaned(record.name.trim(), 255),
            // Under whom it hangs, we know better than it does.
            parent_site_code: if direct {
                own.to_string()
            } else {
                record.parent_site_code.clone()
            },
            ..record.clone()
        };
        sites::keep(tx, &kept, from).await?;
        codes.push(record.site_code.clone());
    }
    sites::mark_dirty(tx, own, &codes).await?;
    Ok(Ok(()))
}

fn invalid(why: &str) -> Refused {
    Refused::new("INVALID_SITE", why)
}

/// Marks everything that a neighbour is to have.
pub(crate) async fn all_dirty(tx: &Transaction<'_>, peer: Neighbour) -> Result<(), Error> {
    sites::mark_all(tx, peer).await
}

/// Says again how this site is: its record goes to every neighbour.
pub(crate) async fn refresh(site: &Site) -> Result<(), Error> {
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let own = site.config.site_code;
    sites::mark_dirty(&tx, own, &[own.to_string()]).await?;
    tx.commit().await?;
    super::wake(site);
    Ok(())
}
