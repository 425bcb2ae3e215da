//! The stage for stories about whole sites: real processes, the real archive, a real Debian
//! root. The stories themselves are in `tests/stories`; [`faults`] is another stage, for stories
//! about what goes wrong.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use muster_local::administrator::{Administrator, number};
use muster_local::packages::{self, Install};
use muster_local::site::{Plan, Setting};
use muster_local::{DebianRoot, Interrupt, Service, Site, State, state};

pub mod faults;

/// A site of its own, with the catalog of this machine's suites.
pub struct Stage {
    /// The site; an `Option` only so that it can be stopped before its folder is removed.
    site: Option<Site>,
    /// Who tells it what to do.
    pub admin: Administrator,
    folder: PathBuf,
    /// One story at a time, whatever runs the tests: a site takes both cores.
    _turn: File,
}

impl Stage {
    /// Starts a site and synchronises it. `name` tells its folder from those of other stories.
    ///
    /// # Errors
    /// A server does not start, or the archive cannot be reached.
    pub fn set(name: &str) -> Result<Self> {
        anyhow::ensure!(
            is_root(),
            "stories build a Debian root: run the tests as root"
        );
        let turn = turn()?;
        let folder = workspace().join(".muster").join(format!("story-{name}"));
        state::remove(&folder, Duration::from_secs(20))?;
        let servers = packages::ensure(Install::No, &say)?;
        let state = State::open(&folder, Interrupt::default())?;
        let plan = Plan {
            can_be_parent: false,
            code: "P01".to_owned(),
            name: format!("story {name}"),
            programs: muster_testkit::programs(),
            templates: workspace().join("deploy/config"),
            settings: vec![
                Setting::new(
                    Service::SiteServer,
                    "client_settings.policy_poll_interval",
                    "2s",
                ),
                Setting::new(Service::SiteServer, "client_settings.report_interval", "1s"),
                Setting::new(Service::SiteServer, "client_settings.scan_jitter", "1s"),
                Setting::new(Service::SiteServer, "catalog_poll_interval", "1s"),
                Setting::new(Service::ManagementPoint, "collect.next_report_in", "1s"),
                // A fleet enrols from one address at once.
                Setting::new(Service::ManagementPoint, "enrol.burst", 500),
                Setting::new(Service::ManagementPoint, "enrol.per_minute", 6_000),
            ],
        };
        let site = Site::start(&state, &servers, plan, &say)?;
        let admin = Administrator::of(&site);
        let stage = Self {
            site: Some(site),
            admin,
            folder,
            _turn: turn,
        };
        stage.admin.ask(&["sync", "run", "--full", "--watch"])?;
        stage.admin.until(
            "the site's copy of the catalog",
            Duration::from_secs(120),
            || {
                let site = stage.admin.ask(&["describe", "site"])?["site"].take();
                Ok((number(&site["updates"]) > 0).then_some(()))
            },
        )?;
        Ok(stage)
    }

    /// The site.
    ///
    /// # Panics
    /// Never while the stage stands.
    #[allow(clippy::expect_used)]
    pub fn site(&mut self) -> &mut Site {
        self.site.as_mut().expect("the site is taken only on drop")
    }

    /// A folder for this story's own files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A fresh Debian without its security updates, removed with the stage.
    ///
    /// # Errors
    /// As [`DebianRoot::build`].
    pub fn debian_root(&self) -> Result<DebianRoot> {
        DebianRoot::build(
            &self.folder.join("debian-root"),
            &workspace().join(".muster/cache"),
            &self.folder.join("logs/debian-root.log"),
            Install::Yes,
            &say,
        )
    }

    /// Waits until so many clients have reported a scan.
    ///
    /// # Errors
    /// They do not within five minutes.
    pub fn await_scans(&self, clients: usize) -> Result<()> {
        self.admin
            .until("a scan of every client", Duration::from_secs(300), || {
                Ok((self.admin.scanned()? == clients).then_some(()))
            })
    }

    /// Puts the security updates that members of a collection require into a list, a package
    /// and a deployment of one name, due now. Answers their numbers.
    ///
    /// # Errors
    /// The site refuses a step.
    pub fn deploy_security(&self, name: &str, collection: &str) -> Result<Vec<u64>> {
        let wanted = self.admin.required("security", collection)?;
        let admin = &self.admin;
        let filter = ["--classification", "security", "--required-in", collection];
        admin.ask(&[&["create", "update-list", name][..], &filter].concat())?;
        admin.ask(&["create", "package", name, "--update-list", name, "--wait"])?;
        let target = [
            "--collection",
            collection,
            "--update-list",
            name,
            "--deadline",
            "now",
        ];
        admin.ask(&[&["create", "deployment", name][..], &target].concat())?;
        Ok(wanted)
    }

    /// Ends a story that went well: nothing of it stays.
    ///
    /// # Errors
    /// A process cannot be stopped, or a file cannot be removed.
    pub fn end(mut self) -> Result<()> {
        if let Some(mut site) = self.site.take() {
            site.stop()?;
        }
        state::remove(&self.folder, Duration::from_secs(20)).map(|_| ())
    }

    /// How a client's updates ended, as `(update, enforcement state)` in ascending order.
    ///
    /// # Errors
    /// The site does not know the client.
    pub fn enforcement(&self, client: &str) -> Result<Vec<(u64, String)>> {
        let report = self.admin.ask(&["report", "client", client])?;
        let updates = report["updates"]
            .as_array()
            .context("a report without updates")?;
        let mut states: Vec<_> = updates
            .iter()
            .filter_map(|it| {
                let state = it["enforcement"]
                    .as_str()?
                    .strip_prefix("UPDATE_ENFORCEMENT_")?;
                (state != "UNSPECIFIED").then(|| (number(&it["updateNo"]), state.to_owned()))
            })
            .collect();
        states.sort();
        Ok(states)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut site) = self.site.take()
            && let Err(error) = site.stop()
        {
            say(&format!("stopping the site: {error:#}"));
        }
        if self.folder.exists() {
            say(&format!(
                "this story did not end well; logs are in {}",
                self.folder.display()
            ));
        }
    }
}

/// The seed of a run: printed, and taken from MUSTER_SEED to see the same run again.
///
/// # Errors
/// MUSTER_SEED is not a number.
pub fn seed() -> Result<u64> {
    let seed = match std::env::var("MUSTER_SEED") {
        Ok(text) => text.parse().context("MUSTER_SEED must be a number")?,
        Err(_) => rand::random_range(0..1_000_000),
    };
    say(&format!("seed: MUSTER_SEED={seed}"));
    Ok(seed)
}

/// How often each failpoint is hit: so many times, or MUSTER_FAULTS.
///
/// # Errors
/// MUSTER_FAULTS is not a number.
pub fn repeats(usual: usize) -> Result<usize> {
    match std::env::var("MUSTER_FAULTS") {
        Ok(text) => text.parse().context("MUSTER_FAULTS must be a number"),
        Err(_) => Ok(usual),
    }
}

/// Waits until no other story runs, in this process or another. Closing the file gives it up.
fn turn() -> Result<File> {
    let folder = workspace().join(".muster");
    fs::create_dir_all(&folder)?;
    let file = File::create(folder.join("story.lock"))?;
    file.lock()?;
    Ok(file)
}

/// The folder of the repository.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Progress of a story; the test runner shows it when the story fails.
#[allow(clippy::print_stderr)]
pub fn say(line: &str) {
    eprintln!("    {line}");
}

/// Whether this process may build and manage a Debian root.
fn is_root() -> bool {
    muster_local::account::is_root()
}
