//! P-05: rows that somebody changes by hand, at the parent or at the child, are found within one cycle
//! and put right by their owner; counters, memory and rows agree afterwards.

use std::time::Duration;

use muster_domain::states::Detection;
use muster_proto::collection::CreateCollectionRequest;
use muster_proto::collection::collection_service_client::CollectionServiceClient;
use muster_proto::state as pb;
use muster_testkit::eventually;
use uuid::Uuid;

use crate::deployment_states;
use crate::pair::{Pair, deployment, enforcement, restart};
use crate::reports::compliance::compare_update;
use crate::reports::truth::{Truth, Whose};
use crate::reports::{Random, UPDATES};
use crate::roles::update;
use crate::site::{Client, Site};

const CLIENTS: usize = 60;
const DEPLOYMENT: Uuid = Uuid::from_u128(1);
/// Rows that are changed.
const ROWS: usize = 100;

/// What somebody does to the row of a client by hand, `$1` is its id, `$2` a random number. At the
/// child only what leaves a client that can be told of.
const BY_HAND: [(&str, bool); 18] = [
    (
        "UPDATE client_compliance_rows SET (installed, required) =
             ((SELECT array_agg(n ORDER BY n) FROM unnest(required || installed) AS n), '{}')
         WHERE client_no = (SELECT client_no FROM clients WHERE client_id = $1)
           AND required <> '{}' AND $2::int4 > 0",
        true,
    ),
    (
        "DELETE FROM client_compliance_rows
         WHERE client_no = (SELECT client_no FROM clients WHERE client_id = $1) AND $2::int4 > 0",
        true,
    ),
    (
        "UPDATE client_compliance_rows SET catalog_generation = catalog_generation + $2::int4
         WHERE client_no = (SELECT client_no FROM clients WHERE client_id = $1)",
        true,
    ),
    (
        "UPDATE client_compliance_log SET states = array_fill(0::int2, ARRAY[cardinality(states)])
         WHERE client_no = (SELECT client_no FROM clients WHERE client_id = $1)
           AND NOT 0 = ALL (states) AND $2::int4 > 0",
        true,
    ),
    (
        "UPDATE clients SET os_version_id = 'by-hand-' || $2::int4 WHERE client_id = $1",
        true,
    ),
    (
        "UPDATE clients SET enrolled_at = enrolled_at - make_interval(secs => $2::int4)
         WHERE client_id = $1",
        true,
    ),
    (
        "UPDATE clients SET epoch = epoch + $2::int4 WHERE client_id = $1",
        false,
    ),
    (
        "UPDATE clients SET deleted_at = now()
         WHERE client_id = $1 AND deleted_at IS NULL AND $2::int4 > 0",
        true,
    ),
    (
        "UPDATE report_stream_rows SET (contiguous_serial, has_full) = ($2::int4 * 100, false)
         WHERE client_no = (SELECT client_no FROM clients WHERE client_id = $1)",
        false,
    ),
    (
        "DELETE FROM report_stream_rows
         WHERE client_no = (SELECT client_no FROM clients WHERE client_id = $1) AND $2::int4 > 0",
        false,
    ),
    (
        "UPDATE deployment_states
         SET (enforcement, compliance) = ((enforcement + 1) % 13, (compliance + 1) % 4)
         WHERE client_no = (SELECT client_no FROM clients WHERE client_id = $1) AND $2::int4 > 0",
        true,
    ),
    (
        "DELETE FROM deployment_states
         WHERE client_no = (SELECT client_no FROM clients WHERE client_id = $1) AND $2::int4 > 0",
        true,
    ),
    (
        "UPDATE update_enforcement_states SET (state, error_code) = ((state + 1) % 15, $2::int4)
         WHERE client_no = (SELECT client_no FROM clients WHERE client_id = $1) AND update_no = 1",
        true,
    ),
    (
        "DELETE FROM update_enforcement_states
         WHERE client_no = (SELECT client_no FROM clients WHERE client_id = $1)
           AND update_no = 2 AND $2::int4 > 0",
        true,
    ),
    (
        "UPDATE scan_states SET (state, error_code) = ((state + 1) % 7, $2::int4)
         WHERE client_no = (SELECT client_no FROM clients WHERE client_id = $1)",
        true,
    ),
    (
        "DELETE FROM restart_states
         WHERE client_no = (SELECT client_no FROM clients WHERE client_id = $1) AND $2::int4 > 0",
        true,
    ),
    (
        "UPDATE inventories SET memory_bytes = memory_bytes + $2::int4
         WHERE client_no = (SELECT client_no FROM clients WHERE client_id = $1)",
        true,
    ),
    (
        "UPDATE client_health SET problems = problems || ($2::int4)::text
         WHERE client_no = (SELECT client_no FROM clients WHERE client_id = $1)",
        true,
    ),
];

