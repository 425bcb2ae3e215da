//! Getting in: contexts, the file that holds them, certificates that are refused.

use std::os::unix::fs::PermissionsExt;

use muster_runtime::Role;

use crate::console::Console;

#[tokio::test]
async fn a_login_is_remembered_for_its_owner_alone() {
    let console = Console::start().await;
    let run = console.login("administrator").await;
    assert_eq!(
        run.out,
        "logged in to site P01 (Head office) as context P01\n"
    );

    let file = console.path("config.toml");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("site_server = \"https://127.0.0.1:"),
        "{text}"
    );
    assert!(!text.contains("PRIVATE KEY"), "{text}");
}

#[tokio::test]
async fn contexts_are_listed_chosen_and_shown() {
    let console = Console::start().await;
    let url = format!("https://{}", console.addr);
    let files = ["ca.pem", "administrator.pem", "administrator.key"];
    let [ca, cert, key] = files.map(|name| console.path(name).display().to_string());
    let args = [
        "login",
        "--site-server",
        &url,
        "--ca",
        &ca,
        "--cert",
        &cert,
        "--key",
        &key,
    ];
    let run = console
        .run(&[&args[..], &["--context", "second"]].concat())
        .await;
    assert_eq!(run.code, 0, "{run:?}");

    let listed = console.text("context list").await;
    let lines: Vec<Vec<&str>> = listed
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0], ["CONTEXT", "CURRENT", "SITE-SERVER"]);
    assert_eq!(lines[1], ["P01", "-", &url]);
    assert_eq!(lines[2], ["second", "*", &url]);

    assert_eq!(
        console.text("context use P01").await,
        "context P01 is the current one\n"
    );
    assert!(
        console
            .text("context show")
            .await
            .starts_with("Context:     P01\n")
    );
    assert!(
        console
            .text("context show --context second")
            .await
            .contains("second")
    );
    assert_eq!(console.text("context list -o name").await, "P01\nsecond\n");

    let run = console.run(&["context", "use", "third"]).await;
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.err.contains("UNKNOWN_CONTEXT"), "{run:?}");
}

#[tokio::test]
async fn without_a_login_the_way_is_shown() {
    let console = Console::start().await;
    std::fs::remove_file(console.path("config.toml")).unwrap();
    let run = console.run(&["get", "clients"]).await;
    assert_eq!(run.code, 2);
    assert_eq!(
        run.err,
        "error: no site is known yet (NOT_LOGGED_IN)\n\
         hint: muster login --site-server https://HOST:PORT --ca F --cert F --key F\n"
    );
}

#[tokio::test]
async fn a_certificate_of_another_role_is_not_let_in_and_nothing_is_remembered() {
    let console = Console::start().await;
    std::fs::remove_file(console.path("config.toml")).unwrap();
    console.issue(Role::Client, "a-client");
    let run = console.login("a-client").await;
    assert_eq!(run.code, 4, "{run:?}");
    assert!(run.err.contains("NOT_ALLOWED"), "{run:?}");
    assert!(run.err.contains("role administrator"), "{run:?}");
    assert!(!console.path("config.toml").exists());
}

#[tokio::test]
async fn a_certificate_of_another_site_is_refused() {
    let console = Console::start().await;
    let other = Console::start().await;
    for name in ["administrator.pem", "administrator.key"] {
        std::fs::copy(other.path(name), console.path(name)).unwrap();
    }
    let run = console.run(&["get", "sites"]).await;
    assert_eq!(run.code, 4, "{run:?}");
    assert!(run.err.contains("CERTIFICATE_REFUSED"), "{run:?}");
}

#[tokio::test]
async fn a_site_server_of_another_authority_is_refused() {
    let console = Console::start().await;
    let other = Console::start().await;
    std::fs::copy(other.path("ca.pem"), console.path("ca.pem")).unwrap();
    let run = console.run(&["get", "sites"]).await;
    assert_eq!(run.code, 4, "{run:?}");
    assert!(run.err.contains("CERTIFICATE_REFUSED"), "{run:?}");
}

#[tokio::test]
async fn an_unknown_key_in_the_file_is_named() {
    let console = Console::start().await;
    std::fs::write(console.path("config.toml"), "curent = \"P01\"\n").unwrap();
    let run = console.run(&["get", "sites"]).await;
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.err.contains("curent") && run.err.contains("config.toml"),
        "{run:?}"
    );
}
