//! Reports on their way into the database: late, twice, out of order, broken, foreign.

use bytes::Bytes;
use muster_compliance::ClientStates;
use muster_domain::{ClientId, UpdateNo, states::Detection};
use muster_proto::client::RegisterClientRequest;
use muster_proto::state as pb;
use muster_proto::state::backlog_service_client::BacklogServiceClient;
use muster_testkit::eventually;
use prost::Message;

use crate::site::{Client, Site, envelope};

use Detection::{Installed, NotRequired, Required, Unknown};

#[tokio::test]
async fn a_full_report_and_what_changes_afterwards_are_recorded_once() {
    let site = Site::start().await;
    let client = site.enrol("host-1").await;
    let full = client.full(4, &[(1, Installed), (2, Required), (3, Unknown)]);
    site.report(std::slice::from_ref(&full)).await;
    eventually(async || site.contiguous(&client).await == 4).await;
    assert_eq!(site.held(&client).await, [vec![1], vec![2], vec![3]]);

    // A repeat of the report, a delta, its repeat, and an old FULL that comes late.
    let delta = client.delta(5, 6, &[(2, Installed), (3, NotRequired)]);
    site.report(&[full.clone(), delta.clone(), delta]).await;
    site.report(&[full]).await;
    eventually(async || site.contiguous(&client).await == 6).await;
    eventually(async || {
        backlog(&site)
            .await
            .queues
            .iter()
            .all(|queue| queue.messages == 0)
    })
    .await;
    assert_eq!(site.held(&client).await, [vec![1, 2], vec![], vec![]]);
    assert_eq!(site.wrong_counters().await, 0);
    let backlog = backlog(&site).await;
    assert_eq!((backlog.reports_recorded, backlog.states_recorded), (2, 5));
    assert_eq!((backlog.quarantined, backlog.resyncs_open), (0, 0));
    assert_eq!(backlog.queues.len(), 4);
}

async fn backlog(site: &Site) -> pb::GetBacklogResponse {
    let mut service = BacklogServiceClient::new(site.channel("administrator"));
    service
        .get_backlog(pb::GetBacklogRequest {})
        .await
        .unwrap()
        .into_inner()
}

#[tokio::test]
async fn a_gap_makes_the_site_ask_for_everything_and_a_full_report_heals_it() {
    let site = Site::start().await;
    let client = site.enrol("host-1").await;
    assert!(
        site.policy(&client, &[]).await.unwrap().send_full_report,
        "nothing is held yet"
    );
    site.report(&[client.full(1, &[(1, Required)])]).await;
    eventually(async || site.contiguous(&client).await == 1).await;
    assert!(!site.policy(&client, &[]).await.unwrap().send_full_report);

    // Report 2 is lost. What follows waits, and is not asked for at once: it may only be late.
    site.report(&[client.delta(3, 3, &[(7, Installed)])]).await;
    eventually(async || {
        site.count("SELECT count(*) FROM report_streams WHERE gap_since IS NOT NULL")
            .await
            == 1
    })
    .await;
    assert!(!site.policy(&client, &[]).await.unwrap().send_full_report);
    assert_eq!(site.held(&client).await, [vec![], vec![1], vec![]]);
    // By and by for the one that is missing, and only then for everything.
    let mut ranges = Vec::new();
    eventually(async || {
        let answer = site.policy(&client, &[]).await.unwrap();
        if let Some(wish) = answer.wish.filter(|it| it.kind() == pb::WishKind::Ranges) {
            ranges.extend(wish.ranges.iter().map(|range| (range.first, range.last)));
        }
        answer.send_full_report
    })
    .await;
    assert!(!ranges.is_empty());
    assert!(ranges.iter().all(|range| *range == (2, 2)), "{ranges:?}");
    assert_eq!(backlog(&site).await.resyncs_open, 1);

    site.report(&[client.full(4, &[(1, Installed), (7, Installed)])])
        .await;
    eventually(async || site.contiguous(&client).await == 4).await;
    assert!(!site.policy(&client, &[]).await.unwrap().send_full_report);
    assert_eq!(site.held(&client).await, [vec![1, 7], vec![], vec![]]);
    assert_eq!(site.wrong_counters().await, 0);
}

#[tokio::test]
async fn a_report_that_overtook_another_one_counts_when_the_other_comes() {
    let site = Site::start().await;
    let client = site.enrol("host-1").await;
    site.report(&[client.full(1, &[(1, Required)])]).await;
    site.report(&[client.delta(3, 3, &[(1, Unknown)])]).await;
    site.report(&[client.delta(2, 2, &[(1, Installed), (2, Required)])])
        .await;
    eventually(async || site.contiguous(&client).await == 3).await;
    assert_eq!(site.held(&client).await, [vec![], vec![2], vec![1]]);
    assert_eq!(site.wrong_counters().await, 0);
    assert_eq!(
        site.count("SELECT count(*) FROM report_streams WHERE cardinality(early_reports) > 0")
            .await,
        0
    );
}

