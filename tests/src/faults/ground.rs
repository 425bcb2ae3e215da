//! A site to break: PostgreSQL, RabbitMQ, site server and management point as processes, any of
//! the two services with a failpoint or without a protection, and the load beside it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use muster_local::administrator::{Administrator, number};
use muster_local::packages::{self, Install};
use muster_local::process::{Launch, Process};
use muster_local::site::{Plan, Setting};
use muster_local::{Interrupt, Service, Site, State, http, state};
use tokio::runtime::Runtime;

use super::journal::{self, History};
use super::load::{self, Way};
use super::oracle::{SNAPSHOT, Snapshot, Verdict};
use super::{catalog, schedule::Strike};
use crate::{say, turn, workspace};

/// Updates in the catalog.
pub const UPDATES: u32 = 64;
/// How long the site may take until everything acknowledged is recorded.
const QUIESCE: Duration = Duration::from_secs(90);
/// How long until a failpoint is hit.
const HIT: Duration = Duration::from_secs(60);
const SERVERS: [Service; 2] = [Service::SiteServer, Service::ManagementPoint];

/// A site of its own; stopped and removed with [`Ground::end`].
pub struct Ground {
    site: Option<Site>,
    /// Calls that a story makes itself.
    pub runtime: Runtime,
    folder: PathBuf,
    _catalog: muster_runtime::grpc::Handle,
    /// Highest value of the site's repeat and early counters in each life of the process.
    seen: BTreeMap<(usize, &'static str), u64>,
    life: usize,
    _turn: File,
}

impl Ground {
    /// Starts the servers.
    ///
    /// # Errors
    /// When one does not get ready.
    pub fn set(name: &str) -> Result<Self> {
        Self::with(name, &SERVERS)
    }

    /// Starts these servers.
    ///
    /// # Errors
    /// When one does not get ready.
    pub fn with(name: &str, which: &[Service]) -> Result<Self> {
        let turn = turn()?;
        muster_runtime::crypto::install();
        let folder = workspace().join(".muster").join(format!("faults-{name}"));
        state::remove(&folder, Duration::from_secs(20))?;
        let servers = packages::ensure(Install::No, &say)?;
        let state = State::open(&folder, Interrupt::default())?;
        let port = muster_testkit::free_port();
        let update_point = format!("https://127.0.0.1:{port}");
        let plan = Plan {
            can_be_parent: false,
            code: "P01".to_owned(),
            name: format!("faults {name}"),
            programs: muster_testkit::programs(),
            templates: workspace().join("deploy/config"),
            settings: vec![
                Setting::new(
                    Service::SiteServer,
                    "roles.software_update_point",
                    update_point.clone(),
                ),
                Setting::new(
                    Service::SiteServer,
                    "roles.software_update_points",
                    vec![update_point],
                ),
                Setting::new(Service::SiteServer, "catalog_poll_interval", "1s"),
                Setting::new(Service::SiteServer, "resync_after", "2s"),
                Setting::new(Service::SiteServer, "resync_jitter", "0s"),
                Setting::new(Service::SiteServer, "postgres.lease_timeout", "4s"),
                Setting::new(Service::ManagementPoint, "rabbitmq.confirm_timeout", "5s"),
            ],
        };
        let site = Site::start_some(&state, &servers, plan, which, &say)?;
        site.login()?;
        let runtime = Runtime::new()?;
        let way = way(&site);
        let served = catalog::serve(port, way.tls("software-update-point"), UPDATES);
        let catalog = runtime.block_on(served)?;
        Ok(Self {
            site: Some(site),
            runtime,
            folder,
            _catalog: catalog,
            seen: BTreeMap::new(),
            life: 0,
            _turn: turn,
        })
    }

    /// The site.
    ///
    /// # Panics
    /// Never before [`Ground::end`].
    #[allow(clippy::expect_used)]
    pub fn site(&mut self) -> &mut Site {
        self.site
            .as_mut()
            .expect("the site is taken only at the end")
    }

    /// Where clients report.
    pub fn way(&mut self) -> Way {
        way(self.site())
    }

    /// Where journals are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The console.
    pub fn admin(&mut self) -> Administrator {
        Administrator::of(self.site())
    }

    /// Starts the load in a process of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn load(&mut self, kind: &str, name: &str, manner: &[&str]) -> Result<Load> {
        deployments(self.site(), None)?;
        let (folder, capture) = (self.folder.clone(), self.capture(name));
        Load::start(self.site(), &folder, kind, name, manner, &capture)
    }
}

