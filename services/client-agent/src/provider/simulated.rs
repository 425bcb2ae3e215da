//! A pretend operating system, for tests and load: packages with versions, failures by script,
//! restarts, durations and a clock. What it installs stays installed, also over a restart of the
//! process when it has a file to keep it in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use muster_domain::error_code;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};

use super::{Approved, Job, Machine, Outcome, Package, Provider, Restart};
use crate::Failure;
use crate::download::Content;

/// What happens on a pretend machine. Draws are by seed, package and version: the same machine
/// fails in the same way each time.
#[derive(Debug, Clone)]
pub struct Script {
    /// Where all draws come from.
    pub seed: u64,
    /// Its name.
    pub host_name: String,
    /// Probability that an update's installation fails, 0 to 1.
    pub install_failures: f64,
    /// Probability that a file's download fails, 0 to 1.
    pub download_failures: f64,
    /// Packages whose installation always fails.
    pub failing_packages: BTreeSet<String>,
    /// Packages whose download always fails.
    pub failing_downloads: BTreeSet<String>,
    /// No distribution point answers: neither files nor the vendor's index can be had.
    pub content_away: bool,
    /// Packages after whose installation a restart is pending.
    pub restart_packages: BTreeSet<String>,
    /// Shortest and longest time of one update's installation.
    pub install_takes: (Duration, Duration),
    /// Fetch files from distribution points, instead of pretending to.
    pub real_downloads: bool,
    /// Where the machine is kept between processes.
    pub file: Option<PathBuf>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            seed: 0,
            host_name: "simulated".to_owned(),
            install_failures: 0.0,
            download_failures: 0.0,
            failing_packages: BTreeSet::new(),
            failing_downloads: BTreeSet::new(),
            content_away: false,
            restart_packages: BTreeSet::new(),
            install_takes: (Duration::ZERO, Duration::ZERO),
            real_downloads: false,
            file: None,
        }
    }
}

/// The longest that a pretend run takes, however many updates it has.
const MAX_RUN: Duration = Duration::from_secs(5);

/// A pretend machine.
#[derive(Debug)]
pub struct Simulated {
    script: Mutex<Script>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    packages: BTreeMap<String, String>,
    held: BTreeSet<String>,
    acquired: BTreeSet<[u8; 32]>,
    restart: Restart,
    clock: SignedDuration,
    runs: Vec<Vec<String>>,
    recoveries: u32,
}

