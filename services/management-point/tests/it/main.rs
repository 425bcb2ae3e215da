//! A management point between real clients, a real broker, and a site server that does as it is
//! told. One broker for all of it: its start takes longer than the rest.
#![allow(clippy::unwrap_used, missing_docs)] // a failure here is a failure of the test

mod world;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use muster_domain::ClientId;
use muster_proto::client::registration_service_client::RegistrationServiceClient;
use muster_proto::client::{
    ClientWish, DeniedCertificate, EnrolRequest, GetLocationsRequest, RegisterRequest,
    RenewIdentityRequest,
};
use muster_proto::policy::GetPolicyRequest;
use muster_proto::state::{
    Priority, RelayReportsRequest, Report, ReportBatch, ReportEnvelope, ReportKind,
    ReportStatesRequest, SerialRange, Wish, WishKind,
};
use muster_rabbitmq::{Batch, consume};
use muster_runtime::{Role, Tasks, status};
use muster_testkit::{TestCa, eventually};
use prost::Message;
use rustls_pki_types::pem::PemObject;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use world::{World, channel};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_management_point_keeps_its_promises() {
    let mut world = World::start().await;
    strangers_may_enrol_and_nothing_else(&world).await;
    a_client_is_who_its_certificate_says(&world).await;
    what_can_never_be_recorded_is_refused(&world).await;
    a_report_reaches_its_queue_byte_for_byte(&world).await;
    another_management_point_relays_reports_of_its_clients(&world).await;
    the_site_answers_about_the_client_in_the_certificate(&world).await;
    what_the_site_wants_reaches_the_client_with_its_report(&world).await;
    a_certificate_that_counts_no_more_is_refused_everywhere_but_for_its_renewal(&world).await;
    a_client_that_reports_far_too_often_is_held_back(&world).await;
    reports_are_accepted_while_the_site_server_is_away(&mut world).await;
    nothing_is_acknowledged_without_the_brokers_confirm(&mut world).await;
    world.stop().await;
}

fn report(client: ClientId, serial: u64) -> Report {
    Report {
        client_id: client.as_bytes().to_vec().into(),
        epoch: 1,
        first_serial: serial,
        last_serial: serial,
        kind: ReportKind::Delta.into(),
        priority: Priority::Normal.into(),
        ..Default::default()
    }
}

fn request(reports: &[Report]) -> ReportStatesRequest {
    ReportStatesRequest {
        reports: reports.iter().map(|it| it.encode_to_vec().into()).collect(),
    }
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.unwrap_err();
    (status.code(), status::reason(&status).unwrap_or_default())
}

async fn strangers_may_enrol_and_nothing_else(world: &World) {
    let mut stranger = RegistrationServiceClient::new(world.stranger());
    let enrol = |token: &str| EnrolRequest {
        token: token.to_owned(),
        csr: Bytes::from_static(b"csr"),
        ..Default::default()
    };
    let answer = stranger.enrol(enrol("good")).await.unwrap().into_inner();
    assert_eq!(answer.site_code, "P01");
    let unknown = refusal(stranger.enrol(enrol("unknown")).await);
    assert_eq!(
        unknown,
        (Code::PermissionDenied, "TOKEN_REFUSED".to_owned())
    );
    assert_eq!(
        refusal(stranger.enrol(enrol("")).await).0,
        Code::InvalidArgument
    );
    let long = EnrolRequest {
        csr: vec![0; 9_000].into(),
        ..enrol("good")
    };
    assert_eq!(refusal(stranger.enrol(long).await).0, Code::InvalidArgument);

    let no_certificate = (Code::Unauthenticated, "NO_CERTIFICATE".to_owned());
    let asked = stranger.register(RegisterRequest::default()).await;
    assert_eq!(refusal(asked), no_certificate);
    assert_eq!(
        refusal(stranger.get_locations(GetLocationsRequest {}).await),
        no_certificate
    );
    let (mut states, mut policy) = world.services(world.stranger());
    let sent = states
        .report_states(request(&[report(ClientId::generate(), 1)]))
        .await;
    assert_eq!(refusal(sent), no_certificate);
    let asked = policy.get_policy(GetPolicyRequest::default()).await;
    assert_eq!(refusal(asked), no_certificate);

    let (mut denied, calls) = (None, world.site.calls());
    for _ in 0..30 {
        denied = stranger
            .enrol(enrol("unknown"))
            .await
            .err()
            .filter(|status| status.code() == Code::ResourceExhausted);
    }
    let denied = denied.expect("a flood is put off");
    assert_eq!(
        status::reason(&denied).as_deref(),
        Some("TOO_MANY_ENROLMENTS")
    );
    assert!(
        denied
            .get_details_retry_info()
            .unwrap()
            .retry_delay
            .unwrap()
            > Duration::ZERO
    );
    assert!(world.site.calls() - calls <= 20, "the site is spared");
}

