//! Two machines under one identity, because a disk was copied: each gets its own.

use bytes::Bytes;
use muster_domain::ClientId;
use muster_domain::states::Detection;
use muster_proto::client as pb;
use muster_proto::state::{self, WishKind};
use muster_runtime::status::reason;
use muster_runtime::tls::ca::signing_request;
use muster_runtime::tls::fingerprint;
use muster_testkit::eventually;
use tonic::Status;

use crate::site::{Client, Site};

const ORIGINAL: [u8; 32] = [1; 32];
const CLONE: [u8; 32] = [2; 32];

/// A client whose machine said who it is when it enrolled, and its certificate's fingerprint.
async fn enrol(site: &Site) -> (Client, Vec<u8>) {
    let token = site.tokens(1).await.remove(0);
    let request = pb::EnrolRequest {
        token,
        csr: signing_request().unwrap().der.into(),
        machine: Some(machine(&ORIGINAL)),
        arrival: None,
    };
    let request = Some(request);
    let answer = site
        .gateway()
        .enrol_client(pb::EnrolClientRequest {
            request,
            ..Default::default()
        })
        .await;
    let answer = answer.unwrap().into_inner().response.unwrap();
    let print = print_of(&answer.certificate_chain);
    let id = ClientId::from_slice(&answer.client_id).unwrap();
    let epoch = answer.epoch;
    (Client { id, epoch, answer }, print)
}

fn print_of(chain: &[Bytes]) -> Vec<u8> {
    hex::decode(fingerprint(&chain[0])).unwrap()
}

fn machine(hash: &[u8]) -> pb::MachineFacts {
    pb::MachineFacts {
        host_name: format!("machine-{}", hash[0]),
        machine_id_hash: Bytes::copy_from_slice(hash),
        ..Default::default()
    }
}

async fn renew(
    site: &Site,
    client: &Client,
    print: &[u8],
    csr: &[u8],
    hash: &[u8],
) -> Result<pb::RenewIdentityResponse, Status> {
    let request = pb::RenewIdentityRequest {
        csr: Bytes::copy_from_slice(csr),
        machine: Some(machine(hash)),
        run_id: 7,
    };
    let request = pb::RenewClientIdentityRequest {
        client_id: Bytes::copy_from_slice(client.id.as_bytes()),
        fingerprint: Bytes::copy_from_slice(print),
        request: Some(request),
    };
    let answer = site.gateway().renew_client_identity(request).await?;
    Ok(answer.into_inner().response.unwrap())
}

/// Two machines report in turns under one identity, from serial 6 on.
async fn fork(site: &Site, client: &Client) {
    for turn in 0..10 {
        let report = client.delta(6 + turn, 6 + turn, &[(1, Detection::Required)]);
        let report = state::Report {
            run_id: 1 + turn % 2,
            run_began_after: 5,
            ..report
        };
        site.report(&[report]).await;
    }
    let sql = "SELECT count(*) FROM report_streams WHERE forked_at IS NOT NULL";
    eventually(async || site.count(sql).await == 1).await;
}

async fn denied(site: &Site) -> Vec<(Vec<u8>, bool)> {
    let answer = site
        .gateway()
        .get_directions(pb::GetDirectionsRequest::default())
        .await;
    let denied = answer.unwrap().into_inner().denied;
    denied
        .into_iter()
        .map(|it| (it.fingerprint.to_vec(), it.replaced))
        .collect()
}

async fn describe(site: &Site, id: &[u8]) -> pb::GetClientResponse {
    let name = ClientId::from_slice(id).unwrap().to_string();
    let answer = site
        .clients()
        .get_client(pb::GetClientRequest { name })
        .await;
    answer.unwrap().into_inner()
}

fn csr() -> Vec<u8> {
    signing_request().unwrap().der
}

