//! Two sites that speak other versions of the protocol of links, and a parent that forgets its child.

use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::Bytes;
use muster_domain::states::Detection::{Installed, Required};
use muster_proto::link::join_service_client::JoinServiceClient;
use muster_proto::link::link_message::Kind;
use muster_proto::link::{self, JoinRequest, LinkHealth};
use muster_proto::site::{ListLinksRequest, RemoveChildRequest, SiteLink};
use muster_rabbitmq::{Headers, Publisher};
use muster_runtime::Tasks;
use muster_runtime::grpc::{ChannelOptions, channel_pinned};
use muster_runtime::status::reason;
use muster_runtime::tls::ca::signing_request;
use muster_testkit::eventually;
use prost::Message;
use tonic::Code;

use crate::joining::start;
use crate::pair::{Pair, key, stop};
use crate::site::Site;

async fn shown(site: &Site) -> SiteLink {
    let links = site.sites().list_links(ListLinksRequest {}).await.unwrap();
    links.into_inner().links.remove(0)
}

fn sealed(key: &Ed25519KeyPair, protocol: u32, kind: Kind) -> Bytes {
    let message = link::LinkMessage {
        from_site_code: "P01".into(),
        to_site_code: "CEN".into(),
        protocol,
        kind: Some(kind),
    };
    let message = message.encode_to_vec();
    let content = [b"muster-link-v1\0".as_slice(), &message].concat();
    let signed = link::SignedMessage {
        message: message.into(),
        signature: Bytes::copy_from_slice(key.sign(&content).as_ref()),
    };
    signed.encode_to_vec().into()
}

#[tokio::test]
async fn a_child_one_version_apart_is_understood_and_further_apart_refused_until_it_is_not() {
    let mut pair = Pair::start().await;
    let client = pair.child.enrol("host-1").await;
    pair.child.report(&[client.full(1, &[(1, Required)])]).await;
    eventually(async || pair.child.contiguous(&client).await == 1).await;
    pair.settled("before").await;
    stop(&mut pair.child).await;
    let tasks = Tasks::new();
    let publisher = Publisher::start(&pair.parent.config.rabbitmq, &tasks)
        .await
        .unwrap();
    let key = key(&pair.child);
    let send = async |protocol: u32, kind: Kind| {
        let body = sealed(&key, protocol, kind);
        publisher
            .publish_to("link.CEN.P01.up", "", body, Headers::current(1))
            .await
            .unwrap();
    };
    let batch = async |serial: u64| {
        let sql = "SELECT in_epoch, in_seq, in_chain FROM links";
        let db = pair.parent.pool.get().await.unwrap();
        let row = db.query_one(sql, &[]).await.unwrap();
        let mut report = client.delta(serial, serial, &[(serial as u32, Installed)]);
        if let Some(compliance) = &mut report.compliance {
            compliance.serial = serial;
        }
        let body = link::BatchBody {
            reports: vec![report.encode_to_vec().into()],
            ..Default::default()
        };
        Kind::Batch(link::Batch {
            epoch: row.get::<_, i32>(0).unsigned_abs(),
            seq: row.get::<_, i64>(1).unsigned_abs() + 1,
            after: Bytes::copy_from_slice(row.get(2)),
            body: zstd::encode_all(body.encode_to_vec().as_slice(), 3)
                .unwrap()
                .into(),
            numbered_at: None,
        })
    };
    let greeting = || {
        Kind::Greeting(link::Greeting {
            nonce: 1,
            lineage: vec!["P01".into(), "CEN".into()],
            version: "9.9.9".into(),
        })
    };
    let (parent, mut serial) = (&pair.parent, 1);
    for protocol in [0, 2] {
        serial += 1;
        send(protocol, greeting()).await;
        send(protocol, batch(serial as u64).await).await;
        eventually(async || parent.contiguous(&client).await == serial).await;
        eventually(async || shown(parent).await.peer_protocol == protocol).await;
        assert_ne!(shown(parent).await.health(), LinkHealth::Refused);
    }
    assert_eq!(shown(parent).await.peer_version, "9.9.9");
    send(3, batch(serial as u64 + 1).await).await;
    eventually(async || shown(parent).await.health() == LinkHealth::Refused).await;
    assert_eq!(
        shown(parent).await.refusal,
        "PROTOCOL_TOO_NEW: the link speaks version 1 here, and 3 there"
    );
    assert_eq!(
        parent.contiguous(&client).await,
        serial,
        "nothing of it is applied"
    );
    // The child is brought to the parent's version, and the link goes on by itself.
    crate::pair::start(&mut pair.child).await;
    pair.settled("after").await;
    // Its first word shows that it is over.
    eventually(async || shown(&pair.parent).await.health() == LinkHealth::Healthy).await;
    assert_eq!(shown(&pair.parent).await.refusal, "");
}

