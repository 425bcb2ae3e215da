//! States of deployments: rows, counters and what is held in memory say the same, whatever comes.

use std::collections::BTreeMap;

use muster_proto::client::DeleteClientRequest;
use muster_proto::deployment as dep;
use muster_proto::deployment::deployment_service_client::DeploymentServiceClient;
use muster_proto::report as rep;
use muster_proto::report::report_service_client::ReportServiceClient;
use muster_proto::state as pb;
use muster_testkit::eventually;
use uuid::Uuid;

use crate::site::{Client, Site};

const UPDATES: u64 = 3;

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

async fn deployment(site: &Site, name: &str) -> Uuid {
    const SQL: &str = "
        INSERT INTO deployments (deployment_id, name, collection_no, available_at, suppress_restart)
        VALUES ($1, $2, 1, now(), false)";
    let id = Uuid::from_u128(name.len() as u128 + 1);
    let db = site.pool.get().await.unwrap();
    db.execute(SQL, &[&id, &name]).await.unwrap();
    id
}

/// What a client says now, by deployment and update (0: the deployment itself): state, compliance
/// or error code, serial.
#[derive(Clone, Default)]
struct Says(BTreeMap<(Uuid, u32), (i32, i32, u64)>);

impl Says {
    fn put(&self, report: &mut pb::Report, newer_than: u64) {
        for ((id, update_no), (state, other, serial)) in &self.0 {
            if *serial <= newer_than {
                continue;
            }
            let deployment_id = bytes::Bytes::copy_from_slice(id.as_bytes());
            if *update_no == 0 {
                report.deployments.push(pb::DeploymentState {
                    deployment_id,
                    enforcement: *state,
                    compliance: *other,
                    evaluation: 2,
                    serial: *serial,
                    ..Default::default()
                });
            } else {
                report.update_enforcements.push(pb::UpdateEnforcementState {
                    deployment_id,
                    update_no: *update_no,
                    state: *state,
                    error_code: *other,
                    serial: *serial,
                    ..Default::default()
                });
            }
        }
    }
}

/// Counters, rows and the answers of the running site agree about each deployment.
pub(crate) async fn agree(site: &Site, deployments: &[&str], seed: u64) {
    const WRONG: &str = "
        WITH recount AS (
            SELECT deployment_no, topic, state::int2, count(*) AS clients FROM deployment_states s
            CROSS JOIN LATERAL (VALUES (300, compliance), (301, enforcement), (302, evaluation))
                AS t (topic, state)
            GROUP BY 1, 2, 3)
        SELECT count(*) FROM deployment_counters k
        FULL JOIN recount r ON (k.deployment_no, k.topic, k.state)
                             = (r.deployment_no, r.topic, r.state)
        WHERE k.clients IS DISTINCT FROM r.clients";
    assert_eq!(site.count(WRONG).await, 0, "seed {seed}");
    let db = site.pool.get().await.unwrap();
    let pairs = async |sql: &str, name: &str| -> BTreeMap<i32, u32> {
        let rows = db.query(sql, &[&name]).await.unwrap();
        let pair = |row: &tokio_postgres::Row| {
            let (state, count): (i32, i32) = (row.get(0), row.get(1));
            (state, u32::try_from(count).unwrap())
        };
        rows.iter().map(pair).collect()
    };
    let mut service = DeploymentServiceClient::new(site.channel("administrator"));
    let mut reports = ReportServiceClient::new(site.channel("administrator"));
    for name in deployments {
        let request = dep::GetDeploymentRequest {
            name: (*name).into(),
        };
        let shown = service.get_deployment(request).await.unwrap().into_inner();
        let summary = shown.summary.unwrap();
        let counted = |it: &dep::EnforcementCount| (it.state, it.clients);
        let counted: BTreeMap<i32, u32> = summary.enforcement.iter().map(counted).collect();
        let rows = pairs(
            "SELECT COALESCE(enforcement, 0)::int4, count(*)::int4
             FROM clients c CROSS JOIN deployments d
             LEFT JOIN deployment_states s USING (client_no, deployment_no)
             WHERE c.deleted_at IS NULL AND d.name = $1 GROUP BY 1",
            name,
        )
        .await;
        assert_eq!(counted, rows, "seed {seed}, {name}");
        let updates = summary.updates.iter().map(|it| (it.state, it.count));
        let rows = pairs(
            "SELECT state::int4, count(*)::int4 FROM update_enforcement_states
             JOIN deployments USING (deployment_no) WHERE name = $1 GROUP BY 1",
            name,
        )
        .await;
        assert_eq!(
            updates.collect::<BTreeMap<_, _>>(),
            rows,
            "seed {seed}, {name}"
        );
        for (state, clients) in counted.into_iter().filter(|(state, _)| *state != 0) {
            let behind = names(&mut reports, name, state).await;
            assert_eq!(
                behind.len(),
                clients as usize,
                "seed {seed}, {name}, {state}"
            );
        }
    }
}

