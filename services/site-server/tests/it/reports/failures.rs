//! Scans, evaluations and errors against the rows.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use muster_proto::content::CreatePackageRequest;
use muster_proto::content::package_service_client::PackageServiceClient;
use muster_proto::deployment::CreateDeploymentRequest;
use muster_proto::deployment::deployment_service_client::DeploymentServiceClient;
use muster_proto::report as pb;
use muster_proto::state;
use muster_runtime::status;
use muster_testkit::eventually;
use tonic::Code;

use super::compliance::{make_collection, make_list};
use super::{Random, reports, site_with_catalog};
use crate::site::{Client, Site};

/// Deploys a list, whose files must be somewhere first; returns the deployment's id.
pub(super) async fn deploy(site: &Site, name: &str, list: &str, collection: &str) -> Bytes {
    let request = CreatePackageRequest {
        name: name.into(),
        update_list: list.into(),
        all_leaves: true,
        ..Default::default()
    };
    let mut packages = PackageServiceClient::new(site.channel("administrator"));
    packages.create_package(request).await.unwrap();
    let mut deployments = DeploymentServiceClient::new(site.channel("administrator"));
    let mut made = None;
    eventually(async || {
        let request = CreateDeploymentRequest {
            name: name.into(),
            update_list: list.into(),
            collection: collection.into(),
            ..Default::default()
        };
        made = deployments.create_deployment(request).await.ok();
        made.is_some()
    })
    .await;
    made.unwrap().into_inner().deployment.unwrap().deployment_id
}

/// A site with two deployments and clients that said things about them at random.
pub(super) async fn site_with_failures(random: &mut Random) -> (Site, Vec<Client>) {
    let site = site_with_catalog().await;
    let mut clients = Vec::new();
    for n in 0..6 {
        clients.push(site.enrol(&format!("host-{n}")).await);
    }
    make_collection(&site, "Pilot", &["host-1", "host-2", "host-4"]).await;
    make_list(&site, "old", &[1, 2, 3]).await;
    let ids = [
        deploy(&site, "June", "old", "").await,
        deploy(&site, "Pilot of June", "old", "Pilot").await,
    ];
    // The last client never reports.
    for client in &clients[..5] {
        for serial in 1..=2_u64 {
            let report = report(client, serial, &ids, random);
            site.report(&[report]).await;
        }
    }
    for client in &clients[..5] {
        eventually(async || site.contiguous(client).await == 2).await;
    }
    (site, clients)
}

pub(super) fn report(
    client: &Client,
    serial: u64,
    ids: &[Bytes],
    random: &mut Random,
) -> state::Report {
    const ERRORS: [i32; 4] = [0, 0, 101, 104];
    let mut report = match serial {
        1 => client.full(1, &[]),
        _ => client.delta(serial, serial, &[]),
    };
    let mut error = || {
        let code = ERRORS[random.below(4) as usize];
        let detail = match code {
            0 => String::new(),
            _ => format!("detail {}", random.below(5)),
        };
        (code, detail, random.below(7) as i32)
    };
    let at = |n: i32| {
        Some(prost_types::Timestamp {
            seconds: 1_700_000_000 + i64::from(n),
            nanos: 0,
        })
    };
    let (error_code, detail, state) = error();
    report.scan = Some(state::ScanState {
        state,
        error_code,
        detail,
        serial,
        last_scanned_at: at(state),
    });
    for id in ids {
        let (error_code, detail, state) = error();
        report.deployments.push(state::DeploymentState {
            deployment_id: id.clone(),
            compliance: state % 4,
            enforcement: state,
            evaluation: state % 4,
            error_code,
            detail,
            serial,
            changed_at: at(state),
        });
        for update_no in 1..=3 {
            let (error_code, detail, state) = error();
            let states = &mut report.update_enforcements;
            states.push(state::UpdateEnforcementState {
                deployment_id: id.clone(),
                update_no,
                state,
                error_code,
                detail,
                serial,
                changed_at: at(state),
            });
        }
    }
    report
}

/// A row with an error: host, deployment, update, error.
type Failed = (String, String, Option<i32>, i32);