#[tokio::test]
async fn a_site_joins_one_version_apart_and_is_told_when_it_is_further() {
    let (central, child) = (start("CEN", true).await, start("V01", false).await);
    let authority = {
        use rustls_pki_types::CertificateDer;
        use rustls_pki_types::pem::PemObject;
        use sha2::Digest;
        let der = CertificateDer::from_pem_file(&central.config.ca.cert).unwrap();
        sha2::Sha256::digest(&der).into()
    };
    let url = format!("https://{}", central.config.listen);
    let channel = channel_pinned(&url, authority, &ChannelOptions::default()).unwrap();
    let mut service = JoinServiceClient::new(channel);
    let key = key(&child);
    let token = central.invite("V01").await.unwrap();
    let csr = signing_request().unwrap().der;
    let signed = [
        b"muster-join-v1\0".as_slice(),
        token.as_bytes(),
        b"\0V01\0",
        &csr,
    ]
    .concat();
    let request = |protocol| JoinRequest {
        token: token.clone(),
        site_code: "V01".into(),
        name: "Child".into(),
        public_key: Bytes::copy_from_slice(key.public_key().as_ref()),
        protocol,
        certificate_request: Bytes::copy_from_slice(&csr),
        signature: Bytes::copy_from_slice(key.sign(&signed).as_ref()),
        version: "9.9.9".into(),
        ..Default::default()
    };
    let refused = service.join(request(3)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(reason(&refused).as_deref(), Some("PROTOCOL_TOO_NEW"));
    assert!(
        refused
            .message()
            .contains("the link speaks version 1 here, and 3 there"),
        "{refused}"
    );
    // The token is not used up by that.
    for protocol in [2, 1, 0] {
        let answer = service.join(request(protocol)).await.unwrap();
        assert_eq!(answer.into_inner().protocol, 1);
    }
}

#[tokio::test]
async fn a_child_that_its_parent_forgot_sees_why_and_comes_back_with_a_new_token() {
    let (central, child) = (start("CEN", true).await, start("V02", false).await);
    let token = central.invite("V02").await.unwrap();
    child.join(&token).await.unwrap();
    let client = child.enrol("host-1").await;
    child.report(&[client.full(1, &[(1, Required)])]).await;
    let held = "SELECT count(*) FROM client_compliance JOIN clients USING (client_no)
                WHERE deleted_at IS NULL";
    eventually(async || central.count(held).await == 1).await;
    let request = RemoveChildRequest {
        site_code: "V02".into(),
    };
    central.sites().remove_child(request).await.unwrap();
    eventually(async || central.count(held).await == 0).await;
    child.report(&[client.delta(2, 2, &[(2, Installed)])]).await;
    let started = std::time::Instant::now();
    let link = loop {
        let link = shown(&child).await;
        if !link.problem.is_empty() && link.health() == LinkHealth::Failed {
            break link;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{link:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(link.sending.unwrap().items_behind > 0);
    assert!(!link.problem.contains("password"), "{}", link.problem);
    // The old token is used up; a new one is all it takes, and nothing is lost.
    assert_eq!(
        reason(&child.join(&token).await.unwrap_err()).as_deref(),
        Some("TOKEN")
    );
    child
        .join(&central.invite("V02").await.unwrap())
        .await
        .unwrap();
    eventually(async || central.count(held).await == 1).await;
    eventually(async || central.contiguous(&client).await == 2).await;
    let link = shown(&child).await;
    assert_eq!(link.problem, "");
    assert_eq!(central.wrong_counters().await, 0);
}
