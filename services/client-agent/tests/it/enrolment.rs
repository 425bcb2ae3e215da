//! Becoming a client.

use client_agent::enrol::enrol;
use client_agent::provider::Provider;
use client_agent::{Agent, Error, Options};
use std::sync::Arc;

use crate::site::Site;
use crate::world::{World, enrolment, machine};

#[tokio::test]
async fn an_unknown_token_is_refused_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::start(dir.path()).await;
    let state = dir.path().join("client");
    let error = enrol(&state, &machine().machine(), &enrolment(&site))
        .await
        .unwrap_err();
    assert_eq!(error.reason().as_deref(), Some("TOKEN_REFUSED"));
    let open = Agent::open(&state, Arc::new(machine()), Options::default());
    assert!(matches!(open, Err(Error::NotEnrolled)));
    site.stop().await;
}

#[tokio::test]
async fn an_enrolment_whose_answer_was_lost_is_repeated_with_the_same_key() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::start(dir.path()).await;
    site.known().tokens.insert("token".into(), None);
    let state = dir.path().join("client");
    let first = enrol(&state, &machine().machine(), &enrolment(&site))
        .await
        .unwrap();
    let key = std::fs::read(state.join("certs/client.key")).unwrap();
    // Killed before the certificate was saved.
    std::fs::remove_file(state.join("certs/client.pem")).unwrap();
    let second = enrol(&state, &machine().machine(), &enrolment(&site))
        .await
        .unwrap();
    assert_eq!(first, second);
    assert_eq!(std::fs::read(state.join("certs/client.key")).unwrap(), key);
    let again = enrol(&state, &machine().machine(), &enrolment(&site)).await;
    assert!(matches!(again, Err(Error::AlreadyEnrolled(client)) if client == first));
    site.stop().await;
}

#[tokio::test]
async fn the_key_and_the_state_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new().await;
    let mode = |path: &str| {
        let path = world.dir.path().join("client").join(path);
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    let _agent = world.agent();
    assert_eq!(
        (mode(""), mode("cache"), mode("certs")),
        (0o700, 0o700, 0o700)
    );
    assert_eq!(mode("certs/client.key"), 0o600);
}

#[tokio::test]
async fn a_new_registration_has_a_higher_epoch_and_reports_in_full() {
    let world = World::new().await;
    let agent = world.agent();
    agent.poll_policy().await.unwrap();
    agent.scan(client_agent::Trigger::User).await.unwrap();
    agent.send_reports().await.unwrap();
    agent.register().await.unwrap();
    agent.send_reports().await.unwrap();
    let reports = world.site.known().reports.clone();
    let seen: Vec<_> = reports.iter().map(|r| (r.epoch, r.kind)).collect();
    assert_eq!(seen, [(1, 1), (2, 1)], "both are full");
}