impl Load {
    /// Starts a load on a site in a process of its own; its journal is in `folder`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        site: &Site,
        folder: &Path,
        kind: &str,
        name: &str,
        manner: &[&str],
        capture: &Path,
    ) -> Result<Self> {
        let journal = folder.join(format!("{name}.journal"));
        let way = way(site);
        let mut launch = Launch::new(&format!("oracle-{name}"), site.program("muster-oracle"))
            .arg(kind)
            .args(["--management-point", &way.management_point])
            .args(["--site-server", &way.site_server])
            .arg("--site")
            .arg(&way.site)
            .args(["--updates", &UPDATES.to_string()])
            .arg("--journal")
            .arg(&journal)
            .args(manner);
        if kind == "mangle" {
            launch = launch.arg("--capture").arg(capture);
        }
        let process = Process::spawn(site.state(), launch)?;
        Ok(Self {
            process,
            journal,
            site: site.code().to_owned(),
            moved: false,
            history: History::default(),
        })
    }
}

impl Ground {
    /// Where the capture of a `mangle` of this name is.
    pub fn capture(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.capture"))
    }

    /// Where a failpoint writes that it was hit.
    pub fn hits(&self) -> PathBuf {
        self.folder.join("faults.journal")
    }

    /// Stops a service and starts it again so that it ends at a failpoint, and without
    /// protections. Does not wait until it is ready: it may end before that.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn break_service(
        &mut self,
        service: Service,
        strike: Option<&Strike>,
        without: &[&str],
    ) -> Result<()> {
        self.look(service);
        self.site().terminate(service)?;
        self.spawn_faulty(service, strike, without)
    }

    fn spawn_faulty(
        &mut self,
        service: Service,
        strike: Option<&Strike>,
        without: &[&str],
    ) -> Result<()> {
        let args = faulty(service, strike, without, &self.hits());
        if service == Service::SiteServer {
            self.life += 1;
        }
        self.site().spawn_as(service, "muster-faulty", &args)
    }

    /// Starts the real program of a service again, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn mend(&mut self, service: Service) -> Result<()> {
        self.look(service);
        self.site().terminate(service)?;
        if service == Service::SiteServer {
            self.life += 1;
        }
        self.site().spawn_as(service, service.name(), &[])?;
        self.site().wait_ready(service)
    }

    /// Ends a service at a failpoint. `meanwhile` is done again and again until then. Answers when
    /// it was hit, in microseconds since 1970.
    ///
    /// # Errors
    /// When the failpoint is not reached.
    pub fn strike(
        &mut self,
        strike: &Strike,
        without: &[&str],
        mut meanwhile: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<u64> {
        let before = self.hit_lines()?.len();
        self.break_service(strike.service, Some(strike), without)?;
        let end = Instant::now() + HIT;
        while self.site().is_running(strike.service)? {
            meanwhile(self)?;
            self.look(strike.service);
            ensure!(Instant::now() < end, "{} was never reached", strike.point);
            std::thread::sleep(Duration::from_millis(50));
        }
        let lines = self.hit_lines()?;
        ensure!(
            lines.len() == before + 1,
            "{} ended for another reason than {}:\n{}",
            strike.service.name(),
            strike.point,
            self.site().log_text(strike.service)
        );
        let (point, at) = lines[before].clone();
        ensure!(point == strike.point, "{point} instead of {}", strike.point);
        Ok(at)
    }

    fn hit_lines(&self) -> Result<Vec<(String, u64)>> {
        hit_lines(&self.hits())
    }

    /// Remembers what the site server says of repeats and of reports that came early: its
    /// counters end with its process.
    pub fn look(&mut self, service: Service) {
        if service != Service::SiteServer {
            return;
        }
        let url = self.site().admin(service);
        let Some(counters) = counters(&url, &SEEN) else {
            return;
        };
        for ((name, _), value) in SEEN.into_iter().zip(counters) {
            let held = self.seen.entry((self.life, name)).or_default();
            *held = (*held).max(value);
        }
    }

    /// How many repeats (`repeat`) or early reports (`early`) the site server has seen at least.
    pub fn seen(&self, what: &str) -> u64 {
        let lives = self.seen.iter().filter(|((_, name), _)| *name == what);
        lives.map(|(_, count)| count).sum()
    }

    /// What the site holds now.
    ///
    /// # Errors
    /// When the database does not answer.
    pub fn snapshot(&mut self) -> Result<Snapshot> {
        let text = self.site().postgres.psql("muster_p01", SNAPSHOT, &[])?;
        Snapshot::parse(&text)
    }

    /// One number from the site database.
    ///
    /// # Errors
    /// When the database does not answer with one.
    pub fn count(&mut self, sql: &str) -> Result<i64> {
        Ok(self.sql(sql)?.trim().parse()?)
    }

    /// Runs statements in the site database.
    ///
    /// # Errors
    /// When one fails.
    pub fn sql(&mut self, sql: &str) -> Result<String> {
        let script = format!("SET search_path = site;\n{sql};\n");
        self.site().postgres.psql("muster_p01", &script, &[])
    }

    /// Waits until everything acknowledged so far is recorded without a gap, and judges.
    ///
    /// # Errors
    /// When the database does not answer. What is still missing after the time is in the verdict.
    pub fn settle(&mut self, load: &mut Load, patience: Duration) -> Result<(Verdict, Snapshot)> {
        load.read()?;
        let end = Instant::now() + patience;
        // What was acknowledged by now; the load goes on.
        let goal: Vec<u64> = load
            .history
            .clients
            .iter()
            .map(|it| it.acknowledged)
            .collect();
        loop {
            self.look(Service::SiteServer);
            let snapshot = self.snapshot()?;
            let reached = load
                .history
                .clients
                .iter()
                .zip(&goal)
                .all(|(client, goal)| {
                    let row = snapshot.rows.get(&client.id);
                    row.is_some_and(|row| row.contiguous >= *goal)
                });
            if reached || Instant::now() > end {
                // The journal has everything that the snapshot can have, and more.
                let acknowledged: Vec<u64> = goal;
                load.read()?;
                let mut history = load.history.clone_marks();
                for (client, goal) in history.clients.iter_mut().zip(acknowledged) {
                    client.acknowledged = goal;
                }
                return Ok((snapshot.judge(&history), snapshot));
            }
            std::thread::sleep(Duration::from_millis(150));
        }
    }

    /// Ends the load and judges when everything is at rest: queues empty, rows, counters, the
    /// report over the matrix.
    ///
    /// # Errors
    /// When something does not come to rest.
    pub fn finish(&mut self, load: &mut Load) -> Result<(Verdict, Snapshot)> {
        load.end()?;
        self.rest()?;
        let (verdict, snapshot) = self.settle(load, QUIESCE)?;
        if verdict.lost == 0 {
            let behind = snapshot.behind(&load.history);
            ensure!(
                behind == 0,
                "{behind} clients wait for something in between"
            );
        }
        Ok((verdict, snapshot))
    }

    /// Waits until the state queues are empty.
    ///
    /// # Errors
    /// When they are not in time.
    pub fn rest(&mut self) -> Result<()> {
        let config = self.site().config(Service::SiteServer);
        let config: site_server::Config = muster_runtime::config::load(config)?;
        let monitor = muster_rabbitmq::Monitor::new(&config.rabbitmq);
        let queues = muster_rabbitmq::topology::state_queues("P01", config.state_shards);
        let end = Instant::now() + QUIESCE;
        let mut calm = 0;
        while calm < 2 {
            let waiting = self.runtime.block_on(async {
                let mut waiting = 0;
                for queue in &queues {
                    waiting += u64::from(monitor.queue_depth(queue).await?.messages);
                }
                Ok::<_, muster_rabbitmq::Error>(waiting)
            });
            calm = if matches!(waiting, Ok(0)) {
                calm + 1
            } else {
                0
            };
            if Instant::now() > end {
                bail!("the queues are not empty: {waiting:?}");
            }
            self.look(Service::SiteServer);
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Updates of which the report over the matrix says something else than the rows.
    ///
    /// # Errors
    /// When the console gets no answer.
    pub fn matrix_off(&mut self, snapshot: &Snapshot) -> Result<Vec<u64>> {
        matrix_off(&self.admin(), snapshot)
    }

    /// Ends a story that went well: nothing of it stays.
    ///
    /// # Errors
    /// When a process cannot be stopped or a file not removed.
    pub fn end(mut self) -> Result<()> {
        if let Some(mut site) = self.site.take() {
            site.stop()?;
        }
        state::remove(&self.folder, Duration::from_secs(20)).map(drop)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Some(mut site) = self.site.take() {
            let _ = site.stop();
            say(&format!(
                "this story did not end well; logs are in {}",
                self.folder.display()
            ));
        }
    }
}

/// Makes the deployments that clients speak of, as ours or as another site's. What they deploy is
/// of no interest: what clients say of them is.
pub(super) fn deployments(site: &Site, owner: Option<&str>) -> Result<()> {
    let owner = owner.map_or("NULL".to_owned(), |code| format!("'{code}'"));
    let mut script = "SET search_path = site;\n".to_owned();
    for number in 1..=load::DEPLOYMENTS {
        let id = journal::deployment_id(number);
        script.push_str(&format!(
            "INSERT INTO deployments (deployment_id, owner_site_code, name, collection_no,
                                      available_at, suppress_restart)
             VALUES ('{id}', {owner}, 'load {number}', 1, now(), true) ON CONFLICT DO NOTHING;\n"
        ));
    }
    let database = format!("muster_{}", site.code().to_ascii_lowercase());
    site.postgres.psql(&database, &script, &[]).map(drop)
}

/// The arguments with which `muster-faulty` is a service that goes wrong.
pub(super) fn faulty(
    service: Service,
    strike: Option<&Strike>,
    without: &[&str],
    hits: &Path,
) -> Vec<String> {
    let mut args = vec![service.name().to_owned()];
    if let Some(strike) = strike {
        args.extend(["--abort", strike.point, "--nth", &strike.nth.to_string()].map(str::to_owned));
        args.extend(["--journal".to_owned(), hits.display().to_string()]);
    }
    for control in without {
        args.extend(["--without".to_owned(), (*control).to_owned()]);
    }
    args
}

/// Which failpoints were hit, and when, in microseconds since 1970.
pub(super) fn hit_lines(hits: &Path) -> Result<Vec<(String, u64)>> {
    let text = fs::read_to_string(hits).unwrap_or_default();
    let line = |line: &str| {
        let (point, at) = line.split_once(' ').context("half a line")?;
        Ok((point.to_owned(), at.parse()?))
    };
    text.lines().map(line).collect()
}

/// What a site server counts of what came more than once, and of what came early.
pub(super) const SEEN: [(&str, &str); 2] = [
    ("repeat", "muster_state_reports_total{outcome=\"repeat\"}"),
    ("early", "muster_state_early_total"),
];

/// Counters of a server by the beginning of their line; 0 when they are not there yet, `None` when
/// nobody answers.
pub(super) fn counters(admin: &str, names: &[(&str, &str)]) -> Option<Vec<u64>> {
    let answer = http::get(&format!("{admin}/metrics"), Duration::from_millis(500));
    let Ok((200, text)) = answer else {
        return None;
    };
    let value = |start: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(start));
        let value = value.and_then(|it| it.trim().parse::<f64>().ok());
        value.map_or(0, |it| it as u64)
    };
    Some(names.iter().map(|(_, start)| value(start)).collect())
}

