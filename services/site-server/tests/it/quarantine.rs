//! Messages that could not be recorded, in the hands of an administrator (reliability.md F-08).

use bytes::Bytes;
use muster_domain::ClientId;
use muster_domain::states::Detection::{Installed, Required};
use muster_proto::client::RegisterClientRequest;
use muster_proto::state as pb;
use muster_proto::state::backlog_service_client::BacklogServiceClient;
use muster_runtime::grpc::Channel;
use muster_testkit::eventually;
use pb::RedriveOutcome::{Gone, Known, Recorded, Refused};
use prost::Message;
use tonic::Code;

use crate::site::{Client, Site, envelope};

type Service = BacklogServiceClient<Channel>;

fn service(site: &Site) -> Service {
    BacklogServiceClient::new(site.channel("administrator"))
}

async fn listed(service: &mut Service) -> Vec<pb::QuarantinedMessage> {
    let request = pb::ListQuarantinedRequest {
        page_size: 32,
        ..Default::default()
    };
    let answer = service.list_quarantined(request).await.unwrap();
    answer.into_inner().messages
}

async fn redrive(service: &mut Service, numbers: &[u64], reason: &str) -> Vec<pb::RedriveResult> {
    let request = pb::RedriveQuarantinedRequest {
        quarantine_numbers: numbers.to_vec(),
        reason: reason.to_owned(),
        ..Default::default()
    };
    let answer = service.redrive_quarantined(request).await.unwrap();
    answer.into_inner().results
}

fn outcomes(results: &[pb::RedriveResult]) -> Vec<pb::RedriveOutcome> {
    results.iter().map(pb::RedriveResult::outcome).collect()
}

async fn quarantined(site: &Site, count: i64) {
    eventually(async || site.count("SELECT count(*) FROM quarantine").await == count).await;
}

async fn reports_recorded(site: &Site) -> i64 {
    site.count("SELECT reports FROM recorded_totals").await
}

#[tokio::test]
async fn poison_is_applied_exactly_once_after_the_fix() {
    let site = Site::start().await;
    let mut service = service(&site);
    let (sick, well) = (site.enrol("sick").await, site.enrol("well").await);
    let db = site.pool.get().await.unwrap();
    // A table refuses a value that the door let through.
    let poison = "ALTER TABLE counter_moves ADD CONSTRAINT poison CHECK (13 <> ALL (update_nos))";
    db.batch_execute(poison).await.unwrap();
    site.report(&[
        well.full(1, &[(1, Installed)]),
        sick.full(1, &[(13, Required)]),
        well.delta(2, 2, &[(2, Required)]),
    ])
    .await;
    eventually(async || site.contiguous(&well).await == 2).await;
    quarantined(&site, 1).await;
    let held = listed(&mut service).await.remove(0);
    assert!(
        held.reason.starts_with("REFUSED_BY_DATABASE: "),
        "{}",
        held.reason
    );
    assert_eq!(
        (held.attempts, held.client_id.as_ref()),
        (1, sick.id.as_bytes().as_slice())
    );

    // Before the fix it stays, with the number of tries.
    let no = held.quarantine_no;
    let again = redrive(&mut service, &[no], "").await;
    assert_eq!(outcomes(&again), [Refused]);
    assert!(
        again[0].reason.starts_with("REFUSED_BY_DATABASE: "),
        "{}",
        again[0].reason
    );
    let held = listed(&mut service).await.remove(0);
    assert_eq!((held.attempts, held.tried_at.is_some()), (2, true));
    let nothing: [Vec<i32>; 3] = Default::default();
    assert_eq!(site.held(&sick).await, nothing);
    assert_eq!(reports_recorded(&site).await, 2);

    // After it, four administrators at once: one of them does it, nobody does it twice.
    db.batch_execute("ALTER TABLE counter_moves DROP CONSTRAINT poison")
        .await
        .unwrap();
    let tries = (0..4).map(|_| {
        let mut service = service.clone();
        async move { redrive(&mut service, &[no], "").await }
    });
    let all = futures::future::join_all(tries).await.concat();
    let count = |outcome| {
        outcomes(&all)
            .into_iter()
            .filter(|it| *it == outcome)
            .count()
    };
    assert_eq!((count(Recorded), count(Gone)), (1, 3), "{all:?}");
    assert_eq!(site.held(&sick).await, [vec![], vec![13], vec![]]);
    assert_eq!(
        (site.contiguous(&sick).await, reports_recorded(&site).await),
        (1, 3)
    );
    assert_eq!(site.wrong_counters().await, 0);
    quarantined(&site, 0).await;
    let audit = "SELECT count(*) FROM quarantine_audit
                 WHERE action = 'redriven' AND administrator <> '' AND attempts = 2";
    assert_eq!(site.count(audit).await, 1);
}

