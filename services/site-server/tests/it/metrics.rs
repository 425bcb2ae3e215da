//! `/metrics` of a running site server.

use std::io::Write;
use std::process::{Command, Stdio};

use muster_domain::states::Detection::{Installed, Required};
use muster_runtime::config::TelemetryConfig;
use muster_runtime::telemetry;
use muster_testkit::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::site::Site;

async fn scrape(site: &Site) -> String {
    let addr = site.handle.as_ref().unwrap().admin();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    body.to_owned()
}

#[tokio::test]
#[allow(clippy::print_stderr)] // for the person who runs it
async fn live_metrics_tell_the_backlog_and_please_promtool() {
    let quiet = TelemetryConfig {
        log: "off".into(),
        ..Default::default()
    };
    let _telemetry = telemetry::start("site-server", &quiet).unwrap();
    let site = Site::start().await;
    let client = site.enrol("host-1").await;
    site.report(&[client.full(1, &[(1, Installed)])]).await;
    site.report(&[client.delta(3, 3, &[(2, Required)])]).await;
    site.publish("0", b"\xff no batch at all".to_vec()).await;
    // Other tests of this process count into the same recorder, so only what is there is looked at.
    let expected = [
        "muster_ready 1",
        "muster_broker_reachable{site=\"P01\"} 1",
        "muster_state_quarantined{site=\"P01\"}",
        "muster_state_gaps_open{site=\"P01\"}",
        "muster_state_resyncs_open{site=\"P01\"}",
        "muster_state_drain_seconds{site=\"P01\",queue=\"site.P01.state.0\"}",
        "muster_state_queue_depth{site=\"P01\",queue=\"site.P01.state.urgent\"}",
        "muster_state_quarantined_total{reason=\"UNDECODABLE_BATCH\"}",
        "muster_state_reports_total{outcome=\"recorded\"}",
        "muster_postgres_connections{pool=\"site\",state=\"used\"}",
    ];
    eventually(async || {
        let text = scrape(&site).await;
        expected.iter().all(|line| text.contains(line))
    })
    .await;
    let text = scrape(&site).await;
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(name);
        let helped = [name, family]
            .iter()
            .any(|it| text.contains(&format!("# HELP {it} ")));
        assert!(helped, "{name} has no help text");
    }
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        eprintln!("promtool is not here: its part of this test is left out");
        return;
    };
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let verdict = promtool.wait_with_output().unwrap();
    assert!(verdict.status.success(), "{verdict:?}");
}
