//! Two sites with a link between them: what clients say at the child is so at the parent, whatever
//! happens on the way.

use std::time::Duration;

use aws_lc_rs::signature::Ed25519KeyPair;
use bytes::Bytes;
use muster_domain::states::Detection;
use muster_proto::client::DeleteClientRequest;
use muster_proto::{link, state as pb};
use muster_rabbitmq::{Headers, Publisher};
use muster_runtime::Tasks;
use muster_testkit::eventually;
use prost::Message;
use uuid::Uuid;

use crate::pair::{Pair, deployment, enforcement, key, restart, start, stop};
use crate::site::Client;

use Detection::{Installed, NotRequired, Required, Unknown};

/// A small generator, so that a run can be repeated from its seed.
struct Random(u64);

impl Random {
    fn new() -> (u64, Self) {
        let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
        (seed, Self(seed))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[tokio::test]
async fn what_clients_say_at_the_child_is_so_at_the_parent() {
    let pair = Pair::start().await;
    let (child, parent) = (&pair.child, &pair.parent);
    let id = Uuid::from_u128(1);
    deployment(&pair, id).await;
    let clients = [child.enrol("host-1").await, child.enrol("host-2").await];
    pair.settled("enrolled").await;
    for client in &clients {
        let full = pb::Report {
            scan: Some(pb::ScanState {
                state: 3,
                serial: 2,
                ..Default::default()
            }),
            restart: Some(pb::RestartState {
                pending: true,
                reason: "linux-image".into(),
                serial: 3,
            }),
            inventory: Some(pb::InventorySummary {
                host_name: "renamed".into(),
                kernel: "6.1".into(),
                serial: 1,
                ..Default::default()
            }),
            health: Some(pb::ClientHealth {
                healthy: false,
                problems: vec!["disk".into()],
                serial: 1,
            }),
            update_enforcements: vec![enforcement(id, 1, 4, 3), enforcement(id, 2, 5, 4)],
            ..client.full(4, &[(1, Installed), (2, Required), (3, Unknown)])
        };
        child.report(&[full]).await;
    }
    eventually(async || child.contiguous(&clients[1]).await == 4).await;
    pair.settled("FULL reports").await;
    let delta = pb::Report {
        update_enforcements: vec![enforcement(id, 2, 8, 6)],
        ..clients[0].delta(5, 6, &[(2, Installed), (3, NotRequired)])
    };
    child.report(&[delta]).await;
    eventually(async || child.contiguous(&clients[0]).await == 6).await;
    pair.settled("a DELTA report").await;
    assert_eq!(parent.held(&clients[0]).await, [vec![1, 2], vec![], vec![]]);
    // Nobody above asks anything of them, and nobody there may speak for them.
    assert_eq!(
        parent.policy(&clients[0], &[]).await.unwrap_err().code(),
        tonic::Code::PermissionDenied
    );
    parent.report(&[clients[0].full(9, &[])]).await;
    eventually(async || parent.count("SELECT count(*) FROM quarantine").await == 1).await;
    let request = DeleteClientRequest {
        client_id: Bytes::copy_from_slice(clients[0].id.as_bytes()),
    };
    let refused = parent
        .clients()
        .delete_client(request.clone())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    child.clients().delete_client(request).await.unwrap();
    pair.settled("deleted").await;
    let gone = "SELECT count(*) FROM clients WHERE deleted_at IS NOT NULL";
    eventually(async || parent.count(gone).await == 1).await;
    assert_eq!(parent.wrong_counters().await, 0);
}

#[tokio::test]
async fn what_changes_while_the_parent_is_away_comes_together() {
    let mut pair = Pair::start().await;
    let client = pair.child.enrol("host-1").await;
    pair.child.report(&[client.full(1, &[(1, Required)])]).await;
    eventually(async || pair.child.contiguous(&client).await == 1).await;
    // Nothing is compared meanwhile.
    pair.child.config.links.cycle = Duration::from_secs(60);
    restart(&mut pair.child).await;
    pair.settled("before").await;
    stop(&mut pair.parent).await;
    stop(&mut pair.child).await;
    start(&mut pair.child).await;
    for serial in 2..=4 {
        let states = [(1, if serial == 3 { Required } else { Installed })];
        pair.child
            .report(&[client.delta(serial, serial, &states)])
            .await;
        eventually(async || pair.child.contiguous(&client).await == serial as i64).await;
    }
    let batches = "SELECT count(*) FROM link_batches";
    assert_eq!(
        pair.child.count(batches).await,
        0,
        "nothing is numbered without an answer"
    );
    let seq = "SELECT in_seq FROM links";
    let before = pair.parent.count(seq).await;
    start(&mut pair.parent).await;
    pair.settled("after").await;
    assert_eq!(
        pair.parent.count(seq).await,
        before + 1,
        "three reports are one"
    );
    assert_eq!(pair.parent.held(&client).await, [vec![1], vec![], vec![]]);
}

#[tokio::test]
async fn changes_that_follow_each_other_share_a_batch() {
    let mut pair = Pair::start().await;
    let client = pair.child.enrol("host-1").await;
    pair.child.report(&[client.full(1, &[(1, Required)])]).await;
    eventually(async || pair.child.contiguous(&client).await == 1).await;
    // Nothing is compared meanwhile.
    pair.child.config.links.cycle = Duration::from_secs(60);
    restart(&mut pair.child).await;
    pair.settled("before").await;
    let seq = "SELECT in_seq FROM links";
    let before = pair.parent.count(seq).await;
    let begin = std::time::Instant::now();
    for serial in 2..=60 {
        let states = [(1, if serial % 2 == 0 { Installed } else { Required })];
        pair.child
            .report(&[client.delta(serial, serial, &states)])
            .await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eventually(async || pair.child.contiguous(&client).await == 60).await;
    pair.settled("after").await;
    let batches = pair.parent.count(seq).await - before;
    // One a second, and those at the ends.
    let most = 3 + i64::try_from(begin.elapsed().as_secs()).unwrap();
    assert!(
        (1..=most).contains(&batches),
        "{batches} batches, {most} at most"
    );
}

#[tokio::test]
async fn random_histories_with_restarts_and_lost_connections_end_alike() {
    let (seed, mut random) = Random::new();
    let mut pair = Pair::start().await;
    let deployments = [Uuid::from_u128(1), Uuid::from_u128(2)];
    for id in deployments {
        deployment(&pair, id).await;
    }
    let mut clients: Vec<(Client, u64)> = Vec::new();
    for n in 0..5 {
        clients.push((pair.child.enrol(&format!("host-{n}")).await, 0));
    }
    for step in 0..80 {
        let (client, serial) = &mut clients[random.below(5) as usize];
        let first = *serial + 1;
        *serial += 1 + random.below(3);
        let mut states: Vec<(u32, Detection)> = (1..=30)
            .filter(|_| random.below(4) == 0)
            .collect::<Vec<u32>>()
            .into_iter()
            .map(|n| (n, Detection::from_id(random.below(4) as u8).unwrap()))
            .collect();
        let full = first == 1 || random.below(9) == 0;
        let enforced = (0..random.below(4)).map(|_| {
            let id = deployments[random.below(2) as usize];
            let (update_no, state) = (1 + random.below(4) as u32, random.below(9) as i32);
            enforcement(id, update_no, state, *serial)
        });
        let enforced = enforced.collect();
        let report = if full {
            states.retain(|(_, state)| *state != NotRequired);
            client.full(*serial, &states)
        } else {
            client.delta(first, *serial, &states)
        };
        let report = pb::Report {
            update_enforcements: enforced,
            ..report
        };
        pair.child.report(&[report]).await;
        match random.below(20) {
            0 => {
                stop(&mut pair.parent).await;
                start(&mut pair.parent).await;
            }
            1 => {
                stop(&mut pair.child).await;
                start(&mut pair.child).await;
            }
            2 => pair.parent.close_connections().await,
            3 | 4 => tokio::time::sleep(Duration::from_millis(random.below(400))).await,
            _ => {}
        }
        if step == 40 {
            let (client, serial) = &clients[0];
            let (client, serial) = (client.clone(), *serial as i64);
            eventually(async || pair.child.contiguous(&client).await >= serial).await;
        }
    }
    for (client, serial) in &clients {
        let serial = *serial as i64;
        eventually(async || pair.child.contiguous(client).await == serial).await;
    }
    pair.settled(&format!("seed {seed}")).await;
    assert_eq!(pair.differing().await, 0, "seed {seed}");
    assert_eq!(
        pair.parent.count("SELECT count(*) FROM quarantine").await,
        0
    );
}

#[tokio::test]
async fn a_database_from_a_backup_makes_the_child_say_everything_again() {
    let mut pair = Pair::start().await;
    let client = pair.child.enrol("host-1").await;
    let mut serial = 0;
    for which in ["the parent's", "the child's"] {
        serial += 1;
        pair.child
            .report(&[client.full(serial, &[(1, Required), (2, Installed)])])
            .await;
        eventually(async || pair.child.contiguous(&client).await == serial as i64).await;
        pair.settled(which).await;
        let site = if which == "the parent's" {
            &mut pair.parent
        } else {
            &mut pair.child
        };
        stop(site).await;
        let backup = site.back_up().await;
        start(site).await;
        for _ in 0..3 {
            serial += 1;
            pair.child
                .report(&[client.delta(serial, serial, &[(serial as u32, Required)])])
                .await;
            eventually(async || pair.child.contiguous(&client).await == serial as i64).await;
            pair.settled(which).await;
        }
        let epoch = pair
            .child
            .count("SELECT out_epoch::bigint FROM links")
            .await;
        let site = if which == "the parent's" {
            &mut pair.parent
        } else {
            &mut pair.child
        };
        stop(site).await;
        site.restore(backup).await;
        start(site).await;
        pair.settled(&format!("{which} backup")).await;
        let after = pair
            .child
            .count("SELECT out_epoch::bigint FROM links")
            .await;
        assert!(after > epoch, "{which} backup was noticed");
        serial += 10;
    }
}

#[tokio::test]
async fn what_is_not_signed_by_the_child_or_not_of_its_clients_is_kept_aside() {
    let mut pair = Pair::start().await;
    let own = pair.parent.enrol("host-of-the-parent").await;
    pair.settled("before").await;
    stop(&mut pair.child).await;
    let tasks = Tasks::new();
    let publisher = Publisher::start(&pair.parent.config.rabbitmq, &tasks)
        .await
        .unwrap();
    let send = async |key: &Ed25519KeyPair, kind: link::link_message::Kind| {
        let message = link::LinkMessage {
            from_site_code: "P01".into(),
            to_site_code: "CEN".into(),
            protocol: 1,
            kind: Some(kind),
        };
        let message = message.encode_to_vec();
        let content = [b"muster-link-v1\0".as_slice(), &message].concat();
        let signed = link::SignedMessage {
            message: message.into(),
            signature: Bytes::copy_from_slice(key.sign(&content).as_ref()),
        };
        let body: Bytes = signed.encode_to_vec().into();
        // The parent makes its exchange when it notices the link.
        let started = std::time::Instant::now();
        let publish =
            || publisher.publish_to("link.CEN.P01.up", "", body.clone(), Headers::current(1));
        while let Err(error) = publish().await {
            assert!(started.elapsed() < Duration::from_secs(60), "{error}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let row = pair.parent.pool.get().await.unwrap();
    let row = row
        .query_one("SELECT in_epoch, in_seq, in_chain FROM links", &[])
        .await
        .unwrap();
    let record = link::ClientRecord {
        client_id: Bytes::copy_from_slice(own.id.as_bytes()),
        owner_site_code: "P01".into(),
        host_name: "stolen".into(),
        number: 1,
        epoch: 1,
        enrolled_at: Some(prost_types::Timestamp::default()),
        ..Default::default()
    };
    let batch = |body: link::BatchBody| {
        let batch = link::Batch {
            epoch: row.get::<_, i32>(0) as u32,
            seq: row.get::<_, i64>(1) as u64 + 1,
            after: Bytes::copy_from_slice(row.get(2)),
            body: zstd::encode_all(body.encode_to_vec().as_slice(), 3)
                .unwrap()
                .into(),
            numbered_at: None,
        };
        link::link_message::Kind::Batch(batch)
    };
    let kind = batch(link::BatchBody {
        clients: vec![record.clone()],
        ..Default::default()
    });
    send(&key(&pair.parent), kind.clone()).await;
    let kept = async |reason: &str| {
        let sql = format!("SELECT count(*) FROM quarantine WHERE reason LIKE '{reason}:%'");
        pair.parent.count(&sql).await
    };
    eventually(async || kept("BAD_SIGNATURE").await == 1).await;
    send(&key(&pair.child), kind).await;
    eventually(async || kept("NOT_A_CHILD").await == 1).await;
    // Numbers of clients that mean nobody here, or somebody else.
    let rows = link::ClientRows {
        clients: vec![7].into(),
        check: vec![0; 8].into(),
        epochs: vec![2].into(),
        serials: vec![1].into(),
        generations: vec![1].into(),
        counts: vec![0].into(),
        ..Default::default()
    };
    let mut body = link::BatchBody {
        rows: Some(rows),
        ..Default::default()
    };
    send(&key(&pair.child), batch(body.clone())).await;
    eventually(async || kept("UNKNOWN_CLIENT").await == 1).await;
    body.clients = vec![link::ClientRecord {
        client_id: vec![7; 16].into(),
        number: 7,
        ..record
    }];
    send(&key(&pair.child), batch(body)).await;
    eventually(async || kept("CLIENT_NUMBERS_DIFFER").await == 1).await;
    assert_eq!(
        pair.parent
            .count("SELECT count(*) FROM clients WHERE host_name = 'stolen'")
            .await,
        0
    );
    assert_eq!(
        pair.parent.count("SELECT in_seq FROM links").await,
        row.get::<_, i64>(1)
    );
    // The child learns why, and goes on when what it says is right again.
    start(&mut pair.child).await;
    let _ = pair.child.enrol("host-of-the-child").await;
    pair.settled("after").await;
    let refused = "SELECT count(*) FROM links WHERE refusal IS NOT NULL";
    assert_eq!(pair.child.count(refused).await, 0);
}
