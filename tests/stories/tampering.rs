//! Somebody changes content on the distribution point.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use hierarchy_tests::Stage;
use muster_local::agents::{Agent, Rights};

#[test]
fn an_altered_package_on_the_distribution_point_is_not_installed() -> Result<()> {
    let mut stage = Stage::set("tampering")?;
    let root = stage.debian_root()?;
    let before = root.packages()?;
    stage.admin.ask(&["create", "collection", "Roots"])?;
    let mut agent = Agent::enrol(
        stage.site(),
        "root",
        Some(root.folder()),
        Rights::Install,
        Some("Roots"),
    )?;
    agent.start(stage.site())?;
    stage.await_scans(1)?;
    agent.stop()?;
    stage.deploy_security("June", "Roots")?;
    let content = stage
        .site()
        .state()
        .root()
        .join("data/distribution-point/content");
    let files = files(&content)?;
    assert!(!files.is_empty(), "no content in {}", content.display());
    for file in files {
        alter(&file)?;
    }
    agent.start(stage.site())?;
    let end = stage.admin.until(
        "the end of the deployment",
        Duration::from_secs(180),
        || {
            let now = stage.admin.deployment("June")?;
            Ok((now.failed > 0 || now.compliant > 0).then_some(now))
        },
    );
    let end = end.with_context(|| format!("the agent said last:\n{}", agent.log()))?;
    assert_eq!((end.compliant, end.failed), (0, 1), "{}", agent.log());
    agent.stop()?;
    assert_eq!(root.packages()?, before, "something was installed");
    let errors = stage
        .admin
        .ask(&["report", "errors", "--deployment", "June"])?
        .to_string();
    assert!(
        errors.contains("what the policy names"),
        "the error names no check: {errors}"
    );
    root.remove()?;
    stage.end()
}

/// Turns one byte in the middle, and keeps the size.
fn alter(file: &Path) -> Result<()> {
    let mut bytes = fs::read(file)?;
    let middle = bytes.len() / 2;
    let byte = bytes.get_mut(middle).context("an empty file")?;
    *byte ^= 0x55;
    Ok(fs::write(file, bytes)?)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}
