//! Installing through apt, in one run: wait for others, repair, refresh the vendor's index from the distribution
//! point, simulate and compare, verify the files once more, install.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use muster_domain::{UpdateNo, error_code};
use tokio::process::Command;

use super::simulate::{Fetch, OPTIONS, arguments, simulate};
use super::{DpkgRoot, config, is_locked, last_lines, trust};
use crate::Failure;
use crate::download::{Content, copy_verified, private_dir};
use crate::provider::{Approved, Job, Outcome};

/// How many logs of the package manager are kept.
const LOGS: usize = 20;

/// Does a job. What is so afterwards, a scan says.
pub(super) async fn install(root: &DpkgRoot, job: &Job, content: &Content) -> Outcome {
    match try_install(root, job, content).await {
        Ok(outcome) => outcome,
        Err(failure) => {
            tracing::error!(%failure, "nothing was installed");
            Outcome::all_failed(job, &failure)
        }
    }
}

pub(super) async fn try_install(
    root: &DpkgRoot,
    job: &Job,
    content: &Content,
) -> Result<Outcome, Failure> {
    let before = root.repair().await?;
    let mut outcome = in_order(root, job, content).await?;
    if before.is_empty() {
        return Ok(outcome);
    }
    // A package that was cut off in the middle is repaired by installing it again, which this
    // job may just have done.
    let after = root.audit().await?;
    if !after.is_empty() {
        let failure = Failure::new(error_code::PACKAGE_DATABASE_BROKEN, after);
        for update in job.updates.keys() {
            outcome.failed.insert(*update, failure.clone());
        }
    }
    Ok(outcome)
}

async fn in_order(root: &DpkgRoot, job: &Job, content: &Content) -> Result<Outcome, Failure> {
    let suites = trust::vet(root, job).await?;
    config::prepare(root, job, &suites)?;
    let disk = |error: std::io::Error| Failure::disk("empty the archives folder", &error);
    config::empty_archives(root).map_err(disk)?;
    refresh(root).await?;

    let (fetches, mut failed) = agree(root, job).await;
    let mut ready = Vec::new();
    for fetch in &fetches {
        match place(root, job, content, fetch).await {
            Ok(()) => ready.push(fetch),
            Err(failure) => {
                // Without one of its files the run cannot be what was simulated.
                for update in job.updates.keys() {
                    failed.entry(*update).or_insert_with(|| failure.clone());
                }
                return Ok(Outcome { failed });
            }
        }
    }
    if ready.is_empty() {
        return Ok(Outcome { failed });
    }
    let files: Vec<Approved> = ready.iter().map(|fetch| fetch.file.clone()).collect();
    if let Err(failure) = run(root, job, &files).await {
        for update in job.updates.keys() {
            failed.entry(*update).or_insert_with(|| failure.clone());
        }
    }
    let _ = config::empty_archives(root);
    Ok(Outcome { failed })
}

/// `apt-get update`: apt verifies the vendor's signature with the machine's own keyring.
async fn refresh(root: &DpkgRoot) -> Result<(), Failure> {
    let said = root.look("apt-get", &["-q", "update"]).await?;
    if said.success {
        return Ok(());
    }
    let code = if is_away(&format!("{}\n{}", said.stdout, said.stderr)) {
        error_code::CONTENT_UNREACHABLE
    } else {
        error_code::VENDOR_INDEX_REFUSED
    };
    Err(Failure::new(code, last_lines(&said.stderr)))
}

/// Whether apt says that the distribution point did not answer, or not in full.
fn is_away(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "Could not connect",
        "Unable to connect",
        "Connection failed",
        "Connection refused",
        "Connection reset",
        "Connection timed out",
        "connection timed out",
        "Could not resolve",
        "Temporary failure resolving",
        "The TLS connection was non-properly terminated",
        "500  Internal Server Error",
        "502  Bad Gateway",
        "503  Service Unavailable",
        "504  Gateway Time",
    ];
    WORDS.iter().any(|words| text.contains(words))
}

