//! The demo with several sites: only the central one follows archives and only there something is
//! decided; the clients are below. At the end all levels say the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use muster_local::administrator::{Administrator, Progress, SECURITY, number};
use muster_local::agents::{Agent, Fleet, Rights};
use muster_local::hierarchy::{Member, Tree};
use muster_local::packages::Programs;
use muster_local::site::Plan;
use muster_local::{DebianRoot, Hierarchy, Service, Site};
use serde_json::{Value, json};

use super::climb::{Climb, watch};
use super::{Args, NAME, settings};
use crate::up;
use crate::workspace::{Workspace, say};

const TREE: &str = "deploy/hierarchies/small.toml";
/// The site that gets the Debian root.
const PRIMARY: &str = "P01";
/// Clients that only pretend, at each site below.
const SIMULATED: u32 = 50;
/// Every site has it under the same id, and means its own clients and those below.
const EVERYBODY: &str = "All systems";

/// How long a page of metrics may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sets everything up, runs a deployment to its end and answers the last line.
pub(super) fn run(
    workspace: &Workspace,
    args: &Args,
    servers: &Programs,
    root: &Path,
    begin: Instant,
) -> Result<String> {
    let tree = Tree::read(&workspace.root().join(TREE))?;
    let plan = |member: &Member| Plan {
        code: member.code.clone(),
        name: member.name.clone(),
        ..up::plan(workspace, args.profile, settings())
    };
    let interrupt = workspace.interrupt();
    let mut sites = Hierarchy::start(root, interrupt, servers, tree, &Service::ALL, &plan, &say)?;
    let line = Demo {
        workspace,
        args,
        sites: &sites,
    }
    .run(root, begin)?;
    if args.keep {
        for (_, site) in &sites.sites {
            up::describe(site);
        }
        say("the sites stay up; Ctrl-C ends them");
        up::watch_tree(workspace, &mut sites)?;
    }
    sites.stop()?;
    Ok(line)
}

struct Demo<'a> {
    workspace: &'a Workspace,
    args: &'a Args,
    sites: &'a Hierarchy,
}

