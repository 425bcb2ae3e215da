//! A hierarchy to break: every site with PostgreSQL, RabbitMQ, site server and management point as
//! processes of its own, the catalog of [`super::catalog`] beside each, and loads at any of them.

mod breaking;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use muster_local::administrator::{Administrator, number};
use muster_local::hierarchy::{Member, Tree};
use muster_local::packages::{self, Install};
use muster_local::site::{Plan, Setting};
use muster_local::{Hierarchy, Interrupt, Service, Site, state};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::runtime::Runtime;

use super::catalog;
use super::ground::{Load, SEEN, UPDATES, counters, deployments, matrix_off, way};
use super::journal;
use super::oracle::{SNAPSHOT, Snapshot};
use super::proxy::Proxy;
use crate::{say, turn, workspace};

const SERVERS: [Service; 2] = [Service::SiteServer, Service::ManagementPoint];

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The broker.
    Broker,
    /// The database server.
    Database,
    /// A server of the site.
    Server(Service),
}

impl Part {
    /// 40 % brokers, 30 % databases, 30 % servers (reliability.md F-01).
    pub fn draw(random: &mut StdRng) -> Self {
        match random.random_range(0..10) {
            0..4 => Self::Broker,
            4..7 => Self::Database,
            other => Self::Server(SERVERS[other % 2]),
        }
    }
}

/// Running sites; stopped and removed with [`Forest::end`].
pub struct Forest {
    sites: Option<Hierarchy>,
    _runtime: Runtime,
    folder: PathBuf,
    _catalogs: Vec<muster_runtime::grpc::Handle>,
    /// Between a child and its parent's broker, by the child.
    networks: BTreeMap<String, Proxy>,
    seen: Seen,
    /// Started so far.
    loads: usize,
    _turn: File,
}

/// How a link is at one of its ends, as the console shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// `HEALTHY`, `DEGRADED`, `FAILED` or `REFUSED`.
    pub health: String,
    /// Cycles without a word of the other end.
    pub missed: u64,
    /// Epochs: of what is sent, and of what is received.
    pub epochs: (u64, u64),
}

/// What came of a run in which nothing was lost or wrong.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Different reports that were made.
    pub reports: u64,
    /// States that were acknowledged (see [`super::journal::History::states`]).
    pub states: u64,
    /// States that the central site holds now.
    pub held: usize,
    /// How long it took until the central site had everything.
    pub quiesced: Duration,
}

impl Forest {
    /// Starts the sites and joins them. `settings` are those of every site.
    ///
    /// # Errors
    /// When one does not get ready or is not taken in.
    pub fn set(name: &str, tree: Tree, settings: &[Setting]) -> Result<Self> {
        let turn = turn()?;
        muster_runtime::crypto::install();
        let folder = workspace().join(".muster").join(format!("faults-{name}"));
        state::remove(&folder, Duration::from_secs(20))?;
        let servers = packages::ensure(Install::No, &say)?;
        let ports: BTreeMap<String, u16> = tree
            .sites
            .iter()
            .map(|it| (it.code.clone(), muster_testkit::free_port()))
            .collect();
        let plan = |member: &Member| {
            let mut plan = plan(member, &ports);
            plan.settings.extend_from_slice(settings);
            plan
        };
        let interrupt = Interrupt::default();
        let central = tree.sites.iter().find(|it| it.parent.is_none());
        let central = central.context("no central site")?.code.clone();
        let sites = Hierarchy::start(&folder, &interrupt, &servers, tree, &SERVERS, &plan, &say)?;
        let runtime = Runtime::new()?;
        let mut catalogs = Vec::new();
        for (member, site) in &sites.sites {
            // They belong to the central site, or each would claim the ids of the others.
            let owner = member.parent.is_some().then_some(central.as_str());
            deployments(site, owner)?;
            let tls = way(site).tls("software-update-point");
            let served = catalog::serve(ports[&member.code], tls, UPDATES);
            catalogs.push(runtime.block_on(served)?);
        }
        let admin = |site: &Site| site.admin(Service::SiteServer);
        let seen = Seen::start(sites.sites.iter().map(|(_, site)| admin(site)).collect());
        Ok(Self {
            sites: Some(sites),
            _runtime: runtime,
            folder,
            _catalogs: catalogs,
            networks: BTreeMap::new(),
            seen,
            loads: 0,
            _turn: turn,
        })
    }

