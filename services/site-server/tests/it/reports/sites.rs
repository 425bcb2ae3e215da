//! Reports of a parent about one of the sites below it, against the rows.

use std::collections::BTreeSet;

use muster_domain::error_code;
use muster_proto::client::{DeleteClientRequest, ListClientsRequest};
use muster_proto::report as pb;
use muster_runtime::status;
use muster_testkit::eventually;
use tonic::Code;

use super::compliance::{compare, make_collection, make_list, matches_rows};
use super::failures::{deploy, report};
use super::truth::{Truth, Whose};
use super::{Random, Reporter, give_catalog, reports};
use crate::pair::{Pair, start, stop};
use crate::site::Site;

/// Everybody's, all that the parent knows, the child's with those below it, those below it.
const SITES: [&str; 4] = ["", "CEN", "P01", "S01"];

/// Makes clients of the child report to a site below it, as that site would have told it.
async fn move_below(pair: &mut Pair, hosts: &[&str]) {
    stop(&mut pair.child).await;
    let db = pair.child.pool.get().await.unwrap();
    db.batch_execute(
        "INSERT INTO sites (site_code, name, parent_site_code, via_site_code, record)
             VALUES ('S01', 'Below', 'P01', 'S01', '') ON CONFLICT DO NOTHING;
         INSERT INTO dirty_sites VALUES ('CEN', 'S01') ON CONFLICT DO NOTHING",
    )
    .await
    .unwrap();
    let sql = "
        WITH moved AS (
            UPDATE clients SET (owner_site_code, via_site_code) = ('S01', 'S01')
            WHERE host_name = ANY ($1) RETURNING client_no)
        INSERT INTO dirty_clients (client_nos) SELECT array_agg(client_no) FROM moved";
    db.execute(sql, &[&hosts]).await.unwrap();
    drop(db);
    start(&mut pair.child).await;
    pair.settled("clients report to another site").await;
}

#[tokio::test]
async fn a_parents_reports_about_a_site_are_what_the_rows_of_its_clients_give() {
    let mut random = Random::new();
    let seed = random.0;
    let mut pair = Pair::start().await;
    give_catalog(&pair.parent).await;
    give_catalog(&pair.child).await;
    let mut ours = Vec::new();
    for n in 0..2 {
        ours.push(Reporter::new(pair.parent.enrol(&format!("cen-{n}")).await));
    }
    let mut theirs = Vec::new();
    for n in 0..6 {
        theirs.push(Reporter::new(pair.child.enrol(&format!("p01-{n}")).await));
    }
    pair.settled("enrolled").await;
    let members = ["cen-0", "p01-1", "p01-2", "p01-4"];
    make_collection(&pair.parent, "Pilot", &members).await;
    make_collection(&pair.parent, "Empty", &[]).await;
    make_list(&pair.parent, "old", &[1, 2, 3]).await;
    make_list(
        &pair.parent,
        "all",
        &(1..=super::UPDATES).collect::<Vec<_>>(),
    )
    .await;
    for round in 0..3 {
        let mut still = 3;
        match round {
            1 => move_below(&mut pair, &["p01-4", "p01-5"]).await,
            2 => {
                move_below(&mut pair, &["p01-3"]).await;
                still = 2;
                let gone = theirs.remove(2).client.id;
                let request = DeleteClientRequest {
                    client_id: gone.as_bytes().to_vec().into(),
                };
                pair.child.clients().delete_client(request).await.unwrap();
            }
            _ => {}
        }
        // What reports to the site below comes over a link that is not there.
        for _ in 0..10 {
            let at = random.below(still) as usize;
            theirs[at].report(&pair.child, &mut random).await;
            let at = random.below(2) as usize;
            ours[at].report(&pair.parent, &mut random).await;
        }
        for client in &ours {
            client.recorded(&pair.parent).await;
        }
        for client in &theirs[..still as usize] {
            client.recorded(&pair.child).await;
        }
        pair.settled("reported").await;
        eventually(async || matches_rows(&pair.parent).await).await;
        let sites = if round == 0 { &SITES[..3] } else { &SITES[..] };
        compare(&pair.parent, sites, seed).await;
        compare_lists_of_clients(&pair.parent, sites).await;
    }
    // What the process learnt change by change, it also reads from the rows.
    stop(&mut pair.parent).await;
    start(&mut pair.parent).await;
    compare(&pair.parent, &SITES, seed).await;
    for code in ["X99", "no code"] {
        let request = pb::GetCoverageRequest {
            site_code: code.into(),
            ..Default::default()
        };
        let refused = reports(&pair.parent)
            .get_coverage(request)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        assert_eq!(status::reason(&refused).as_deref(), Some("UNKNOWN_SITE"));
    }
    // The child knows few of the clients of those above it, so it does not speak for them.
    let request = pb::GetCoverageRequest {
        site_code: "CEN".into(),
        ..Default::default()
    };
    let refused = reports(&pair.child)
        .get_coverage(request)
        .await
        .unwrap_err();
    assert_eq!(status::reason(&refused).as_deref(), Some("UNKNOWN_SITE"));
}

