//! Who gets in: tokens, certificates, epochs, policy.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use bytes::Bytes;
use muster_domain::states::Detection;
use muster_proto::client as pb;
use muster_proto::policy::Policy;
use muster_proto::report::GetComplianceRequest;
use muster_proto::report::report_service_client::ReportServiceClient;
use muster_runtime::tls::ca::signing_request;
use muster_runtime::{Identity, Role, status};
use muster_testkit::eventually;
use prost::Message;
use tonic::Code;

use crate::site::Site;

fn refused(result: Result<pb::EnrolResponse, tonic::Status>) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status::reason(&status).as_deref(), Some("TOKEN_REFUSED"));
    assert_eq!(
        status.message(),
        "the token is not accepted",
        "the four refusals are one answer"
    );
}

#[tokio::test]
async fn a_token_works_once_for_one_key_and_its_answer_can_be_asked_again() {
    let site = Site::start().await;
    let tokens = site.tokens(2).await;
    let (csr, other) = (
        signing_request().unwrap().der,
        signing_request().unwrap().der,
    );

    let first = site.enrol_with(&tokens[0], &csr, "host-1").await.unwrap();
    let again = site.enrol_with(&tokens[0], &csr, "host-1").await.unwrap();
    assert_eq!(
        (&first.client_id, first.epoch),
        (&again.client_id, again.epoch)
    );
    let identity = Identity::from_certificate(&first.certificate_chain[0]).unwrap();
    assert_eq!(
        (identity.role, identity.site.as_str()),
        (Role::Client, "P01")
    );
    assert_eq!(
        identity.name,
        uuid::Uuid::from_slice(&first.client_id)
            .unwrap()
            .to_string()
    );
    assert_eq!(
        first.locations.unwrap().management_points,
        ["https://mp.example:8410"]
    );

    refused(site.enrol_with(&tokens[0], &other, "host-2").await);
    refused(site.enrol_with("muster-unknown", &other, "host-2").await);
    refused(site.enrol_with("", &other, "host-2").await);
    refused(site.enrol_with(&"x".repeat(5_000), &other, "host-2").await);
    let db = site.pool.get().await.unwrap();
    let expire = "UPDATE enrolment_tokens SET expires_at = now() WHERE used_at IS NULL";
    assert_eq!(db.execute(expire, &[]).await.unwrap(), 1);
    refused(site.enrol_with(&tokens[1], &other, "host-2").await);
    assert_eq!(site.count("SELECT count(*) FROM clients").await, 1);

    let broken = site
        .enrol_with(&site.tokens(1).await[0], b"\x30\x03abc", "host-2")
        .await;
    assert_eq!(broken.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn tokens_are_kept_as_hashes_and_their_clients_join_collections() {
    use muster_proto::collection as col;
    use muster_proto::collection::collection_service_client::CollectionServiceClient;
    let site = Site::start().await;
    let mut collections = CollectionServiceClient::new(site.channel("administrator"));
    let request = col::CreateCollectionRequest {
        name: "Servers".into(),
        ..Default::default()
    };
    let made = collections
        .create_collection(request.clone())
        .await
        .unwrap()
        .into_inner();
    let twice = collections.create_collection(request).await.unwrap_err();
    assert_eq!(twice.code(), Code::AlreadyExists);
    assert_eq!(status::reason(&twice).as_deref(), Some("ALREADY_EXISTS"));

    let request = pb::CreateEnrolmentTokensRequest {
        count: 1,
        valid_for: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        collection_ids: vec![made.collection.unwrap().collection_id],
    };
    let token = site
        .clients()
        .create_enrolment_tokens(request)
        .await
        .unwrap()
        .into_inner()
        .tokens
        .remove(0);
    let kept = "SELECT count(*) FROM enrolment_tokens WHERE position('muster' in encode(token_hash, 'escape')) > 0";
    assert_eq!(site.count(kept).await, 0);
    site.enrol_with(&token, &signing_request().unwrap().der, "host-1")
        .await
        .unwrap();
    let request = pb::GetClientRequest {
        name: "host-1".into(),
    };
    let shown = site
        .clients()
        .get_client(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(shown.collections, ["All systems", "Servers"]);

    let servers = || "servers".to_owned();
    let all = collections
        .delete_collection(col::DeleteCollectionRequest {
            name: "all systems".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(status::reason(&all).as_deref(), Some("BUILT_IN"));
    let request = col::ChangeMembersRequest {
        name: servers(),
        remove_clients: vec!["host-1".into()],
        ..Default::default()
    };
    let changed = collections
        .change_members(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(changed.collection.unwrap().member_count, 0);
    collections
        .delete_collection(col::DeleteCollectionRequest { name: servers() })
        .await
        .unwrap();
    let gone = collections
        .get_collection(col::GetCollectionRequest { name: servers() })
        .await;
    assert_eq!(gone.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn policy_is_signed_for_its_client_and_costs_nothing_while_it_is_the_same() {
    let site = Site::start().await;
    let client = site.enrol("host-1").await;
    let answer = site.policy(&client, &[]).await.unwrap();
    let signed = answer.policy.unwrap();
    let public = UnparsedPublicKey::new(&ED25519, &client.answer.policy_keys[0]);
    let message = [b"muster-policy-v1\0".as_slice(), &signed.policy].concat();
    public.verify(&message, &signed.signature).unwrap();
    let policy = Policy::decode(signed.policy.clone()).unwrap();
    assert_eq!(policy.client_id.as_ref(), client.id.as_bytes());
    assert_eq!(policy.site_code, "P01");
    assert_eq!(policy.distribution_points, ["https://dp.example:8443"]);
    assert_eq!(
        policy.settings.unwrap().report_interval.unwrap().seconds,
        900
    );

    let same = site.policy(&client, &signed.version).await.unwrap();
    assert!(same.policy.is_none());
    assert!(same.encoded_len() < 32, "{} bytes", same.encoded_len());
}

#[tokio::test]
async fn a_deleted_client_is_gone_from_every_count_and_stays_out() {
    let site = Site::start().await;
    let (client, other) = (site.enrol("host-1").await, site.enrol("host-2").await);
    for client in [&client, &other] {
        site.report(&[client.full(1, &[(1, Detection::Required)])])
            .await;
        eventually(async || site.contiguous(client).await == 1).await;
    }
    let request = pb::DeleteClientRequest {
        client_id: Bytes::copy_from_slice(client.id.as_bytes()),
    };
    site.clients().delete_client(request.clone()).await.unwrap();
    assert_eq!(
        site.clients()
            .delete_client(request)
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );

    let blocked = site.policy(&client, &[]).await.unwrap_err();
    assert_eq!(blocked.code(), Code::PermissionDenied);
    assert_eq!(status::reason(&blocked).as_deref(), Some("CLIENT_BLOCKED"));
    assert_eq!(site.wrong_counters().await, 0);
    assert_eq!(
        site.count("SELECT required::int8 FROM update_counters WHERE update_no = 1")
            .await,
        1
    );
    let mut reports = ReportServiceClient::new(site.channel("administrator"));
    let report = reports
        .get_compliance(GetComplianceRequest::default())
        .await
        .unwrap();
    assert_eq!(report.get_ref().clients, 1);

    // What it still sends changes nothing and harms nobody.
    site.report(&[client.delta(2, 2, &[(1, Detection::Installed)])])
        .await;
    site.report(&[other.delta(2, 2, &[(1, Detection::Installed)])])
        .await;
    eventually(async || site.contiguous(&other).await == 2).await;
    assert_eq!(site.wrong_counters().await, 0);
    assert_eq!(
        site.count("SELECT count(*) FROM client_compliance").await,
        1
    );
}

#[tokio::test]
async fn each_role_may_call_its_own_services_only() {
    use muster_proto::client::client_gateway_service_client::ClientGatewayServiceClient;
    use muster_proto::client::client_service_client::ClientServiceClient;
    let site = Site::start().await;
    for name in [
        "management-point",
        "distribution-point",
        "software-update-point",
        "site-server",
    ] {
        let mut clients = ClientServiceClient::new(site.channel(name));
        let denied = clients
            .list_clients(pb::ListClientsRequest::default())
            .await
            .unwrap_err();
        assert_eq!(denied.code(), Code::PermissionDenied, "{name}");
    }
    let mut gateway = ClientGatewayServiceClient::new(site.channel("administrator"));
    let denied = gateway
        .enrol_client(pb::EnrolClientRequest::default())
        .await
        .unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn clients_are_listed_by_name_in_pages() {
    let site = Site::start().await;
    for n in 0..5 {
        site.enrol(&format!("web-{n}")).await;
    }
    site.enrol("db-1").await;
    let mut request = pb::ListClientsRequest {
        page_size: 2,
        host_name: "web-*".into(),
        ..Default::default()
    };
    let mut seen = Vec::new();
    loop {
        let page = site
            .clients()
            .list_clients(request.clone())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(page.total, 5);
        seen.extend(page.clients.into_iter().map(|client| client.host_name));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, ["web-0", "web-1", "web-2", "web-3", "web-4"]);
    let hostile = pb::ListClientsRequest {
        host_name: "' OR 1=1 --*".into(),
        ..Default::default()
    };
    assert_eq!(
        site.clients()
            .list_clients(hostile)
            .await
            .unwrap()
            .into_inner()
            .total,
        0
    );
}
