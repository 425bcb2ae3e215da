//! Snapshots: taken once per period, kept for so long, and what they say is what reports said.

use std::time::Duration;

use jiff::Timestamp;
use muster_proto::convert::to_timestamp;
use muster_proto::report as pb;
use muster_proto::report::get_trend_request::Thing;
use muster_runtime::status;
use muster_testkit::eventually;
use tonic::Code;

use super::compliance::make_list;
use super::failures::deploy;
use super::{Random, Reporter, reports, with_catalog};
use crate::site::{Ground, Site};

async fn trend(site: &Site, thing: Option<Thing>) -> pb::GetTrendResponse {
    let an_hour_ago = Timestamp::now() - jiff::SignedDuration::from_hours(1);
    let request = pb::GetTrendRequest {
        thing,
        from: Some(to_timestamp(an_hour_ago)),
        ..Default::default()
    };
    let answer = reports(site).get_trend(request).await;
    answer.unwrap().into_inner()
}

#[tokio::test]
async fn a_snapshot_says_what_the_reports_said_and_old_months_go() {
    let mut random = Random::new();
    let seed = random.0;
    let mut ground = Ground::new().await;
    ground.config.trend.interval = Duration::from_secs(1);
    let handle = site_server::start(ground.config.clone()).await.unwrap();
    let site = with_catalog(Site::on(ground, Some(handle)).await).await;
    let mut reporters = Vec::new();
    for n in 0..4 {
        reporters.push(Reporter::new(site.enrol(&format!("host-{n}")).await));
    }
    make_list(&site, "old", &[1, 2, 3]).await;
    deploy(&site, "June", "old", "").await;
    for reporter in &mut reporters[..3] {
        reporter.report(&site, &mut random).await;
        reporter.recorded(&site).await;
    }
    // A month that is long over.
    let old = "SELECT make_trend_partitions('2020-01-15Z');
               INSERT INTO site_trend VALUES ('2020-01-15Z', 1, 1, 1, 1, 1, 1, 1, 1)";
    site.pool
        .get()
        .await
        .unwrap()
        .batch_execute(old)
        .await
        .unwrap();

    let request = pb::GetComplianceRequest {
        update_list: "old".into(),
        ..Default::default()
    };
    let now = reports(&site).get_compliance(request).await;
    let now = now.unwrap().into_inner();
    eventually(async || {
        let points = trend(&site, Some(Thing::UpdateList("Old".into()))).await;
        points.update_list.last().is_some_and(|last| {
            (last.clients, last.compliant, last.non_compliant)
                == (now.clients, now.compliant, now.non_compliant)
                && (last.unknown, last.no_data) == (now.unknown, now.no_data)
        })
    })
    .await;
    let points = trend(&site, None).await.site;
    let last = points.last().unwrap();
    assert_eq!((last.clients, last.never_reported), (4, 1), "seed {seed}");
    let required = site.count("SELECT COALESCE(sum(required), 0)::int8 FROM update_counters");
    assert_eq!(last.required as i64, required.await, "seed {seed}");
    let points = trend(&site, Some(Thing::Deployment("June".into()))).await;
    let last = points.deployment.last().unwrap();
    assert_eq!((last.clients, last.states.len()), (4, 1));

    // Ascending, one per period, no more than asked for.
    let times: Vec<i64> = points
        .deployment
        .iter()
        .map(|it| it.at.unwrap().seconds)
        .collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    let request = pb::GetTrendRequest {
        step: Some(prost_types::Duration {
            seconds: 86_400,
            nanos: 0,
        }),
        ..Default::default()
    };
    let daily = reports(&site)
        .get_trend(request)
        .await
        .unwrap()
        .into_inner();
    assert!(daily.site.len() <= 2, "{daily:?}");
    assert_eq!(
        site.count("SELECT count(*) FROM site_trend WHERE at < '2021-01-01Z'")
            .await,
        0
    );
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'site_trend'::regclass";
    assert_eq!(site.count(partitions).await, 2, "this month and the next");
}

#[tokio::test]
async fn the_same_period_is_remembered_once_however_often_the_site_server_starts() {
    let ground = Ground::new().await;
    let config = ground.config.clone();
    let handle = site_server::start(config.clone()).await.unwrap();
    let mut site = Site::on(ground, Some(handle)).await;
    // The period is an hour: only at its very end there are two.
    eventually(async || site.count("SELECT count(*) FROM site_trend").await >= 1).await;
    let at = "SELECT extract(epoch FROM min(at))::int8 FROM site_trend";
    assert_eq!(site.count(at).await % 3_600, 0);
    site.enrol("host-1").await;
    site.handle.take().unwrap().stop().await;
    site.handle = Some(site_server::start(config).await.unwrap());
    let sql =
        "SELECT count(*) FROM (SELECT at FROM site_trend GROUP BY at HAVING count(*) > 1) AS t";
    assert_eq!(site.count(sql).await, 0);
    let first = "SELECT clients::int8 FROM site_trend ORDER BY at LIMIT 1";
    assert_eq!(
        site.count(first).await,
        0,
        "the first word of a period stays"
    );
}

#[tokio::test]
async fn a_trend_of_nothing_or_of_too_much_is_refused_with_a_reason() {
    let site = Site::start().await;
    let ask = async |request: pb::GetTrendRequest| {
        let status = reports(&site).get_trend(request).await.unwrap_err();
        (status.code(), status::reason(&status).unwrap())
    };
    let request = pb::GetTrendRequest {
        thing: Some(Thing::UpdateList("July".into())),
        ..Default::default()
    };
    let expected = (Code::NotFound, "UNKNOWN_UPDATE_LIST".to_owned());
    assert_eq!(ask(request).await, expected);
    let request = pb::GetTrendRequest {
        from: Some(to_timestamp(Timestamp::UNIX_EPOCH)),
        ..Default::default()
    };
    assert_eq!(
        ask(request.clone()).await,
        (Code::InvalidArgument, "STEP".to_owned())
    );
    let request = pb::GetTrendRequest {
        to: request.from,
        from: Some(to_timestamp(Timestamp::now())),
        ..Default::default()
    };
    assert_eq!(
        ask(request).await,
        (Code::InvalidArgument, "FROM".to_owned())
    );
}