async fn a_client_is_who_its_certificate_says(world: &World) {
    let (client, other) = (ClientId::generate(), ClientId::generate());
    let (mut states, _) = world.services(world.client(client));
    let foreign = states
        .report_states(request(&[report(client, 1), report(other, 1)]))
        .await;
    assert_eq!(
        refusal(foreign),
        (Code::PermissionDenied, "FOREIGN_CLIENT".to_owned())
    );
    states
        .report_states(request(&[report(client, 1)]))
        .await
        .unwrap();

    let not_allowed = (Code::PermissionDenied, "NOT_ALLOWED".to_owned());
    for role in Role::ALL
        .into_iter()
        .filter(|role| role.calls() && *role != Role::Client)
    {
        let tls = world.ca.issue(role, &other.to_string());
        let (mut states, mut policy) = world.services(channel(world.url(), &tls));
        let sent = states.report_states(request(&[report(other, 1)])).await;
        assert_eq!(refusal(sent), not_allowed, "{role}");
        let asked = policy.get_policy(GetPolicyRequest::default()).await;
        assert_eq!(refusal(asked), not_allowed, "{role}");
    }
    let named = world.ca.issue(Role::Client, "not-an-id");
    let (mut states, _) = world.services(channel(world.url(), &named));
    let sent = states.report_states(request(&[report(other, 1)])).await;
    assert_eq!(
        refusal(sent),
        (Code::PermissionDenied, "NOT_A_CLIENT".to_owned())
    );

    // Somebody else's authority, even for the same site code.
    let other_authority = TestCa::new();
    let mut forged = other_authority.issue(Role::Client, &client.to_string());
    forged.ca = world.ca.issue(Role::Client, "x").ca;
    let (mut states, _) = world.services(channel(world.url(), &forged));
    assert!(
        states
            .report_states(request(&[report(client, 1)]))
            .await
            .is_err()
    );
}

async fn what_can_never_be_recorded_is_refused(world: &World) {
    let client = ClientId::generate();
    let (mut states, _) = world.services(world.client(client));
    let mut refused = async |request: ReportStatesRequest| {
        let (code, reason) = refusal(states.report_states(request).await);
        assert_eq!(code, Code::InvalidArgument, "{reason}");
        reason
    };
    let broken = ReportStatesRequest {
        reports: vec![Bytes::from_static(b"\xff\xff")],
    };
    assert_eq!(refused(broken).await, "UNDECODABLE_REPORT");
    let long = ReportStatesRequest {
        reports: vec![vec![0; (1 << 20) + 1].into()],
    };
    assert_eq!(refused(long).await, "REPORT_TOO_LARGE");
    let many: Vec<_> = (1..=17).map(|serial| report(client, serial)).collect();
    assert_eq!(refused(request(&many)).await, "REPORT_COUNT");
    assert_eq!(refused(request(&[])).await, "REPORT_COUNT");
    let backwards = Report {
        first_serial: 9,
        ..report(client, 1)
    };
    assert_eq!(refused(request(&[backwards])).await, "INVALID_FIELD");

    let huge = ReportStatesRequest {
        reports: vec![vec![0; 1 << 20].into(); 5],
    };
    let status = states.report_states(huge).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert!(
        status.message().contains("too large"),
        "{}",
        status.message()
    );
}

