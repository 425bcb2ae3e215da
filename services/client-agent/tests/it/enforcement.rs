//! From a deployment to an installed update, and all the ways that can end.

use std::time::Duration;

use client_agent::{Agent, Mode, Options, Trigger};
use muster_domain::error_code;
use muster_domain::states::{
    DeploymentCompliance as Compliance, DeploymentEnforcement as Deployment,
    DeploymentEvaluation as Evaluation, Detection, UpdateEnforcement as Update,
};

use crate::world::{BASH, NEW, OLD, World, ZSH};

fn states(compliance: Compliance, enforcement: Deployment) -> [i32; 3] {
    let evaluation = Evaluation::Succeeded;
    [
        compliance.id().into(),
        enforcement.id().into(),
        evaluation.id().into(),
    ]
}

async fn ready(world: &World) -> Agent {
    let agent = world.agent();
    agent.poll_policy().await.unwrap();
    agent.scan(Trigger::Scheduled).await.unwrap();
    agent
}

async fn enforce(agent: &Agent) {
    agent.enforce(Mode::Due).await.unwrap();
    agent.send_reports().await.unwrap();
}

#[tokio::test]
async fn at_the_deadline_everything_is_installed_in_one_run_and_reported() {
    let world = World::new().await;
    let agent = ready(&world).await;
    enforce(&agent).await;
    assert_eq!(
        world.machine.runs(),
        [[format!("bash {NEW}"), format!("zsh {NEW}")]]
    );
    for update in [BASH, ZSH] {
        assert_eq!(
            world.site.update(world.deployment, update),
            (Update::SuccessfullyInstalled, 0)
        );
        assert_eq!(world.site.detection(update), Some(Detection::Installed));
    }
    assert_eq!(
        world.site.deployment(world.deployment),
        states(Compliance::Compliant, Deployment::SuccessfullyInstalled)
    );
    // Doing it again changes nothing.
    enforce(&agent).await;
    assert_eq!(world.machine.runs().len(), 1);
}

#[tokio::test]
async fn before_the_deadline_it_is_downloaded_and_waits() {
    let world = World::new().await;
    world.deploy(-10, Some(3_600));
    let agent = ready(&world).await;
    let done = agent.enforce(Mode::Due).await.unwrap();
    agent.send_reports().await.unwrap();
    assert!(done.wake_at.is_some(), "it wakes at the deadline");
    assert_eq!(
        world.site.update(world.deployment, BASH),
        (Update::Downloaded, 0)
    );
    assert_eq!(
        world.site.deployment(world.deployment),
        states(Compliance::NonCompliant, Deployment::Downloaded)
    );
    assert!(world.machine.runs().is_empty());

    world.machine.advance(Duration::from_secs(3_700));
    enforce(&agent).await;
    assert_eq!(
        world.site.update(world.deployment, BASH),
        (Update::SuccessfullyInstalled, 0)
    );
}

#[tokio::test]
async fn an_optional_deployment_waits_for_a_person() {
    let world = World::new().await;
    world.deploy(-10, None);
    let agent = ready(&world).await;
    enforce(&agent).await;
    assert!(world.machine.runs().is_empty());
    assert_eq!(
        world.site.deployment(world.deployment),
        states(Compliance::NonCompliant, Deployment::Unknown)
    );
    let done = agent.enforce(Mode::User).await.unwrap();
    assert_eq!(done.installed.len(), 2);
}

#[tokio::test]
async fn a_machine_that_may_not_install_only_says_what_is_so() {
    let world = World::new().await;
    let agent = world.agent_with(Options {
        read_only: true,
        ..Options::default()
    });
    agent.poll_policy().await.unwrap();
    agent.scan(Trigger::Scheduled).await.unwrap();
    agent.enforce(Mode::User).await.unwrap();
    agent.send_reports().await.unwrap();
    assert!(world.machine.runs().is_empty());
    assert_eq!(
        world.site.deployment(world.deployment),
        states(Compliance::NonCompliant, Deployment::Unknown)
    );

    let mut policy = world.policy(-10, Some(-5));
    policy.settings.as_mut().unwrap().installs_allowed = false;
    world.site.set_policy(world.client, policy);
    let agent = ready(&world).await;
    agent.enforce(Mode::User).await.unwrap();
    assert!(world.machine.runs().is_empty());
}