async fn compare_lists_of_clients(site: &Site, sites: &[&str]) {
    let truth = Truth::read(site).await;
    for site_code in sites.iter().copied() {
        let whose = Whose {
            site_code,
            ..Default::default()
        };
        let mut expected: Vec<(String, String)> = truth
            .members(whose)
            .iter()
            .map(|no| &truth.clients[no])
            .map(|row| (row.host_name.clone(), row.site_code.clone()))
            .collect();
        expected.sort();
        let request = ListClientsRequest {
            site_code: site_code.into(),
            ..Default::default()
        };
        let found = site.clients().list_clients(request).await.unwrap();
        let found = found.into_inner();
        assert_eq!(found.total as usize, expected.len(), "{site_code}");
        let found = found.clients.into_iter();
        let found: Vec<(String, String)> = found.map(|it| (it.host_name, it.site_code)).collect();
        assert_eq!(found, expected, "{site_code}");
    }
}

/// A row of what a report of states is about: the client's site and host, its state, its error.
type Said = (String, String, i32, i32);

async fn said(site: &Site, sql: &str) -> Vec<Said> {
    let rows = site
        .pool
        .get()
        .await
        .unwrap()
        .query(sql, &[])
        .await
        .unwrap();
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
        .collect()
}

fn hosts(said: &[Said], state: Option<i32>, error: Option<i32>) -> Vec<&str> {
    said.iter()
        .filter(|it| state.is_none_or(|state| it.2 == state))
        .filter(|it| error.is_none_or(|error| it.3 == error))
        .map(|it| it.1.as_str())
        .collect()
}

