//! The real agent over a pretend machine that changes all the time, for the failpoints of the
//! agent. It is killed; so what it should have reported is found out afterwards, from the machine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use client_agent::enrol::{Enrolment, enrol};
use client_agent::provider::Provider;
use client_agent::provider::simulated::{Script, Simulated};
use client_agent::{Agent, Options, Trigger, tls_files};

use super::catalog::{NEW, OLD, package};

/// What one agent is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Life {
    /// The agent's own folder.
    #[arg(long)]
    pub state: std::path::PathBuf,
    /// Address of a management point.
    #[arg(long)]
    pub management_point: String,
    /// The site's certificate authority.
    #[arg(long)]
    pub ca: std::path::PathBuf,
    /// A one-use token, for the first start.
    #[arg(long)]
    pub token: String,
    /// Updates in the catalog: the machine has a package for each.
    #[arg(long)]
    pub updates: u32,
    /// Change nothing more: scan, report everything, print what the machine has, and end.
    #[arg(long)]
    pub finish: bool,
}

/// Makes the machine a client, when it is none yet. Nothing goes wrong in this part.
///
/// # Errors
/// When the site refuses it.
pub async fn prepare(life: &Life) -> Result<()> {
    if tls_files(&life.state).cert.exists() {
        return Ok(());
    }
    let with = Enrolment {
        management_point: life.management_point.clone(),
        ca: life.ca.clone(),
        token: life.token.clone(),
    };
    enrol(&life.state, &machine(life, &[])?.machine(), &with).await?;
    Ok(())
}

/// What the machine has: a file of its own, as the system has, which is written before the agent
/// can see it.
fn machine(life: &Life, newer: &[u32]) -> Result<Simulated> {
    let packages = (1..=life.updates).map(|update_no| {
        let version = if newer.contains(&update_no) { NEW } else { OLD };
        (package(update_no), version.to_owned())
    });
    let script = Script {
        host_name: "broken".to_owned(),
        ..Script::default()
    };
    Ok(Simulated::new(script, packages))
}

fn read_newer(file: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|it| it.parse().ok())
        .collect()
}

fn write_newer(file: &Path, newer: &[u32]) -> Result<()> {
    let text: Vec<String> = newer.iter().map(u32::to_string).collect();
    let next = file.with_extension("next");
    std::fs::write(&next, text.join(" "))?;
    std::fs::rename(next, file).context("cannot keep the machine")
}

/// Lives until a failpoint ends it; or finishes, and answers which updates are installed.
///
/// # Errors
/// When the agent cannot be opened, or cannot finish.
pub async fn live(life: &Life) -> Result<String> {
    let file = life.state.join("machine");
    let mut newer = read_newer(&file);
    let simulated = Arc::new(machine(life, &newer)?);
    let provider: Arc<dyn Provider> = Arc::clone(&simulated) as _;
    let agent = Agent::open(&life.state, provider, Options::default())?;
    if life.finish {
        agent.poll_policy().await?;
        agent.scan(Trigger::User).await?;
        agent.send_reports().await?;
        newer.sort_unstable();
        let text: Vec<String> = newer.iter().map(u32::to_string).collect();
        let registration = agent.store().registration()?.context("it is no client")?;
        return Ok(format!(
            "client: {}\ninstalled: {}",
            registration.client_id,
            text.join(",")
        ));
    }
    loop {
        let update_no = rand::random_range(1..=life.updates);
        let before = newer.len();
        newer.retain(|it| *it != update_no);
        let installed = newer.len() == before;
        if installed {
            newer.push(update_no);
        }
        write_newer(&file, &newer)?;
        simulated.set_version(&package(update_no), if installed { NEW } else { OLD });
        // A site that is away is the usual thing here; the next round tries again.
        let _ = agent.poll_policy().await;
        let _ = agent.scan(Trigger::User).await;
        let _ = agent.send_reports().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
