//! The commands, and what they print. People read stdout; `--json` is for programs.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use client_agent::enrol::{Enrolment, enrol};
use client_agent::evaluate::Evaluation;
use client_agent::provider::Provider;
use client_agent::provider::dpkg::DpkgRoot;
use client_agent::{Agent, AgentFile, Error, Mode, Options, Trigger, daemon};
use muster_domain::states::{DeploymentCompliance, DeploymentEnforcement, Detection};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::Command;

/// `muster-agent enrol`.
#[derive(Debug, clap::Args)]
pub(crate) struct EnrolArguments {
    /// Address of a management point, such as `https://site.example:8443`.
    #[arg(long, value_name = "URL")]
    management_point: String,
    /// The site's certificate authority, a PEM file.
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// The one-use token. Prefer --token-file: arguments can be seen by others.
    #[arg(
        long,
        env = "MUSTER_TOKEN",
        hide_env_values = true,
        conflicts_with = "token_file"
    )]
    token: Option<String>,
    /// A file with the one-use token.
    #[arg(long, value_name = "FILE", required_unless_present = "token")]
    token_file: Option<PathBuf>,
    /// Manage the Debian in this folder instead of this machine.
    #[arg(long, default_value = "/", value_name = "DIR")]
    root: PathBuf,
    /// Scan and report, never install.
    #[arg(long)]
    read_only: bool,
    /// The name to report instead of the machine's own.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Some updates failed: exit code 6.
#[derive(Debug, thiserror::Error)]
#[error("{0} of {1} updates failed")]
struct PartialFailure(usize, usize);

/// Runs a command to its end.
pub(crate) async fn dispatch(state: &Path, command: Command) -> Result<()> {
    match command {
        Command::Enrol(arguments) => enrol_machine(state, arguments).await,
        Command::Run => run(&open(state)?).await,
        Command::Scan { forced } => scan(&open(state)?, forced).await,
        Command::Evaluate { json } => evaluate(&open(state)?, json).await,
        Command::Install => install(&open(state)?).await,
        Command::Status { json } => status(&open(state)?, json),
        Command::Send => send(&open(state)?).await,
    }
}

fn open(state: &Path) -> Result<Agent> {
    let file = match AgentFile::load(state) {
        Ok(file) => file,
        Err(muster_runtime::config::Error::Read { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            return Err(Error::NotEnrolled.into());
        }
        Err(error) => return Err(error.into()),
    };
    if file.provider != "dpkg" {
        bail!(
            "agent.toml names the provider {:?}, known is \"dpkg\"",
            file.provider
        );
    }
    let provider = Arc::new(DpkgRoot::new(&file.root, file.host_name));
    let options = Options {
        read_only: file.read_only,
        ..Options::default()
    };
    Ok(Agent::open(state, provider, options)?)
}

async fn enrol_machine(state: &Path, arguments: EnrolArguments) -> Result<()> {
    let token = match (&arguments.token, &arguments.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(file)) => muster_runtime::config::read_secret(file)?,
        (None, None) => bail!("a token is needed"),
    };
    let root = arguments
        .root
        .canonicalize()
        .with_context(|| format!("cannot use root {}", arguments.root.display()))?;
    let provider = DpkgRoot::new(&root, arguments.name.clone());
    let machine = provider.machine();
    if let Err(why) = &machine.packages {
        bail!("{} has no readable dpkg database: {why}", root.display());
    }
    let with = Enrolment {
        management_point: arguments.management_point,
        ca: arguments.ca,
        token,
    };
    let file = AgentFile {
        provider: "dpkg".into(),
        root,
        read_only: arguments.read_only,
        host_name: arguments.name,
    };
    let client_id = enrol(state, &machine, &with).await?;
    file.save(state)?;
    say(&format!(
        "enrolled as client {client_id} ({})",
        machine.host_name
    ))
}

async fn run(agent: &Agent) -> Result<()> {
    let token = CancellationToken::new();
    let stop = async {
        muster_runtime::shutdown_signal().await;
        token.cancel();
        // The loop ends at its next step; only the drop guard of this future waits for it.
        std::future::pending::<()>().await;
    };
    tracing::info!(client.id = %agent.registration()?.client_id, "the agent runs");
    tokio::select! {
        ended = daemon::run(agent, token.clone()) => Ok(ended?),
        () = stop => Ok(()),
    }
}

async fn scan(agent: &Agent, forced: bool) -> Result<()> {
    refresh_policy(agent).await;
    let trigger = if forced {
        Trigger::User
    } else {
        Trigger::Reevaluation
    };
    let scanned = agent.scan(trigger).await?;
    let from = if scanned.online {
        "asked"
    } else {
        "fresh enough"
    };
    let of = |detection| count(&scanned.evaluation, detection);
    say(&format!(
        "generation {} (software update point {from}): {} required, {} installed, {} unknown",
        scanned.evaluation.generation,
        of(Detection::Required),
        of(Detection::Installed),
        of(Detection::Unknown),
    ))
}

fn count(evaluation: &Evaluation, detection: Detection) -> usize {
    evaluation
        .updates
        .iter()
        .filter(|found| found.detection == detection)
        .count()
}