/// All that travels of objects, by id.
const OBJECTS: &str = "
    SELECT COALESCE(string_agg(concat_ws('|', kind, object_id, COALESCE(owner_site_code, $1),
                                         deleted, encode(definition, 'hex')), ';'
                               ORDER BY kind, object_id), '')
    FROM objects WHERE COALESCE(owner_site_code, $1) = $2";

async fn text(site: &Site, sql: &str, owner: &str) -> String {
    let own = site.config.site_code.to_string();
    let db = site.pool.get().await.unwrap();
    db.query_one(sql, &[&own, &owner]).await.unwrap().get(0)
}

async fn collections(site: &Site, name: &str) {
    let mut collections = CollectionServiceClient::new(site.channel("administrator"));
    for number in 0..10 {
        let request = CreateCollectionRequest {
            name: format!("{name} {number}"),
            ..Default::default()
        };
        collections.create_collection(request).await.unwrap();
    }
}

fn report(client: &Client, random: &mut Random) -> pb::Report {
    let state = |random: &mut Random| Detection::from_id(random.below(4) as u8).unwrap();
    let mut states: Vec<(u32, Detection)> = (1..=UPDATES).map(|no| (no, state(random))).collect();
    states.retain(|(_, state)| *state != Detection::NotRequired);
    pb::Report {
        catalog_generation: 2,
        scan: Some(pb::ScanState {
            state: 3,
            serial: 1,
            ..Default::default()
        }),
        restart: Some(pb::RestartState {
            pending: true,
            reason: "kernel".into(),
            serial: 1,
        }),
        inventory: Some(pb::InventorySummary {
            host_name: "renamed".into(),
            kernel: "6.1".into(),
            memory_bytes: random.below(1 << 40),
            serial: 2,
            ..Default::default()
        }),
        health: Some(pb::ClientHealth {
            healthy: false,
            problems: vec!["disk".into()],
            serial: 2,
        }),
        update_enforcements: vec![
            enforcement(DEPLOYMENT, 1, random.below(9) as i32, 3),
            enforcement(DEPLOYMENT, 2, random.below(9) as i32, 3),
        ],
        deployments: vec![pb::DeploymentState {
            deployment_id: bytes::Bytes::copy_from_slice(DEPLOYMENT.as_bytes()),
            compliance: random.below(4) as i32,
            enforcement: random.below(13) as i32,
            evaluation: random.below(4) as i32,
            serial: 3,
            changed_at: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 0,
            }),
            ..Default::default()
        }],
        ..client.full(3, &states)
    }
}