#[tokio::test]
async fn a_failed_download_fails_its_update_and_no_other_and_is_tried_again_later() {
    let world = World::new().await;
    world.machine.change(|script| {
        script.failing_downloads.insert("bash".into());
    });
    let agent = ready(&world).await;
    enforce(&agent).await;
    let failed = (Update::FailedToDownload, error_code::SIMULATED_FAILURE);
    assert_eq!(world.site.update(world.deployment, BASH), failed);
    assert_eq!(
        world.site.update(world.deployment, ZSH).0,
        Update::SuccessfullyInstalled
    );
    assert_eq!(
        world.site.deployment(world.deployment),
        states(Compliance::NonCompliant, Deployment::FailedToDownload)
    );

    world
        .machine
        .change(|script| script.failing_downloads.clear());
    enforce(&agent).await;
    assert_eq!(
        world.site.update(world.deployment, BASH),
        failed,
        "not before its time"
    );
    world.machine.advance(Duration::from_secs(3_600));
    enforce(&agent).await;
    assert_eq!(
        world.site.update(world.deployment, BASH),
        (Update::SuccessfullyInstalled, 0)
    );
}

#[tokio::test]
async fn a_failed_installation_fails_its_update_and_no_other() {
    let world = World::new().await;
    world.machine.change(|script| {
        script.failing_packages.insert("zsh".into());
    });
    let agent = ready(&world).await;
    enforce(&agent).await;
    assert_eq!(
        world.site.update(world.deployment, ZSH),
        (Update::FailedToInstall, error_code::SIMULATED_FAILURE)
    );
    assert_eq!(world.site.detection(ZSH), Some(Detection::Required));
    assert_eq!(
        world.site.update(world.deployment, BASH).0,
        Update::SuccessfullyInstalled
    );
    assert_eq!(
        world.site.deployment(world.deployment),
        states(Compliance::NonCompliant, Deployment::FailedToInstall)
    );
}

#[tokio::test]
async fn a_held_package_is_not_touched() {
    let world = World::new().await;
    world.machine.hold("bash");
    let agent = ready(&world).await;
    enforce(&agent).await;
    assert_eq!(
        world.site.update(world.deployment, BASH),
        (Update::FailedToInstall, error_code::PACKAGE_HELD)
    );
    assert_eq!(world.machine.version("bash").as_deref(), Some(OLD));
    assert_eq!(world.machine.version("zsh").as_deref(), Some(NEW));
}

#[tokio::test]
async fn an_update_that_waits_for_a_restart_stays_required_until_then() {
    let world = World::new().await;
    world.machine.change(|script| {
        script.restart_packages.insert("bash".into());
    });
    let agent = ready(&world).await;
    enforce(&agent).await;
    assert_eq!(
        world.site.update(world.deployment, BASH).0,
        Update::PendingRestart
    );
    assert_eq!(
        world.site.update(world.deployment, ZSH).0,
        Update::SuccessfullyInstalled
    );
    assert_eq!(
        world.site.detection(BASH),
        Some(Detection::Required),
        "semantics.md 2.3"
    );
    assert_eq!(
        world.site.deployment(world.deployment),
        states(Compliance::NonCompliant, Deployment::PendingRestart)
    );
    enforce(&agent).await;
    assert_eq!(world.machine.runs().len(), 1, "it is not installed again");

    world.machine.restart_now();
    agent.scan(Trigger::AfterRestart).await.unwrap();
    agent.send_reports().await.unwrap();
    assert_eq!(
        world.site.update(world.deployment, BASH).0,
        Update::SuccessfullyInstalled
    );
    assert_eq!(world.site.detection(BASH), Some(Detection::Installed));
    enforce(&agent).await;
    assert_eq!(
        world.site.deployment(world.deployment),
        states(Compliance::Compliant, Deployment::SuccessfullyInstalled)
    );
}

#[tokio::test]
async fn an_update_that_needs_a_run_of_its_own_gets_one() {
    let world = World::new().await;
    let mut policy = world.policy(-10, Some(-5));
    policy.updates[0].needs_exclusive_handling = true;
    world.site.set_policy(world.client, policy);
    enforce(&ready(&world).await).await;
    let runs = world.machine.runs();
    assert_eq!(runs, [[format!("zsh {NEW}")], [format!("bash {NEW}")]]);
}

