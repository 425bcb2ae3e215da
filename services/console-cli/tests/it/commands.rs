//! Every command's answer: the columns that scripts cut, the JSON that programs read, and what
//! was asked of the site for it.

use std::fmt::Write;

use crate::console::Console;

/// What an administrator sees, as at a terminal: `$ muster …`, then the answer. To take over
/// what changed on purpose: `UPDATE_TRANSCRIPT=1 cargo test -p console-cli --test it`.
const TRANSCRIPT: &str = include_str!("transcript.txt");

fn commands() -> impl Iterator<Item = &'static str> {
    TRANSCRIPT
        .lines()
        .filter_map(|line| line.strip_prefix("$ muster "))
}

/// The text with `TIME` in place of every time in full, because those come from the clock.
fn without_clock(text: &str) -> String {
    let is_time = |word: &str| {
        let digits = |from: usize, to: usize| word[from..to].bytes().all(|b| b.is_ascii_digit());
        word.is_ascii() && word.len() >= 20 && word.ends_with('Z') && digits(0, 4) && digits(17, 19)
    };
    let mark = |word: &str| {
        let bare = word.trim_matches(['"', ',']);
        if is_time(bare) {
            word.replace(bare, "TIME")
        } else {
            word.to_owned()
        }
    };
    let line = |line: &str| line.split(' ').map(mark).collect::<Vec<_>>().join(" ");
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn every_answer_looks_as_in_the_transcript() {
    let console = Console::start().await;
    let mut seen = String::new();
    for line in commands() {
        let answer = console.text(line).await;
        write!(seen, "$ muster {line}\n{}\n", without_clock(&answer)).unwrap();
    }
    if std::env::var_os("UPDATE_TRANSCRIPT").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/transcript.txt");
        std::fs::write(file, &seen).unwrap();
        return;
    }
    for (seen, expected) in seen.split("$ ").zip(TRANSCRIPT.split("$ ")) {
        assert_eq!(seen, expected);
    }
    assert_eq!(seen, TRANSCRIPT);
}

#[tokio::test]
async fn every_answer_is_also_json_yaml_and_names() {
    let console = Console::start().await;
    for line in commands().filter(|line| !line.contains("-o ")) {
        let json = console.text(&format!("{line} -o json")).await;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let object = json
            .as_object()
            .unwrap_or_else(|| panic!("muster {line}: {json}"));
        let yaml = console.text(&format!("{line} -o yaml")).await;
        let first = object.keys().next().unwrap();
        assert!(yaml.contains(&format!("{first}:")), "muster {line}: {yaml}");
        let names = console.text(&format!("{line} -o name")).await;
        assert!(
            names.lines().all(|name| !name.is_empty()),
            "muster {line}: {names}"
        );
    }
}

#[tokio::test]
async fn warnings_of_the_site_reach_people_and_leave_the_answer_alone() {
    let console = Console::start().await;
    let run = console
        .run(&["create", "update-list", "june", "--required"])
        .await;
    assert_eq!(run.out, "update list \"june\" created, 12 updates\n");
    assert_eq!(run.err, "warning: more than 500 updates in one list\n");
}

#[tokio::test]
async fn tokens_are_alone_on_stdout_and_their_end_is_told_beside() {
    let console = Console::start().await;
    let args = [
        "create",
        "token",
        "--count",
        "2",
        "--valid-for",
        "90m",
        "--collection",
        "Pilot",
    ];
    let run = console.run(&args).await;
    assert_eq!(run.out, "token-1\ntoken-2\n");
    assert!(
        run.err
            .starts_with("each can be used once until 2096-10-02T07:06:40Z"),
        "{run:?}"
    );
    assert!(
        console.fake.asked().contains("seconds: 5400"),
        "{}",
        console.fake.asked()
    );
}

#[tokio::test]
async fn a_long_list_is_fetched_to_its_end_or_to_its_limit() {
    let console = Console::start().await;
    let all = console.text("get updates -o name").await;
    assert_eq!(all.lines().count(), 1_234);
    assert_eq!(all.lines().last(), Some("1234"));
    let some = console.text("get updates --limit 501 -o json").await;
    let some: serde_json::Value = serde_json::from_str(&some).unwrap();
    assert_eq!(some["updates"].as_array().unwrap().len(), 501);
    assert_eq!(some["total"], 1_234);
}

