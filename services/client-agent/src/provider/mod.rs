//! The machine below the agent: what it has, and how something is installed on it.
//! [`dpkg`] is a Debian root, [`simulated`] a pretend one; the agent is the same above both.

pub mod dpkg;
pub mod simulated;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use muster_domain::UpdateNo;
use muster_runtime::config::TlsConfig;

use crate::Failure;
use crate::download::Content;

/// What the agent needs from a machine.
pub trait Provider: Debug + Send + Sync + 'static {
    /// Reads what the machine is and has, now.
    fn machine(&self) -> Machine;

    /// Whether a file exists on it; `None` when that cannot be found out.
    fn file_exists(&self, path: &str) -> Option<bool>;

    /// Whether it must be restarted before updates are in use.
    fn restart(&self) -> Restart;

    /// The machine's clock.
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Whether one file is on the machine already.
    fn has(&self, file: &Approved, content: &Content) -> bool {
        content.has(&file.sha256, file.size)
    }

    /// Brings one file to the machine, so that [`Provider::install`] finds it in `content`.
    fn acquire<'a>(
        &'a self,
        file: &'a Approved,
        content: &'a Content,
        points: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>>;

    /// Installs all updates of a job in one run. Never installs what the job does not name,
    /// never removes a package. What is so afterwards is found out by a scan, not by this answer.
    fn install<'a>(&'a self, job: &'a Job, content: &'a Content) -> BoxFuture<'a, Outcome>;

    /// Repairs what an interrupted installation left behind, before anything else is done.
    fn recover(&self) -> BoxFuture<'_, Result<(), Failure>>;
}

/// What a machine is and has.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its name.
    pub host_name: String,
    /// os-release ID; empty when unreadable.
    pub os_id: String,
    /// os-release VERSION_ID.
    pub os_version_id: String,
    /// dpkg's name of its architecture.
    pub architecture: String,
    /// The kernel that runs.
    pub kernel: String,
    /// `/etc/machine-id`, as phased updates and clone detection use it.
    pub machine_id: Option<String>,
    /// Memory in bytes; 0 when unknown.
    pub memory_bytes: u64,
    /// Room on the root's disk in bytes; 0 when unknown.
    pub free_disk_bytes: u64,
    /// Installed packages; `Err` says why they could not be read.
    pub packages: Result<Vec<Package>, String>,
    /// Packages about which the package database says nothing that can be understood.
    pub unreadable: Vec<String>,
    /// What the administrator wants of versions.
    pub pins: Pins,
    /// How apt is told to treat phased updates.
    pub phasing: muster_apt::phasing::Policy,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            host_name: String::new(),
            os_id: String::new(),
            os_version_id: String::new(),
            architecture: String::new(),
            kernel: String::new(),
            machine_id: None,
            memory_bytes: 0,
            free_disk_bytes: 0,
            packages: Ok(Vec::new()),
            unreadable: Vec::new(),
            pins: Pins::default(),
            phasing: muster_apt::phasing::Policy::default(),
        }
    }
}

/// One installed package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Binary package.
    pub name: String,
    /// `amd64`, `all`, …
    pub architecture: String,
    /// Installed version.
    pub version: String,
    /// The source package it was built from.
    pub source: String,
    /// On hold.
    pub held: bool,
}

/// The machine's apt preferences (apt_preferences(5)).
pub type Pins = muster_apt::preferences::Preferences;

/// Whether and why a restart is pending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restart {
    /// Whether it is.
    pub pending: bool,
    /// Packages that asked for it, as far as known.
    pub packages: Vec<String>,
    /// For people.
    pub reason: String,
}

/// A file as the site's policy names it: one of the two keys (reliability.md D1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approved {
    /// Binary package.
    pub package: String,
    /// The one version that may be installed.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// Its size in bytes.
    pub size: u64,
    /// The update it belongs to.
    pub update: UpdateNo,
}

impl Approved {
    /// For people: `package version (architecture)`.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} {} ({})", self.package, self.version, self.architecture)
    }
}

/// A suite as distribution points offer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suite {
    /// 16 hexadecimal digits.
    pub key: String,
    /// As in sources: `bookworm-security`.
    pub suite: String,
    /// Components.
    pub components: Vec<String>,
    /// A keyring on this machine; empty: the default ones.
    pub signed_by: String,
    /// Whether the site says not to enforce Valid-Until.
    pub ignore_valid_until: bool,
}

/// What is to be installed, in one run.
#[derive(Debug, Clone)]
pub struct Job {
    /// The files of each update that this machine needs.
    pub updates: BTreeMap<UpdateNo, Vec<Approved>>,
    /// All that the policy approves: nothing else may be installed, not even as a dependency.
    pub approved: Vec<Approved>,
    /// Where the vendor's signed indexes are.
    pub suites: Vec<Suite>,
    /// Base addresses, in order of preference.
    pub distribution_points: Vec<String>,
    /// Our certificate, to speak with them.
    pub tls: TlsConfig,
    /// The agent's folder for logs of the package manager.
    pub log_dir: PathBuf,
    /// How long the run is watched.
    pub max_run_time: Duration,
}

#[cfg(test)]
impl Job {
    /// A job of nothing, below `dir`.
    pub(crate) fn of(dir: &std::path::Path) -> Self {
        Self {
            updates: BTreeMap::new(),
            approved: Vec::new(),
            suites: Vec::new(),
            distribution_points: Vec::new(),
            tls: crate::tls_files(dir),
            log_dir: dir.join("logs"),
            max_run_time: Duration::from_secs(60),
        }
    }
}

/// How an installation went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Updates that failed, and why. The others are believed to be installed until the scan
    /// says otherwise.
    pub failed: BTreeMap<UpdateNo, Failure>,
}

impl Outcome {
    /// Everything failed for the same reason.
    #[must_use]
    pub fn all_failed(job: &Job, failure: &Failure) -> Self {
        Self {
            failed: job
                .updates
                .keys()
                .map(|update| (*update, failure.clone()))
                .collect(),
        }
    }
}