/// See [`Ground::matrix_off`].
pub(super) fn matrix_off(admin: &Administrator, snapshot: &Snapshot) -> Result<Vec<u64>> {
    let report = admin.ask(&["report", "compliance"])?;
    let recount = snapshot.recount();
    let mut off = Vec::new();
    let updates = report["updates"].as_array();
    let updates = updates.context("a report without updates")?;
    for update in updates {
        let update_no = number(&update["updateNo"]);
        let [installed, required, _] = u32::try_from(update_no)
            .ok()
            .and_then(|it| recount.get(&it).copied())
            .unwrap_or_default();
        let told = ["installed", "required"].map(|it| number(&update[it]));
        if told.map(|it| i64::try_from(it).unwrap_or(-1)) != [installed, required] {
            off.push(update_no);
        }
    }
    let required = recount.values().filter(|counts| counts[1] > 0).count();
    ensure!(
        updates.len() == required,
        "{} updates in the report, {required} in the rows",
        updates.len()
    );
    Ok(off)
}

pub(super) fn way(site: &Site) -> Way {
    Way {
        management_point: site.grpc(Service::ManagementPoint),
        site_server: site.grpc(Service::SiteServer),
        site: site.state().root().join("site"),
    }
}

/// The outside world, in a process that nothing kills.
pub struct Load {
    process: Process,
    journal: PathBuf,
    /// Where its clients are.
    pub site: String,
    /// They were another site's before.
    pub moved: bool,
    /// What its journal says, as far as it was read.
    pub history: History,
}