/// What can be installed together. When all updates together cannot, they are added one by one,
/// so that one bad update does not keep the others away.
async fn agree(root: &DpkgRoot, job: &Job) -> (Vec<Fetch>, BTreeMap<UpdateNo, Failure>) {
    let files = |updates: &[UpdateNo]| -> Vec<Approved> {
        updates
            .iter()
            .filter_map(|update| job.updates.get(update))
            .flatten()
            .cloned()
            .collect()
    };
    let all: Vec<UpdateNo> = job.updates.keys().copied().collect();
    let mut failed = BTreeMap::new();
    match simulate(root, &files(&all), &job.approved).await {
        Ok(fetches) => return (fetches, failed),
        Err(failure) if all.len() == 1 => {
            return (Vec::new(), BTreeMap::from([(all[0], failure)]));
        }
        Err(failure) => {
            tracing::warn!(%failure, "the updates do not go together, trying them one by one");
        }
    }
    let (mut good, mut best) = (Vec::new(), Vec::new());
    for update in all {
        good.push(update);
        match simulate(root, &files(&good), &job.approved).await {
            Ok(fetches) => best = fetches,
            Err(failure) => {
                good.pop();
                failed.insert(update, failure);
            }
        }
    }
    (best, failed)
}

/// Puts a file where apt looks for it, checked on the way.
async fn place(
    root: &DpkgRoot,
    job: &Job,
    content: &Content,
    fetch: &Fetch,
) -> Result<(), Failure> {
    let Approved { sha256, size, .. } = &fetch.file;
    // A dependency that the policy approves, but that no update of the job brought along.
    let cached = content
        .fetch(sha256, *size, &job.distribution_points)
        .await?;
    let (target, sha256, size) = (config::archives(root).join(&fetch.name), *sha256, *size);
    let copy = move || copy_verified(&cached, &target, &sha256, size);
    tokio::task::spawn_blocking(copy)
        .await
        .unwrap_or_else(|error| Err(Failure::new(error_code::INSTALL_FAILED, error.to_string())))
}

/// The installation itself. It writes to a file and has a process group of its own, or a scope
/// of systemd: it goes on to its end whatever becomes of the agent.
async fn run(root: &DpkgRoot, job: &Job, files: &[Approved]) -> Result<(), Failure> {
    let disk = |error: std::io::Error| Failure::disk("run apt-get", &error);
    let log = new_log(&job.log_dir)?;
    let out = File::create(&log).map_err(disk)?;
    let err = out.try_clone().map_err(disk)?;
    let mut command = scoped(root);
    command
        .args(OPTIONS)
        .args(["--no-download", "install"])
        .args(arguments(files))
        .stdout(Stdio::from(out))
        .stderr(Stdio::from(err));
    let mut child = command.spawn().map_err(disk)?;
    tracing::info!(packages = files.len(), log = %log.display(), "apt-get runs");
    let Ok(status) = tokio::time::timeout(job.max_run_time, child.wait()).await else {
        // Ending dpkg halfway does more harm than waiting (semantics.md 2.8: "monitoring stops").
        let minutes = job.max_run_time.as_secs() / 60;
        let detail = format!(
            "still running after {minutes} minutes, see {}",
            log.display()
        );
        return Err(Failure::new(error_code::INSTALL_TIMED_OUT, detail));
    };
    if status.map_err(disk)?.success() {
        return Ok(());
    }
    let text = fs::read(&log)
        .map(|b| String::from_utf8_lossy(&b).into_owned())
        .unwrap_or_default();
    let code = if is_locked(&text) {
        error_code::PACKAGE_MANAGER_BUSY
    } else {
        error_code::INSTALL_FAILED
    };
    Err(Failure::new(code, last_lines(&text)))
}

/// apt-get, in a scope of its own where systemd runs the machine: a restart of the agent's
/// service must not end it.
fn scoped(root: &DpkgRoot) -> Command {
    if root.is_machine() && Path::new("/run/systemd/system").exists() {
        let mut command = root.command("systemd-run");
        command.args(["--scope", "--quiet", "--collect", "--", "apt-get"]);
        return command;
    }
    root.command("apt-get")
}

fn new_log(dir: &Path) -> Result<PathBuf, Failure> {
    let failed = |error: crate::Error| {
        Failure::new(
            error_code::INSTALL_FAILED,
            muster_runtime::status::chain(&error),
        )
    };
    private_dir(dir).map_err(failed)?;
    let mut logs: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    logs.sort();
    for old in logs.iter().rev().skip(LOGS - 1) {
        let _ = fs::remove_file(old);
    }
    Ok(dir.join(format!(
        "apt-{}.log",
        jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_distribution_point_is_told_from_an_index_that_is_refused() {
        let dead = "E: Failed to fetch https://dp.example:8443/apt/0/dists/x/InRelease  Could not \
                    connect to dp.example:8443 (192.0.2.1). - connect (111: Connection refused)";
        let refused = "W: GPG error: https://dp.example:8443/apt/0 x InRelease: The following \
                       signatures couldn't be verified because the public key is not available";
        assert!(is_away(dead) && !is_away(refused));
    }
}
