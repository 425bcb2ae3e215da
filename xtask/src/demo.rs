//! `cargo xtask demo`: the whole way of an update, from the archive to a report, on this machine.
//! With `--hierarchy`, in `demo/hierarchy.rs`, through several sites.

mod climb;
mod hierarchy;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use muster_local::administrator::{Administrator, Progress, SECURITY, number};
use muster_local::agents::{Agent, Fleet, Rights};
use muster_local::site::Setting;
use muster_local::{DebianRoot, Service, Site, State, packages, state};
use serde_json::json;

use crate::up;
use crate::workspace::{InstallArgs, Profile, Workspace, say};

/// Clients that only pretend.
const SIMULATED: u32 = 200;
/// Who the deployment is for: the throwaway root and the simulated clients, not this machine.
const COLLECTION: &str = "Demo machines";
/// The list, the package and the deployment all have this name.
const NAME: &str = "Pending security updates";

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    install: InstallArgs,
    /// A central site with two below it: the deployment is made above, the root is a client below
    #[arg(long)]
    hierarchy: bool,
    /// The state folder [default: .muster/demo]
    #[arg(long)]
    state: Option<PathBuf>,
    /// Leave the site running at the end, until Ctrl-C or `cargo xtask down`
    #[arg(long)]
    keep: bool,
    /// How the services are compiled
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
}

/// Sets everything up, runs a deployment to its end and prints one JSON object last.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let servers = packages::ensure(args.install.choice(), &say)?;
    packages::ensure_debootstrap(args.install.choice(), &say)?;
    say("building");
    workspace.build(args.profile)?;
    let root = args
        .state
        .clone()
        .unwrap_or_else(|| workspace.states().join("demo"));
    if root.exists() {
        say("removing what an earlier demo has left");
        state::remove(&root, Duration::from_secs(20))?;
    }
    let begin = Instant::now();
    if args.hierarchy {
        let outcome = hierarchy::run(workspace, args, &servers, &root, begin);
        return end(&root, outcome);
    }
    let state = State::open(&root, workspace.interrupt().clone())?;
    let plan = up::plan(workspace, args.profile, settings());
    let outcome = Site::start(&state, &servers, plan, &say)
        .and_then(|mut site| Demo::new(workspace, args, &mut site).run(begin));
    drop(state);
    end(&root, outcome)
}

/// Removes what a demo that went well has made, and prints its last line.
fn end(root: &Path, outcome: Result<String>) -> Result<()> {
    if outcome.is_ok() {
        state::remove(root, Duration::from_secs(20))?;
    } else {
        say(&format!(
            "logs and data are kept in {}; `cargo xtask down` removes them",
            root.display()
        ));
    }
    println!("{}", outcome?);
    Ok(())
}

/// A demo shows in minutes what a site does in hours.
fn settings() -> Vec<Setting> {
    let client = |key, value: &str| Setting::new(Service::SiteServer, key, value);
    vec![
        client("client_settings.policy_poll_interval", "5s"),
        client("client_settings.report_interval", "2s"),
        client("client_settings.scan_jitter", "5s"),
        client("catalog_poll_interval", "2s"),
        Setting::new(Service::ManagementPoint, "collect.next_report_in", "2s"),
        // Two hundred clients enrol from one address at once.
        Setting::new(Service::ManagementPoint, "enrol.burst", 500),
        Setting::new(Service::ManagementPoint, "enrol.per_minute", 6_000),
    ]
}

struct Demo<'a> {
    workspace: &'a Workspace,
    args: &'a Args,
    site: &'a mut Site,
    admin: Administrator,
}

/// What the last line says.
struct Outcome {
    required_before: usize,
    required_after: usize,
    installed: u64,
    failed: u64,
    host_required: u64,
    clients: usize,
}

impl Outcome {
    /// A demo that shows a failure has failed.
    fn check(&self) -> Result<()> {
        if self.required_after > 0 || self.failed > 0 || self.installed == 0 {
            bail!(
                "the root still requires {} of {} security updates; {} were installed, {} failed",
                self.required_after,
                self.required_before,
                self.installed,
                self.failed
            );
        }
        Ok(())
    }
}

impl<'a> Demo<'a> {
    fn new(workspace: &'a Workspace, args: &'a Args, site: &'a mut Site) -> Self {
        let admin = Administrator::of(site);
        Self {
            workspace,
            args,
            site,
            admin,
        }
    }

    /// The steps in the order a person would take them; answers the last line.
    fn run(&mut self, begin: Instant) -> Result<String> {
        say("synchronising this machine's own suites");
        self.admin.show(&["sync", "run", "--full", "--watch"])?;
        self.await_catalog()?;
        let folder = self.site.state().root().join("debian-root");
        let root = DebianRoot::build(
            &folder,
            &self.workspace.states().join("cache"),
            &self.site.state().log("debian-root"),
            self.args.install.choice(),
            &say,
        )?;
        self.admin.ask(&["create", "collection", COLLECTION])?;
        say(&format!(
            "enrolling this machine (read-only), the root, and {SIMULATED} simulated clients"
        ));
        let mut host = Agent::enrol(self.site, "this-machine", None, Rights::ReadOnly, None)?;
        let mut guest = Agent::enrol(
            self.site,
            "debian-root",
            Some(root.folder()),
            Rights::Install,
            Some(COLLECTION),
        )?;
        host.start(self.site)?;
        guest.start(self.site)?;
        let pretend = self.site.state().root().join("packages.txt");
        fs::write(&pretend, root.packages()?)?;
        let mut fleet = Fleet::start(self.site, SIMULATED, 1, &pretend, Some(COLLECTION))?;

        let outcome = self.deploy();
        if outcome.is_err() {
            say(&format!("the root's agent said last:\n{}", guest.log()));
        }
        let outcome = outcome?;
        let audit = root.audit()?;
        if !audit.is_empty() {
            bail!("dpkg --audit of the root says: {audit}");
        }
        self.reports()?;
        let (reports, states) = self.admin.recorded()?;
        say(&format!(
            "{reports} state messages with {states} states went through the queue"
        ));
        let updates = number(&self.admin.ask(&["describe", "site"])?["site"]["updates"]);
        outcome.check()?;
        let line = json!({
            "root": {
                "required_before": outcome.required_before,
                "required_after": outcome.required_after,
                "installed": outcome.installed,
                "failed": outcome.failed,
            },
            "host": { "required": outcome.host_required },
            "clients": outcome.clients,
            "state_messages": reports,
            "updates": updates,
            "seconds": begin.elapsed().as_secs(),
        });
        up::describe(self.site);
        if self.args.keep {
            say("the site stays up; Ctrl-C ends it");
            up::watch(self.workspace, self.site)?;
        }
        fleet.stop()?;
        guest.stop()?;
        host.stop()?;
        self.site.stop()?;
        root.remove()?;
        Ok(line.to_string())
    }

