//! What people read with psql is what the reports say.

use muster_domain::states;
use muster_proto::report as pb;
use muster_testkit::eventually;

use super::compliance::make_list;
use super::failures::site_with_failures;
use super::{Random, Reporter, UPDATES, reports};
use crate::site::Site;

async fn numbers(site: &Site, sql: &str) -> Vec<i64> {
    let row = site.pool.get().await.unwrap().query_one(sql, &[]).await;
    let row = row.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    (0..row.len()).map(|at| row.get(at)).collect()
}

#[tokio::test]
async fn every_view_gives_what_its_report_gives() {
    let mut random = Random::new();
    let seed = random.0;
    let (site, _) = site_with_failures(&mut random).await;
    make_list(&site, "all", &(1..=UPDATES).collect::<Vec<_>>()).await;
    for n in 6..9 {
        let mut reporter = Reporter::new(site.enrol(&format!("host-{n}")).await);
        reporter.report(&site, &mut random).await;
        reporter.recorded(&site).await;
    }
    for list in ["old", "all"] {
        let sql = format!(
            "SELECT clients::int8, compliant::int8, non_compliant::int8, unknown::int8, no_data::int8
             FROM update_list_compliance WHERE update_list = '{list}'"
        );
        let expected = numbers(&site, &sql).await;
        eventually(async || {
            let request = pb::GetComplianceRequest {
                update_list: list.into(),
                ..Default::default()
            };
            let report = reports(&site).get_compliance(request).await;
            let it = report.unwrap().into_inner();
            let counts = [
                it.clients,
                it.compliant,
                it.non_compliant,
                it.unknown,
                it.no_data,
            ];
            expected == counts.map(i64::from)
        })
        .await;
    }
    for update_no in [1, 9, 12] {
        let sql = format!(
            "SELECT clients::int8, installed::int8, required::int8, not_required::int8,
                    unknown::int8, no_data::int8
             FROM update_compliance WHERE update_no = {update_no}"
        );
        let request = pb::GetUpdateComplianceRequest {
            key: Some(pb::get_update_compliance_request::Key::UpdateNo(update_no)),
            ..Default::default()
        };
        let report = reports(&site).get_update_compliance(request).await;
        let report = report.unwrap().into_inner();
        let it = report.update.unwrap();
        let counts = [
            report.clients,
            it.installed,
            it.required,
            it.not_required,
            it.unknown,
            it.no_data,
        ];
        assert_eq!(
            numbers(&site, &sql).await,
            counts.map(i64::from),
            "seed {seed}"
        );
    }
    let request = pb::GetEnforcementRequest {
        deployment: "June".into(),
        ..Default::default()
    };
    let report = reports(&site).get_enforcement(request).await.unwrap();
    for count in &report.get_ref().states {
        let state = states::DeploymentEnforcement::from_id(count.state as u8).unwrap();
        let sql = format!(
            "SELECT clients::int8 FROM deployment_state_counts
             WHERE deployment = 'June' AND enforcement_name = '{state}'"
        );
        assert_eq!(
            numbers(&site, &sql).await,
            [i64::from(count.clients)],
            "seed {seed}"
        );
    }
    let report = reports(&site)
        .list_errors(pb::ListErrorsRequest::default())
        .await;
    let errors = report.unwrap().into_inner().errors;
    let ranked = numbers(&site, "SELECT count(*) FROM error_ranking").await;
    assert_eq!(ranked, [errors.len() as i64]);
    for error in errors {
        let sql = format!(
            "SELECT clients::int8, updates::int8 FROM error_ranking WHERE error_code = {}",
            error.error_code
        );
        let counts = [error.clients, error.updates].map(i64::from);
        assert_eq!(numbers(&site, &sql).await, counts, "seed {seed}");
    }
    let report = reports(&site)
        .get_scans(pb::GetScansRequest::default())
        .await;
    for count in report.unwrap().into_inner().states {
        let state = states::Scan::from_id(count.state as u8).unwrap();
        let sql = format!("SELECT count(*) FROM client_scans WHERE state_name = '{state}'");
        assert_eq!(
            numbers(&site, &sql).await,
            [i64::from(count.clients)],
            "seed {seed}"
        );
    }
    let report = reports(&site)
        .get_coverage(pb::GetCoverageRequest::default())
        .await;
    let report = report.unwrap().into_inner();
    let sql = "SELECT count(*) FILTER (WHERE why = 'never reported'),
                      count(*) FILTER (WHERE why = 'old catalog') FROM clients_without_data";
    let counts = [report.never_reported, report.old_catalog].map(i64::from);
    assert_eq!(numbers(&site, sql).await, counts, "seed {seed}");
    for view in ["named_update_list_trend", "named_deployment_trend"] {
        numbers(&site, &format!("SELECT count(*) FROM {view}")).await;
    }
}

#[tokio::test]
async fn the_names_of_states_in_sql_are_those_of_the_program() {
    let site = Site::start().await;
    let mut all: Vec<(i32, i32, String)> = Vec::new();
    macro_rules! topic {
        ($number:literal, $states:ident) => {
            for state in states::$states::ALL {
                all.push(($number, state.id().into(), state.text().to_owned()));
            }
        };
    }
    topic!(300, DeploymentCompliance);
    topic!(301, DeploymentEnforcement);
    topic!(302, DeploymentEvaluation);
    topic!(402, UpdateEnforcement);
    topic!(500, Detection);
    topic!(501, Scan);
    let sql = "SELECT topic::int4, state::int4, name FROM state_names ORDER BY topic, state";
    let rows = site
        .pool
        .get()
        .await
        .unwrap()
        .query(sql, &[])
        .await
        .unwrap();
    let named: Vec<(i32, i32, String)> = rows
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    assert_eq!(named, all);
    // Every view says what it is, in SQL too.
    let silent = "SELECT count(*) FROM pg_class c
                  WHERE c.relnamespace = 'site'::regnamespace AND c.relkind = 'v'
                    AND obj_description(c.oid) IS NULL";
    assert_eq!(site.count(silent).await, 0);
}