impl Load {
    /// Reads on in the journal.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&mut self) -> Result<()> {
        if self.journal.exists() {
            self.history.read_on(&self.journal)?;
        }
        Ok(())
    }

    /// Waits until so many reports are acknowledged in all.
    ///
    /// # Errors
    /// When the load ends or takes too long.
    pub fn await_acknowledged(&mut self, reports: u64) -> Result<()> {
        let end = Instant::now() + QUIESCE;
        loop {
            self.read()?;
            if self.history.acknowledged >= reports {
                return Ok(());
            }
            ensure!(
                self.process.is_running()?,
                "the load has ended:\n{}",
                self.process.log_text()
            );
            ensure!(
                Instant::now() < end,
                "{} of {reports} reports acknowledged:\n{}",
                self.history.acknowledged,
                self.process.log_text()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Lets it deliver what it has and end.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn end(&mut self) -> Result<()> {
        let well = self.process.terminate(Duration::from_secs(120))?;
        ensure!(
            well,
            "the load did not end well:\n{}",
            self.process.log_text()
        );
        self.read()
    }

    /// Waits until a load that ends by itself has ended.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn await_end(&mut self, patience: Duration) -> Result<()> {
        let status = self.process.wait_end(patience)?;
        ensure!(
            status.success(),
            "the load did not end well:\n{}",
            self.process.log_text()
        );
        self.read()
    }
}