    /// A site begins with nothing but what `site-server init` made for it: an empty database, an empty
    /// broker. Its server runs, and nobody has joined it.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn begin_anew(&mut self, code: &str) -> Result<()> {
        self.note(&format!("{code} loses its database and its broker's data"))?;
        let site = self.sites().site_mut(code)?;
        site.terminate(Service::SiteServer)?;
        site.lose_database()?;
        site.lose_broker()?;
        site.restart(Service::SiteServer)?;
        // What clients speak of is made again by hand, as at the first start.
        deployments(site, None)
    }

    /// A site joins its parent, for the first time or again, as an administrator does it.
    ///
    /// # Errors
    /// When one of them refuses.
    pub fn join(&mut self, child: &str) -> Result<()> {
        let parent = self.lineage(child).into_iter().nth(1);
        let parent = parent.context("a site without a parent")?;
        let invited = self.admin(&parent)?.ask(&["site", "invite", child])?;
        let token = invited["token"].as_str().context("no token")?;
        self.admin(child)?.ask(&["site", "join", token]).map(drop)
    }

    /// Where journals and copies of databases are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The codes of the sites, parents before their children.
    pub fn codes(&self) -> Vec<String> {
        let sites = self.sites.iter().flat_map(|it| &it.sites);
        sites.map(|(member, _)| member.code.clone()).collect()
    }

    /// A site and those above it, nearest first.
    fn lineage(&self, code: &str) -> Vec<String> {
        let sites = self.sites.iter().flat_map(|it| &it.sites);
        let parents: BTreeMap<_, _> = sites.map(|(it, _)| (&it.code, &it.parent)).collect();
        let above = |code: &String| parents.get(code).copied().cloned().flatten();
        std::iter::successors(Some(code.to_owned()), above).collect()
    }

    /// From now on the child reaches its parent's broker through a proxy.
    ///
    /// # Errors
    /// When the child does not change over.
    pub fn put_between(&mut self, child: &str) -> Result<()> {
        let parent = self.lineage(child).into_iter().nth(1);
        let parent = parent.context("a site without a parent")?;
        let broker = self.sites().site(&parent)?.rabbit.amqp_port();
        let proxy = Proxy::start(broker)?;
        // Its link starts anew, as after it was joined again.
        self.sql(
            child,
            &format!(
                "UPDATE parent_broker SET uri = replace(uri, ':{broker}/', ':{}/');
                 UPDATE links SET joined_at = now() WHERE is_parent",
                proxy.port()
            ),
        )?;
        let end = Instant::now() + Duration::from_secs(90);
        // Who publishes and who consumes.
        while proxy.connections() < 2 {
            ensure!(Instant::now() < end, "{child} does not use the proxy");
            thread::sleep(Duration::from_millis(100));
        }
        self.networks.insert(child.to_owned(), proxy);
        Ok(())
    }

    /// The network between a child and its parent's broker.
    ///
    /// # Errors
    /// When there is no proxy between them.
    pub fn network(&self, child: &str) -> Result<&Proxy> {
        let found = self.networks.get(child);
        found.with_context(|| format!("nothing stands between {child} and its parent"))
    }

    /// The console of a site.
    ///
    /// # Errors
    /// When there is no such site.
    pub fn admin(&mut self, code: &str) -> Result<Administrator> {
        Ok(Administrator::of(self.sites().site(code)?))
    }

    /// How a link is at this end of it.
    ///
    /// # Errors
    /// When the site does not answer, or has no such link.
    pub fn link(&mut self, code: &str, peer: &str) -> Result<Link> {
        let links = self.admin(code)?.ask(&["site", "status"])?["links"].take();
        let links = links.as_array().cloned().unwrap_or_default();
        let found = links.iter().find(|it| it["peerSiteCode"] == peer);
        let link = found.with_context(|| format!("{code} has no link to {peer}"))?;
        let health = link["health"].as_str().unwrap_or_default();
        Ok(Link {
            health: health.trim_start_matches("LINK_HEALTH_").to_owned(),
            missed: number(&link["missedCycles"]),
            epochs: (
                number(&link["sending"]["epoch"]),
                number(&link["receiving"]["epoch"]),
            ),
        })
    }

    /// Runs statements in a site's database.
    ///
    /// # Errors
    /// When one fails.
    pub fn sql(&mut self, code: &str, sql: &str) -> Result<String> {
        let script = format!("SET search_path = site;\n{sql};\n");
        let site = self.sites().site(code)?;
        site.postgres.psql(&database(code), &script, &[])
    }

    /// Collections by owner and name, as a site has them.
    ///
    /// # Errors
    /// When its database does not answer.
    pub fn collections(&mut self, code: &str) -> Result<Vec<String>> {
        let rows = self.sql(
            code,
            &format!(
                "SELECT COALESCE(owner_site_code, '{code}') || '/' || name FROM collections
                 WHERE NOT built_in ORDER BY 1"
            ),
        )?;
        Ok(rows.lines().map(str::to_owned).collect())
    }

    /// What all sites together have seen: `repeat`, reports that they had recorded before, and
    /// `early`, those that came before others that were made before them.
    pub fn seen(&self, what: &str) -> u64 {
        self.seen.total(what)
    }

    /// A counter of a site server now, by the beginning of its line.
    ///
    /// # Errors
    /// When the site server does not answer.
    pub fn counter(&mut self, code: &str, line: &str) -> Result<u64> {
        let admin = self.sites().site(code)?.admin(Service::SiteServer);
        let values = counters(&admin, &[("", line)]);
        let values = values.with_context(|| format!("{code} shows no metrics"))?;
        Ok(values[0])
    }

    /// The sites.
    ///
    /// # Panics
    /// Never before [`Forest::end`].
    #[allow(clippy::expect_used)]
    pub fn sites(&mut self) -> &mut Hierarchy {
        self.sites
            .as_mut()
            .expect("the sites are taken only at the end")
    }

    /// Starts clients of a site in a process of their own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn load(&mut self, code: &str, manner: &[&str]) -> Result<Load> {
        let folder = self.folder.clone();
        let name = format!("{code}-{}", self.loads);
        self.loads += 1;
        let site = self.sites().site(code)?;
        Load::start(site, &folder, "load", &name, manner, &folder)
    }

    /// Starts clients of a site that report 20 times a second together, until they are told to end,
    /// and answer when everything is asked of them.
    ///
    /// # Errors
    /// As [`Forest::load`].
    pub fn steady(&mut self, code: &str, count: u32, seed: u64, more: &[&str]) -> Result<Load> {
        let numbers = [("--clients", u64::from(count)), ("--seed", seed)];
        let numbers = numbers.map(|(name, value)| [name.to_owned(), value.to_string()]);
        let mut manner: Vec<&str> = numbers.iter().flatten().map(String::as_str).collect();
        manner.extend(["--rate", "20", "--states", "9", "--answer-resync"]);
        manner.extend(more);
        self.load(code, &manner)
    }

    /// As [`Self::load`], with clients that go to another site when they are moved there.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn load_that_moves(&mut self, code: &str, to: &str, manner: &[&str]) -> Result<Load> {
        let next = way(self.sites().site(to)?);
        let folder = next.site.to_string_lossy().into_owned();
        let next = [
            "--next-management-point",
            &next.management_point,
            "--next-site-server",
            &next.site_server,
            "--next-site",
            &folder,
        ];
        self.load(code, &[manner, &next].concat())
    }

    /// Waits until a site has what these loads got acknowledged up to now; they may go on.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn catch_up(
        &mut self,
        code: &str,
        loads: &mut [Load],
        patience: Duration,
    ) -> Result<Duration> {
        let begin = Instant::now();
        let mut goals = BTreeMap::new();
        for load in loads {
            load.read()?;
            let clients = load.history.clients.iter();
            goals.extend(clients.map(|it| (it.id, it.acknowledged)));
        }
        loop {
            let snapshot = self.snapshot(code)?;
            goals.retain(|id, goal| {
                snapshot
                    .rows
                    .get(id)
                    .is_none_or(|row| row.contiguous < *goal)
            });
            if goals.is_empty() {
                return Ok(begin.elapsed());
            }
            ensure!(
                begin.elapsed() < patience,
                "{} clients are not at {code} as they were {} s ago:\n{}",
                goals.len(),
                patience.as_secs(),
                self.status()
            );
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Ends the loads, which are all there ever were; waits until the central site has everything,
    /// and compares each site with what the clients at and below it said: rows, counters, and what
    /// it answers from its matrix.
    ///
    /// # Errors
    /// When something is lost, wrong, unexpected or counted twice, or does not come to rest.
    pub fn judge(&mut self, loads: &mut [Load], patience: Duration) -> Result<Outcome> {
        for load in &mut *loads {
            load.end()?;
        }
        let codes = self.codes();
        let central = codes[0].clone();
        let quiesced = self.quiesce(&central, loads, patience)?;
        let mut held = 0;
        for code in &codes {
            let snapshot = self.snapshot(code)?;
            for load in &*loads {
                let home = &load.site;
                if !self.lineage(home).contains(code) {
                    continue;
                }
                let verdict = snapshot.judge(&load.history);
                say(&format!("{code} of the clients of {home}: {verdict}"));
                ensure!(verdict.passes(), "{code}, clients of {home}: {verdict}");
            }
            let below = |load: &&Load| self.lineage(&load.site).contains(code);
            let (own, others): (Vec<&Load>, Vec<&Load>) =
                loads.iter().filter(below).partition(|it| it.site == *code);
            let made: usize = own.iter().map(|it| it.history.distinct()).sum();
            // What comes from below is counted here too, as often as it came; what clients said before they
            // moved was counted where they were.
            ensure!(
                !others.is_empty()
                    || loads.iter().any(|it| it.moved)
                    || snapshot.reports <= i64::try_from(made)?,
                "{} reports recorded at {code}, {made} made there",
                snapshot.reports
            );
            let off = matrix_off(&self.admin(code)?, &snapshot)?;
            ensure!(off.is_empty(), "the matrix of {code} is off: {off:?}");
            ensure!(snapshot.quarantined == 0, "poison from nowhere at {code}");
            if *code == central {
                held = snapshot.rows.values().map(|row| row.states.len()).sum();
                let clients: usize = loads.iter().map(|it| it.history.clients.len()).sum();
                ensure!(snapshot.rows.len() == clients, "clients from nowhere");
            }
        }
        for (member, site) in &mut self.sites().sites {
            let fallen = site.fallen()?;
            ensure!(fallen.is_none(), "{fallen:?} of {} ended", member.code);
        }
        Ok(Outcome {
            reports: loads.iter().map(|it| it.history.distinct() as u64).sum(),
            states: loads.iter().map(|it| it.history.states()).sum(),
            held,
            quiesced,
        })
    }

    /// What a site holds now.
    ///
    /// # Errors
    /// When its database does not answer.
    pub fn snapshot(&mut self, code: &str) -> Result<Snapshot> {
        let site = self.sites().site(code)?;
        Snapshot::parse(&site.postgres.psql(&database(code), SNAPSHOT, &[])?)
    }

    /// Writes what is done to a site into the journal of faults.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&self, what: &str) -> Result<()> {
        let file = self.folder.join("faults.journal");
        let mut file = OpenOptions::new().append(true).create(true).open(file)?;
        writeln!(file, "{} {what}", journal::now())?;
        Ok(())
    }

    /// Kills a part of a site, leaves it dead for a while, and starts it again; written to the
    /// journal of faults.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn strike(&mut self, code: &str, part: Part, dead: Duration) -> Result<()> {
        self.note(&format!("{code} {part:?} {}ms", dead.as_millis()))?;
        let site: &mut Site = self.sites().site_mut(code)?;
        match part {
            Part::Broker => site.rabbit.kill_9()?,
            Part::Database => site.postgres.kill_9()?,
            Part::Server(service) => site.kill_9(service)?,
        }
        thread::sleep(dead);
        match part {
            Part::Broker => site.rabbit.restart(),
            Part::Database => site.postgres.restart(),
            Part::Server(service) => site.restart(service),
        }
        .with_context(|| format!("{part:?} of {code} does not come back"))
    }

    /// Waits until a site has everything that these loads got acknowledged; how long it took.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn quiesce(&mut self, code: &str, loads: &[Load], patience: Duration) -> Result<Duration> {
        let begin = Instant::now();
        loop {
            let snapshot = self.snapshot(code)?;
            let behind: usize = loads.iter().map(|it| snapshot.behind(&it.history)).sum();
            if behind == 0 {
                return Ok(begin.elapsed());
            }
            ensure!(
                begin.elapsed() < patience,
                "{behind} clients are not at {code} as they are after {} s:\n{}",
                patience.as_secs(),
                self.status()
            );
            thread::sleep(Duration::from_millis(250));
        }
    }

    /// How the links are, for who reads of a failure.
    fn status(&mut self) -> String {
        let mut text = String::new();
        for (member, site) in &self.sites().sites {
            let mut console = site.console();
            let shown = console.args(["site", "status"]).output();
            let shown = shown.map(|it| String::from_utf8_lossy(&it.stdout).into_owned());
            text.push_str(&format!("{}\n{}", member.code, shown.unwrap_or_default()));
        }
        text
    }

    /// Ends a story that went well: nothing of it stays but the journal of faults, printed.
    ///
    /// # Errors
    /// When a process cannot be stopped or a file not removed.
    pub fn end(mut self) -> Result<()> {
        if let Ok(faults) = fs::read_to_string(self.folder.join("faults.journal")) {
            say(&format!("faults:\n{faults}"));
        }
        if let Some(mut sites) = self.sites.take() {
            sites.stop()?;
        }
        state::remove(&self.folder, Duration::from_secs(20)).map(drop)
    }
}

