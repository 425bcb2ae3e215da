//! A Debian root: `/`, or a folder that has one in it (a chroot). What it has is read from its
//! files; what is done to it, apt does (`install`, configured by `config`).

mod config;
mod facts;
mod install;
mod locks;
mod simulate;
mod trust;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use muster_domain::error_code;
use tokio::process::Command;

use super::{Approved, Job, Machine, Outcome, Provider, Restart};
use crate::Failure;
use crate::download::Content;

/// How long another user of dpkg is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(300);
/// How long a command that only looks may take.
const LOOK: Duration = Duration::from_secs(300);

/// A machine that dpkg manages.
#[derive(Debug, Clone)]
pub struct DpkgRoot {
    root: PathBuf,
    host_name: Option<String>,
    lock_wait: Duration,
}

/// What a command said.
#[derive(Debug)]
struct Said {
    success: bool,
    stdout: String,
    stderr: String,
}

impl DpkgRoot {
    /// The root `root`; `host_name` replaces the name that the root has.
    #[must_use]
    pub fn new(root: &Path, host_name: Option<String>) -> Self {
        Self {
            root: root.to_owned(),
            host_name,
            lock_wait: LOCK_WAIT,
        }
    }

    fn is_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    /// A path of the root as this process sees it.
    fn inside(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A program of the root with a clean environment, in a process group of its own: a Ctrl-C
    /// at the agent must not reach dpkg.
    fn command(&self, program: &str) -> Command {
        let mut command = if self.is_machine() {
            Command::new(program)
        } else {
            let mut command = Command::new("chroot");
            command.arg(&self.root).arg(program);
            command
        };
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/root")
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "dumb")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("DEBCONF_NONINTERACTIVE_SEEN", "true")
            .env("APT_LISTCHANGES_FRONTEND", "none")
            .env("NEEDRESTART_SUSPEND", "1")
            .env("APT_CONFIG", config::FILE)
            .stdin(Stdio::null())
            .process_group(0);
        command
    }

    /// Runs a command that changes nothing outside the agent's folders; it is ended after a time.
    async fn look(&self, program: &str, args: &[&str]) -> Result<Said, Failure> {
        let mut command = self.command(program);
        command.args(args).kill_on_drop(true);
        let output = tokio::time::timeout(LOOK, command.output())
            .await
            .map_err(|_| {
                Failure::new(
                    error_code::INSTALL_TIMED_OUT,
                    format!("{program} did not end in time"),
                )
            })?;
        let output = output.map_err(|e| Failure::disk(&format!("run {program}"), &e))?;
        Ok(Said {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// What dpkg complains about; empty when the package database is in order.
    async fn audit(&self) -> Result<String, Failure> {
        let said = self.look("dpkg", &["--audit"]).await?;
        Ok(said.stdout.trim().to_owned())
    }

    /// Whether dpkg was stopped between two packages: it left pieces of its journal.
    fn has_journal(&self) -> bool {
        let journal = std::fs::read_dir(self.inside("/var/lib/dpkg/updates"));
        journal.is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Waits for whoever works with the packages, then finishes what an interrupted dpkg left. What it cannot finish by itself (a package that was
    /// being unpacked must be installed again) comes back as dpkg's complaint; empty: all is well.
    ///
    /// # Errors
    /// `PACKAGE_MANAGER_BUSY` when somebody else is at work for too long.
    async fn repair(&self) -> Result<String, Failure> {
        locks::wait_until_free(self, self.lock_wait).await?;
        let deadline = tokio::time::Instant::now() + self.lock_wait;
        loop {
            if !self.has_journal() && self.audit().await?.is_empty() {
                return Ok(String::new());
            }
            let args = ["--force-confdef", "--force-confold", "--configure", "-a"];
            // Maintainer scripts run: never ended from here.
            let output = self.command("dpkg").args(args).output().await;
            let output = output.map_err(|e| Failure::disk("run dpkg", &e))?;
            let stderr = String::from_utf8_lossy(&output.stderr);
            if !output.status.success() && is_locked(&stderr) {
                if tokio::time::Instant::now() >= deadline {
                    return Err(Failure::new(
                        error_code::PACKAGE_MANAGER_BUSY,
                        last_lines(&stderr),
                    ));
                }
                tokio::time::sleep(Duration::from_secs(2)).await;
                continue;
            }
            return self.audit().await;
        }
    }
}

impl Provider for DpkgRoot {
    fn machine(&self) -> Machine {
        facts::machine(&self.root, self.host_name.as_deref())
    }

    fn file_exists(&self, path: &str) -> Option<bool> {
        self.inside(path).try_exists().ok()
    }

    fn restart(&self) -> Restart {
        facts::restart(&self.root)
    }

    fn acquire<'a>(
        &'a self,
        file: &'a Approved,
        content: &'a Content,
        points: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            content
                .fetch(&file.sha256, file.size, points)
                .await
                .map(|_| ())
        }
        .boxed()
    }

    fn install<'a>(&'a self, job: &'a Job, content: &'a Content) -> BoxFuture<'a, Outcome> {
        install::install(self, job, content).boxed()
    }

    fn recover(&self) -> BoxFuture<'_, Result<(), Failure>> {
        async {
            let complaint = self.repair().await?;
            if !complaint.is_empty() {
                tracing::warn!(complaint, "left for the next installation to repair");
            }
            Ok(())
        }
        .boxed()
    }
}

/// Whether apt or dpkg complain that somebody else is at work.
fn is_locked(text: &str) -> bool {
    (text.contains("lock") && (text.contains("locked by") || text.contains("held by")))
        || text.contains("Could not get lock")
        || text.contains("Unable to acquire the dpkg frontend lock")
}

/// The lines of apt's or dpkg's output that say what went wrong, for people.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let errors: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|l| l.starts_with("E: ") || l.starts_with("dpkg: error") || l.starts_with("Err:"))
        .collect();
    let chosen = if errors.is_empty() { &lines } else { &errors };
    let start = chosen.len().saturating_sub(6);
    chosen.get(start..).unwrap_or_default().join("\n")
}
