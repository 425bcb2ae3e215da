//! Compliance of lists and updates, and of whom there is data.

use bytes::Bytes;
use muster_domain::states::Detection::{Installed, Required};
use muster_proto::catalog::update_service_client::UpdateServiceClient;
use muster_proto::catalog::{CreateUpdateListRequest, DeleteUpdateListRequest};
use muster_proto::client::{CreateEnrolmentTokensRequest, DeleteClientRequest};
use muster_proto::collection::collection_service_client::CollectionServiceClient;
use muster_proto::collection::{
    ChangeMembersRequest, CreateCollectionRequest, DeleteCollectionRequest,
};
use muster_proto::report as pb;
use muster_runtime::status;
use muster_runtime::tls::ca::signing_request;
use muster_testkit::eventually;
use tonic::Code;

use super::truth::{Truth, Whose};
use super::{Random, Reporter, UPDATES, all_pages, reports, site_with_catalog};
use crate::site::{Client, Site};

pub(super) async fn make_list(site: &Site, name: &str, updates: &[u32]) {
    let request = CreateUpdateListRequest {
        name: name.into(),
        update_numbers: updates.to_vec(),
        ..Default::default()
    };
    let mut updates = UpdateServiceClient::new(site.channel("administrator"));
    updates.create_update_list(request).await.unwrap();
}