#[tokio::test]
async fn what_cannot_be_recorded_is_kept_aside_and_keeps_nothing_back() {
    let site = Site::start().await;
    let (client, other) = (site.enrol("host-1").await, site.enrol("host-2").await);
    let stranger = Client {
        id: ClientId::generate(),
        ..client.clone()
    };
    let good = client.full(2, &[(1, Installed)]);
    let batch = pb::ReportBatch {
        reports: vec![
            pb::ReportEnvelope {
                report: Bytes::from_static(b"\xff\xff not a report"),
                client_id: Bytes::copy_from_slice(client.id.as_bytes()),
                ..Default::default()
            },
            // The report of another client than the certificate named.
            envelope(&other.full(9, &[(5, Required)]), client.id.as_bytes()),
            envelope(&stranger.full(1, &[]), stranger.id.as_bytes()),
            // An epoch that was never given, and a state that does not exist.
            envelope(
                &pb::Report {
                    epoch: 7,
                    ..good.clone()
                },
                client.id.as_bytes(),
            ),
            envelope(
                &pb::Report {
                    scan: Some(pb::ScanState {
                        state: 99,
                        serial: 1,
                        ..Default::default()
                    }),
                    ..good.clone()
                },
                client.id.as_bytes(),
            ),
            envelope(&good, client.id.as_bytes()),
        ],
    };
    site.publish("1", batch.encode_to_vec()).await;
    site.publish("urgent", b"\xff no batch at all".to_vec())
        .await;
    eventually(async || site.contiguous(&client).await == 2).await;
    eventually(async || backlog(&site).await.quarantined == 6).await;
    assert_eq!(site.held(&client).await, [vec![1], vec![], vec![]]);
    assert_eq!(site.contiguous(&other).await, 0);
    eventually(async || {
        backlog(&site)
            .await
            .queues
            .iter()
            .all(|queue| queue.messages == 0)
    })
    .await;

    let mut service = BacklogServiceClient::new(site.channel("administrator"));
    let request = pb::ListQuarantinedRequest {
        page_size: 20,
        ..Default::default()
    };
    let listed = service
        .list_quarantined(request)
        .await
        .unwrap()
        .into_inner()
        .messages;
    for reason in [
        "UNDECODABLE_REPORT",
        "FOREIGN_CLIENT",
        "UNKNOWN_CLIENT",
        "UNKNOWN_EPOCH",
        "INVALID_REPORT",
        "UNDECODABLE_BATCH",
    ] {
        let found = listed
            .iter()
            .find(|message| message.reason.starts_with(reason));
        let found = found.unwrap_or_else(|| panic!("{reason} is not among {listed:?}"));
        assert!(found.origin.contains("site.P01.state."), "{}", found.origin);
        assert!(!found.body.is_empty());
    }
}

#[tokio::test]
async fn a_new_epoch_starts_from_nothing_and_the_old_one_counts_no_more() {
    let site = Site::start().await;
    let client = site.enrol("host-1").await;
    site.report(&[client.full(50, &[(1, Installed), (2, Required)])])
        .await;
    eventually(async || site.contiguous(&client).await == 50).await;
    let request = RegisterClientRequest {
        client_id: Bytes::copy_from_slice(client.id.as_bytes()),
        request: Some(Default::default()),
        ..Default::default()
    };
    let answer = site
        .gateway()
        .register_client(request)
        .await
        .unwrap()
        .into_inner();
    let reborn = Client {
        epoch: answer.response.unwrap().epoch,
        ..client.clone()
    };
    assert_eq!(reborn.epoch, 2);
    assert!(site.policy(&client, &[]).await.unwrap().send_full_report);

    // The old epoch's newest report, and a delta of the new epoch before its first FULL.
    site.report(&[
        client.delta(51, 51, &[(3, Required)]),
        reborn.delta(1, 1, &[(4, Required)]),
    ])
    .await;
    site.report(&[reborn.full(2, &[(2, Installed)])]).await;
    eventually(async || site.contiguous(&client).await == 2).await;
    assert_eq!(site.held(&client).await, [vec![2], vec![], vec![]]);
    assert_eq!(site.wrong_counters().await, 0);
}

