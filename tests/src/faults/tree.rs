//! A hierarchy to break: every site with PostgreSQL, RabbitMQ, site server and management point as
//! processes of its own, the catalog of [`super::catalog`] beside each, and loads at any of them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use muster_local::hierarchy::{Member, Tree};
use muster_local::packages::{self, Install};
use muster_local::site::{Plan, Setting};
use muster_local::{Hierarchy, Interrupt, Service, Site, state};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::runtime::Runtime;

use super::catalog;
use super::ground::{Load, UPDATES, deployments, way};
use super::journal;
use super::oracle::{SNAPSHOT, Snapshot};
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
    _turn: File,
}

impl Forest {
    /// Starts the sites and joins them.
    ///
    /// # Errors
    /// When one does not get ready or is not taken in.
    pub fn set(name: &str, tree: Tree) -> Result<Self> {
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
                    server("postgres.lease_timeout", "4s"),
                    Setting::new(Service::ManagementPoint, "rabbitmq.confirm_timeout", "5s"),
                ],
                can_be_parent: true,
            }
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
        Ok(Self {
            sites: Some(sites),
            _runtime: runtime,
            folder,
            _catalogs: catalogs,
            _turn: turn,
        })
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
        let site = self.sites().site(code)?;
        Load::start(site, &folder, "load", code, manner, &folder)
    }

    /// What a site holds now.
    ///
    /// # Errors
    /// When its database does not answer.
    pub fn snapshot(&mut self, code: &str) -> Result<Snapshot> {
        let database = format!("muster_{}", code.to_ascii_lowercase());
        let site = self.sites().site(code)?;
        Snapshot::parse(&site.postgres.psql(&database, SNAPSHOT, &[])?)
    }

    /// Kills a part of a site, leaves it dead for a while, and starts it again; written to the
    /// journal of faults.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn strike(&mut self, code: &str, part: Part, dead: Duration) -> Result<()> {
        let file = self.folder.join("faults.journal");
        let mut file = OpenOptions::new().append(true).create(true).open(file)?;
        writeln!(
            file,
            "{} {code} {part:?} {}ms",
            journal::now(),
            dead.as_millis()
        )?;
        let site: &mut Site = self.sites().site_mut(code)?;
        match part {
            Part::Broker => site.rabbit.kill_9()?,
            Part::Database => site.postgres.kill_9()?,
            Part::Server(service) => site.kill_9(service)?,
        }
        std::thread::sleep(dead);
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
            std::thread::sleep(Duration::from_millis(250));
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
