//! A machine trades a one-use token and a signing request for an identity of its own.

use std::net::IpAddr;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use jiff::Timestamp;
use muster_domain::ClientId;
use muster_proto::client as pb;
use muster_runtime::tls::ca::{CLIENT_VALIDITY, Certificate};
use muster_runtime::{Identity, Role};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::links::clients as told;
use super::links::{self, objects};
use super::take_in_client::take_in_client;
use super::{Error, Site, directory, matrix};
use crate::domain::names::cleaned;
use crate::store::clients::{self, Machine};
use crate::store::identities;

/// Longest signing request, in bytes.
pub(super) const MAX_CSR: usize = 8 * 1024;
/// Longest token, in bytes.
const MAX_TOKEN: usize = 128;

/// Enrols a client. Repeating with the same token and key gives the same client again, because
/// the answer may have been lost on its way.
pub(crate) async fn enrol_client(
    site: &Site,
    request: &pb::EnrolRequest,
    address: Option<IpAddr>,
) -> Result<pb::EnrolResponse, Error> {
    if request.csr.len() > MAX_CSR {
        return Err(Error::invalid(
            "INVALID_CSR",
            "the signing request is too long",
        ));
    }
    if let Some(arrival) = &request.arrival {
        return take_in_client(site, request, arrival, address).await;
    }
    let machine = machine(
        request
            .machine
            .as_ref()
            .unwrap_or(&pb::MachineFacts::default()),
    )?;
    let token_hash = hash_token(&request.token)?;
    let mut turn = directory::shared_turn(site).await;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    // Nothing is computed for somebody who has no token. All four refusals are one answer.
    let token = clients::lock_token(&tx, &token_hash).await?;
    let token = token
        .filter(|token| token.expires_at > Timestamp::now())
        .ok_or_else(refused)?;
    let key_hash = key_hash(&request.csr)?;
    let mut enrolled = None;
    let (client_no, client_id, epoch, certificate) = match token.used {
        Some((client_no, used_with)) => {
            let client = clients::by_no(&tx, client_no).await?;
            if used_with != key_hash || client.deleted {
                return Err(refused());
            }
            let certificate = certify(site, client.client_id, &request.csr)?;
            let ends_at = ends_at(&certificate);
            // That of the answer which was lost.
            identities::deny(&tx, client_no, true).await?;
            clients::set_certificate(&tx, client_no, &certificate.fingerprint, ends_at).await?;
            (client_no, client.client_id, client.epoch, certificate)
        }
        None => {
            let client_id = ClientId::generate();
            let certificate = certify(site, client_id, &request.csr)?;
            let ends_at = ends_at(&certificate);
            let client_no =
                clients::add(&tx, client_id, &machine, &certificate.fingerprint, ends_at).await?;
            let joined = clients::use_token(&tx, &token_hash, &key_hash, client_no).await?;
            objects::members_changed(&tx, &joined).await?;
            enrolled = Some((client_no, joined));
            (client_no, client_id, 1, certificate)
        }
    };
    let marked = told::mark(site, &tx, &[client_no]).await?;
    turn.doubt();
    tx.commit().await?;
    if let Some((client_no, joined)) = enrolled {
        matrix::add_clients(site, &[client_no]);
        for collection_no in joined {
            turn.change_members(collection_no, &[client_no], &[]);
        }
    }
    turn.settle();
    told::note_record(site, marked, client_no);
    links::wake(site);
    tracing::info!(client.id = %client_id, host = machine.host_name, "client enrolled");
    metrics::counter!("muster_clients_enrolled_total").increment(1);
    Ok(pb::EnrolResponse {
        client_id: Bytes::copy_from_slice(client_id.as_bytes()),
        site_code: site.config.site_code.to_string(),
        epoch: epoch.unsigned_abs(),
        certificate_chain: vec![certificate.der.into(), authority(site)?],
        policy_keys: vec![site.policy_key.public()],
        locations: Some(site.locations(address)),
    })
}

/// The certificate of those who certify, in DER.
pub(super) fn authority(site: &Site) -> Result<Bytes, Error> {
    let authority = CertificateDer::from_pem_slice(site.ca.pem().as_bytes())
        .map_err(|_| Error::Internal("the site CA's certificate is not readable"))?;
    Ok(authority.to_vec().into())
}

fn refused() -> Error {
    Error::denied("TOKEN_REFUSED", "the token is not accepted")
}

/// The hash under which a token is kept.
pub(crate) fn hash_token(token: &str) -> Result<Vec<u8>, Error> {
    if token.is_empty() || token.len() > MAX_TOKEN {
        return Err(refused());
    }
    Ok(Sha256::digest(token.as_bytes()).to_vec())
}

/// Names the key behind a signing request.
pub(super) fn key_hash(csr: &[u8]) -> Result<Vec<u8>, Error> {
    let (_, request) = X509CertificationRequest::from_der(csr)
        .map_err(|_| Error::invalid("INVALID_CSR", "the signing request is unreadable"))?;
    Ok(Sha256::digest(request.certification_request_info.subject_pki.raw).to_vec())
}

pub(super) fn certify(site: &Site, client_id: ClientId, csr: &[u8]) -> Result<Certificate, Error> {
    let identity = Identity::new(
        Role::Client,
        site.config.site_code.as_str(),
        client_id.to_string(),
    )
    .map_err(|_| Error::Internal("a client id is no name"))?;
    Ok(site.ca.sign_csr(csr, &identity, CLIENT_VALIDITY)?)
}

pub(super) fn ends_at(certificate: &Certificate) -> Timestamp {
    let seconds = certificate
        .not_after
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    Timestamp::from_second(i64::try_from(seconds).unwrap_or(0)).unwrap_or(Timestamp::MAX)
}

/// What a machine says about itself, cleaned.
pub(crate) fn machine(facts: &pb::MachineFacts) -> Result<Machine, Error> {
    if !facts.machine_id_hash.is_empty() && facts.machine_id_hash.len() != 32 {
        return Err(Error::invalid(
            "INVALID_FIELD",
            "machine_id_hash must have 32 bytes",
        ));
    }
    let word = |text: &str| cleaned(text.trim(), 255);
    Ok(Machine {
        host_name: word(&facts.host_name),
        os_id: word(&facts.os_id),
        os_version_id: word(&facts.os_version_id),
        architecture: word(&facts.architecture),
        agent_version: word(&facts.agent_version),
        machine_id_hash: facts.machine_id_hash.to_vec(),
    })
}