/// A small generator, so that a run can be repeated from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[tokio::test]
async fn random_histories_end_as_the_clients_say_and_the_counters_agree() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    let mut random = Random(seed);
    let site = Site::start().await;
    let mut clients = Vec::new();
    for n in 0..6 {
        clients.push((
            site.enrol(&format!("host-{n}")).await,
            ClientStates::default(),
            0_u64,
        ));
    }
    let mut messages: Vec<pb::Report> = Vec::new();
    for _ in 0..120 {
        let at = random.below(6) as usize;
        let (client, truth, serial) = &mut clients[at];
        let first = *serial + 1;
        *serial += 1 + random.below(3);
        let mut states: Vec<(u32, Detection)> = (1..=40)
            .filter(|_| random.below(4) == 0)
            .collect::<Vec<u32>>()
            .into_iter()
            .map(|n| (n, Detection::from_id(random.below(4) as u8).unwrap()))
            .collect();
        let full = first == 1 || random.below(8) == 0;
        let report: Vec<(UpdateNo, Detection)> = states
            .iter()
            .map(|(n, state)| (UpdateNo(*n), *state))
            .collect();
        if full {
            truth.replace(&report);
            states.retain(|(_, state)| *state != NotRequired);
            messages.push(client.full(*serial, &states));
        } else {
            truth.merge(&report);
            messages.push(client.delta(first, *serial, &states));
        }
    }
    // Neighbours change places, a third comes twice, one in ten is lost.
    for n in 0..messages.len() - 1 {
        if random.below(3) == 0 {
            messages.swap(n, n + 1);
        }
    }
    for chunk in messages.chunks(5) {
        let mut batch: Vec<pb::Report> = chunk
            .iter()
            .filter(|_| random.below(10) > 0)
            .cloned()
            .collect();
        if let Some(repeat) = batch.first().cloned().filter(|_| random.below(3) == 0) {
            batch.push(repeat);
        }
        site.report(&batch).await;
    }
    // Whoever has a gap is asked, and sends everything it holds.
    let mut ends = Vec::new();
    for (client, truth, serial) in &clients {
        let states: Vec<(u32, Detection)> = truth
            .listed()
            .into_iter()
            .map(|(number, state)| (number.0, state))
            .collect();
        ends.push(client.full(*serial + 1, &states));
    }
    site.report(&ends).await;
    for (client, truth, serial) in &clients {
        eventually(async || site.contiguous(client).await == (*serial + 1) as i64).await;
        let (installed, required, unknown) = truth.columns();
        assert_eq!(
            site.held(client).await,
            [installed, required, unknown],
            "seed {seed}"
        );
    }
    assert_eq!(site.wrong_counters().await, 0, "seed {seed}");
    assert_eq!(site.count("SELECT count(*) FROM quarantine").await, 0);
}

#[tokio::test]
async fn histories_without_loss_need_no_full_report_in_any_order() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    let mut random = Random(seed);
    let site = Site::start().await;
    let client = site.enrol("host-1").await;
    let mut truth = ClientStates::default();
    let mut messages = Vec::new();
    for serial in 1..=40_u64 {
        let states: Vec<(u32, Detection)> = (1..=9)
            .filter(|n| (serial + n) % 3 == 0)
            .map(|n| {
                (
                    n as u32,
                    Detection::from_id(((serial + n) % 4) as u8).unwrap(),
                )
            })
            .collect();
        truth.merge(
            &states
                .iter()
                .map(|(n, s)| (UpdateNo(*n), *s))
                .collect::<Vec<_>>(),
        );
        messages.push(if serial == 1 {
            client.full(1, &states)
        } else {
            client.delta(serial, serial, &states)
        });
    }
    site.report(&messages[..1]).await;
    eventually(async || site.contiguous(&client).await == 1).await;
    for window in messages[1..].chunks(8) {
        let mut window = window.to_vec();
        for n in (1..window.len()).rev() {
            window.swap(n, random.below(n as u64 + 1) as usize);
        }
        // Over different queues, so that any order may become of it.
        for (n, report) in window.iter().enumerate() {
            let batch = pb::ReportBatch {
                reports: vec![envelope(report, &report.client_id)],
            };
            site.publish(["0", "1", "urgent"][n % 3], batch.encode_to_vec())
                .await;
        }
        // Queues that drift apart by more than the reports a stream lets wait (16) do end in a FULL
        // report, and rightly so: here a window is recorded before the next one is sent.
        let last = window.iter().map(|it| it.last_serial).max();
        eventually(async || Some(site.contiguous(&client).await as u64) == last).await;
    }
    let (installed, required, unknown) = truth.columns();
    assert_eq!(
        site.held(&client).await,
        [installed, required, unknown],
        "seed {seed}"
    );
    assert_eq!(site.wrong_counters().await, 0, "seed {seed}");
}
