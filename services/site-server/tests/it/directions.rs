//! What flows back: wishes, the report interval, certificates that count no more; and that what
//! is urgent gets through a flood.

use std::time::{Duration, Instant};

use bytes::Bytes;
use muster_domain::states::Detection;
use muster_proto::client as pb;
use muster_proto::state::{self, WishKind};
use muster_testkit::eventually;
use prost::Message;
use tonic::Code;

use crate::site::{Client, Site, envelope};

async fn directions(
    site: &Site,
    known: Option<&pb::GetDirectionsResponse>,
) -> pb::GetDirectionsResponse {
    let request = pb::GetDirectionsRequest {
        known_version: known.map_or(0, |it| it.version),
        known_denied_version: known.map_or(0, |it| it.denied_version),
    };
    site.gateway()
        .get_directions(request)
        .await
        .unwrap()
        .into_inner()
}

async fn wish(site: &Site, client: &Client) -> Option<WishKind> {
    let answer = directions(site, None).await;
    let mut wishes = answer.wishes.into_iter();
    let wish = wishes.find(|it| it.client_id == client.id.as_bytes().as_slice());
    wish.map(|it| it.wish.unwrap().kind())
}

async fn resync(site: &Site, request: pb::ResyncClientsRequest) -> Result<u32, Code> {
    let answer = site.clients().resync_clients(request).await;
    answer
        .map(|it| it.into_inner().clients)
        .map_err(|status| status.code())
}

#[tokio::test]
async fn an_administrator_can_ask_clients_for_everything() {
    let site = Site::start().await;
    let (client, other) = (site.enrol("web-01").await, site.enrol("web-02").await);
    eventually(async || {
        site.gateway()
            .get_directions(pb::GetDirectionsRequest::default())
            .await
            .is_ok()
    })
    .await;
    assert_eq!(
        wish(&site, &client).await,
        None,
        "the first report is full anyway"
    );
    for client in [&client, &other] {
        site.report(&[client.full(3, &[(1, Detection::Installed)])])
            .await;
        eventually(async || site.contiguous(client).await == 3).await;
    }
    let all = |all| pb::ResyncClientsRequest {
        all,
        ..Default::default()
    };
    let named = |name: &str| pb::ResyncClientsRequest {
        name: name.into(),
        ..Default::default()
    };
    assert_eq!(resync(&site, all(false)).await, Err(Code::InvalidArgument));
    let both = pb::ResyncClientsRequest {
        all: true,
        ..named("web-01")
    };
    assert_eq!(resync(&site, both).await, Err(Code::InvalidArgument));
    assert_eq!(resync(&site, named("nobody")).await, Err(Code::NotFound));

    assert_eq!(resync(&site, named("web-01")).await, Ok(1));
    eventually(async || wish(&site, &client).await == Some(WishKind::Full)).await;
    assert_eq!(wish(&site, &other).await, None);
    let request = pb::GetClientRequest {
        name: "web-01".into(),
    };
    let shown = site
        .clients()
        .get_client(request)
        .await
        .unwrap()
        .into_inner();
    assert!(shown.stream.unwrap().full_wanted);
    // The same serial again, and yet it counts: something at the site may be wrong.
    site.report(&[client.full(3, &[(2, Detection::Required)])])
        .await;
    eventually(async || site.held(&client).await == [vec![], vec![2], vec![]]).await;
    eventually(async || wish(&site, &client).await.is_none()).await;
    assert_eq!(resync(&site, all(true)).await, Ok(2));
    eventually(async || wish(&site, &other).await == Some(WishKind::Full)).await;
}

#[tokio::test]
async fn directions_cost_little_while_nothing_changes() {
    let site = Site::start().await;
    let client = site.enrol("web-01").await;
    eventually(async || {
        site.gateway()
            .get_directions(pb::GetDirectionsRequest::default())
            .await
            .is_ok()
    })
    .await;
    let first = directions(&site, None).await;
    assert_eq!(first.report_interval.unwrap().seconds, 900);
    let again = directions(&site, Some(&first)).await;
    assert_eq!(
        (again.version, again.denied_version),
        (first.version, first.denied_version)
    );
    assert!(again.encoded_len() < 64);

    let request = pb::DeleteClientRequest {
        client_id: Bytes::copy_from_slice(client.id.as_bytes()),
    };
    site.clients().delete_client(request).await.unwrap();
    let fingerprint = hex::decode(muster_runtime::tls::fingerprint(
        &client.answer.certificate_chain[0],
    ));
    let fingerprint = fingerprint.unwrap();
    let denied = async || directions(&site, Some(&first)).await.denied;
    eventually(async || {
        denied()
            .await
            .iter()
            .any(|it| it.fingerprint == fingerprint && !it.replaced)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_urgent_and_policy_get_through_while_a_queue_is_flooded() {
    const CLIENTS: u32 = 30;
    const MESSAGES: u64 = 1_500;
    let mut site = Site::start().await;
    let mut flood = Vec::new();
    for n in 0..CLIENTS {
        flood.push(site.enrol(&format!("flood-{n}")).await);
    }
    let urgent = site.enrol("urgent").await;
    let full = urgent.full(1, &[(1, Detection::Required)]);
    site.report(&[full]).await;
    eventually(async || site.contiguous(&urgent).await == 1).await;
    // The flood comes while the site server is away: it finds all of it when it starts.
    site.handle.take().unwrap().stop().await;
    let states: Vec<(u32, Detection)> = (1..=200).map(|n| (n, Detection::Installed)).collect();
    for serial in 1..=MESSAGES {
        let envelopes = flood.iter().map(|client| {
            let report = client.full(serial, &states);
            envelope(&report, &report.client_id)
        });
        let batch = state::ReportBatch {
            reports: envelopes.collect(),
        };
        site.publish("0", batch.encode_to_vec()).await;
    }
    site.handle = Some(site_server::start(site.config.clone()).await.unwrap());
    let waiting = async || {
        let sql = "SELECT min(contiguous_serial) FROM report_streams JOIN clients USING (client_no)
                   WHERE host_name LIKE 'flood-%'";
        u64::try_from(site.count(sql).await).unwrap() < MESSAGES
    };
    let started = Instant::now();
    let report = state::Report {
        priority: 0,
        health: Some(state::ClientHealth {
            healthy: false,
            problems: vec!["X".into()],
            serial: 2,
        }),
        ..urgent.report(state::ReportKind::Delta, 2, 2)
    };
    let batch = state::ReportBatch {
        reports: vec![envelope(&report, &report.client_id)],
    };
    site.publish("urgent", batch.encode_to_vec()).await;
    let polled = Instant::now();
    site.policy(&urgent, b"").await.unwrap();
    let polled = polled.elapsed();
    let sql = "SELECT count(*) FROM client_health WHERE NOT healthy";
    eventually(async || site.count(sql).await == 1).await;
    let recorded = started.elapsed();
    let flooded = waiting().await;
    assert!(flooded, "the flood was over by then: this proves nothing");
    assert!(
        recorded < Duration::from_secs(5),
        "recorded after {recorded:?}"
    );
    assert!(polled < Duration::from_secs(2), "policy after {polled:?}");
}