async fn failed(site: &Site) -> Vec<Failed> {
    let sql = "SELECT host_name, name, update_no, error_code
               FROM update_enforcement_states JOIN clients USING (client_no)
               JOIN deployments USING (deployment_no) WHERE error_code <> 0
               UNION ALL
               SELECT host_name, name, NULL, error_code
               FROM deployment_states JOIN clients USING (client_no)
               JOIN deployments USING (deployment_no) WHERE error_code <> 0";
    let rows = site.pool.get().await.unwrap().query(sql, &[]).await;
    let row = |row: &tokio_postgres::Row| (row.get(0), row.get(1), row.get(2), row.get(3));
    rows.unwrap().iter().map(row).collect()
}

#[tokio::test]
async fn every_error_is_counted_once_and_the_clients_behind_it_are_found() {
    let mut random = Random::new();
    let seed = random.0;
    let (site, _) = site_with_failures(&mut random).await;
    let failed = failed(&site).await;
    for deployment in ["", "June", "Pilot of June"] {
        for update_no in [0, 2] {
            for grouping in [
                pb::ErrorGrouping::Unspecified,
                pb::ErrorGrouping::Deployment,
                pb::ErrorGrouping::Update,
            ] {
                let request = pb::ListErrorsRequest {
                    deployment: deployment.into(),
                    grouping: grouping.into(),
                    update_no,
                    ..Default::default()
                };
                let report = reports(&site).list_errors(request).await.unwrap();
                let found = report.into_inner().errors;
                // By error, deployment and update: which hosts, which updates.
                type Sets<'a> = (BTreeSet<&'a str>, BTreeSet<i32>);
                let mut expected: BTreeMap<(i32, &str, u32), Sets<'_>> = BTreeMap::new();
                for (host, name, update, error) in &failed {
                    let wanted = (deployment.is_empty() || name == deployment)
                        && (update_no == 0 || *update == Some(update_no.cast_signed()));
                    let key = match (grouping, update) {
                        (pb::ErrorGrouping::Unspecified, _) => (*error, "", 0),
                        (pb::ErrorGrouping::Deployment, _) => (*error, name.as_str(), 0),
                        (pb::ErrorGrouping::Update, Some(no)) => (*error, "", no.unsigned_abs()),
                        (pb::ErrorGrouping::Update, None) => continue,
                    };
                    if wanted {
                        let sets = expected.entry(key).or_default();
                        sets.0.insert(host);
                        sets.1.extend(update);
                    }
                }
                let counted: BTreeMap<(i32, &str, u32), (u32, u32)> = found
                    .iter()
                    .map(|it| {
                        let key = (it.error_code, it.deployment.as_str(), it.update_no);
                        (key, (it.clients, it.updates))
                    })
                    .collect();
                let expected: BTreeMap<_, _> = expected
                    .into_iter()
                    .map(|(key, sets)| (key, (sets.0.len() as u32, sets.1.len() as u32)))
                    .collect();
                assert_eq!(counted, expected, "{grouping:?}, seed {seed}");
                assert_eq!(found.len(), counted.len());
                assert!(found.is_sorted_by(|a, b| a.clients >= b.clients));
            }
            for error_code in [101, 104, 7] {
                let expected: BTreeSet<&str> = failed
                    .iter()
                    .filter(|(_, name, update, error)| {
                        *error == error_code
                            && (deployment.is_empty() || name == deployment)
                            && (update_no == 0 || *update == Some(update_no.cast_signed()))
                    })
                    .map(|(host, ..)| host.as_str())
                    .collect();
                let mut found = Vec::new();
                let mut page_token = String::new();
                loop {
                    let request = pb::ListErrorClientsRequest {
                        error_code,
                        deployment: deployment.into(),
                        update_no,
                        page_size: 2,
                        page_token,
                        ..Default::default()
                    };
                    let page = reports(&site).list_error_clients(request).await;
                    let page = page.unwrap().into_inner();
                    assert!(page.clients.iter().all(|it| !it.detail.is_empty()));
                    found.extend(page.clients.into_iter().map(|it| it.host_name));
                    page_token = page.next_page_token;
                    if page_token.is_empty() {
                        break;
                    }
                }
                // Enrolled in the order of their names.
                let expected: Vec<&str> = expected.into_iter().collect();
                assert_eq!(found, expected, "error {error_code}, seed {seed}");
            }
        }
    }
    let request = pb::ListErrorClientsRequest::default();
    let status = reports(&site).list_error_clients(request).await;
    assert_eq!(status.unwrap_err().code(), Code::InvalidArgument);
    let request = pb::ListErrorsRequest {
        deployment: "July".into(),
        ..Default::default()
    };
    let status = reports(&site).list_errors(request).await.unwrap_err();
    assert_eq!(status::reason(&status).unwrap(), "UNKNOWN_DEPLOYMENT");
}

