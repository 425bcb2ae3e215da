//! What the site makes of serials, epochs and runs: restarts, copies that were put back, machines
//! that share an identity. The rules are those of muster-stream; here they meet the database.

use muster_domain::states::Detection::{Installed, Required, Unknown};
use muster_proto::state as pb;
use muster_testkit::eventually;

use crate::site::{Client, Site};

/// A report of one run of the client's program.
fn of_run(report: pb::Report, run_id: u64, run_began_after: u64) -> pb::Report {
    pb::Report {
        run_id,
        run_began_after,
        ..report
    }
}

async fn started() -> (Site, Client) {
    let site = Site::start().await;
    let client = site.enrol("host-1").await;
    let full = client.full(4, &[(1, Required), (2, Required)]);
    site.report(&[of_run(full, 1, 0)]).await;
    eventually(async || site.contiguous(&client).await == 4).await;
    (site, client)
}

/// How many clients there are of which this is so.
async fn streams(site: &Site, which: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM report_streams WHERE {which}");
    site.count(&sql).await
}

#[tokio::test]
async fn a_range_that_was_missing_closes_the_gap() {
    let (site, client) = started().await;
    site.report(&[client.delta(7, 7, &[(3, Installed)])]).await;
    eventually(async || streams(&site, "gap_since IS NOT NULL AND ask_at IS NOT NULL").await == 1)
        .await;
    // Two states were told again, the third serial has nothing left to say.
    site.report(&[client.delta(5, 6, &[(1, Installed), (3, Required)])])
        .await;
    eventually(async || site.contiguous(&client).await == 7).await;
    assert_eq!(site.held(&client).await, [vec![1, 3], vec![2], vec![]]);
    assert_eq!(
        streams(&site, "gap_since IS NULL AND ask_at IS NULL").await,
        1
    );

    site.report(&[client.delta(10, 10, &[(2, Unknown)])]).await;
    site.report(&[client.report(pb::ReportKind::Delta, 8, 9)])
        .await;
    eventually(async || site.contiguous(&client).await == 10).await;
    assert_eq!(site.held(&client).await, [vec![1, 3], vec![], vec![2]]);
    assert_eq!(site.wrong_counters().await, 0);
}

#[tokio::test]
async fn a_heartbeat_moves_the_stream_and_nothing_else() {
    let (site, client) = started().await;
    let heartbeat = pb::Report {
        heartbeat: Some(pb::Heartbeat { serial: 5 }),
        ..client.report(pb::ReportKind::Delta, 5, 5)
    };
    site.report(&[heartbeat]).await;
    eventually(async || site.contiguous(&client).await == 5).await;
    assert_eq!(site.held(&client).await, [vec![], vec![1, 2], vec![]]);
    let silent = "last_report_at > now() - interval '1 minute' AND ask_at IS NULL";
    assert_eq!(streams(&site, silent).await, 1);
}

#[tokio::test]
async fn what_says_nothing_new_of_updates_costs_no_log_and_is_known_after_a_restart() {
    let (mut site, client) = started().await;
    let heartbeat = |serial| pb::Report {
        heartbeat: Some(pb::Heartbeat { serial }),
        ..client.report(pb::ReportKind::Delta, serial, serial)
    };
    for serial in 5..40 {
        site.report(&[heartbeat(serial)]).await;
    }
    // Of updates it says what is known.
    site.report(&[client.delta(40, 40, &[(1, Required)])]).await;
    eventually(async || site.contiguous(&client).await == 40).await;
    let log = "SELECT count(*) FROM client_compliance_log";
    assert_eq!(site.count(log).await, 0);
    site.report(&[client.delta(41, 41, &[(1, Installed)])])
        .await;
    site.report(&[heartbeat(42)]).await;
    eventually(async || site.contiguous(&client).await == 42).await;
    assert_eq!(site.count(log).await, 1);

    site.handle.take().unwrap().stop().await;
    site.handle = Some(site_server::start(site.config.clone()).await.unwrap());
    let recorded = "SELECT reports FROM recorded_totals";
    let before = site.count(recorded).await;
    site.report(&[heartbeat(42), heartbeat(39)]).await;
    site.report(&[client.delta(43, 43, &[(2, Installed)])])
        .await;
    eventually(async || site.contiguous(&client).await == 43).await;
    assert_eq!(
        site.count(recorded).await,
        before + 1,
        "the rest is repeats"
    );
    assert_eq!(site.held(&client).await, [vec![1, 2], vec![], vec![]]);
    assert_eq!(
        streams(&site, "gap_since IS NULL AND NOT wants_full").await,
        1
    );
}

