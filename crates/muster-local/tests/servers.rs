//! The two servers for real: started, asked, killed, started again, removed.
#![allow(missing_docs)]

use std::time::Duration;

use muster_local::packages::{self, Install};
use muster_local::postgres::Durability;
use muster_local::rabbit::{Listener, Management, User};
use muster_local::{Interrupt, Postgres, Rabbit, State, state};

#[test]
fn postgres_comes_back_after_kill_9_with_everything_that_was_committed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("state");
    let state = State::open(&root, Interrupt::default()).unwrap();
    let programs = packages::ensure(Install::No, &|_| ()).unwrap();
    let mut server = Postgres::start(&state, &programs, Durability::On).unwrap();
    for _ in 0..2 {
        server.create_database("one").unwrap();
        server.create_schema("one", "part", "part_owner").unwrap();
    }
    let database = server.create_schema("one", "part", "part_owner").unwrap();
    assert!(database.socket_dir.join(".s.PGSQL.5432").exists());
    server
        .psql(
            "one",
            "CREATE TABLE t AS SELECT generate_series(1, 1000) n;",
            &[],
        )
        .unwrap();
    server.kill_9().unwrap();
    server.restart().unwrap();
    assert_eq!(
        server
            .psql("one", "SELECT count(*) FROM t;", &[])
            .unwrap()
            .trim(),
        "1000"
    );
    assert!(
        server
            .psql("one", "SELECT 1/0;", &[])
            .unwrap_err()
            .to_string()
            .contains("zero")
    );
    assert!(server.create_database("one; DROP").is_err());
    server.stop().unwrap();
    assert!(state.processes().is_empty());
    drop(server);
    let again = Postgres::start(&state, &programs, Durability::On).unwrap();
    assert_eq!(
        again
            .psql("one", "SELECT count(*) FROM t;", &[])
            .unwrap()
            .trim(),
        "1000"
    );
    drop(again);
    state::remove(&root, Duration::ZERO).unwrap();
    assert!(!root.exists());
}

#[test]
fn rabbitmq_comes_back_after_kill_9_and_leaves_nothing_running() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("state");
    let state = State::open(&root, Interrupt::default()).unwrap();
    let programs = packages::ensure(Install::No, &|_| ()).unwrap();
    let mut broker = Rabbit::start(&state, &programs, &Listener::Plain, Management::Off).unwrap();
    let user = User {
        name: "reader".to_owned(),
        configure: String::new(),
        write: String::new(),
        read: "^state".to_owned(),
    };
    broker.define("p01", &[user]).unwrap();
    broker.kill_9().unwrap();
    broker.restart().unwrap();
    let users = broker.ctl(&["list_users".as_ref()]).unwrap();
    assert!(
        users.contains("reader") && !users.contains("guest"),
        "{users}"
    );
    let vhosts = broker.ctl(&["list_vhosts".as_ref()]).unwrap();
    assert!(vhosts.contains("p01"), "{vhosts}");
    broker.stop().unwrap();
    assert!(state.processes().is_empty());
    drop(broker);
    state::remove(&root, Duration::ZERO).unwrap();
}