#[tokio::test]
async fn scans_states_and_errors_of_a_site_are_those_of_its_clients() {
    let mut random = Random::new();
    let seed = random.0;
    let mut pair = Pair::start().await;
    give_catalog(&pair.parent).await;
    give_catalog(&pair.child).await;
    let ours = [
        pair.parent.enrol("cen-0").await,
        pair.parent.enrol("cen-1").await,
    ];
    let mut theirs = Vec::new();
    for n in 0..5 {
        theirs.push(pair.child.enrol(&format!("p01-{n}")).await);
    }
    pair.settled("enrolled").await;
    make_list(&pair.parent, "old", &[1, 2, 3]).await;
    let id = [deploy(&pair.parent, "June", "old", "").await];
    let arrived = "SELECT count(*) FROM deployments";
    eventually(async || pair.child.count(arrived).await == 1).await;
    for (site, clients) in [(&pair.parent, &ours[..1]), (&pair.child, &theirs[..4])] {
        for client in clients {
            site.report(&[report(client, 1, &id, &mut random)]).await;
            eventually(async || site.contiguous(client).await == 1).await;
        }
    }
    pair.settled("reported").await;
    move_below(&mut pair, &["p01-2", "p01-3", "p01-4"]).await;
    let site = &pair.parent;
    let of = "COALESCE(c.owner_site_code, 'CEN'), c.host_name";
    let scans = format!(
        "SELECT {of}, COALESCE(n.state, 0::int2)::int4, COALESCE(n.error_code, 0)
         FROM clients c LEFT JOIN scan_states n USING (client_no) ORDER BY c.client_no"
    );
    let states = |column: &str| {
        format!(
            "SELECT {of}, COALESCE(s.{column}, 0::int2)::int4, COALESCE(s.error_code, 0)
             FROM clients c LEFT JOIN deployment_states s USING (client_no) ORDER BY c.client_no"
        )
    };
    let errors = format!(
        "SELECT {of}, 0, e.error_code
         FROM (SELECT client_no, error_code FROM update_enforcement_states
               UNION ALL SELECT client_no, error_code FROM deployment_states) AS e
         JOIN clients c USING (client_no) WHERE e.error_code <> 0 ORDER BY c.client_no"
    );
    for (site_code, codes) in [
        ("", &["CEN", "P01", "S01"][..]),
        ("cen", &["CEN", "P01", "S01"]),
        ("P01", &["P01", "S01"]),
        ("S01", &["S01"]),
    ] {
        let why = format!("{site_code:?}, seed {seed}");
        let only = |mut all: Vec<Said>| {
            all.retain(|it| codes.contains(&it.0.as_str()));
            all
        };
        let rows = only(said(site, &scans).await);
        let request = pb::GetScansRequest {
            site_code: site_code.into(),
            ..Default::default()
        };
        let scans = reports(site).get_scans(request).await.unwrap().into_inner();
        assert_eq!(scans.clients as usize, rows.len(), "{why}");
        for count in &scans.states {
            let of = hosts(&rows, Some(count.state), None);
            assert_eq!(count.clients as usize, of.len(), "{why}");
        }
        let failed: u32 = scans.errors.iter().map(|it| it.clients).sum();
        let expected = rows.iter().filter(|it| it.3 != 0).count();
        assert_eq!(failed as usize, expected, "{why}");
        for (state, error_code) in [(Some(0), 0), (Some(3), 0), (None, 101)] {
            let request = pb::ListScanClientsRequest {
                state,
                error_code,
                site_code: site_code.into(),
                ..Default::default()
            };
            let found = reports(site).list_scan_clients(request).await.unwrap();
            let found = found.into_inner().clients.into_iter();
            let found: Vec<String> = found.map(|it| it.host_name).collect();
            let error = (error_code != 0).then_some(error_code);
            assert_eq!(found, hosts(&rows, state, error), "{why}");
        }

        let rows = only(said(site, &states("enforcement")).await);
        let ask = async |state: i32| {
            let request = pb::GetEnforcementRequest {
                deployment: "June".into(),
                state,
                site_code: site_code.into(),
                ..Default::default()
            };
            reports(site)
                .get_enforcement(request)
                .await
                .unwrap()
                .into_inner()
        };
        let all = ask(0).await;
        assert_eq!(all.clients.len(), rows.len(), "{why}");
        for count in &all.states {
            let of = hosts(&rows, Some(count.state), None);
            assert_eq!(count.clients as usize, of.len(), "{why}");
            if count.state != 0 {
                let found = ask(count.state).await.clients.into_iter();
                let found: Vec<String> = found.map(|it| it.host_name).collect();
                assert_eq!(found, of, "{why}");
            }
        }

        let rows = only(said(site, &states("evaluation")).await);
        let ask = async |state| {
            let request = pb::GetEvaluationRequest {
                deployment: "June".into(),
                state,
                site_code: site_code.into(),
                ..Default::default()
            };
            reports(site)
                .get_evaluation(request)
                .await
                .unwrap()
                .into_inner()
        };
        let all = ask(None).await;
        assert_eq!(all.clients.len(), rows.len(), "{why}");
        for count in &all.states {
            let of = hosts(&rows, Some(count.state), None);
            assert_eq!(count.clients as usize, of.len(), "{why}");
            let found = ask(Some(count.state)).await.clients.into_iter();
            let found: Vec<String> = found.map(|it| it.host_name).collect();
            assert_eq!(found, of, "{why}");
        }

        let rows = only(said(site, &errors).await);
        for grouping in [0, 1, 2] {
            let request = pb::ListErrorsRequest {
                deployment: "June".into(),
                grouping,
                site_code: site_code.into(),
                ..Default::default()
            };
            let found = reports(site).list_errors(request).await.unwrap();
            let found = found.into_inner().errors;
            if grouping != pb::ErrorGrouping::Update as i32 {
                for count in &found {
                    let of: BTreeSet<&str> = hosts(&rows, None, Some(count.error_code))
                        .into_iter()
                        .collect();
                    assert_eq!(count.clients as usize, of.len(), "{why}");
                }
                let kinds: BTreeSet<i32> = rows.iter().map(|it| it.3).collect();
                assert_eq!(found.len(), kinds.len(), "{why}");
            }
        }
        let request = pb::ListErrorClientsRequest {
            error_code: error_code::PACKAGE_HELD,
            site_code: site_code.into(),
            ..Default::default()
        };
        let found = reports(site).list_error_clients(request).await.unwrap();
        let found = found.into_inner().clients.into_iter();
        let found: Vec<String> = found.map(|it| it.host_name).collect();
        let mut of = hosts(&rows, None, Some(error_code::PACKAGE_HELD));
        of.dedup();
        assert_eq!(found, of, "{why}");
    }
    // The same for who asks with SQL.
    let sql = "SELECT count(*) FROM client_scans WHERE site_code IN
               (SELECT below_site_code FROM sites_below WHERE site_code = 'P01')";
    assert_eq!(site.count(sql).await, 5);
    let sql = "SELECT count(*) FROM deployment_client_states WHERE site_code = 'CEN'";
    assert_eq!(site.count(sql).await, 2);
}