pub(super) async fn make_collection(site: &Site, name: &str, clients: &[&str]) -> Bytes {
    let request = CreateCollectionRequest {
        name: name.into(),
        clients: clients.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    let mut collections = CollectionServiceClient::new(site.channel("administrator"));
    let made = collections.create_collection(request).await.unwrap();
    made.into_inner().collection.unwrap().collection_id
}

async fn change_members(site: &Site, name: &str, add: &[String], remove: &[String]) {
    let request = ChangeMembersRequest {
        name: name.into(),
        add_clients: add.to_vec(),
        remove_clients: remove.to_vec(),
    };
    let mut collections = CollectionServiceClient::new(site.channel("administrator"));
    collections.change_members(request).await.unwrap();
}

/// Enrols a client that joins a collection.
async fn enrol_into(site: &Site, host_name: &str, collection: &Bytes) -> Client {
    let request = CreateEnrolmentTokensRequest {
        count: 1,
        valid_for: Some(prost_types::Duration {
            seconds: 600,
            nanos: 0,
        }),
        collection_ids: vec![collection.clone()],
    };
    let made = site.clients().create_enrolment_tokens(request).await;
    let token = made.unwrap().into_inner().tokens.remove(0);
    let csr = signing_request().unwrap().der;
    let answer = site.enrol_with(&token, &csr, host_name).await.unwrap();
    Client {
        id: muster_domain::ClientId::from_slice(&answer.client_id).unwrap(),
        epoch: answer.epoch,
        answer,
    }
}

#[tokio::test]
async fn every_compliance_report_is_what_the_rows_give_counted_one_by_one() {
    let mut random = Random::new();
    let seed = random.0;
    let site = site_with_catalog().await;
    let mut clients = Vec::new();
    for n in 0..5 {
        clients.push(Reporter::new(site.enrol(&format!("host-{n}")).await));
    }
    let pilot = make_collection(&site, "Pilot", &["host-1", "host-3"]).await;
    make_collection(&site, "Empty", &[]).await;
    for n in 5..8 {
        clients.push(Reporter::new(
            enrol_into(&site, &format!("host-{n}"), &pilot).await,
        ));
    }
    make_list(&site, "old", &[1, 2, 3]).await;
    make_list(&site, "all", &(1..=UPDATES).collect::<Vec<_>>()).await;
    for round in 0..4 {
        // The last two never report.
        for _ in 0..10 {
            let at = random.below(6) as usize;
            clients[at].report(&site, &mut random).await;
        }
        for client in &clients {
            client.recorded(&site).await;
        }
        let hosts: Vec<String> = (0..8)
            .filter(|_| random.below(2) == 0)
            .filter(|n| round < 3 || *n != 2)
            .map(|n| format!("host-{n}"))
            .collect();
        let (add, remove) = hosts.split_at(hosts.len() / 2);
        change_members(&site, "Pilot", add, remove).await;
        if round == 2 {
            let request = DeleteClientRequest {
                client_id: Bytes::copy_from_slice(clients[2].client.id.as_bytes()),
            };
            site.clients().delete_client(request).await.unwrap();
            clients.remove(2);
        }
        // What was recorded last may be on its way from the commit to the matrix.
        eventually(async || matches_rows(&site).await).await;
        compare(&site, &[""], seed).await;
    }
}

/// Whether the newest commits have arrived in memory: one count that any missing one would change.
pub(super) async fn matches_rows(site: &Site) -> bool {
    let truth = Truth::read(site).await;
    let request = pb::GetComplianceRequest {
        update_list: "all".into(),
        ..Default::default()
    };
    let report = reports(site).get_compliance(request).await.unwrap();
    report.into_inner().updates.iter().all(|update| {
        let of = |answer| {
            let clients = truth.clients.keys();
            clients
                .filter(|no| truth.answer(**no, update.update_no) == answer)
                .count() as u32
        };
        update.installed == of(pb::UpdateAnswer::Installed)
            && update.required == of(pb::UpdateAnswer::Required)
            && update.not_required == of(pb::UpdateAnswer::NotRequired)
    })
}

/// Compares every report of compliance about the clients of these sites with the rows.
pub(super) async fn compare(site: &Site, sites: &[&str], seed: u64) {
    let truth = Truth::read(site).await;
    let every = ["", "Pilot", "Empty"].into_iter();
    let every = every.flat_map(|collection| {
        sites.iter().map(move |site_code| Whose {
            collection,
            site_code,
        })
    });
    for whose in every {
        for list in ["old", "all"] {
            compare_list(site, &truth, list, whose, seed).await;
        }
        for update_no in 1..=UPDATES {
            compare_update(site, &truth, update_no, whose, seed).await;
        }
        compare_coverage(site, &truth, whose, seed).await;
    }
    for (client_no, row) in &truth.clients {
        let request = pb::GetClientReportRequest {
            client: row.host_name.clone(),
            update_list: "all".into(),
        };
        let report = reports(site).get_client_report(request).await.unwrap();
        let report = report.into_inner();
        let all: Vec<u32> = (1..=UPDATES).collect();
        let overall = truth.list_answer(*client_no, &all);
        assert_eq!(report.list_answer(), overall, "seed {seed}");
        assert_eq!(report.updates.len(), all.len());
        for update in &report.updates {
            let answer = truth.answer(*client_no, update.update_no);
            assert_eq!(update.no_data, answer == pb::UpdateAnswer::NoData);
            let expected = match answer {
                pb::UpdateAnswer::Installed => 3,
                pb::UpdateAnswer::Required => 2,
                pb::UpdateAnswer::NotRequired => 1,
                pb::UpdateAnswer::Unknown
                | pb::UpdateAnswer::NoData
                | pb::UpdateAnswer::Unspecified => 0,
            };
            assert_eq!(update.compliance, expected, "seed {seed}");
        }
    }
}

async fn compare_list(site: &Site, truth: &Truth, list: &str, whose: Whose<'_>, seed: u64) {
    let request = pb::GetComplianceRequest {
        update_list: list.into(),
        collection: whose.collection.into(),
        site_code: whose.site_code.into(),
        ..Default::default()
    };
    let report = reports(site).get_compliance(request).await.unwrap();
    let report = report.into_inner();
    let members = truth.members(whose);
    let updates = &truth.lists[list];
    assert_eq!(report.clients as usize, members.len(), "seed {seed}");
    for (answer, counted) in [
        (pb::ListAnswer::Compliant, report.compliant),
        (pb::ListAnswer::NonCompliant, report.non_compliant),
        (pb::ListAnswer::Unknown, report.unknown),
        (pb::ListAnswer::NoData, report.no_data),
    ] {
        let expected = members
            .iter()
            .copied()
            .filter(|no| truth.list_answer(*no, updates) == answer);
        let expected = truth.hosts(expected);
        assert_eq!(counted as usize, expected.len(), "{answer:?}, seed {seed}");
        let found = all_pages(async |page_token| {
            let request = pb::ListComplianceClientsRequest {
                update_list: list.into(),
                collection: whose.collection.into(),
                site_code: whose.site_code.into(),
                answer: answer.into(),
                page_size: 3,
                page_token,
            };
            let page = reports(site).list_compliance_clients(request).await;
            let page = page.unwrap().into_inner();
            (page.clients, page.next_page_token, page.total)
        });
        let (found, total) = found.await;
        assert_eq!(found, expected, "{answer:?}, seed {seed}");
        assert_eq!(total, counted);
    }
    let required: Vec<u32> = report.updates.iter().map(|it| it.required).collect();
    assert!(required.is_sorted_by(|a, b| a >= b));
    let mut seen: Vec<u32> = report.updates.iter().map(|it| it.update_no).collect();
    seen.sort_unstable();
    assert_eq!(&seen, updates);
}

pub(crate) async fn compare_update(
    site: &Site,
    truth: &Truth,
    update_no: u32,
    whose: Whose<'_>,
    seed: u64,
) {
    use pb::get_update_compliance_request::Key;
    use pb::list_update_clients_request::Key as ListKey;
    let request = pb::GetUpdateComplianceRequest {
        key: Some(Key::UpdateNo(update_no)),
        collection: whose.collection.into(),
        site_code: whose.site_code.into(),
    };
    let report = reports(site).get_update_compliance(request).await.unwrap();
    let report = report.into_inner();
    let update = report.update.unwrap();
    assert!(update.update_id.contains(&format!("source-{update_no}/")));
    let members = truth.members(whose);
    assert_eq!(report.clients as usize, members.len(), "seed {seed}");
    let percent = |part: u32, whole: u32| match whole {
        0 => 0.0,
        _ => 100.0 * f64::from(part) / f64::from(whole),
    };
    let required = percent(update.required, report.clients);
    assert!((report.required_percent - required).abs() < 1e-9);
    for (answer, counted) in [
        (pb::UpdateAnswer::Installed, update.installed),
        (pb::UpdateAnswer::Required, update.required),
        (pb::UpdateAnswer::NotRequired, update.not_required),
        (pb::UpdateAnswer::Unknown, update.unknown),
        (pb::UpdateAnswer::NoData, update.no_data),
    ] {
        let expected = members
            .iter()
            .copied()
            .filter(|no| truth.answer(*no, update_no) == answer);
        let expected = truth.hosts(expected);
        let found = all_pages(async |page_token| {
            let request = pb::ListUpdateClientsRequest {
                key: Some(ListKey::UpdateId(update.update_id.clone())),
                collection: whose.collection.into(),
                site_code: whose.site_code.into(),
                answer: answer.into(),
                page_size: 3,
                page_token,
            };
            let page = reports(site).list_update_clients(request).await;
            let page = page.unwrap().into_inner();
            (page.clients, page.next_page_token, page.total)
        });
        let (found, total) = found.await;
        assert_eq!(found, expected, "{answer:?} of {update_no}, seed {seed}");
        assert_eq!((total, counted as usize), (counted, expected.len()));
    }
}

async fn compare_coverage(site: &Site, truth: &Truth, whose: Whose<'_>, seed: u64) {
    let request = pb::GetCoverageRequest {
        collection: whose.collection.into(),
        site_code: whose.site_code.into(),
    };
    let report = reports(site).get_coverage(request).await.unwrap();
    let report = report.into_inner();
    let members = truth.members(whose);
    assert_eq!(report.clients as usize, members.len(), "seed {seed}");
    assert_eq!(report.catalog_generation, 2);
    let counted: u32 = report.generations.iter().map(|it| it.clients).sum();
    assert_eq!(counted + report.never_reported, report.clients);
    for (coverage, counted) in [
        (pb::Coverage::NeverReported, report.never_reported),
        (pb::Coverage::OldCatalog, report.old_catalog),
        (pb::Coverage::Current, report.current),
    ] {
        let is = |no: &i32| match truth.clients[no].generation {
            None => coverage == pb::Coverage::NeverReported,
            Some(2..) => coverage == pb::Coverage::Current,
            Some(_) => coverage == pb::Coverage::OldCatalog,
        };
        let expected = truth.hosts(members.iter().copied().filter(is));
        assert_eq!(
            counted as usize,
            expected.len(),
            "{coverage:?}, seed {seed}"
        );
        let found = all_pages(async |page_token| {
            let request = pb::ListCoverageClientsRequest {
                collection: whose.collection.into(),
                site_code: whose.site_code.into(),
                coverage: coverage.into(),
                page_size: 3,
                page_token,
            };
            let page = reports(site).list_coverage_clients(request).await;
            let page = page.unwrap().into_inner();
            (page.clients, page.next_page_token, page.total)
        });
        let (found, total) = found.await;
        assert_eq!(found, expected, "{coverage:?}, seed {seed}");
        assert_eq!(total, counted);
    }
}

#[tokio::test]
async fn an_answer_is_never_older_than_the_batch_before() {
    let site = site_with_catalog().await;
    let client = site.enrol("host-1").await;
    make_list(&site, "one", &[1]).await;
    site.report(&[client.full(1, &[(1, Required)])]).await;
    for serial in 2..30_u64 {
        let state = [Required, Installed][serial as usize % 2];
        site.report(&[client.delta(serial, serial, &[(1, state)])])
            .await;
        eventually(async || site.contiguous(&client).await == serial as i64).await;
        // The batch before this one is in the answer for certain, and this one very soon.
        let other = u32::from(state == Installed);
        eventually(async || {
            let request = pb::GetComplianceRequest {
                update_list: "one".into(),
                ..Default::default()
            };
            let report = reports(&site).get_compliance(request).await.unwrap();
            let update = report.into_inner().updates.remove(0);
            assert_eq!(update.required + update.installed, 1);
            update.installed == other
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_not_there_is_named_and_what_was_deleted_is_not_there() {
    use pb::get_update_compliance_request::Key;
    let site = site_with_catalog().await;
    let client = site.enrol("host-1").await;
    make_list(&site, "June", &[1]).await;
    make_collection(&site, "Pilot", &["host-1"]).await;
    site.report(&[client.full(1, &[(1, Required)])]).await;
    eventually(async || site.contiguous(&client).await == 1).await;
    let ask = async |list: &str, collection: &str| {
        let request = pb::GetComplianceRequest {
            update_list: list.into(),
            collection: collection.into(),
            ..Default::default()
        };
        reports(&site).get_compliance(request).await
    };
    // As people write it.
    eventually(async || ask("june", "PILOT").await.unwrap().get_ref().non_compliant == 1).await;
    assert_eq!(ask(" June ", " Pilot ").await.unwrap().get_ref().clients, 1);
    assert_eq!(
        ask("June", "all systems").await.unwrap().get_ref().clients,
        1
    );

    let reason = |status: tonic::Status| {
        assert_eq!(status.code(), Code::NotFound);
        status::reason(&status).unwrap()
    };
    assert_eq!(
        reason(ask("July", "").await.unwrap_err()),
        "UNKNOWN_UPDATE_LIST"
    );
    assert_eq!(
        reason(ask("June", "x").await.unwrap_err()),
        "UNKNOWN_COLLECTION"
    );
    for key in [Key::UpdateNo(999), Key::UpdateId("x".into())] {
        let request = pb::GetUpdateComplianceRequest {
            key: Some(key),
            ..Default::default()
        };
        let status = reports(&site).get_update_compliance(request).await;
        assert_eq!(reason(status.unwrap_err()), "UNKNOWN_UPDATE");
    }
    let request = pb::ListComplianceClientsRequest {
        update_list: "June".into(),
        ..Default::default()
    };
    let status = reports(&site).list_compliance_clients(request).await;
    assert_eq!(status.unwrap_err().code(), Code::InvalidArgument);

    let mut updates = UpdateServiceClient::new(site.channel("administrator"));
    let request = DeleteUpdateListRequest {
        name: "June".into(),
    };
    updates.delete_update_list(request).await.unwrap();
    assert_eq!(
        reason(ask("June", "").await.unwrap_err()),
        "UNKNOWN_UPDATE_LIST"
    );
    let mut collections = CollectionServiceClient::new(site.channel("administrator"));
    let request = DeleteCollectionRequest {
        name: "Pilot".into(),
    };
    collections.delete_collection(request).await.unwrap();
    assert_eq!(
        reason(ask("", "Pilot").await.unwrap_err()),
        "UNKNOWN_COLLECTION"
    );

    // Somebody restored a list with psql: it is found, too.
    let sql = "WITH l AS (INSERT INTO update_lists (update_list_id, name, description)
                          VALUES (gen_random_uuid(), 'psql', '') RETURNING update_list_no)
               INSERT INTO update_list_members SELECT update_list_no, 1 FROM l";
    site.pool
        .get()
        .await
        .unwrap()
        .batch_execute(sql)
        .await
        .unwrap();
    assert_eq!(ask("psql", "").await.unwrap().get_ref().non_compliant, 1);
}