async fn a_report_reaches_its_queue_byte_for_byte(world: &World) {
    let client = ClientId::generate();
    let (mut states, _) = world.services(world.client(client));
    // An unknown field, as a newer client would send: nobody on the way may lose it.
    let mut bytes = report(client, 1).encode_to_vec();
    bytes.extend_from_slice(&[0xfa, 0x07, 0x03, b'n', b'e', b'w']);
    let bytes = Bytes::from(bytes);
    let urgent = Bytes::from(
        Report {
            priority: 0,
            ..report(client, 2)
        }
        .encode_to_vec(),
    );
    let due = Report {
        priority: 1,
        ..report(client, 3)
    };
    let due = Bytes::from(due.encode_to_vec());
    let reports = vec![bytes.clone(), urgent.clone(), due.clone()];
    let answer = states
        .report_states(ReportStatesRequest { reports })
        .await
        .unwrap();
    // The site server has not said how often, so it is the setting: 15 minutes, spread.
    let next = answer.into_inner().next_report_in.unwrap();
    assert!((450..=1_350).contains(&next.seconds), "{next:?}");

    let seen = world.take_all().await;
    let find = |report: &Bytes| seen.iter().find(|(_, it)| it.report == *report).unwrap();
    let (queue, envelope) = find(&bytes);
    assert!(
        ["site.P01.state.0", "site.P01.state.1"].contains(&queue.as_str()),
        "{queue}"
    );
    assert_eq!(envelope.client_id.as_ref(), client.as_bytes());
    assert!(envelope.received_at.is_some());
    assert_eq!(find(&urgent).0, "site.P01.state.urgent");
    assert_eq!(find(&due).0, "site.P01.state.high");
}

async fn another_management_point_relays_reports_of_its_clients(world: &World) {
    let identity = world.ca.issue(Role::ManagementPoint, "branch");
    let (mut states, _) = world.services(channel(world.url(), &identity));
    let (one, other) = (ClientId::generate(), ClientId::generate());
    let envelope = |named: ClientId, client: ClientId| ReportEnvelope {
        report: report(client, 1).encode_to_vec().into(),
        client_id: named.as_bytes().to_vec().into(),
        ..Default::default()
    };
    let relay = |envelopes| RelayReportsRequest { envelopes };
    let both = vec![envelope(one, one), envelope(other, other)];
    states.relay_reports(relay(both.clone())).await.unwrap();
    let seen = world.take_all().await;
    for sent in &both {
        let (_, envelope) = seen
            .iter()
            .find(|(_, it)| it.report == sent.report)
            .unwrap();
        assert_eq!(envelope.client_id, sent.client_id);
        assert!(envelope.received_at.is_some());
    }

    let refused = refusal(
        states
            .relay_reports(relay(vec![envelope(one, other)]))
            .await,
    );
    assert_eq!(
        refused,
        (Code::PermissionDenied, "FOREIGN_CLIENT".to_owned())
    );
    let many = vec![envelope(one, one); 65];
    assert_eq!(
        refusal(states.relay_reports(relay(many)).await).1,
        "REPORT_COUNT"
    );
    // Nobody else may: a client speaks for itself.
    let (mut states, _) = world.services(world.client(one));
    let refused = refusal(states.relay_reports(relay(vec![envelope(one, one)])).await);
    assert_eq!(refused.0, Code::PermissionDenied);
    assert!(world.take_all().await.is_empty());
}

async fn the_site_answers_about_the_client_in_the_certificate(world: &World) {
    let client = ClientId::generate();
    let (_, mut policy) = world.services(world.client(client));
    let mut registration = RegistrationServiceClient::new(world.client(client));
    let known = GetPolicyRequest {
        known_version: Bytes::from_static(b"v1"),
    };
    let answer = policy.get_policy(known).await.unwrap().into_inner();
    assert!(answer.policy.is_none() && answer.send_full_report);
    assert_eq!(world.site.last_client(), client.as_bytes().as_slice());
    let answer = registration
        .register(RegisterRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.epoch, 7);
    assert!(
        registration
            .get_locations(GetLocationsRequest {})
            .await
            .is_ok()
    );
    world.site.block(client);
    let blocked = policy.get_policy(GetPolicyRequest::default()).await;
    assert_eq!(
        refusal(blocked),
        (Code::PermissionDenied, "CLIENT_BLOCKED".to_owned())
    );
}