#[tokio::test]
async fn a_restarted_client_goes_on_and_late_reports_of_its_last_run_are_no_fork() {
    let (site, client) = started().await;
    let last = of_run(client.delta(5, 6, &[(1, Installed)]), 1, 0);
    for report in [
        of_run(client.delta(5, 7, &[(1, Installed)]), 2, 6),
        last.clone(),
        of_run(client.delta(8, 8, &[(2, Installed)]), 2, 6),
        last,
        of_run(client.delta(9, 9, &[(3, Installed)]), 3, 8),
    ] {
        site.report(&[report]).await;
    }
    eventually(async || site.contiguous(&client).await == 9).await;
    let quiet = "register_epoch IS NULL AND forked_at IS NULL AND ask_at IS NULL";
    assert_eq!(streams(&site, quiet).await, 1);
}

#[tokio::test]
async fn a_machine_that_went_back_as_a_whole_is_to_register() {
    let (mut site, client) = started().await;
    for serial in 5..=7 {
        let report = client.delta(serial, serial, &[(1, Installed)]);
        site.report(&[of_run(report, 1, 0)]).await;
    }
    eventually(async || site.contiguous(&client).await == 7).await;
    // What is known of runs outlives the process.
    site.handle.take().unwrap().stop().await;
    site.handle = Some(site_server::start(site.config.clone()).await.unwrap());

    // Its database and its mark are those of serial 4: what it says now looks like a repeat.
    let report = client.delta(5, 5, &[(2, Installed)]);
    site.report(&[of_run(report, 2, 4)]).await;
    eventually(async || streams(&site, "register_epoch = 1").await == 1).await;
    assert_eq!(
        streams(&site, "ask_at IS NOT NULL AND forked_at IS NULL").await,
        1
    );

    let request = muster_proto::client::RegisterClientRequest {
        client_id: client.id.as_bytes().to_vec().into(),
        request: Some(muster_proto::client::RegisterRequest {
            known_epoch: 1,
            machine: None,
        }),
        ..Default::default()
    };
    let answer = site.gateway().register_client(request).await.unwrap();
    let epoch = answer.into_inner().response.unwrap().epoch;
    let client = Client { epoch, ..client };
    let full = client.full(5, &[(1, Required), (2, Installed)]);
    site.report(&[of_run(full, 2, 4)]).await;
    eventually(async || site.contiguous(&client).await == 5).await;
    assert_eq!(site.held(&client).await, [vec![2], vec![1], vec![]]);
    let quiet = "register_epoch IS NULL AND forked_at IS NULL AND ask_at IS NULL";
    assert_eq!(streams(&site, quiet).await, 1);
    assert_eq!(site.wrong_counters().await, 0);
}

#[tokio::test]
async fn a_run_after_one_that_was_never_heard_of_has_everything_asked_for() {
    let (site, client) = started().await;
    let follows = |report: pb::Report, run_id, run_began_after, run_after| pb::Report {
        run_after,
        ..of_run(report, run_id, run_began_after)
    };
    let next = client.delta(5, 6, &[(1, Installed)]);
    site.report(&[follows(next, 2, 4, 1)]).await;
    eventually(async || site.contiguous(&client).await == 6).await;
    assert_eq!(streams(&site, "wants_full").await, 0);
    // The machine goes back to serial 4; what it says then is lost, and it is started once more.
    let back = client.delta(5, 8, &[(2, Installed)]);
    site.report(&[follows(back, 4, 7, 3)]).await;
    eventually(async || site.contiguous(&client).await == 8).await;
    assert_eq!(streams(&site, "wants_full AND ask_at > now()").await, 1);
    assert_eq!(site.held(&client).await, [vec![1, 2], vec![], vec![]]);
    let full = client.full(8, &[(1, Required), (2, Installed)]);
    site.report(&[follows(full, 4, 7, 3)]).await;
    eventually(async || streams(&site, "NOT wants_full AND ask_at IS NULL").await == 1).await;
    assert_eq!(site.held(&client).await, [vec![2], vec![1], vec![]]);
    assert_eq!(site.wrong_counters().await, 0);
}