async fn evaluate(agent: &Agent, json: bool) -> Result<()> {
    let evaluation = agent.evaluate().await?;
    let required = evaluation
        .updates
        .iter()
        .filter(|u| u.detection == Detection::Required);
    if json {
        let required: Vec<_> = required
            .map(|update| {
                let upgradable = update.needs.iter().filter(|need| need.is_upgradable());
                let packages: Vec<_> = upgradable
                    .map(|need| {
                        json!({
                            "name": need.name,
                            "arch": need.architecture,
                            "installed": need.installed,
                            "candidate": need.candidate,
                        })
                    })
                    .collect();
                json!({
                    "update_no": update.update_no.0,
                    "update_id": update.update_id,
                    "packages": packages,
                })
            })
            .collect();
        let explained: Vec<_> = evaluation
            .explained
            .iter()
            .map(|one| {
                json!({
                    "update_no": one.update_no.0,
                    "name": one.name,
                    "arch": one.architecture,
                    "installed": one.installed,
                    "version": one.version,
                    "reason": one.reason,
                })
            })
            .collect();
        let found = json!({
            "generation": evaluation.generation,
            "required": required,
            "explained": explained,
        });
        return say(&found.to_string());
    }
    let mut lines = Vec::new();
    for update in required {
        lines.push(format!("{}  {}", update.update_no, update.update_id));
        for need in &update.needs {
            lines.push(format!(
                "    {}:{}  {} → {}",
                need.name, need.architecture, need.installed, need.candidate
            ));
        }
    }
    lines.push(format!(
        "{} updates required",
        count(&evaluation, Detection::Required)
    ));
    for one in &evaluation.explained {
        lines.push(format!(
            "{}:{} {} is not updated to {}: {}",
            one.name, one.architecture, one.installed, one.version, one.reason
        ));
    }
    say(&lines.join("\n"))
}

async fn install(agent: &Agent) -> Result<()> {
    refresh_policy(agent).await;
    let done = agent.enforce(Mode::User).await?;
    for update in &done.installed {
        say(&format!("{update}: installed"))?;
    }
    for (update, failure) in &done.failed {
        say(&format!("{update}: {failure}"))?;
    }
    report(agent).await;
    let all = done.installed.len() + done.failed.len();
    if !done.failed.is_empty() {
        return Err(PartialFailure(done.failed.len(), all).into());
    }
    say(&format!("{all} updates installed"))
}

async fn send(agent: &Agent) -> Result<()> {
    refresh_policy(agent).await;
    let sent = agent.send_reports().await?;
    say(&format!("{} reports acknowledged", sent.reports))
}

/// A command works with the policy at hand when the site does not answer.
async fn refresh_policy(agent: &Agent) {
    if let Err(error) = agent.poll_policy().await {
        tracing::warn!(%error, "working with the policy at hand");
    }
}

async fn report(agent: &Agent) {
    if let Err(error) = agent.send_reports().await {
        tracing::warn!(%error, "reports stay in the spool");
    }
}

fn status(agent: &Agent, json: bool) -> Result<()> {
    let status = agent.status()?;
    if json {
        let deployments: BTreeMap<String, serde_json::Value> = status
            .deployments
            .iter()
            .map(|d| {
                let value = json!({
                    "name": d.name,
                    "compliance": state_text(d.compliance, DeploymentCompliance::from_id),
                    "enforcement": state_text(d.enforcement, DeploymentEnforcement::from_id),
                    "error_code": d.error_code,
                    "detail": d.detail,
                });
                (d.deployment_id.to_string(), value)
            })
            .collect();
        let status = json!({
            "client_id": status.client_id.to_string(),
            "site_code": status.site_code,
            "epoch": status.epoch,
            "last_serial": status.last_serial,
            "acked_serial": status.acked_serial,
            "policy_revision": status.policy_revision,
            "catalog_generation": status.catalog_generation,
            "last_scan_at": status.last_scan_at.map(|at| at.to_string()),
            "required": status.required,
            "restart_pending": status.restart_pending,
            "deployments": deployments,
        });
        return say(&status.to_string());
    }
    let at = status
        .last_scan_at
        .map_or_else(|| "never".to_owned(), |at| at.to_string());
    let waiting = status.last_serial.saturating_sub(status.acked_serial);
    let mut lines = vec![
        format!("client      {}", status.client_id),
        format!("site        {} (epoch {})", status.site_code, status.epoch),
        format!(
            "states      {} sent, {waiting} not yet acknowledged",
            status.acked_serial
        ),
        format!("policy      revision {}", status.policy_revision),
        format!("catalog     generation {}", status.catalog_generation),
        format!("last scan   {at}"),
        format!("required    {}", status.required),
        format!(
            "restart     {}",
            if status.restart_pending {
                "pending"
            } else {
                "no"
            }
        ),
    ];
    for d in &status.deployments {
        let enforcement = state_text(d.enforcement, DeploymentEnforcement::from_id);
        let compliance = state_text(d.compliance, DeploymentCompliance::from_id);
        lines.push(format!(
            "deployment  {}: {compliance}, {enforcement} {}",
            d.name, d.detail
        ));
    }
    say(&lines.join("\n"))
}

fn state_text<T: std::fmt::Display>(id: u8, parse: impl Fn(u8) -> Option<T>) -> String {
    parse(id).map_or_else(|| id.to_string(), |state| state.to_string())
}

fn say(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}")?;
    Ok(())
}

/// Prints an error and gives its exit code.
pub(crate) fn exit_code(result: Result<()>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    // Someone who reads no further than `head -1` is no error.
    let broken = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    if error.downcast_ref::<std::io::Error>().is_some_and(broken) {
        return ExitCode::SUCCESS;
    }
    let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
    if error.is::<PartialFailure>() {
        return ExitCode::from(6);
    }
    let Some(error) = error.downcast_ref::<Error>() else {
        return ExitCode::FAILURE;
    };
    if matches!(error, Error::AlreadyEnrolled(_) | Error::Busy) {
        return ExitCode::from(5);
    }
    if matches!(error, Error::NotEnrolled) {
        return ExitCode::from(3);
    }
    ExitCode::from(match error.code() {
        Some(Code::PermissionDenied | Code::Unauthenticated) => 4,
        Some(Code::NotFound) => 3,
        Some(Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted) => 5,
        Some(Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted) => 7,
        _ => 1,
    })
}
