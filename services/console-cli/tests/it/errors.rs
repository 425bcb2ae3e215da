//! What goes wrong: exit codes, error texts, their JSON.

use serde_json::{Value, json};

use crate::console::Console;

#[tokio::test]
async fn every_kind_of_failure_has_its_exit_code_and_its_reason() {
    let console = Console::start().await;
    for (line, code, reason) in [
        ("describe client missing", 3, "UNKNOWN_CLIENT"),
        ("describe site missing", 3, "UNKNOWN_SITE"),
        ("describe update missing", 3, "UNKNOWN_UPDATE"),
        ("describe update-list missing", 3, "UNKNOWN_UPDATE_LIST"),
        ("describe package missing", 3, "UNKNOWN_PACKAGE"),
        ("describe deployment missing", 3, "UNKNOWN_DEPLOYMENT"),
        ("get clients --collection missing", 3, "UNKNOWN_COLLECTION"),
        ("deployment watch missing", 3, "UNKNOWN_DEPLOYMENT"),
        ("describe client denied", 4, "NOT_ALLOWED"),
        ("create collection taken", 5, "ALREADY_EXISTS"),
        ("delete collection in-use --yes", 5, "IN_USE"),
        ("describe client slow --timeout 300ms", 7, "TIMEOUT"),
        ("create update-list june", 2, "NO_UPDATES"),
        (
            "create update-list june --update 7 --required",
            2,
            "NO_UPDATES",
        ),
    ] {
        let run = console
            .run(&line.split_whitespace().collect::<Vec<_>>())
            .await;
        assert_eq!((run.code, run.out.as_str()), (code, ""), "{line}: {run:?}");
        assert!(
            run.err.contains(&format!("({reason})\n")),
            "{line}: {run:?}"
        );
    }
}

#[tokio::test]
async fn wrong_usage_is_exit_code_2() {
    let console = Console::start().await;
    for line in [
        "",
        "got clients",
        "get clients --limit many",
        "get updates --classification urgent",
        "create deployment june --update-list june",
        "create deployment june --collection Pilot",
        "create deployment june --collection Pilot --update-list june --deadline tomorrow",
        "report enforcement --deployment june --state happy",
        "delete collection",
        "login --site-server https://127.0.0.1:1",
    ] {
        let run = console
            .run(&line.split_whitespace().collect::<Vec<_>>())
            .await;
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{line}: {run:?}");
        assert!(!run.err.is_empty(), "{line}");
    }
}

#[tokio::test]
async fn an_error_says_what_and_what_next() {
    let console = Console::start().await;
    let run = console.run(&["describe", "client", "missing"]).await;
    assert_eq!(
        run.err,
        "error: no client \"missing\" (UNKNOWN_CLIENT)\n\
         hint: `muster get clients` lists the clients\n"
    );
}

#[tokio::test]
async fn programs_get_the_error_as_json_on_stderr() {
    let console = Console::start().await;
    let run = console
        .run(&["describe", "client", "missing", "-o", "json"])
        .await;
    let error: Value = serde_json::from_str(&run.err).unwrap();
    let expected = json!({"error": {
        "reason": "UNKNOWN_CLIENT",
        "message": "no client \"missing\"",
        "hint": "`muster get clients` lists the clients",
        "exitCode": 3,
    }});
    assert_eq!(error, expected);
    let run = console
        .run(&["describe", "client", "missing", "-o", "yaml"])
        .await;
    assert!(run.err.contains("reason: UNKNOWN_CLIENT"), "{run:?}");
}

#[tokio::test]
async fn a_site_server_that_is_away_is_named_as_such() {
    let console = Console::start().await;
    let file = console.path("config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    // A port of our own that is closed again.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    std::fs::write(
        &file,
        text.replace(&console.addr.to_string(), &closed.to_string()),
    )
    .unwrap();
    let run = console.run(&["get", "sites"]).await;
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.err
            .contains("(UNREACHABLE)\nhint: is the site server running?"),
        "{run:?}"
    );
}

#[tokio::test]
async fn nothing_is_deleted_when_nobody_can_be_asked() {
    let console = Console::start().await;
    let run = console.run(&["delete", "client", "web-01"]).await;
    assert_eq!(run.code, 2, "{run:?}");
    assert_eq!(
        run.err,
        "error: there is no terminal to ask for confirmation (NOT_CONFIRMED)\n\
         hint: `--yes` goes on without asking\n"
    );
    assert_eq!(console.fake.asked(), "");
}

#[tokio::test]
async fn deleting_several_goes_on_after_a_failure_and_says_so() {
    let console = Console::start().await;
    let args = ["delete", "collection", "Pilot", "in-use", "Second", "--yes"];
    let run = console.run(&args).await;
    assert_eq!(run.code, 6, "{run:?}");
    assert_eq!(
        run.out,
        "collection \"Pilot\" deleted\ncollection \"Second\" deleted\n"
    );
    let error = "error: not deleted: in-use: collection \"in-use\" is in use (IN_USE)\n";
    assert_eq!(run.err, error);
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let console = Console::start().await;
    let mut child = console
        .command(&["get", "updates", "-o", "json"])
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let run = crate::console::finished(child.wait_with_output().await.unwrap());
    assert_eq!((run.code, run.err.as_str()), (0, ""));
}