#[tokio::test]
async fn what_a_report_was_built_on_is_known_after_a_restart_of_the_site() {
    let (mut site, client) = started().await;
    // Serial 5 is told while 6 and 7 have been given: that is why something is missing in it.
    let report = pb::Report {
        given_serial: 7,
        ..client.report(pb::ReportKind::Delta, 5, 5)
    };
    site.report(&[of_run(report, 1, 0)]).await;
    eventually(async || site.contiguous(&client).await == 5).await;
    assert_eq!(streams(&site, "gap_since IS NOT NULL").await, 0);
    site.handle.take().unwrap().stop().await;
    site.handle = Some(site_server::start(site.config.clone()).await.unwrap());

    // The machine is put back to serial 5, and gives 6 to something else.
    let report = client.delta(6, 6, &[(2, Installed)]);
    site.report(&[of_run(report, 2, 5)]).await;
    eventually(async || streams(&site, "register_epoch = 1").await == 1).await;
}

#[tokio::test]
async fn more_reports_out_of_order_than_are_kept_are_asked_for_again() {
    let (site, client) = started().await;
    // The last ones first, and the one before them all later still.
    let late: Vec<pb::Report> = (6..=45)
        .rev()
        .map(|serial| client.delta(serial, serial, &[(1, Unknown), (serial as u32, Installed)]))
        .collect();
    for report in &late {
        site.report(std::slice::from_ref(report)).await;
    }
    eventually(async || streams(&site, "cardinality(early_reports) = 16").await == 1).await;
    site.report(&[client.delta(5, 5, &[(2, Installed)])]).await;
    eventually(async || site.contiguous(&client).await == 5).await;
    // The first sixteen that came are kept; 6 to 29 are told again.
    let mut wish = None;
    eventually(async || {
        wish = site.policy(&client, &[]).await.unwrap().wish;
        wish.is_some()
    })
    .await;
    let ranges: Vec<(u64, u64)> = wish
        .unwrap()
        .ranges
        .iter()
        .map(|r| (r.first, r.last))
        .collect();
    assert_eq!(ranges, [(6, 29)]);
    let again: Vec<(u32, _)> = (6..=29).map(|update| (update, Installed)).collect();
    site.report(&[client.delta(6, 29, &again)]).await;
    eventually(async || site.contiguous(&client).await == 45).await;
    let mut installed: Vec<i32> = vec![2];
    installed.extend(6..=45);
    assert_eq!(site.held(&client).await, [installed, vec![], vec![1]]);
    assert_eq!(
        streams(&site, "early_reports = '{}' AND ask_at IS NULL").await,
        1
    );
    assert_eq!(site.wrong_counters().await, 0);
}

#[tokio::test]
async fn two_machines_with_one_identity_are_found_across_a_restart_of_the_site() {
    let (mut site, client) = started().await;
    let turn = async |site: &Site, run, serial| {
        let report = client.delta(serial, serial, &[(1, Installed)]);
        site.report(&[of_run(report, run, if run == 1 { 0 } else { 4 })])
            .await;
    };
    for (run, serial) in [(1, 5), (2, 5), (1, 6), (2, 6)] {
        turn(&site, run, serial).await;
    }
    eventually(async || site.contiguous(&client).await == 6).await;
    eventually(async || streams(&site, "register_epoch = 1").await == 1).await;
    assert_eq!(streams(&site, "forked_at IS NOT NULL").await, 0);
    site.handle.take().unwrap().stop().await;
    site.handle = Some(site_server::start(site.config.clone()).await.unwrap());
    turn(&site, 1, 7).await;
    eventually(async || streams(&site, "forked_at IS NOT NULL").await == 1).await;
    // Both are still recorded: what is newest wins.
    turn(&site, 2, 8).await;
    turn(&site, 1, 9).await;
    eventually(async || streams(&site, "highest_serial = 9").await == 1).await;
}

#[tokio::test]
async fn an_epoch_that_a_restored_site_forgot_is_to_be_given_anew() {
    let (site, client) = started().await;
    let ahead = Client {
        epoch: 5,
        ..client.clone()
    };
    site.report(&[of_run(ahead.full(9, &[(1, Installed)]), 1, 0)])
        .await;
    eventually(async || streams(&site, "register_epoch = 5").await == 1).await;
    assert_eq!(site.count("SELECT count(*) FROM quarantine").await, 1);
}
