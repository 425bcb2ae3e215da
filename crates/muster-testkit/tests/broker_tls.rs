//! The broker of a site: mutual TLS 1.3 with certificates of the site, and nothing else.
#![allow(missing_docs)]

use std::time::Duration;

use muster_local::packages::{self, Install};
use muster_local::rabbit::{Listener, Management, User};
use muster_local::{Interrupt, Rabbit, State, state};
use muster_rabbitmq::{Config, topology};
use muster_runtime::tls::Role;
use muster_testkit::TestCa;

#[tokio::test]
async fn a_broker_of_a_site_takes_only_clients_with_a_certificate_of_the_site_and_their_rights() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, other) = (TestCa::new(), TestCa::of_site("P01"));
    let files = ca.issue(Role::MessageBroker, "broker");
    let root = folder.path().join("state");
    let state = State::open(&root, Interrupt::default()).unwrap();
    let programs = packages::ensure(Install::No, &|_| ()).unwrap();
    let listener = Listener::Tls {
        ca: files.ca,
        cert: files.cert,
        key: files.key,
    };
    let broker = Rabbit::start(&state, &programs, &listener, Management::Off).unwrap();
    let right = |name: &str, rights: &str| User {
        name: name.to_owned(),
        configure: rights.to_owned(),
        write: rights.to_owned(),
        read: rights.to_owned(),
    };
    let users = [
        right("site-server", "^site\\.P01\\."),
        right("management-point", "^$"),
    ];
    broker.define("P01", &users).unwrap();

    let config = |user: &str, ca: &TestCa, role| Config {
        tls: Some(ca.issue(role, user)),
        ..Config::new(
            format!("amqps://127.0.0.1:{}/P01", broker.amqp_port()),
            user,
            broker.password_file(user),
        )
    };
    let own = config("site-server", &ca, Role::SiteServer);
    topology::declare_states(&own, "P01", 2).await.unwrap();
    topology::declare_states(&own, "P02", 2).await.unwrap_err();
    let modest = config("management-point", &ca, Role::ManagementPoint);
    topology::declare_states(&modest, "P01", 2)
        .await
        .unwrap_err();
    // The same names, signed by somebody else: our side refuses the broker, and the broker us.
    let stranger = config("site-server", &other, Role::SiteServer);
    topology::declare_states(&stranger, "P01", 2)
        .await
        .unwrap_err();
    let mut half = config("site-server", &other, Role::SiteServer);
    if let (Some(tls), Some(trusted)) = (&mut half.tls, &own.tls) {
        tls.ca.clone_from(&trusted.ca);
    }
    topology::declare_states(&half, "P01", 2).await.unwrap_err();

    drop(broker);
    state::remove(&root, Duration::ZERO).unwrap();
}