#[tokio::test]
async fn the_machine_that_enrolled_keeps_the_identity_and_the_clone_becomes_a_client_of_its_own() {
    let site = Site::start().await;
    let (client, print) = enrol(&site).await;
    site.report(&[client.full(5, &[(1, Detection::Required)])])
        .await;
    eventually(async || site.contiguous(&client).await == 5).await;
    let refused = renew(&site, &client, &print, &csr(), &ORIGINAL)
        .await
        .unwrap_err();
    assert_eq!(reason(&refused).as_deref(), Some("RENEWAL_NOT_ASKED"));

    fork(&site, &client).await;
    eventually(async || {
        let answer = site
            .gateway()
            .get_directions(pb::GetDirectionsRequest::default())
            .await;
        let wishes = answer.map(|it| it.into_inner().wishes).unwrap_or_default();
        wishes
            .iter()
            .any(|it| it.wish.as_ref().unwrap().kind() == WishKind::RenewIdentity)
    })
    .await;
    let (clone_csr, csr) = (csr(), csr());
    let clone = renew(&site, &client, &print, &clone_csr, &CLONE)
        .await
        .unwrap();
    assert_ne!(clone.client_id, client.id.as_bytes().as_slice());
    assert_eq!(clone.epoch, 1);
    // The answer was lost.
    let again = renew(&site, &client, &print, &clone_csr, &CLONE)
        .await
        .unwrap();
    assert_eq!(again, clone);
    assert!(
        denied(&site).await.is_empty(),
        "the original still needs the old one"
    );

    let kept = renew(&site, &client, &print, &csr, &ORIGINAL)
        .await
        .unwrap();
    assert_eq!(kept.client_id, client.id.as_bytes().as_slice());
    assert_eq!(kept.epoch, client.epoch + 1);
    let again = renew(&site, &client, &print, &csr, &ORIGINAL)
        .await
        .unwrap();
    assert_eq!(again, kept);
    eventually(async || denied(&site).await == [(print.clone(), true)]).await;
    // What is wanted of it next is everything.
    eventually(async || {
        let answer = site
            .gateway()
            .get_directions(pb::GetDirectionsRequest::default())
            .await;
        let wishes = answer.unwrap().into_inner().wishes;
        wishes
            .iter()
            .all(|it| it.wish.as_ref().unwrap().kind() == WishKind::Full)
    })
    .await;

    // Each says what is so for itself, and the old epoch counts no more.
    let of = |answer: &pb::RenewIdentityResponse| Client {
        id: ClientId::from_slice(&answer.client_id).unwrap(),
        epoch: answer.epoch,
        answer: client.answer.clone(),
    };
    let (kept, clone) = (of(&kept), of(&clone));
    site.report(&[client.full(99, &[(4, Detection::Required)])])
        .await;
    site.report(&[kept.full(6, &[(2, Detection::Installed)])])
        .await;
    site.report(&[clone.full(6, &[(3, Detection::Installed)])])
        .await;
    eventually(async || site.held(&kept).await == [vec![2], vec![], vec![]]).await;
    eventually(async || site.held(&clone).await == [vec![3], vec![], vec![]]).await;
    assert_eq!(site.wrong_counters().await, 0);

    let shown = describe(&site, kept.id.as_bytes()).await;
    assert!(shown.identity_renewed_at.is_some());
    assert_eq!(
        shown.clone_ids,
        [Bytes::copy_from_slice(clone.id.as_bytes())]
    );
    assert_eq!(shown.stream.unwrap().forked_at, None);
    let shown = describe(&site, clone.id.as_bytes()).await;
    assert_eq!(shown.separated_from_id, kept.id.as_bytes().as_slice());
    assert_eq!(shown.client.unwrap().host_name, "machine-2");
}

#[tokio::test]
async fn of_machines_that_cannot_be_told_apart_the_first_keeps_the_identity() {
    let site = Site::start().await;
    let (client, print) = enrol(&site).await;
    site.report(&[client.full(5, &[(1, Detection::Required)])])
        .await;
    fork(&site, &client).await;
    let first = renew(&site, &client, &print, &csr(), &ORIGINAL)
        .await
        .unwrap();
    assert_eq!(first.client_id, client.id.as_bytes().as_slice());
    // The identity is no longer in doubt, but its old certificate is known.
    for _ in 0..2 {
        let next = renew(&site, &client, &print, &csr(), &ORIGINAL)
            .await
            .unwrap();
        assert_ne!(next.client_id, client.id.as_bytes().as_slice());
    }
    let new_print = print_of(&first.certificate_chain);
    let refused = renew(&site, &client, &new_print, &csr(), &ORIGINAL)
        .await
        .unwrap_err();
    assert_eq!(reason(&refused).as_deref(), Some("RENEWAL_NOT_ASKED"));

    // After the client is deleted, none of its certificates opens anything.
    let request = pb::DeleteClientRequest {
        client_id: first.client_id.clone(),
    };
    site.clients().delete_client(request).await.unwrap();
    for print in [&print, &new_print] {
        let refused = renew(&site, &client, print, &csr(), &ORIGINAL)
            .await
            .unwrap_err();
        assert_eq!(reason(&refused).as_deref(), Some("CLIENT_BLOCKED"));
    }
    eventually(async || {
        let denied = denied(&site).await;
        [&print, &new_print]
            .iter()
            .all(|it| denied.contains(&((*it).clone(), false)))
    })
    .await;
}
