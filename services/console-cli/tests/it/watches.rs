//! Commands that stay: their lines in a log, their JSON for programs, restarts in between.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::console::{Console, finished};

/// Lines without their clock.
fn lines(text: &str) -> Vec<&str> {
    text.lines()
        .map(|line| line.split_once("  ").map_or(line, |(_, rest)| rest))
        .collect()
}

fn ndjson(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn a_deployment_is_followed_until_it_is_done() {
    let console = Console::start().await;
    let run = console
        .run(&["deployment", "watch", "june", "--until-done"])
        .await;
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{run:?}");
    let (log, rest) = run.out.split_at(run.out.find("Clients:").unwrap());
    assert_eq!(
        lines(log),
        [
            "202 clients: 0 compliant, 10 in progress, 0 failed, 192 unknown",
            "202 clients: 100 compliant, 50 in progress, 0 failed, 52 unknown",
            "202 clients: 202 compliant, 0 in progress, 0 failed, 0 unknown",
        ]
    );
    assert_eq!(
        rest,
        "Clients:     202\n\
         Compliant:   202\n\
         In progress: 0\n\
         Failed:      0\n\
         Unknown:     0\n\
         \n\
         DEPLOYMENT-STATE                  CLIENTS\n\
         successfully installed update(s)      202\n\
         \n\
         UPDATE-STATE            COUNT\n\
         successfully installed   2424\n"
    );
}

#[tokio::test]
async fn a_watch_for_programs_is_one_json_document_per_line() {
    let console = Console::start().await;
    let args = ["deployment", "watch", "june", "--until-done", "-o", "json"];
    let run = console.run(&args).await;
    assert_eq!(run.code, 0, "{run:?}");
    let seen: Vec<_> = ndjson(&run.out)
        .iter()
        .map(|line| line["summary"]["compliant"].as_u64())
        .collect();
    assert_eq!(seen, [Some(0), Some(100), Some(202)]);
}

#[tokio::test]
async fn clients_that_failed_are_exit_code_6() {
    let console = Console::start().await;
    let run = console
        .run(&["deployment", "watch", "failing", "--until-done"])
        .await;
    assert_eq!(run.code, 6, "{run:?}");
    assert_eq!(
        run.err,
        "error: 2 of 202 clients failed (CLIENTS_FAILED)\n\
         hint: `muster report errors --deployment failing` says why\n"
    );
}

#[tokio::test]
async fn a_watch_that_breaks_is_taken_up_again() {
    let console = Console::start().await;
    let args = ["deployment", "watch", "flaky", "--until-done", "-o", "json"];
    let run = console.run(&args).await;
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{run:?}");
    assert_eq!(
        ndjson(&run.out).last().unwrap()["summary"]["compliant"],
        202
    );
    assert_eq!(*console.fake.watches.lock().unwrap(), 2);
}

#[tokio::test]
async fn a_watch_lives_through_a_restart_of_the_site_server() {
    let mut console = Console::start().await;
    let args = [
        "deployment",
        "watch",
        "hanging",
        "--until-done",
        "-o",
        "json",
    ];
    let mut child = console.command(&args).spawn().unwrap();
    let mut seen = BufReader::new(child.stdout.take().unwrap()).lines();
    for compliant in [0, 100] {
        let line = seen.next_line().await.unwrap().unwrap();
        assert_eq!(ndjson(&line)[0]["summary"]["compliant"], compliant);
    }
    console.restart().await;
    let mut last = String::new();
    while let Some(line) = seen.next_line().await.unwrap() {
        last = line;
    }
    let run = finished(child.wait_with_output().await.unwrap());
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(ndjson(&last)[0]["summary"]["compliant"], 202);
}

#[tokio::test]
async fn a_synchronisation_is_followed_and_the_same_twice_is_shown_once() {
    let console = Console::start().await;
    let run = console.run(&["sync", "run", "--watch"]).await;
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{run:?}");
    let (log, rest) = run.out.split_at(run.out.find("Sync:").unwrap());
    assert_eq!(log.lines().count(), 2, "{log}");
    let numbers = "63000 stanzas, 12 new, 0 modified, 0 expired, 9.1 MB fetched";
    assert!(
        log.contains(&format!("fetching: {numbers}  bookworm-security\n")),
        "{log}"
    );
    assert!(rest.contains("Phase:            done\n"), "{rest}");
    assert!(rest.contains("Took:             1m\n"), "{rest}");
    assert!(
        console.fake.asked().contains("Delta"),
        "{}",
        console.fake.asked()
    );
}

#[tokio::test]
async fn a_synchronisation_that_fails_says_which_check_it_was() {
    let console = Console::start().await;
    let run = console
        .run(&["sync", "run", "--full", "--watch", "-o", "json"])
        .await;
    assert_eq!(run.code, 1, "{run:?}");
    let error: Value = serde_json::from_str(&run.err).unwrap();
    assert_eq!(error["error"]["reason"], "INDEX_HASH_MISMATCH");
    let last = ndjson(&run.out).pop().unwrap();
    assert_eq!(last["sync"]["phase"], "SYNC_PHASE_FAILED");
}

#[tokio::test]
async fn a_package_is_waited_for() {
    let console = Console::start().await;
    let args = [
        "create",
        "package",
        "june",
        "--update-list",
        "june",
        "--wait",
    ];
    let run = console.run(&args).await;
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{run:?}");
    let log: Vec<_> = run.out.lines().take(2).collect();
    assert!(
        log[0].ends_with("7 of 19 files available, 4.2 MB in all"),
        "{log:?}"
    );
    assert!(
        log[1].ends_with("19 of 19 files available, 4.2 MB in all"),
        "{log:?}"
    );
}

#[tokio::test]
async fn a_package_with_a_file_that_failed_is_exit_code_6() {
    let console = Console::start().await;
    let args = [
        "create",
        "package",
        "broken",
        "--update-list",
        "june",
        "--wait",
    ];
    let run = console.run(&args).await;
    assert_eq!(run.code, 6, "{run:?}");
    let error = "error: 1 of 19 files failed: SHA-256 differs (CONTENT_FAILED)\n";
    assert!(run.err.starts_with(error), "{run:?}");
}

#[tokio::test]
async fn the_backlog_is_watched_until_time_is_up() {
    let console = Console::start().await;
    let args = [
        "backlog",
        "--watch",
        "--every",
        "100ms",
        "--timeout",
        "900ms",
        "-o",
        "json",
    ];
    let run = console.run(&args).await;
    assert_eq!(run.code, 7, "{run:?}");
    let seen = ndjson(&run.out);
    assert!(seen.len() > 1, "{run:?}");
    assert_eq!(seen[1]["queues"][0]["messages"], "2");
}