/// The clients in a state, two at a time.
async fn names(
    reports: &mut ReportServiceClient<muster_runtime::grpc::Channel>,
    deployment: &str,
    state: i32,
) -> Vec<String> {
    let (mut names, mut token) = (Vec::new(), String::new());
    loop {
        let request = rep::GetEnforcementRequest {
            deployment: deployment.into(),
            state,
            page_size: 2,
            page_token: token,
            ..Default::default()
        };
        let page = reports.get_enforcement(request).await.unwrap().into_inner();
        assert!(page.clients.iter().all(|client| client.state == state));
        names.extend(page.clients.into_iter().map(|client| client.host_name));
        token = page.next_page_token;
        if token.is_empty() {
            assert!(
                names.is_sorted(),
                "not in the order of enrolment: {names:?}"
            );
            return names;
        }
    }
}

#[tokio::test]
async fn memory_counters_and_rows_agree_after_any_history_and_after_a_restart() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    let mut random = Random(seed);
    let mut site = Site::start().await;
    let ids = [
        deployment(&site, "One").await,
        deployment(&site, "Second").await,
    ];
    let names = ["One", "Second"];
    let mut clients: Vec<(Client, Says, u64)> = Vec::new();
    for n in 0..5 {
        let client = site.enrol(&format!("host-{n}")).await;
        clients.push((client, Says::default(), 0));
    }
    for round in 0..3 {
        let mut sent: Vec<pb::Report> = Vec::new();
        for _ in 0..40 {
            let (client, says, serial) = &mut clients[random.below(5) as usize];
            let before = *serial;
            for _ in 0..=random.below(3) {
                *serial += 1;
                let key = (
                    ids[random.below(2) as usize],
                    random.below(UPDATES + 1) as u32,
                );
                let (states, others) = if key.1 == 0 { (13, 4) } else { (15, 3) };
                let (state, other) = (random.below(states) as i32, random.below(others) as i32);
                says.0.insert(key, (state, other, *serial));
            }
            let full = before == 0 || random.below(6) == 0;
            let (kind, first, newer_than) = match full {
                true => (pb::ReportKind::Full, 1, 0),
                false => (pb::ReportKind::Delta, before + 1, before),
            };
            if full && random.below(2) == 0 {
                // A deployment that the client has forgotten.
                says.0.retain(|(id, _), _| *id != ids[0]);
            }
            let mut report = client.report(kind, first, *serial);
            says.put(&mut report, newer_than);
            sent.push(report);
        }
        // Neighbours change places, one in ten is lost, a third comes twice.
        for n in 0..sent.len() - 1 {
            if random.below(3) == 0 {
                sent.swap(n, n + 1);
            }
        }
        for chunk in sent.chunks(7) {
            let kept = chunk.iter().filter(|_| random.below(10) > 0).cloned();
            let mut batch: Vec<pb::Report> = kept.collect();
            if random.below(3) == 0 {
                batch.extend_from_slice(&batch.clone()[..batch.len() / 2]);
            }
            site.report(&batch).await;
        }
        let mut ends = Vec::new();
        for (client, says, serial) in &mut clients {
            *serial += 1;
            let mut report = client.report(pb::ReportKind::Full, 1, *serial);
            says.put(&mut report, 0);
            ends.push(report);
        }
        site.report(&ends).await;
        for (client, _, serial) in &clients {
            eventually(async || site.contiguous(client).await == *serial as i64).await;
        }
        let said: usize = clients.iter().map(|(_, says, _)| says.0.len()).sum();
        let rows = "SELECT (SELECT count(*) FROM deployment_states)
                         + (SELECT count(*) FROM update_enforcement_states)";
        assert_eq!(site.count(rows).await, said as i64, "seed {seed}");
        agree(&site, &names, seed).await;
        if round == 1 {
            site.handle.take().unwrap().stop().await;
            let again = site_server::start(site.config.clone()).await.unwrap();
            site.handle = Some(again);
            agree(&site, &names, seed).await;
        }
    }
    // What is deleted leaves rows, counters and memory.
    let request = DeleteClientRequest {
        client_id: bytes::Bytes::copy_from_slice(clients[0].0.id.as_bytes()),
    };
    site.clients().delete_client(request).await.unwrap();
    agree(&site, &names, seed).await;
    let mut service = DeploymentServiceClient::new(site.channel("administrator"));
    let request = dep::DeleteDeploymentRequest { name: "One".into() };
    service.delete_deployment(request).await.unwrap();
    agree(&site, &names[1..], seed).await;
    let rows = "SELECT count(*) FROM deployment_counters c
                LEFT JOIN deployments d USING (deployment_no) WHERE d.deployment_no IS NULL";
    assert_eq!(site.count(rows).await, 0);
    // A late word about a deployment that is no more changes nothing.
    let (client, says, serial) = &mut clients[1];
    *serial += 1;
    says.0.insert((ids[0], 0), (4, 1, *serial));
    let mut report = client.report(pb::ReportKind::Delta, *serial, *serial);
    says.put(&mut report, *serial - 1);
    site.report(&[report]).await;
    eventually(async || site.contiguous(client).await == *serial as i64).await;
    agree(&site, &names[1..], seed).await;
    assert_eq!(site.count("SELECT count(*) FROM quarantine").await, 0);
}
