//! Which states are sent, in which order, and when.

use client_agent::{Agent, Mode, Trigger};
use muster_domain::states::{Detection, UpdateEnforcement as Update};
use muster_proto::policy::Verbosity;
use muster_proto::state::{Priority, ReportKind};

use crate::world::{BASH, World, ZSH};

fn deploy(world: &World, verbosity: Verbosity, deadline: Option<i64>) {
    let mut policy = world.policy(-10, deadline);
    policy.deployments[0].verbosity = verbosity.into();
    world.site.set_policy(world.client, policy);
}

/// An agent that has told the site everything there was before it enforces.
async fn ready(world: &World) -> Agent {
    let agent = world.agent();
    agent.poll_policy().await.unwrap();
    agent.scan(Trigger::Scheduled).await.unwrap();
    agent.send_reports().await.unwrap();
    agent
}

fn last_priority(world: &World) -> Priority {
    world.site.known().reports.last().unwrap().priority()
}

#[tokio::test]
async fn a_report_is_as_urgent_as_the_most_urgent_state_in_it() {
    let world = World::new().await;
    deploy(&world, Verbosity::All, None);
    let agent = ready(&world).await;
    assert_eq!(last_priority(&world), Priority::Normal, "a full report");
    agent.enforce(Mode::User).await.unwrap();
    agent.send_reports().await.unwrap();
    assert_eq!(last_priority(&world), Priority::Normal, "it is optional");

    let world = World::new().await;
    let agent = ready(&world).await;
    agent.enforce(Mode::Due).await.unwrap();
    agent.send_reports().await.unwrap();
    assert_eq!(
        last_priority(&world),
        Priority::High,
        "the deadline is over"
    );

    let world = World::new().await;
    world.machine.change(|script| {
        script.failing_packages.insert("zsh".into());
    });
    let agent = ready(&world).await;
    agent.enforce(Mode::Due).await.unwrap();
    agent.send_reports().await.unwrap();
    let known = world.site.known();
    let urgent = known.reports.last().unwrap();
    assert_eq!(urgent.kind(), ReportKind::Delta);
    assert_eq!(urgent.priority(), Priority::UrgentUnspecified);
}

#[tokio::test]
async fn error_only_tells_failures_and_ends_and_loses_pending_restarts() {
    let world = World::new().await;
    world.machine.change(|script| {
        script.restart_packages.insert("bash".into());
        script.failing_packages.insert("zsh".into());
    });
    deploy(&world, Verbosity::Errors, Some(-5));
    let agent = ready(&world).await;
    agent.enforce(Mode::Due).await.unwrap();
    agent.send_reports().await.unwrap();
    let held = |update| {
        let known = world.site.known();
        known.held.updates.contains_key(&(world.deployment, update))
    };
    assert!(!held(BASH), "it waits for a restart");
    assert_eq!(
        world.site.update(world.deployment, ZSH).0,
        Update::FailedToInstall
    );
    assert_eq!(world.site.detection(BASH), Some(Detection::Required));

    // A site that wants to know more gets what was kept back.
    deploy(&world, Verbosity::All, Some(-5));
    agent.poll_policy().await.unwrap();
    agent.send_reports().await.unwrap();
    assert_eq!(
        world.site.update(world.deployment, BASH).0,
        Update::PendingRestart
    );

    deploy(&world, Verbosity::Errors, Some(-5));
    agent.poll_policy().await.unwrap();
    world.machine.restart_now();
    agent.scan(Trigger::AfterRestart).await.unwrap();
    agent.send_reports().await.unwrap();
    assert_eq!(
        world.site.update(world.deployment, BASH).0,
        Update::SuccessfullyInstalled,
        "the end is told"
    );
}

#[tokio::test]
async fn a_deployment_without_verbosity_is_enforced_and_says_nothing() {
    let world = World::new().await;
    deploy(&world, Verbosity::NoneUnspecified, Some(-5));
    let agent = ready(&world).await;
    agent.enforce(Mode::Due).await.unwrap();
    agent.send_reports().await.unwrap();
    let known = world.site.known();
    assert!(known.held.updates.is_empty() && known.held.deployments.is_empty());
    drop(known);
    assert_eq!(world.site.detection(BASH), Some(Detection::Installed));
}