#[tokio::test]
async fn an_epoch_that_is_given_later_makes_its_reports_good() {
    let site = Site::start().await;
    let mut service = service(&site);
    let client = site.enrol("host-1").await;
    let reborn = Client {
        epoch: 2,
        ..client.clone()
    };
    // Two of its reports come before the site knows the epoch, one of them twice.
    let (full, delta) = (
        reborn.full(3, &[(1, Required)]),
        reborn.delta(4, 4, &[(1, Installed)]),
    );
    site.report(&[full.clone(), delta.clone(), delta.clone()])
        .await;
    quarantined(&site, 2).await;
    let again = redrive(&mut service, &[], "UNKNOWN_EPOCH").await;
    assert_eq!(outcomes(&again), [Refused, Refused]);

    let request = RegisterClientRequest {
        client_id: Bytes::copy_from_slice(client.id.as_bytes()),
        request: Some(Default::default()),
        ..Default::default()
    };
    site.gateway().register_client(request).await.unwrap();
    // The client sends one of them by itself meanwhile: then it is known.
    site.report(&[full]).await;
    eventually(async || site.contiguous(&client).await == 3).await;
    let done = redrive(&mut service, &[], "UNKNOWN_EPOCH").await;
    assert_eq!(outcomes(&done), [Known, Recorded]);
    assert_eq!(site.held(&client).await, [vec![1], vec![], vec![]]);
    assert_eq!(
        (site.contiguous(&client).await, site.wrong_counters().await),
        (4, 0)
    );
    quarantined(&site, 0).await;
    assert_eq!(outcomes(&redrive(&mut service, &[1], "").await), [Gone]);
}

#[tokio::test]
async fn a_second_try_is_no_way_around_the_checks_of_the_first() {
    let site = Site::start().await;
    let mut service = service(&site);
    let (client, other) = (site.enrol("host-1").await, site.enrol("host-2").await);
    let stranger = Client {
        id: ClientId::generate(),
        ..client.clone()
    };
    // A report of one client under the certificate of another, one without any, and garbage.
    let forged = other.full(9, &[(5, Required)]);
    let batch = pb::ReportBatch {
        reports: vec![
            envelope(&forged, client.id.as_bytes()),
            envelope(&forged, b"nobody"),
            envelope(&stranger.full(1, &[]), stranger.id.as_bytes()),
        ],
    };
    site.publish("1", batch.encode_to_vec()).await;
    site.publish("0", b"\xff no batch at all".to_vec()).await;
    quarantined(&site, 4).await;
    let numbers: Vec<u64> = listed(&mut service)
        .await
        .iter()
        .map(|message| message.quarantine_no)
        .collect();
    let again = redrive(&mut service, &numbers, "").await;
    assert_eq!(outcomes(&again), [Refused; 4]);
    let mut reasons: Vec<&str> = again
        .iter()
        .filter_map(|result| result.reason.split(':').next())
        .collect();
    reasons.sort_unstable();
    assert_eq!(
        reasons,
        [
            "FOREIGN_CLIENT",
            "FOREIGN_CLIENT",
            "UNDECODABLE_BATCH",
            "UNKNOWN_CLIENT"
        ]
    );
    assert_eq!(site.contiguous(&other).await, 0);
    // Nor is a batch whose sender the broker did not vouch for, however good its reports are.
    let good = pb::ReportBatch {
        reports: vec![envelope(
            &client.full(1, &[(1, Required)]),
            client.id.as_bytes(),
        )],
    };
    let insert = "INSERT INTO quarantine (origin, reason, body, body_hash, whole_batch, trusted)
                  VALUES ('o', 'UNKNOWN_SENDER: x', $1, 'h', true, $2) RETURNING quarantine_no";
    let db = site.pool.get().await.unwrap();
    let row = db
        .query_one(insert, &[&good.encode_to_vec(), &false])
        .await
        .unwrap();
    let no = row.get::<_, i64>(0).unsigned_abs();
    assert_eq!(outcomes(&redrive(&mut service, &[no], "").await), [Refused]);
    // One that could not be opened by an older program, and can be now, is opened.
    db.execute(
        "UPDATE quarantine SET trusted = true WHERE body_hash = 'h'",
        &[],
    )
    .await
    .unwrap();
    assert_eq!(
        outcomes(&redrive(&mut service, &[no], "").await),
        [Recorded]
    );
    assert_eq!(site.held(&client).await, [vec![], vec![1], vec![]]);
    quarantined(&site, 4).await;
}