async fn what_the_site_wants_reaches_the_client_with_its_report(world: &World) {
    let (client, other) = (ClientId::generate(), ClientId::generate());
    let (mut states, _) = world.services(world.client(client));
    let (mut others, _) = world.services(world.client(other));
    let wish = Wish {
        kind: WishKind::Ranges.into(),
        epoch: 1,
        ranges: vec![SerialRange { first: 4, last: 9 }],
    };
    world.site.direct(|directions| {
        directions.report_interval = Some(seconds(7_200));
        directions.wishes = vec![ClientWish {
            client_id: client.as_bytes().to_vec().into(),
            wish: Some(wish.clone()),
            ask: 1,
        }];
    });
    let serial = AtomicUsize::new(0);
    let next = || report(client, 1 + serial.fetch_add(1, Ordering::SeqCst) as u64);
    let mut told = Vec::new();
    for _ in 0..200 {
        let answer = states.report_states(request(&[next()])).await.unwrap();
        let answer = answer.into_inner();
        told.extend(answer.wish);
        let wait = answer.next_report_in.unwrap().seconds;
        if !told.is_empty() {
            assert!((3_600..=10_800).contains(&wait), "{wait}");
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(told, [wish]);
    for _ in 0..3 {
        let answer = states.report_states(request(&[next()])).await.unwrap();
        assert_eq!(answer.into_inner().wish, None, "once per ask");
    }
    let answer = others.report_states(request(&[report(other, 1)])).await;
    assert_eq!(answer.unwrap().into_inner().wish, None);
    world.take_all().await;
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

async fn a_certificate_that_counts_no_more_is_refused_everywhere_but_for_its_renewal(
    world: &World,
) {
    let client = ClientId::generate();
    let tls = world.ca.issue(Role::Client, &client.to_string());
    let connect = || channel(world.url(), &tls);
    let pem = std::fs::read(&tls.cert).unwrap();
    let der = rustls_pki_types::CertificateDer::from_pem_slice(&pem).unwrap();
    let fingerprint = hex::decode(muster_runtime::tls::fingerprint(&der)).unwrap();
    let (mut states, mut policy) = world.services(connect());
    let mut registration = RegistrationServiceClient::new(connect());
    let renew = RenewIdentityRequest {
        csr: Bytes::from_static(b"csr"),
        ..Default::default()
    };
    for (replaced, word) in [(true, "CERTIFICATE_REPLACED"), (false, "CLIENT_BLOCKED")] {
        world.site.direct(|directions| {
            directions.denied = vec![DeniedCertificate {
                fingerprint: fingerprint.clone().into(),
                replaced,
            }];
        });
        let denied = (Code::PermissionDenied, word.to_owned());
        let mut answer = Ok(());
        for _ in 0..100 {
            let asked = policy.get_policy(GetPolicyRequest::default()).await;
            answer = asked
                .map(drop)
                .map_err(|status| refusal(Err::<(), _>(status)));
            if answer == Err(denied.clone()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(answer, Err(denied.clone()));
        let sent = states.report_states(request(&[report(client, 1)])).await;
        assert_eq!(refusal(sent), denied);
        let asked = registration.register(RegisterRequest::default()).await;
        assert_eq!(refusal(asked), denied);
        let asked = registration.get_locations(GetLocationsRequest {}).await;
        assert_eq!(refusal(asked), denied);
        let asked = registration.renew_identity(renew.clone()).await;
        if replaced {
            assert_eq!(asked.unwrap().into_inner().epoch, 8);
            let seen = world.site.renewals().pop().unwrap();
            assert_eq!(seen.client_id, client.as_bytes().as_slice());
            assert_eq!(seen.fingerprint, fingerprint);
        } else {
            assert_eq!(refusal(asked), denied);
        }
    }
    assert!(world.take_all().await.is_empty(), "nothing got through");
}

async fn a_client_that_reports_far_too_often_is_held_back(world: &World) {
    let (client, other) = (ClientId::generate(), ClientId::generate());
    let (mut states, _) = world.services(world.client(client));
    let (mut others, _) = world.services(world.client(other));
    let mut held_back = None;
    for serial in 1..=400 {
        let sent = states
            .report_states(request(&[report(client, serial)]))
            .await;
        held_back = sent.err();
        if held_back.is_some() {
            assert!(serial > 100, "a burst may pass, {serial} is none");
            break;
        }
    }
    let held_back = held_back.expect("four hundred reports at once are too many");
    assert_eq!(held_back.code(), Code::ResourceExhausted);
    assert_eq!(
        status::reason(&held_back).as_deref(),
        Some("TOO_MANY_REPORTS")
    );
    assert!(held_back.get_details_retry_info().is_some());
    let sent = others.report_states(request(&[report(other, 1)])).await;
    assert!(sent.is_ok(), "others are not");
    world.take_all().await;
}

async fn reports_are_accepted_while_the_site_server_is_away(world: &mut World) {
    let client = ClientId::generate();
    let (mut states, mut policy) = world.services(world.client(client));
    policy
        .get_policy(GetPolicyRequest::default())
        .await
        .unwrap();
    world.stop_site().await;
    let status = policy
        .get_policy(GetPolicyRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.get_details_retry_info().is_some());
    states
        .report_states(request(&[report(client, 1)]))
        .await
        .unwrap();
    world.start_site().await;
    eventually(async || policy.get_policy(GetPolicyRequest::default()).await.is_ok()).await;
}

/// Clients report without a pause while the broker is killed; what they were told is safe must
/// come out of it, and what they were not told they keep.
async fn nothing_is_acknowledged_without_the_brokers_confirm(world: &mut World) {
    const CLIENTS: usize = 20;
    const REPORTS: u64 = 60;
    let _earlier = world.take_all().await;
    let (tasks, seen) = (Tasks::new(), Arc::new(Mutex::new(HashSet::new())));
    for queue in world.queues() {
        let sink = Arc::clone(&seen);
        let config = world.broker("site");
        consume(
            &config,
            &queue,
            Batch::default(),
            &tasks,
            move |deliveries| {
                for delivery in deliveries {
                    for it in ReportBatch::decode(delivery.body).unwrap().reports {
                        sink.lock().unwrap().insert(it.report);
                    }
                }
                async { Ok::<(), muster_rabbitmq::Error>(()) }
            },
        )
        .await
        .unwrap();
    }
    let (acknowledged, put_off) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for _ in 0..CLIENTS {
        let client = ClientId::generate();
        let (mut states, _) = world.services(world.client(client));
        let (acknowledged, put_off) = (Arc::clone(&acknowledged), Arc::clone(&put_off));
        tasks.spawn("client", async move {
            for serial in 1..=REPORTS {
                let report = report(client, serial);
                while let Err(status) = states
                    .report_states(request(std::slice::from_ref(&report)))
                    .await
                {
                    assert!(
                        matches!(status.code(), Code::Unavailable | Code::ResourceExhausted),
                        "{status:?}"
                    );
                    assert!(status.get_details_retry_info().is_some(), "{status:?}");
                    put_off.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                acknowledged.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    eventually(async || acknowledged.load(Ordering::SeqCst) > 100).await;
    tokio::task::block_in_place(|| world.rabbit.kill_9().unwrap());
    let before = acknowledged.load(Ordering::SeqCst);
    eventually(async || put_off.load(Ordering::SeqCst) >= CLIENTS).await;
    let during = acknowledged.load(Ordering::SeqCst);
    // A confirm that was on its way when the broker died may still arrive, but nothing later.
    assert!(
        during - before <= CLIENTS,
        "{} acknowledged without a broker",
        during - before
    );
    tokio::task::block_in_place(|| world.rabbit.restart().unwrap());
    let all = CLIENTS * usize::try_from(REPORTS).unwrap();
    eventually(async || acknowledged.load(Ordering::SeqCst) == all).await;
    eventually(async || seen.lock().unwrap().len() == all).await;
    assert!(tasks.stop(PATIENCE).await.is_empty());
}