impl Demo<'_> {
    fn central(&self) -> Result<&Site> {
        let first = self.sites.sites.iter().find(|(it, _)| it.parent.is_none());
        Ok(&first.context("no central site")?.1)
    }

    fn below(&self) -> Vec<&Site> {
        let sites = self.sites.sites.iter();
        sites
            .filter(|(it, _)| it.parent.is_some())
            .map(|(_, site)| site)
            .collect()
    }

    fn run(&self, root: &Path, begin: Instant) -> Result<String> {
        let central = self.central()?;
        let admin = Administrator::of(central);
        say("synchronising this machine's own suites at the central site");
        admin.show(&["sync", "run", "--full", "--watch"])?;
        let updates = self.await_catalogs(&admin)?;
        let debian = DebianRoot::build(
            &root.join("debian-root"),
            &self.workspace.states().join("cache"),
            &central.state().log("debian-root"),
            self.args.install.choice(),
            &say,
        )?;
        let primary = self.sites.site(PRIMARY)?;
        say(&format!(
            "enrolling the root at {PRIMARY}, and {SIMULATED} simulated clients at each site below"
        ));
        let folder = Some(debian.folder());
        let mut guest = Agent::enrol(primary, "debian-root", folder, Rights::Install, None)?;
        guest.start(primary)?;
        let pretend = root.join("packages.txt");
        fs::write(&pretend, debian.packages()?)?;
        let fleets = self.below().into_iter().zip(1..);
        let mut fleets: Vec<Fleet> = fleets
            .map(|(site, seed)| Fleet::start(site, SIMULATED, seed, &pretend, None))
            .collect::<Result<_>>()?;

        let stop = AtomicBool::new(false);
        let watched: Vec<&Site> = self.sites.sites.iter().map(|(_, site)| site).collect();
        let (before, climb) = std::thread::scope(|scope| {
            let watching = scope.spawn(|| watch(&watched, &stop));
            let before = self.deploy(&admin);
            stop.store(true, Ordering::Relaxed);
            let climb = watching
                .join()
                .unwrap_or_else(|_| bail!("watching the states panicked"));
            Ok::<_, anyhow::Error>((before?, climb?))
        })
        .inspect_err(|_| say(&format!("the root's agent said last:\n{}", guest.log())))?;
        let audit = debian.audit()?;
        ensure!(audit.is_empty(), "dpkg --audit of the root says: {audit}");

        let agreed = self.await_agreement(&admin)?;
        self.show(&admin)?;
        show_climb(&climb);
        let from_parent = self.fetched("parent")?;
        let from_archive = self.fetched("archive")?;
        say(&format!(
            "the sites below fetched {from_parent} bytes of content from the central site, \
             {from_archive} from archives"
        ));
        let installed = installed(&agreed.root);
        let after = self.root_requires(&admin)?;
        ensure!(
            after.is_empty() && installed >= before && agreed.deployment.failed == 0,
            "the root still requires {} of {before} security updates; {installed} were installed, \
             {} clients failed",
            after.len(),
            agreed.deployment.failed
        );
        let all = climb.all();
        let line = json!({
            "sites": self.sites.sites.len(),
            "root": { "site": PRIMARY, "required_before": before, "installed": installed },
            "clients": agreed.deployment.clients,
            "compliant": agreed.deployment.compliant,
            "same_numbers": true,
            "updates": updates,
            "climb_seconds": {
                "states": all.count(),
                "median": all.within(0.5),
                "p95": all.within(0.95),
                "longest": all.within(1.0),
            },
            "content_bytes": { "from_parent": from_parent, "from_archive": from_archive },
            "seconds": begin.elapsed().as_secs(),
        });
        for fleet in &mut fleets {
            fleet.stop()?;
        }
        guest.stop()?;
        debian.remove()?;
        Ok(line.to_string())
    }

    /// The sites below have the central site's catalog, under its numbers; returns how many updates.
    fn await_catalogs(&self, admin: &Administrator) -> Result<u64> {
        let updates = |admin: &Administrator| -> Result<(u64, u64)> {
            let site = admin.ask(&["describe", "site"])?["site"].take();
            Ok((number(&site["updates"]), number(&site["catalogGeneration"])))
        };
        let what = "the catalog at all sites";
        let reached = admin.until(what, Duration::from_secs(420), || {
            let central = updates(admin)?;
            if central.0 == 0 {
                return Ok(None);
            }
            for site in self.below() {
                if updates(&Administrator::of(site))? != central {
                    return Ok(None);
                }
            }
            Ok(Some(central))
        })?;
        say(&format!(
            "all sites have the same {} updates of generation {}",
            reached.0, reached.1
        ));
        Ok(reached.0)
    }

    /// Everything that is decided is decided at the central site. Returns how many updates the root
    /// required before.
    fn deploy(&self, admin: &Administrator) -> Result<usize> {
        let expected = SIMULATED as usize * self.below().len() + 1;
        let mut shown = 0;
        admin.until(
            "a scan of every client at the central site",
            Duration::from_secs(300),
            || {
                let scanned = admin.scanned()?;
                if scanned != shown {
                    say(&format!(
                        "the central site has scans of {scanned} of {expected} clients"
                    ));
                    shown = scanned;
                }
                Ok((scanned == expected).then_some(()))
            },
        )?;
        let before = self.root_requires(admin)?;
        ensure!(
            !before.is_empty(),
            "the root requires no security update: there is nothing to show"
        );
        say(&format!(
            "the root requires {} security updates; deploying them at the central site",
            before.len()
        ));
        let of = ["--classification", SECURITY, "--required-in", EVERYBODY];
        admin.show(&[&["create", "update-list", NAME], &of[..]].concat())?;
        admin.show(&["create", "package", NAME, "--update-list", NAME, "--wait"])?;
        let what = ["--collection", EVERYBODY, "--update-list", NAME];
        let when = ["--deadline", "now"];
        admin.show(&[&["create", "deployment", NAME], &what[..], &when].concat())?;
        let mut shown = Progress::default();
        admin.until(
            "the end of the deployment",
            Duration::from_secs(600),
            || {
                let now = admin.deployment(NAME)?;
                if now != shown {
                    say(&format!(
                        "at the central site, {} clients: {} compliant, {} in progress, {} failed, {} silent",
                        now.clients, now.compliant, now.in_progress, now.failed, now.unknown
                    ));
                    shown = now;
                }
                Ok((now.is_done() && now.clients as usize == expected).then_some(()))
            },
        )?;
        Ok(before.len())
    }

    /// Security updates that the root requires, as the central site knows it.
    fn root_requires(&self, admin: &Administrator) -> Result<Vec<u64>> {
        let wanted = admin.required(SECURITY, EVERYBODY)?;
        let report = report_of_root(admin)?;
        let required = report.into_iter().filter(|(update, (compliance, _))| {
            compliance == "UPDATE_DETECTION_REQUIRED" && wanted.contains(update)
        });
        Ok(required.map(|(update, _)| update).collect())
    }

    /// What the central site says is what the sites below say.
    fn await_agreement(&self, admin: &Administrator) -> Result<Agreed> {
        let mut differs = String::new();
        let agreed = admin.until(
            "the same numbers at all levels",
            Duration::from_secs(120),
            || match self.compare(admin)? {
                Ok(agreed) => Ok(Some(agreed)),
                Err(what) => {
                    differs = what;
                    Ok(None)
                }
            },
        );
        agreed.with_context(|| format!("the levels differ: {differs}"))
    }

    fn compare(&self, admin: &Administrator) -> Result<Result<Agreed, String>> {
        let above = admin.deployment(NAME)?;
        let (mut below, mut lists) = (Progress::default(), BTreeMap::new());
        for site in self.below() {
            let admin = Administrator::of(site);
            let part = admin.deployment(NAME)?;
            below.clients += part.clients;
            below.compliant += part.compliant;
            below.in_progress += part.in_progress;
            below.failed += part.failed;
            below.unknown += part.unknown;
            for (key, count) in compliance_of_list(&admin)? {
                *lists.entry(key).or_insert(0) += count;
            }
        }
        if above != below {
            return Ok(Err(format!("deployment: {above:?} above, {below:?} below")));
        }
        let list = compliance_of_list(admin)?;
        if list != lists {
            return Ok(Err(format!("compliance: {list:?} above, {lists:?} below")));
        }
        let root = report_of_root(admin)?;
        let held = report_of_root(&Administrator::of(self.sites.site(PRIMARY)?))?;
        if root != held {
            return Ok(Err("the root's updates".to_owned()));
        }
        Ok(Ok(Agreed {
            deployment: above,
            root,
        }))
    }

    fn show(&self, central: &Administrator) -> Result<()> {
        for (member, site) in &self.sites.sites {
            say(&format!("{} {}: enforcement", member.code, member.name));
            let admin = Administrator::of(site);
            admin.show(&[
                "report",
                "enforcement",
                "--deployment",
                NAME,
                "--limit",
                "5",
            ])?;
            say(&format!("{} {}: compliance", member.code, member.name));
            admin.show(&["report", "compliance", "--update-list", NAME])?;
        }
        say("the root, at the central site");
        central.show(&["report", "client", "debian-root"])?;
        central.show(&["site", "list", "--tree"])
    }

    /// Bytes that distribution points below fetched from there.
    fn fetched(&self, from: &str) -> Result<u64> {
        let mut bytes = 0;
        for site in self.below() {
            let url = format!("{}/metrics", site.admin(Service::DistributionPoint));
            let (_, text) = muster_local::http::get(&url, PATIENCE)?;
            let name = format!("muster_content_fetched_bytes_total{{from=\"{from}\"}} ");
            let found = text.lines().find_map(|line| line.strip_prefix(&name));
            bytes += found.and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(bytes)
    }
}

