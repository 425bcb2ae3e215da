//! Client agents beside a site on this machine: the real program, on this machine itself or on
//! another root, and fleets of simulated clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::administrator::Administrator;
use crate::{Launch, Process, Service, Site};

/// How long an agent may take to stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a new client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Scan, report, and install what is deployed.
    Install,
    /// Scan and report.
    ReadOnly,
}

/// One client: its state folder, and its process while it runs.
#[derive(Debug)]
pub struct Agent {
    name: String,
    program: PathBuf,
    folder: PathBuf,
    process: Option<Process>,
}

impl Agent {
    /// Enrols a client called `name` with a fresh token. `root` is the root it manages, `None`
    /// this machine itself.
    ///
    /// # Errors
    /// The site refuses it; the error is the agent's own words.
    pub fn enrol(
        site: &Site,
        name: &str,
        root: Option<&Path>,
        rights: Rights,
        collection: Option<&str>,
    ) -> Result<Self> {
        let folder = site.state().root().join("agents").join(name);
        fs::create_dir_all(&folder)?;
        let token = folder.join("token");
        Administrator::of(site).tokens_to(&token, 1, collection)?;
        let program = site.program("muster-agent");
        let mut command = Command::new(&program);
        command.arg("--state").arg(&folder).arg("enrol");
        command.args(["--management-point", &site.grpc(Service::ManagementPoint)]);
        command.arg("--ca").arg(site.ca());
        command.arg("--token-file").arg(&token);
        command.args(["--name", name]);
        if let Some(root) = root {
            command.arg("--root").arg(root);
        }
        if rights == Rights::ReadOnly {
            command.arg("--read-only");
        }
        let output = command.output().context("cannot run muster-agent")?;
        fs::remove_file(&token)?;
        if !output.status.success() {
            bail!(
                "muster-agent enrol: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(Self {
            name: name.to_owned(),
            program,
            folder,
            process: None,
        })
    }

    /// Its state folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts the daemon.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self, site: &Site) -> Result<()> {
        if let Some(process) = &mut self.process {
            return process.restart();
        }
        let launch = Launch::new(&format!("agent-{}", self.name), &self.program)
            .arg("--state")
            .arg(&self.folder)
            .arg("run");
        self.process = Some(Process::spawn(site.state(), launch)?);
        Ok(())
    }

    /// Kills the daemon alone, as a crash would: what it started goes on.
    ///
    /// # Errors
    /// It does not run, or the signal cannot be sent.
    pub fn kill_9(&mut self) -> Result<()> {
        self.process
            .as_mut()
            .context("the agent does not run")?
            .kill_9()
    }

    /// Stops the daemon.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(process) = &mut self.process {
            process.terminate(PATIENCE)?;
        }
        Ok(())
    }

    /// Runs one command of the agent (`evaluate --json`) to its end.
    ///
    /// # Errors
    /// The agent failed; the error is its own words.
    pub fn command(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.program)
            .arg("--state")
            .arg(&self.folder)
            .args(args)
            .output()?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            bail!("muster-agent {}: {}", args.join(" "), words.trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What it has said, for an error message.
    #[must_use]
    pub fn log(&self) -> String {
        self.process
            .as_ref()
            .map(Process::log_text)
            .unwrap_or_default()
    }
}

/// Simulated clients in one process.
#[derive(Debug)]
pub struct Fleet {
    process: Process,
}

impl Fleet {
    /// Enrols and runs `count` of them, seeded. `packages` is a file of "name version" lines they
    /// pretend to have installed.
    ///
    /// # Errors
    /// Tokens cannot be made, or the process cannot be started.
    pub fn start(
        site: &Site,
        count: u32,
        seed: u64,
        packages: &Path,
        collection: Option<&str>,
    ) -> Result<Self> {
        let folder = site.state().root().join("agents").join("fleet");
        fs::create_dir_all(&folder)?;
        let tokens = folder.join("tokens");
        if !tokens.exists() {
            Administrator::of(site).tokens_to(&tokens, count, collection)?;
        }
        let launch = Launch::new("fleet", site.program("muster-load"))
            .args([
                "clients",
                "--count",
                &count.to_string(),
                "--seed",
                &seed.to_string(),
            ])
            .args(["--management-point", &site.grpc(Service::ManagementPoint)])
            .arg("--ca")
            .arg(site.ca())
            .arg("--token-file")
            .arg(&tokens)
            .arg("--packages-from")
            .arg(packages)
            .arg("--state")
            .arg(&folder);
        Ok(Self {
            process: Process::spawn(site.state(), launch)?,
        })
    }

    /// Kills all of them at once.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn kill_9(&mut self) -> Result<()> {
        self.process.kill_9()
    }

    /// Starts them again, each with what it had on disk.
    ///
    /// # Errors
    /// They run, or cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        self.process.restart()
    }

    /// Stops them.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn stop(&mut self) -> Result<()> {
        self.process.terminate(PATIENCE).map(|_| ())
    }

    /// What they have said, for an error message.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log_text()
    }
}