    /// The site follows the catalog on its own; clients may scan before, lists cannot be made.
    fn await_catalog(&self) -> Result<()> {
        self.admin.until(
            "the site's copy of the catalog",
            Duration::from_secs(120),
            || {
                let site = self.admin.ask(&["describe", "site"])?["site"].take();
                Ok((number(&site["updates"]) > 0).then_some(()))
            },
        )
    }

    fn deploy(&self) -> Result<Outcome> {
        let expected = SIMULATED as usize + 2;
        let mut shown = 0;
        self.admin
            .until("a scan of every client", Duration::from_secs(300), || {
                let scanned = self.admin.scanned()?;
                if scanned != shown {
                    say(&format!("{scanned} of {expected} clients have scanned"));
                    shown = scanned;
                }
                Ok((scanned == expected).then_some(()))
            })?;
        let before = self.security_required("debian-root")?;
        if before.is_empty() {
            bail!("the root requires no security update: there is nothing to show");
        }
        say(&format!(
            "the root requires {} security updates; deploying them now",
            before.len()
        ));
        self.admin.show(&[
            "create",
            "update-list",
            NAME,
            "--classification",
            SECURITY,
            "--required-in",
            COLLECTION,
        ])?;
        self.admin
            .show(&["create", "package", NAME, "--update-list", NAME, "--wait"])?;
        self.admin.show(&[
            "create",
            "deployment",
            NAME,
            "--collection",
            COLLECTION,
            "--update-list",
            NAME,
            "--deadline",
            "now",
        ])?;
        let mut shown = Progress::default();
        self.admin.until(
            "the end of the deployment",
            Duration::from_secs(480),
            || {
                let now = self.admin.deployment(NAME)?;
                if now != shown {
                    say(&format!(
                        "{} clients: {} compliant, {} in progress, {} failed, {} silent",
                        now.clients, now.compliant, now.in_progress, now.failed, now.unknown
                    ));
                    shown = now;
                }
                Ok(now.is_done().then_some(()))
            },
        )?;
        let after = self
            .admin
            .until("the root's last report", Duration::from_secs(60), || {
                let after = self.security_required("debian-root")?;
                Ok(after.is_empty().then_some(after))
            })
            .unwrap_or_else(|_| before.clone());
        let (installed, failed) = self.enforced("debian-root", &before)?;
        Ok(Outcome {
            required_before: before.len(),
            required_after: after.len(),
            installed,
            failed,
            host_required: number(&self.admin.client("this-machine")?["required"]),
            clients: self.admin.scanned()?,
        })
    }

    /// Security updates that one client requires, without those that newer ones replace.
    fn security_required(&self, client: &str) -> Result<Vec<u64>> {
        let report = self.admin.ask(&["report", "client", client])?;
        let wanted = self.admin.required(SECURITY, COLLECTION)?;
        let updates = report["updates"]
            .as_array()
            .context("a client report without updates")?;
        Ok(updates
            .iter()
            .filter(|it| it["compliance"] == "UPDATE_DETECTION_REQUIRED")
            .map(|it| number(&it["updateNo"]))
            .filter(|it| wanted.contains(it))
            .collect())
    }

    /// How many of these updates a client says are successfully installed, and how many not.
    fn enforced(&self, client: &str, updates: &[u64]) -> Result<(u64, u64)> {
        let report = self.admin.ask(&["report", "client", client])?;
        let states = report["updates"]
            .as_array()
            .context("a client report without updates")?;
        let (mut installed, mut failed) = (0, 0);
        for update in updates {
            let state = states.iter().find(|it| number(&it["updateNo"]) == *update);
            match state.and_then(|it| it["enforcement"].as_str()) {
                Some("UPDATE_ENFORCEMENT_SUCCESSFULLY_INSTALLED") => installed += 1,
                other => {
                    say(&format!(
                        "update {update} ended as {}",
                        other.unwrap_or("nothing")
                    ));
                    failed += 1;
                }
            }
        }
        Ok((installed, failed))
    }

    fn reports(&self) -> Result<()> {
        say("compliance with the list");
        self.admin
            .show(&["report", "compliance", "--update-list", NAME])?;
        say("enforcement of the deployment");
        self.admin.show(&[
            "report",
            "enforcement",
            "--deployment",
            NAME,
            "--limit",
            "10",
        ])?;
        say("errors");
        self.admin
            .show(&["report", "errors", "--deployment", NAME])?;
        say("the root");
        self.admin.show(&["report", "client", "debian-root"])
    }
}