#[tokio::test]
async fn what_somebody_else_installed_counts_as_installed() {
    let world = World::new().await;
    world.deploy(-10, Some(3_600));
    let agent = ready(&world).await;
    enforce(&agent).await;
    world.machine.set_version("bash", NEW);
    world.machine.set_version("zsh", NEW);
    enforce(&agent).await;
    assert_eq!(
        world.site.update(world.deployment, BASH),
        (Update::SuccessfullyInstalled, 0)
    );
    assert!(world.machine.runs().is_empty());
}

#[tokio::test]
async fn a_deployment_of_updates_younger_than_the_catalog_makes_the_client_ask_first() {
    let world = World::new().await;
    let agent = ready(&world).await;
    let mut policy = world.policy(-10, Some(-5));
    policy.updates[0].update_no = 40;
    policy.deployments[0].update_numbers = vec![40];
    world.site.set_policy(world.client, policy);
    let before = world.site.known().scans.len();
    agent.poll_policy().await.unwrap();
    enforce(&agent).await;
    enforce(&agent).await;
    assert_eq!(
        world.site.known().scans.len(),
        before + 1,
        "once, not each time"
    );
}

#[tokio::test]
async fn a_distribution_point_that_is_away_for_a_while_fails_nothing() {
    let world = World::new().await;
    world.machine.change(|script| script.content_away = true);
    let agent = ready(&world).await;
    let done = agent.enforce(Mode::Due).await.unwrap();
    agent.send_reports().await.unwrap();
    let waits = (Update::WaitingForContent, error_code::CONTENT_UNREACHABLE);
    assert_eq!(world.site.update(world.deployment, BASH), waits);
    assert_eq!(
        world.site.deployment(world.deployment),
        states(Compliance::NonCompliant, Deployment::Downloading)
    );
    let wait = done.wake_at.unwrap().duration_since(jiff::Timestamp::now());
    assert!(wait.as_secs() < 10, "{wait:?}");

    world.machine.change(|script| script.content_away = false);
    world.machine.advance(Duration::from_secs(10));
    enforce(&agent).await;
    assert_eq!(
        world.site.update(world.deployment, BASH),
        (Update::SuccessfullyInstalled, 0)
    );
}

#[tokio::test]
async fn a_distribution_point_that_stays_away_becomes_a_failure_that_ends_with_it() {
    let world = World::new().await;
    world.deploy(-10, Some(3_600));
    let agent = ready(&world).await;
    enforce(&agent).await;
    // Downloaded; at the deadline the vendor's index cannot be had.
    world.machine.change(|script| script.content_away = true);
    world.machine.advance(Duration::from_secs(3_700));
    enforce(&agent).await;
    let waits = (Update::WaitingForContent, error_code::CONTENT_UNREACHABLE);
    assert_eq!(world.site.update(world.deployment, ZSH), waits);
    for _ in 0..11 {
        world.machine.advance(Duration::from_secs(72));
        enforce(&agent).await;
    }
    let failed = (Update::FailedToInstall, error_code::CONTENT_UNREACHABLE);
    assert_eq!(world.site.update(world.deployment, ZSH), failed);

    world.machine.change(|script| script.content_away = false);
    world.machine.advance(Duration::from_secs(400));
    enforce(&agent).await;
    assert_eq!(
        world.site.update(world.deployment, ZSH),
        (Update::SuccessfullyInstalled, 0)
    );
}

#[tokio::test]
async fn updates_that_no_scan_could_ask_about_do_not_look_installed() {
    let world = World::new().await;
    let agent = ready(&world).await;
    enforce(&agent).await;
    let done = states(Compliance::Compliant, Deployment::SuccessfullyInstalled);
    assert_eq!(world.site.deployment(world.deployment), done);

    // The deployment grows by an update that only a newer catalog knows, and its source is away.
    let mut policy = world.policy(-10, Some(-5));
    policy.updates[1].update_no = 40;
    policy.deployments[0].update_numbers = vec![BASH, 40];
    world.site.set_policy(world.client, policy);
    agent.poll_policy().await.unwrap();
    world.site.known().scans_fail = true;
    for _ in 0..2 {
        enforce(&agent).await;
        assert_eq!(
            world.site.deployment(world.deployment),
            [
                i32::from(Compliance::Unknown.id()),
                i32::from(Deployment::Unknown.id()),
                i32::from(Evaluation::Failed.id()),
            ]
        );
    }

    world.site.known().scans_fail = false;
    enforce(&agent).await;
    assert_eq!(world.site.deployment(world.deployment), done);
}
