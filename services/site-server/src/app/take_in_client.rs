//! A client that the central site has made ours comes here. It keeps its id; that it is the client, it
//! proves with the certificate that the decision names and a signing request by the key of it.

use std::net::IpAddr;

use bytes::Bytes;
use muster_domain::ClientId;
use muster_proto::client as pb;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::enrol_client::{authority, certify, ends_at, key_hash, machine};
use super::links::clients as told;
use super::links::{self, objects};
use super::{Error, Site, directory, matrix};
use crate::store::{client_moves, clients, identities};

/// Longest certificate, in bytes.
const MAX_CERTIFICATE: usize = 8 * 1024;
/// Highest epoch that a client may remember.
const MAX_EPOCH: u32 = 1_000_000_000;

/// Takes a client in. Repeating gives another certificate and epoch: the answer may have been lost, and
/// nothing was reported under it then.
pub(crate) async fn take_in_client(
    site: &Site,
    request: &pb::EnrolRequest,
    arrival: &pb::Arrival,
    address: Option<IpAddr>,
) -> Result<pb::EnrolResponse, Error> {
    let client_id = ClientId::from_slice(&arrival.client_id)?;
    let machine = machine(&request.machine.clone().unwrap_or_default())?;
    let known_epoch = i32::try_from(arrival.known_epoch.min(MAX_EPOCH)).unwrap_or(0);
    // Its reports wait until this is done, if it was ours before.
    let mut known = site.known_clients.lock([client_id.0]).await;
    let mut turn = directory::turn(site).await;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    site.still_active(&tx).await?;
    let moves = client_moves::of(&tx, &[client_id.0]).await?;
    let decided = moves.get(&client_id.0).map(|it| &it.definition);
    let decided = decided.filter(|it| it.to_site_code == site.config.site_code.as_str());
    // All refusals are one answer.
    let decided = decided.ok_or_else(refused)?;
    if Sha256::digest(&arrival.certificate).as_slice() != decided.certificate_fingerprint
        || key_hash_of(&arrival.certificate)? != key_hash(&request.csr)?
    {
        return Err(refused());
    }
    let move_no = i64::try_from(decided.move_no).unwrap_or(i64::MAX);
    let certificate = certify(site, client_id, &request.csr)?;
    let (print, ends_at) = (&certificate.fingerprint, ends_at(&certificate));
    let held = clients::by_id(&tx, client_id).await?;
    if held.is_some_and(|it| !it.own && !it.deleted) {
        // A site below us had it: that is not between two sites of which neither is above the other.
        return Err(refused());
    }
    let client_no = match held {
        Some(client) => {
            if client.deleted {
                client_moves::come_back(&tx, client.client_no).await?;
            }
            identities::deny(&tx, client.client_no, true).await?;
            clients::set_certificate(&tx, client.client_no, print, ends_at).await?;
            client.client_no
        }
        None => clients::add(&tx, client_id, &machine, print, ends_at).await?,
    };
    let fresh = held.is_none_or(|it| it.deleted);
    // None of its runs so far is known here.
    let asking = (&[][..], jiff::Timestamp::now());
    let said = request.machine.as_ref().map(|_| &machine);
    let epoch = clients::raise_epoch(&tx, client_no, known_epoch, said, asking).await?;
    client_moves::came_by(&tx, client_no, move_no).await?;
    let joined = match fresh {
        true => objects::members_arrived(&tx, &[client_id.0]).await?,
        false => objects::Members::default(),
    };
    let marked = told::mark(site, &tx, &[client_no]).await?;
    // Also when the answer to the commit is lost.
    known.doubt(client_id.0, client_no);
    turn.doubt();
    tx.commit().await?;
    if fresh {
        matrix::add_clients(site, &[client_no]);
    }
    objects::remember_members(&turn, &joined);
    turn.settle();
    told::note_record(site, marked, client_no);
    links::wake(site);
    site.directions_changed.notify_one();
    tracing::info!(audit = true, client.id = %client_id, host = machine.host_name, epoch, move_no,
                   "client of another site taken in");
    metrics::counter!("muster_clients_moved_total", "direction" => "in").increment(1);
    Ok(pb::EnrolResponse {
        client_id: Bytes::copy_from_slice(client_id.as_bytes()),
        site_code: site.config.site_code.to_string(),
        epoch: epoch.unsigned_abs(),
        certificate_chain: vec![certificate.der.into(), authority(site)?],
        policy_keys: vec![site.policy_key.public()],
        locations: Some(site.locations(address)),
    })
}

/// Names the key of a certificate.
fn key_hash_of(certificate: &[u8]) -> Result<Vec<u8>, Error> {
    if certificate.len() > MAX_CERTIFICATE {
        return Err(refused());
    }
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| refused())?;
    Ok(Sha256::digest(certificate.public_key().raw).to_vec())
}

fn refused() -> Error {
    Error::denied(
        "MOVE_REFUSED",
        "nobody decided that this client is to come here",
    )
}