#[tokio::test]
async fn a_message_is_inspected_and_dropped_for_good_under_a_name() {
    let site = Site::start().await;
    let mut service = service(&site);
    let client = site.enrol("host-1").await;
    let unknown = pb::Report {
        epoch: 7,
        ..client.full(4, &[(1, Installed), (3, Required)])
    };
    site.report(&[unknown]).await;
    site.publish("0", b"\xff no batch at all".to_vec()).await;
    site.publish("1", b"\xff neither".to_vec()).await;
    quarantined(&site, 3).await;
    let found = listed(&mut service).await;
    let of = |reason: &str| {
        let found = found
            .iter()
            .find(|message| message.reason.starts_with(reason));
        found.unwrap_or_else(|| panic!("no {reason}")).quarantine_no
    };
    let (report, garbage) = (of("UNKNOWN_EPOCH"), of("UNDECODABLE_BATCH"));

    let inspect = |quarantine_no| pb::InspectQuarantinedRequest { quarantine_no };
    let shown = service
        .inspect_quarantined(inspect(report))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (shown.reports[0].epoch, shown.reports[0].last_serial),
        (7, 4)
    );
    assert_eq!(
        shown.reports[0]
            .compliance
            .as_ref()
            .unwrap()
            .update_numbers
            .len(),
        2
    );
    assert_eq!(shown.decode_error, "");
    let shown = service
        .inspect_quarantined(inspect(garbage))
        .await
        .unwrap()
        .into_inner();
    let message = shown.message.unwrap();
    assert!(
        message.whole_batch && message.body.starts_with(b"\xff "),
        "{message:?}"
    );
    assert!(shown.reports.is_empty() && !shown.decode_error.is_empty());

    let drop = |numbers: &[u64], reason: &str| pb::DropQuarantinedRequest {
        quarantine_numbers: numbers.to_vec(),
        reason: reason.to_owned(),
    };
    let refused = service.drop_quarantined(drop(&[], "")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = service.drop_quarantined(drop(&[], "%")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let mut role = BacklogServiceClient::new(site.channel("management-point"));
    let denied = role
        .drop_quarantined(drop(&[report], ""))
        .await
        .unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    quarantined(&site, 3).await;

    let done = service
        .drop_quarantined(drop(&[report, 4_711], ""))
        .await
        .unwrap();
    assert_eq!((done.get_ref().dropped, done.get_ref().more), (1, false));
    let done = service
        .drop_quarantined(drop(&[], "UNDECODABLE_BATCH"))
        .await
        .unwrap();
    assert_eq!((done.get_ref().dropped, done.get_ref().more), (2, false));
    quarantined(&site, 0).await;
    let gone = service
        .inspect_quarantined(inspect(report))
        .await
        .unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    let audit = "SELECT count(*) FROM quarantine_audit
                 WHERE action = 'dropped' AND administrator <> '' AND length(body_hash) = 32";
    assert_eq!(site.count(audit).await, 3);
}

#[tokio::test]
async fn many_messages_are_redriven_page_by_page() {
    let site = Site::start().await;
    let mut service = service(&site);
    let client = site.enrol("host-1").await;
    for chunk in (1..=450_u64).collect::<Vec<_>>().chunks(50) {
        let reports: Vec<pb::Report> = chunk
            .iter()
            .map(|serial| pb::Report {
                epoch: 9,
                ..client.full(*serial, &[])
            })
            .collect();
        site.report(&reports).await;
    }
    quarantined(&site, 450).await;
    let (mut seen, mut pages) = (Vec::new(), 0);
    let mut page_token = String::new();
    loop {
        let request = pb::RedriveQuarantinedRequest {
            reason: "UNKNOWN_EPOCH".to_owned(),
            page_token,
            ..Default::default()
        };
        let page = service
            .redrive_quarantined(request)
            .await
            .unwrap()
            .into_inner();
        assert!(page.results.len() <= 200);
        seen.extend(page.results.iter().map(|result| result.quarantine_no));
        pages += 1;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert!(seen.is_sorted_by(|a, b| a < b));
    assert_eq!((seen.len(), pages >= 3), (450, true));
}