#[tokio::test]
async fn scans_and_evaluations_are_what_the_rows_say() {
    let mut random = Random::new();
    let seed = random.0;
    let (site, _) = site_with_failures(&mut random).await;
    for collection in ["", "Pilot"] {
        let sql = "SELECT c.host_name, COALESCE(s.state, 0::int2)::int4, COALESCE(s.error_code, 0)
                   FROM clients c LEFT JOIN scan_states s USING (client_no)
                   WHERE $1 = '' OR c.host_name IN ('host-1', 'host-2', 'host-4')
                   ORDER BY c.client_no";
        let db = site.pool.get().await.unwrap();
        let rows = db.query(sql, &[&collection]).await.unwrap();
        let rows: Vec<(String, i32, i32)> = rows
            .iter()
            .map(|row| (row.get(0), row.get(1), row.get(2)))
            .collect();
        let request = pb::GetScansRequest {
            collection: collection.into(),
            ..Default::default()
        };
        let report = reports(&site).get_scans(request).await.unwrap();
        let report = report.into_inner();
        assert_eq!(report.clients as usize, rows.len());
        for count in &report.states {
            let of = rows.iter().filter(|(_, state, _)| *state == count.state);
            assert_eq!(count.clients as usize, of.count(), "seed {seed}");
        }
        let errors: u32 = report.errors.iter().map(|it| it.clients).sum();
        let failed = rows.iter().filter(|(.., error)| *error != 0);
        assert_eq!(errors as usize, failed.count(), "seed {seed}");
        for (state, error_code) in [
            (None, 0),
            (Some(0), 0),
            (Some(3), 0),
            (None, 101),
            (Some(5), 104),
        ] {
            let mut found = Vec::new();
            let mut page_token = String::new();
            loop {
                let request = pb::ListScanClientsRequest {
                    collection: collection.into(),
                    state,
                    error_code,
                    page_size: 2,
                    page_token,
                    ..Default::default()
                };
                let page = reports(&site).list_scan_clients(request).await;
                let page = page.unwrap().into_inner();
                found.extend(page.clients.into_iter().map(|it| it.host_name));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            let expected: Vec<String> = rows
                .iter()
                .filter(|row| state.is_none_or(|it| it == row.1))
                .filter(|row| error_code == 0 || row.2 == error_code)
                .map(|row| row.0.clone())
                .collect();
            assert_eq!(found, expected, "{state:?} {error_code}, seed {seed}");
        }
    }
    for (deployment, members) in [("June", 6), ("Pilot of June", 3)] {
        let ask = async |state| {
            let request = pb::GetEvaluationRequest {
                deployment: deployment.into(),
                state,
                ..Default::default()
            };
            let report = reports(&site).get_evaluation(request).await;
            report.unwrap().into_inner()
        };
        let all = ask(None).await;
        let counted: u32 = all.states.iter().map(|it| it.clients).sum();
        assert_eq!((counted as usize, all.clients.len()), (members, members));
        for count in &all.states {
            let found = ask(Some(count.state)).await.clients;
            assert_eq!(found.len(), count.clients as usize, "seed {seed}");
            assert!(found.iter().all(|it| it.state == count.state));
            let of_all = all.clients.iter().filter(|it| it.state == count.state);
            assert!(of_all.eq(&found), "seed {seed}");
        }
    }
}