/// Two sites with clients that have said something of everything, and collections of both.
async fn fleet(random: &mut Random) -> (Pair, Vec<Client>) {
    let pair = Pair::start().await;
    for site in [&pair.parent, &pair.child] {
        let catalog = (1..=UPDATES).map(|no| muster_proto::catalog::Update {
            generation: if no <= 8 { 1 } else { 2 },
            ..update(no, &format!("source-{no}"), &["leaf"])
        });
        site.others.world.lock().unwrap().catalog = catalog.collect();
    }
    deployment(&pair, DEPLOYMENT).await;
    collections(&pair.parent, "Of the parent").await;
    collections(&pair.child, "Of the child").await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        clients.push(pair.child.enrol(&format!("host-{n}")).await);
    }
    let full: Vec<pb::Report> = clients.iter().map(|it| report(it, random)).collect();
    pair.child.report(&full).await;
    let deltas: Vec<pb::Report> = clients
        .iter()
        .map(|it| pb::Report {
            catalog_generation: 2,
            ..it.delta(4, 4, &[(1, Detection::Installed), (2, Detection::Required)])
        })
        .collect();
    pair.child.report(&deltas).await;
    for client in &clients {
        eventually(async || pair.child.contiguous(client).await == 4).await;
    }
    pair.settled("before").await;
    for site in [&pair.parent, &pair.child] {
        eventually(async || site.count("SELECT generation FROM catalog_state").await == 2).await;
    }
    assert_eq!(pair.differing().await, 0, "nothing has differed so far");
    (pair, clients)
}

/// Changes rows at one of the sites, all at once; returns in how many buckets they are, of clients
/// and of objects that the other site owns.
async fn change_by_hand(
    site: &Site,
    at_parent: bool,
    clients: &[Client],
    random: &mut Random,
) -> (i64, i64) {
    let (own, other) = if at_parent {
        ("CEN", "P01")
    } else {
        ("P01", "CEN")
    };
    let mut db = site.pool.get().await.unwrap();
    let tx = db.transaction().await.unwrap();
    let (mut changed, mut ids) = (0, Vec::new());
    while changed < ROWS - 8 {
        let (sql, anywhere) = BY_HAND[random.below(BY_HAND.len() as u64) as usize];
        if !anywhere && !at_parent {
            continue;
        }
        let id = clients[random.below(clients.len() as u64) as usize].id.0;
        let number = 1 + random.below(1_000) as i32;
        let rows = tx.execute(sql, &[&id, &number]).await.unwrap();
        if rows > 0 {
            ids.push(id);
        }
        changed += usize::try_from(rows).unwrap();
    }
    // A client that nobody else knows of, and one that is gone without a trace.
    let new = Uuid::new_v4();
    const INSERT: &str = "
        WITH new AS (
            INSERT INTO clients (client_id, host_name, os_id, os_version_id, architecture,
                                 agent_version, epoch, owner_site_code, via_site_code)
            VALUES ($1, 'from-nowhere', 'debian', '12', 'amd64', '', 1, $2, $2)
            RETURNING client_no)
        INSERT INTO report_stream_rows (client_no, epoch) SELECT client_no, 1 FROM new";
    let via = at_parent.then_some("P01");
    tx.execute(INSERT, &[&new, &via]).await.unwrap();
    ids.push(new);
    let gone = clients[0].id.0;
    for table in [
        "report_stream_rows",
        "scan_states",
        "restart_states",
        "inventories",
        "client_health",
        "enrolment_tokens",
        "clients",
    ] {
        let sql = format!(
            "DELETE FROM {table} WHERE client_no = (SELECT client_no FROM clients WHERE client_id = $1)"
        );
        tx.execute(&sql, &[&gone]).await.unwrap();
    }
    ids.push(gone);
    const OBJECTS: [&str; 3] = [
        "DELETE FROM objects WHERE object_id IN (
            SELECT object_id FROM objects WHERE owner_site_code = $1 AND kind = 1
            ORDER BY object_id LIMIT 2) RETURNING object_id",
        "UPDATE objects SET definition = definition || '\\x2a00' WHERE object_id IN (
            SELECT object_id FROM objects WHERE owner_site_code = $1 AND kind = 1
            ORDER BY object_id LIMIT 2) RETURNING object_id",
        "UPDATE objects SET deleted = NOT deleted WHERE object_id IN (
            SELECT object_id FROM objects WHERE owner_site_code = $1 AND kind = 1
            ORDER BY object_id DESC LIMIT 2) RETURNING object_id",
    ];
    let mut objects = Vec::new();
    for sql in OBJECTS {
        let rows = tx.query(sql, &[&other]).await.unwrap();
        objects.extend(rows.iter().map(|row| row.get::<_, Uuid>(0)));
    }
    assert_eq!(objects.len(), 6, "objects of {other} at {own}");
    tx.commit().await.unwrap();
    let buckets = |ids: &[Uuid]| {
        let buckets = ids.iter().map(|id| muster_link::bucket(id.as_bytes()));
        i64::try_from(buckets.collect::<std::collections::BTreeSet<_>>().len()).unwrap()
    };
    (buckets(&ids), buckets(&objects))
}