/// What all levels say.
struct Agreed {
    deployment: Progress,
    root: BTreeMap<u64, (String, String)>,
}

fn installed(root: &BTreeMap<u64, (String, String)>) -> usize {
    const DONE: &str = "UPDATE_ENFORCEMENT_SUCCESSFULLY_INSTALLED";
    root.values().filter(|(_, it)| it == DONE).count()
}

/// Compliance and enforcement of each update of the root.
fn report_of_root(admin: &Administrator) -> Result<BTreeMap<u64, (String, String)>> {
    let report = admin.ask(&["report", "client", "debian-root"])?;
    let updates = report["updates"]
        .as_array()
        .context("a client report without updates")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = updates.iter().map(|it| {
        let states = (text(&it["compliance"]), text(&it["enforcement"]));
        (number(&it["updateNo"]), states)
    });
    Ok(rows.collect())
}

/// All counts of the list's report, by what they count.
fn compliance_of_list(admin: &Administrator) -> Result<BTreeMap<String, u64>> {
    let report = admin.ask(&["report", "compliance", "--update-list", NAME])?;
    let mut counts = BTreeMap::new();
    for key in ["clients", "compliant", "nonCompliant", "unknown", "noData"] {
        counts.insert(key.to_owned(), number(&report[key]));
    }
    let updates = report["updates"].as_array().cloned().unwrap_or_default();
    for update in updates {
        for key in ["installed", "required", "notRequired", "unknown", "noData"] {
            let name = format!("update {} {key}", number(&update["updateNo"]));
            counts.insert(name, number(&update[key]));
        }
    }
    Ok(counts)
}

fn show_climb(climb: &Climb) {
    say("how long states took from the database of a site below to the central site's (seconds)");
    println!(
        "    {:40}{:>8}{:>8}{:>8}{:>8}",
        "state", "count", "median", "p95", "longest"
    );
    let all = [("all", climb.all())];
    for (state, times) in climb.by_state().into_iter().chain(all) {
        println!(
            "    {state:40}{:>8}{:>8.1}{:>8.1}{:>8.1}",
            times.count(),
            times.within(0.5),
            times.within(0.95),
            times.within(1.0)
        );
    }
    if climb.missing() > 0 {
        say(&format!(
            "{} states were replaced before they had climbed",
            climb.missing()
        ));
    }
}
