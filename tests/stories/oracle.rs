//! The agent's answer and apt's, package by package.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use hierarchy_tests::Stage;
use muster_local::agents::{Agent, Rights};
use muster_local::debian_root::upgradable;
use serde_json::Value;

/// (package, architecture) → (installed, candidate)
type Packages = BTreeMap<(String, String), (String, String)>;

#[test]
fn the_agent_requires_exactly_the_packages_that_apt_calls_upgradable() -> Result<()> {
    let mut stage = Stage::set("oracle")?;
    let root = stage.debian_root()?;
    let scratch = stage.folder().join("apt");

    let guest = Agent::enrol(
        stage.site(),
        "guest",
        Some(root.folder()),
        Rights::ReadOnly,
        None,
    )?;
    let truth = apt(root.upgradable(&scratch)?);
    assert!(
        !truth.is_empty(),
        "the root has nothing to upgrade: this would prove nothing"
    );
    let (required, explained) = agent(&guest)?;
    assert_eq!(required, truth, "a fresh root; explained: {explained:?}");

    // A hold does not change what apt calls upgradable, but the agent says why it will not install it.
    let (held, _) = truth.keys().next().context("at least one")?.clone();
    run(Command::new("chroot")
        .arg(root.folder())
        .args(["apt-mark", "hold", &held]))?;
    let truth = apt(root.upgradable(&scratch)?);
    let (required, explained) = agent(&guest)?;
    assert_eq!(
        required, truth,
        "with {held} on hold; explained: {explained:?}"
    );
    assert!(
        explains(&explained, &held, "held"),
        "no word of the hold of {held}: {explained:?}"
    );

    // A pin takes the package out of both answers.
    let (pinned, _) = truth.keys().last().context("at least one")?.clone();
    let installed = &truth[&(
        pinned.clone(),
        truth.keys().last().context("one")?.1.clone(),
    )]
        .0;
    fs::write(
        root.folder().join("etc/apt/preferences.d/story"),
        format!("Package: {pinned}\nPin: version {installed}\nPin-Priority: 1001\n"),
    )?;
    let truth = apt(root.upgradable(&scratch)?);
    assert!(
        !truth.keys().any(|(name, _)| *name == pinned),
        "apt ignores the pin of {pinned}"
    );
    let (required, explained) = agent(&guest)?;
    assert_eq!(
        required, truth,
        "with {pinned} pinned; explained: {explained:?}"
    );
    assert!(
        explains(&explained, &pinned, "pin"),
        "no word of the pin of {pinned}: {explained:?}"
    );

    // And this machine, as it is.
    let host = Agent::enrol(stage.site(), "host", None, Rights::ReadOnly, None)?;
    let truth = apt(upgradable(None, &scratch)?);
    let (required, explained) = agent(&host)?;
    assert_eq!(required, truth, "this machine; explained: {explained:?}");
    root.remove()?;
    stage.end()
}

fn apt(found: Vec<muster_local::debian_root::Upgradable>) -> Packages {
    found
        .into_iter()
        .map(|it| ((it.package, it.architecture), (it.installed, it.candidate)))
        .collect()
}

/// Scans and asks the agent; an update that newer ones replace must not lower a candidate.
fn agent(agent: &Agent) -> Result<(Packages, Vec<Value>)> {
    agent.command(&["scan", "--forced"])?;
    let answer: Value = serde_json::from_str(&agent.command(&["evaluate", "--json"])?)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut packages = Packages::new();
    for update in answer["required"]
        .as_array()
        .context("no list of required updates")?
    {
        for package in update["packages"]
            .as_array()
            .context("an update without packages")?
        {
            packages.insert(
                (text(&package["name"]), text(&package["arch"])),
                (text(&package["installed"]), text(&package["candidate"])),
            );
        }
    }
    let explained = answer["explained"].as_array().cloned().unwrap_or_default();
    Ok((packages, explained))
}

/// Whether a line of the explanations names the package and the reason.
fn explains(explained: &[Value], package: &str, reason: &str) -> bool {
    explained.iter().any(|line| {
        let line = line.to_string();
        line.contains(package) && line.contains(reason)
    })
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