#[tokio::test]
async fn what_is_typed_is_what_the_site_is_asked() {
    let console = Console::start().await;
    for (line, expected) in [
        ("get clients --name web-*", &["host_name: \"web-*\""][..]),
        (
            "get clients --collection Pilot",
            &[r#"collection_id: b"UUUU"#],
        ),
        (
            "get updates --required --classification security --classification critical \
             --suite bookworm-security --source open* --cve CVE-2023-5363 --superseded --expired \
             --sort required --limit 5",
            &[
                "classifications: [Security, Critical]",
                "suite: \"bookworm-security\"",
                "source_package: \"open*\"",
                "required_only: true",
                "include_superseded: true",
                "include_expired: true",
                "cve_id: \"CVE-2023-5363\"",
                "sort: RequiredDescending",
                "page_size: 5",
            ],
        ),
        (
            "get updates --required-in Pilot",
            &[r#"required_in_collection_id: b"UUUU"#],
        ),
        ("describe update 4711", &["UpdateNo(4711)"]),
        ("describe update apt/x/y", &["UpdateId(\"apt/x/y\")"]),
        (
            "create collection Pilot --client web-01 --client web-02 --description first",
            &[
                "clients: [\"web-01\", \"web-02\"]",
                "description: \"first\"",
            ],
        ),
        (
            "create package june --update 7 --update 8",
            &["update_numbers: [7, 8]"],
        ),
        (
            "create package june --update-list june --all-leaves",
            &["all_leaves: true"],
        ),
        (
            "create deployment june --collection Pilot --update-list june \
             --available 2001-09-09T01:46:40Z --deadline +2h --suppress-restart",
            &[
                "collection: \"Pilot\"",
                "update_list: \"june\"",
                "available_at: Some(Timestamp { seconds: 1000000000",
                "deadline_at: Some(",
                "suppress_restart: true",
            ],
        ),
        (
            "create deployment june --collection Pilot --update 7",
            &[
                "deadline_at: None",
                "available_at: None",
                "update_numbers: [7]",
            ],
        ),
        ("delete client web-01 --yes", &[r#"client_id: b"\x11\x11"#]),
        (
            "collection add Pilot web-01 web-02",
            &["add_clients: [\"web-01\", \"web-02\"]"],
        ),
        (
            "collection remove Pilot web-02",
            &["remove_clients: [\"web-02\"]"],
        ),
        ("sync run --full", &["kind: Full"]),
        ("sync run", &["kind: Delta"]),
        ("sync list --limit 5", &["page_size: 5"]),
        (
            "report compliance",
            &["update_list: \"\", collection: \"\""],
        ),
        (
            "report compliance --update-list june --collection Pilot",
            &["update_list: \"june\", collection: \"Pilot\""],
        ),
        (
            "report enforcement --deployment june --state failed-to-install",
            &["deployment: \"june\", state: FailedToInstall"],
        ),
        ("report errors --deployment june", &["deployment: \"june\""]),
        ("quarantine list", &["page_size: 100"]),
        (
            "quarantine redrive 1",
            &["quarantine_numbers: [1]", "page_token: \"\""],
        ),
        (
            "quarantine drop 1 7 --yes",
            &["quarantine_numbers: [1, 7]", "reason: \"\""],
        ),
        (
            "quarantine drop --reason UNKNOWN_EPOCH --yes",
            &["quarantine_numbers: []", "reason: \"UNKNOWN_EPOCH\""],
        ),
    ] {
        console.text(line).await;
        let asked = console.fake.asked();
        for part in expected {
            assert!(asked.contains(part), "muster {line}: no {part} in {asked}");
        }
    }
}

#[tokio::test]
async fn completions_are_made_for_every_shell_without_a_site() {
    let console = Console::start().await;
    std::fs::remove_file(console.path("config.toml")).unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = console.text(&format!("completions {shell}")).await;
        assert!(
            script.contains("muster") && script.contains("update-list"),
            "{shell}"
        );
    }
}

#[tokio::test]
async fn messages_that_stay_or_are_not_there_are_exit_codes() {
    let console = Console::start().await;
    // The site tries one message at a time here; all of its pages are asked for.
    let run = console
        .run(&["quarantine", "redrive", "--reason", "UNKNOWN_EPOCH"])
        .await;
    let rows: Vec<&str> = run.out.lines().collect();
    assert_eq!(rows.len(), 4, "{run:?}");
    assert_eq!(
        rows[2],
        "  2  refused   UNKNOWN_EPOCH: epoch 7 was never given"
    );
    assert_eq!(run.code, 6, "{run:?}");
    assert!(
        run.err
            .contains("1 of 3 messages are still refused (STILL_REFUSED)"),
        "{run:?}"
    );
    for line in [
        &["quarantine", "redrive", "404"][..],
        &["quarantine", "inspect", "404"],
        &["quarantine", "drop", "1", "404", "--yes"],
    ] {
        let run = console.run(line).await;
        assert_eq!(run.code, 3, "{run:?}");
        assert!(run.err.contains("(UNKNOWN_MESSAGE)"), "{run:?}");
    }
    for line in [
        &["quarantine", "drop", "--yes"][..],
        &["quarantine", "redrive", "1", "--reason", "UNKNOWN_EPOCH"],
        &["quarantine", "drop", "1"],
    ] {
        assert_eq!(console.run(line).await.code, 2, "{line:?}");
    }
}
