//! Separates machines that live under one identity, because the disk of one was copied. Each makes
//! a key of its own and asks under the old certificate; `domain/identity.rs` says who is who.

use bytes::Bytes;
use jiff::Timestamp;
use muster_domain::ClientId;
use muster_proto::client as pb;

use super::enrol_client::{MAX_CSR, authority, certify, ends_at, key_hash, machine};
use super::links::clients as told;
use super::links::{self, objects};
use super::register_client::blocked;
use super::{Error, Site, directory, matrix};
use crate::domain::identity::{Refused, Verdict};
use crate::store::clients;
use crate::store::identities::{self, Renewal};

/// Gives a machine a certificate for its new key: in the old name, or in that of a new client. All
/// of it commits together. Repeating with the same key gives the same answer.
pub(crate) async fn renew_identity(
    site: &Site,
    client_id: ClientId,
    fingerprint: &[u8],
    request: &pb::RenewIdentityRequest,
) -> Result<pb::RenewIdentityResponse, Error> {
    if request.csr.len() > MAX_CSR {
        return Err(Error::invalid(
            "INVALID_CSR",
            "the signing request is too long",
        ));
    }
    let key_hash = key_hash(&request.csr)?;
    let machine = machine(&request.machine.clone().unwrap_or_default())?;
    // Its reports wait until this is done.
    let mut known = site.known_clients.lock([client_id.0]).await;
    let mut turn = directory::shared_turn(site).await;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    site.still_active(&tx).await?;
    let client = clients::by_id(&tx, client_id).await?;
    let client = client
        .filter(|it| !it.deleted && it.own)
        .ok_or_else(blocked)?;
    let doubt = identities::doubt(&tx, client.client_no, fingerprint).await?;
    if let Some(before) = identities::answered(&tx, &key_hash).await? {
        if before.client_no != client.client_no || before.new_client_deleted {
            return Err(blocked());
        }
        let id = ClientId(before.new_client_id);
        return answer(site, id, before.epoch, before.certificate);
    }
    let verdict = doubt.settle(
        &machine.machine_id_hash,
        Timestamp::now(),
        site.config.renewal_grace,
    );
    let verdict = verdict.map_err(|refused| match refused {
        Refused::NotAsked => Error::conflict(
            "RENEWAL_NOT_ASKED",
            "no other machine is seen under this identity",
        ),
        Refused::GraceIsOver => Error::denied(
            "CLIENT_BLOCKED",
            "the certificate was replaced too long ago: enrol this machine again",
        ),
    })?;
    let new_id = match verdict {
        Verdict::Keeps => client_id,
        Verdict::Clone => ClientId::generate(),
    };
    let certificate = certify(site, new_id, &request.csr)?;
    let (print, ends_at) = (&certificate.fingerprint, ends_at(&certificate));
    let mut joined = Vec::new();
    let (new_client_no, epoch) = match verdict {
        Verdict::Keeps => {
            identities::deny(&tx, client.client_no, true).await?;
            clients::set_certificate(&tx, client.client_no, print, ends_at).await?;
            let epoch = {
                // None of its runs so far is only its own.
                let asking = (&[][..], Timestamp::now());
                let no = client.client_no;
                clients::raise_epoch(&tx, no, 0, Some(&machine), asking).await?
            };
            identities::settle_fork(&tx, client.client_no).await?;
            (client.client_no, epoch)
        }
        Verdict::Clone => {
            let clone = clients::add(&tx, new_id, &machine, print, ends_at).await?;
            joined = identities::separate(&tx, client.client_no, clone).await?;
            objects::members_changed(&tx, &joined).await?;
            (clone, 1)
        }
    };
    let renewal = Renewal {
        key_hash,
        client_no: client.client_no,
        new_client_no,
        epoch,
        certificate: certificate.der.clone(),
        run_id: request.run_id.cast_signed(),
    };
    identities::add_renewal(&tx, &renewal).await?;
    let marked = told::mark(site, &tx, &[new_client_no]).await?;
    // Also when the answer to the commit is lost.
    known.forget(client_id.0);
    turn.doubt();
    tx.commit().await?;
    let outcome = match verdict {
        Verdict::Keeps => "kept",
        Verdict::Clone => {
            matrix::add_clients(site, &[new_client_no]);
            for collection_no in joined {
                turn.change_members(collection_no, &[new_client_no], &[]);
            }
            "clone"
        }
    };
    turn.settle();
    told::note_record(site, marked, new_client_no);
    links::wake(site);
    tracing::warn!(audit = true, client.id = %client_id, new.id = %new_id, epoch, outcome,
                   host = machine.host_name, "identity renewed");
    metrics::counter!("muster_identities_renewed_total", "outcome" => outcome).increment(1);
    site.directions_changed.notify_one();
    answer(site, new_id, epoch, certificate.der)
}

fn answer(
    site: &Site,
    client_id: ClientId,
    epoch: i32,
    der: Vec<u8>,
) -> Result<pb::RenewIdentityResponse, Error> {
    Ok(pb::RenewIdentityResponse {
        client_id: Bytes::copy_from_slice(client_id.as_bytes()),
        epoch: epoch.unsigned_abs(),
        certificate_chain: vec![der.into(), authority(site)?],
    })
}