/// Waits until a site finds that something differs; how many buckets those are.
async fn found(site: &Site) -> i64 {
    for _ in 0..2_000 {
        let found = site.count("SELECT differing FROM links").await;
        if found > 0 {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    0
}

/// Waits until both sites hold the same, and compares counters and memory of both with their rows.
async fn agree(pair: &Pair, why: &str, seed: u64) {
    pair.settled(why).await;
    for owner in ["CEN", "P01"] {
        eventually(async || {
            let parent = text(&pair.parent, OBJECTS, owner).await;
            !parent.is_empty() && parent == text(&pair.child, OBJECTS, owner).await
        })
        .await;
    }
    for site in [&pair.parent, &pair.child] {
        let truth = Truth::read(site).await;
        for update_no in 1..=UPDATES {
            let whose = Whose {
                collection: "",
                site_code: "",
            };
            compare_update(site, &truth, update_no, whose, seed).await;
        }
    }
    deployment_states::agree(&pair.parent, &[&DEPLOYMENT.to_string()], seed).await;
}

#[tokio::test]
async fn a_hundred_rows_changed_by_hand_are_found_within_one_cycle_and_come_from_their_owner() {
    let mut random = Random::new();
    let seed = random.0;
    let (mut pair, clients) = fleet(&mut random).await;
    let before = (pair.held().await, text(&pair.child, OBJECTS, "P01").await);

    let (of_clients, of_objects) = change_by_hand(&pair.parent, true, &clients, &mut random).await;
    // All of it by the first comparison.
    let first = found(&pair.parent).await;
    assert_eq!(first, of_clients + of_objects, "seed {seed}");
    agree(&pair, "changed at the parent", seed).await;
    let after = (pair.held().await, text(&pair.child, OBJECTS, "P01").await);
    assert_eq!(
        before, after,
        "seed {seed}: the owner's rows are as they were"
    );
    assert_eq!(pair.child.count("SELECT differing FROM links").await, 0);

    let (_, of_objects) = change_by_hand(&pair.child, false, &clients, &mut random).await;
    assert_eq!(found(&pair.child).await, of_objects, "seed {seed}");
    agree(&pair, "changed at the child", seed).await;

    // What reports say now they say after a restart, too.
    restart(&mut pair.parent).await;
    agree(&pair, "after a restart", seed).await;
}

#[tokio::test]
async fn rows_that_change_while_nobody_looks_are_found_by_the_next_sweep() {
    let mut random = Random::new();
    let (mut pair, clients) = fleet(&mut random).await;
    crate::pair::stop(&mut pair.parent).await;
    change_by_hand(&pair.parent, true, &clients, &mut random).await;
    // Reports go on, also of clients that are not at the parent any more.
    let next = |serial| -> Vec<pb::Report> {
        let state = if serial == 5 {
            Detection::Installed
        } else {
            Detection::Required
        };
        let next = clients.iter();
        next.map(|it| it.delta(serial, serial, &[(3, state)]))
            .collect()
    };
    pair.child.report(&next(5)).await;
    eventually(async || pair.child.contiguous(&clients[CLIENTS - 1]).await == 5).await;
    // Memory begins with what the rows say now, and the counters with it.
    crate::pair::start(&mut pair.parent).await;
    agree(&pair, "changed while stopped", random.0).await;
    pair.child.report(&next(6)).await;
    eventually(async || pair.child.contiguous(&clients[CLIENTS - 1]).await == 6).await;
    agree(&pair, "reports go on", random.0).await;
}