fn plan(member: &Member, ports: &BTreeMap<String, u16>) -> Plan {
    let update_point = format!("https://127.0.0.1:{}", ports[&member.code]);
    let server = |key, value: &str| Setting::new(Service::SiteServer, key, value);
    Plan {
        code: member.code.clone(),
        name: member.name.clone(),
        programs: muster_testkit::programs(),
        templates: workspace().join("deploy/config"),
        settings: vec![
            server("roles.software_update_point", &update_point),
            Setting::new(
                Service::SiteServer,
                "roles.software_update_points",
                vec![update_point.clone()],
            ),
            server("catalog_poll_interval", "1s"),
            server("resync_after", "2s"),
            server("resync_jitter", "0s"),
            server("postgres.lease_timeout", "4s"),
            Setting::new(Service::ManagementPoint, "rabbitmq.confirm_timeout", "5s"),
        ],
        can_be_parent: true,
    }
}

fn database(code: &str) -> String {
    format!("muster_{}", code.to_ascii_lowercase())
}

/// Adds up counters of site servers, which end with their processes.
#[derive(Debug)]
struct Seen {
    totals: Arc<Mutex<[u64; SEEN.len()]>>,
    stop: Arc<AtomicBool>,
}

impl Seen {
    fn start(admins: Vec<String>) -> Self {
        let totals = Arc::new(Mutex::new([0; SEEN.len()]));
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Self { totals, stop };
        let (totals, stop) = (Arc::clone(&seen.totals), Arc::clone(&seen.stop));
        thread::spawn(move || {
            let mut last = vec![[0; SEEN.len()]; admins.len()];
            while !stop.load(Ordering::SeqCst) {
                for (admin, last) in admins.iter().zip(&mut last) {
                    let Some(values) = counters(admin, &SEEN) else {
                        continue;
                    };
                    let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                    for ((total, last), value) in totals.iter_mut().zip(last).zip(values) {
                        // Less than before: another process.
                        *total += value.checked_sub(*last).unwrap_or(value);
                        *last = value;
                    }
                }
                thread::sleep(Duration::from_millis(500));
            }
        });
        seen
    }

    fn total(&self, what: &str) -> u64 {
        let at = SEEN.iter().position(|(name, _)| *name == what);
        let totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        at.map_or(0, |at| totals[at])
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

impl Drop for Forest {
    fn drop(&mut self) {
        if let Some(mut sites) = self.sites.take() {
            let _ = sites.stop();
            say(&format!(
                "this story did not end well; logs are in {}",
                self.folder.display()
            ));
        }
    }
}