impl Simulated {
    /// A machine with these packages, unless its file says otherwise.
    pub fn new(script: Script, packages: impl IntoIterator<Item = (String, String)>) -> Self {
        let kept = script.file.as_ref().and_then(|file| fs::read(file).ok());
        let kept = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let packages = kept.unwrap_or_else(|| packages.into_iter().collect());
        let state = Mutex::new(State {
            packages,
            ..State::default()
        });
        Self {
            script: Mutex::new(script),
            state,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn script(&self) -> Script {
        self.script
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Changes what happens from now on.
    pub fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The installed version of a package.
    #[must_use]
    pub fn version(&self, package: &str) -> Option<String> {
        self.state().packages.get(package).cloned()
    }

    /// Installs a package behind the agent's back.
    pub fn set_version(&self, package: &str, version: &str) {
        self.state()
            .packages
            .insert(package.to_owned(), version.to_owned());
    }

    /// Puts a package on hold.
    pub fn hold(&self, package: &str) {
        self.state().held.insert(package.to_owned());
    }

    /// Restarts the machine.
    pub fn restart_now(&self) {
        self.state().restart = Restart::default();
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::ZERO);
        self.state().clock += by;
    }

    /// What each run of the package manager installed: `package version`.
    #[must_use]
    pub fn runs(&self) -> Vec<Vec<String>> {
        self.state().runs.clone()
    }

    /// How often an interrupted run was repaired.
    #[must_use]
    pub fn recoveries(&self) -> u32 {
        self.state().recoveries
    }

    fn draw(seed: u64, what: &str, file: &Approved) -> StdRng {
        let text = format!("{seed} {what} {} {}", file.package, file.version);
        StdRng::from_seed(Sha256::digest(text).into())
    }
}

fn away() -> Failure {
    let detail = "no distribution point answers, by script";
    Failure::new(error_code::CONTENT_UNREACHABLE, detail)
}

impl Provider for Simulated {
    fn machine(&self) -> Machine {
        let (script, state) = (self.script(), self.state());
        let package = |(name, version): (&String, &String)| Package {
            name: name.clone(),
            architecture: "amd64".to_owned(),
            version: version.clone(),
            source: name.clone(),
            held: state.held.contains(name),
        };
        Machine {
            host_name: script.host_name,
            os_id: "debian".to_owned(),
            os_version_id: "12".to_owned(),
            architecture: "amd64".to_owned(),
            kernel: "simulated".to_owned(),
            machine_id: Some(hex::encode(
                &Sha256::digest(script.seed.to_le_bytes())[..16],
            )),
            memory_bytes: 4 << 30,
            free_disk_bytes: 50 << 30,
            packages: Ok(state.packages.iter().map(package).collect()),
            ..Machine::default()
        }
    }

    fn file_exists(&self, _: &str) -> Option<bool> {
        Some(false)
    }

    fn restart(&self) -> Restart {
        self.state().restart.clone()
    }

    fn now(&self) -> Timestamp {
        Timestamp::now() + self.state().clock
    }

    fn has(&self, file: &Approved, content: &Content) -> bool {
        self.state().acquired.contains(&file.sha256) || content.has(&file.sha256, file.size)
    }

    fn acquire<'a>(
        &'a self,
        file: &'a Approved,
        content: &'a Content,
        points: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            let script = self.script();
            if script.content_away {
                return Err(away());
            }
            let draw = Self::draw(script.seed, "download", file).random_range(0.0..1.0);
            if script.failing_downloads.contains(&file.package) || draw < script.download_failures {
                let detail = format!("download of {} fails by script", file.title());
                return Err(Failure::new(error_code::SIMULATED_FAILURE, detail));
            }
            if script.real_downloads {
                content.fetch(&file.sha256, file.size, points).await?;
            }
            self.state().acquired.insert(file.sha256);
            Ok(())
        }
        .boxed()
    }

    fn install<'a>(&'a self, job: &'a Job, _: &'a Content) -> BoxFuture<'a, Outcome> {
        async move {
            let script = self.script();
            if script.content_away {
                return Outcome::all_failed(job, &away());
            }
            let mut outcome = Outcome::default();
            let mut installed = Vec::new();
            let mut takes = Duration::ZERO;
            for (update, files) in &job.updates {
                let fails = files.iter().find(|file| {
                    let draw = Self::draw(script.seed, "install", file).random_range(0.0..1.0);
                    script.failing_packages.contains(&file.package)
                        || draw < script.install_failures
                });
                if let Some(file) = fails {
                    let detail = format!("installation of {} fails by script", file.title());
                    let failure = Failure::new(error_code::SIMULATED_FAILURE, detail);
                    outcome.failed.insert(*update, failure);
                    continue;
                }
                if let Some(file) = files.first() {
                    let (shortest, longest) = script.install_takes;
                    let part: f64 = Self::draw(script.seed, "time", file).random_range(0.0..=1.0);
                    takes += shortest + longest.saturating_sub(shortest).mul_f64(part);
                }
                installed.extend(files.iter().cloned());
            }
            tokio::time::sleep(takes.min(MAX_RUN)).await;
            let mut state = self.state();
            for file in &installed {
                // A pretend apt never installs what is not there, and never goes back.
                if let Some(version) = state.packages.get_mut(&file.package) {
                    file.version.clone_into(version);
                }
                if script.restart_packages.contains(&file.package) {
                    state.restart.pending = true;
                    state.restart.packages.push(file.package.clone());
                    state.restart.reason = state.restart.packages.join(", ");
                }
            }
            state.runs.push(
                installed
                    .iter()
                    .map(|f| format!("{} {}", f.package, f.version))
                    .collect(),
            );
            if let Some(file) = &script.file
                && let Ok(text) = serde_json::to_vec(&state.packages)
            {
                let fresh = file.with_extension("new");
                let kept = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, file));
                if let Err(error) = kept {
                    tracing::warn!(%error, "the simulated machine was not kept");
                }
            }
            outcome
        }
        .boxed()
    }

    fn recover(&self) -> BoxFuture<'_, Result<(), Failure>> {
        async {
            self.state().recoveries += 1;
            Ok(())
        }
        .boxed()
    }
}
