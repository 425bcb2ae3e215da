//! One whole site as processes of this machine: PostgreSQL, RabbitMQ and the four servers.
//!
//! Everything a site needs is under one state folder, and the same folder is the same site
//! again: certificates, passwords, ports and data stay until it is removed.

mod config;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::packages::Programs;
use crate::ports::free_port;
use crate::postgres::{Database, Durability, Postgres};
use crate::process::{self, Launch, Process};
use crate::rabbit::{Listener, Management, Rabbit, User};
use crate::secret;
use crate::state::State;

pub use config::Setting;

const START_DEADLINE: Duration = Duration::from_secs(60);
/// The servers promise to stop within 15 s.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// A server of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// Keeps the update catalog.
    SoftwareUpdatePoint,
    /// Owns the site database.
    SiteServer,
    /// Stores and serves content.
    DistributionPoint,
    /// Answers agents.
    ManagementPoint,
}

impl Service {
    /// In the order they are started.
    pub const ALL: [Self; 4] = [
        Self::SoftwareUpdatePoint,
        Self::SiteServer,
        Self::DistributionPoint,
        Self::ManagementPoint,
    ];

    /// The name of its program, certificate, configuration file and log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SoftwareUpdatePoint => "software-update-point",
            Self::SiteServer => "site-server",
            Self::DistributionPoint => "distribution-point",
            Self::ManagementPoint => "management-point",
        }
    }
}

/// Which site, and from what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Three characters, such as `P01`.
    pub code: String,
    /// What people call it.
    pub name: String,
    /// The folder with the built programs.
    pub programs: PathBuf,
    /// The folder with a documented configuration file per service (`deploy/config`): what is
    /// written there holds, except for addresses, paths and [`Plan::settings`].
    pub templates: PathBuf,
    /// What else differs from the templates.
    pub settings: Vec<Setting>,
    /// Other sites may join it: its broker gets the management interface, with which the site
    /// server makes their users.
    pub can_be_parent: bool,
}

/// The loopback ports of one service.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Ports {
    grpc: u16,
    admin: u16,
    /// HTTPS content of the distribution point.
    content: u16,
}

/// A running site. Dropping it stops everything; its data stays in the state folder.
#[derive(Debug)]
pub struct Site {
    // Dropped in this order: the servers before what they stand on.
    services: BTreeMap<Service, Process>,
    /// Its broker.
    pub rabbit: Rabbit,
    /// Its database server.
    pub postgres: Postgres,
    state: State,
    plan: Plan,
    ports: BTreeMap<Service, Ports>,
}

impl Site {
    /// Starts the site of this state folder, a new one when there is none yet, and waits until
    /// all its servers are ready. `say` gets each step.
    ///
    /// # Errors
    /// A step fails; the error of a server shows the end of its log.
    pub fn start(
        state: &State,
        servers: &Programs,
        plan: Plan,
        say: &dyn Fn(&str),
    ) -> Result<Self> {
        let site = Self::start_some(state, servers, plan, &Service::ALL, say)?;
        site.login()?;
        Ok(site)
    }

    /// As [`Site::start`] with only some of the servers and without the console, for who measures:
    /// what is not started need not be built.
    ///
    /// # Errors
    /// As [`Site::start`].
    pub fn start_some(
        state: &State,
        servers: &Programs,
        plan: Plan,
        services: &[Service],
        say: &dyn Fn(&str),
    ) -> Result<Self> {
        let folder = state.root().join("site");
        init(&folder, &plan)?;
        say("starting PostgreSQL and RabbitMQ");
        let (postgres, rabbit) = std::thread::scope(|scope| {
            let rabbit = scope.spawn(|| start_rabbit(state, servers, &plan, &folder));
            let postgres = start_postgres(state, servers, &plan.code);
            let rabbit = rabbit
                .join()
                .unwrap_or_else(|_| bail!("the start of RabbitMQ panicked"));
            (postgres, rabbit)
        });
        let ((postgres, site_db, catalog_db), rabbit) = (postgres?, rabbit?);
        let ports = known_or_new_ports(state)?;
        let mut site = Self {
            services: BTreeMap::new(),
            rabbit,
            postgres,
            state: state.clone(),
            plan,
            ports,
        };
        site.write_configs(&site_db, &catalog_db)?;
        for service in services {
            say(&format!("starting the {}", service.name()));
            let process = Process::spawn(state, site.launch(*service))?;
            site.services.insert(*service, process);
        }
        for service in services {
            site.wait_ready(*service)?;
        }
        Ok(site)
    }

    /// Three characters, such as `P01`.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.plan.code
    }

    /// The site's certificate authority: what agents trust.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder().join("ca/ca.pem")
    }

    /// The certificate and the key of one of the names that `site-server init` knows.
    #[must_use]
    pub fn certificate(&self, name: &str) -> (PathBuf, PathBuf) {
        let stem = self.folder().join("certs").join(name);
        (stem.with_extension("pem"), stem.with_extension("key"))
    }

    /// The gRPC address of a server: `https://127.0.0.1:<port>`.
    #[must_use]
    pub fn grpc(&self, service: Service) -> String {
        format!("https://127.0.0.1:{}", self.port(service).grpc)
    }

    /// Where the distribution point serves content: `https://127.0.0.1:<port>`.
    #[must_use]
    pub fn content(&self) -> String {
        format!(
            "https://127.0.0.1:{}",
            self.port(Service::DistributionPoint).content
        )
    }

    /// `/metrics`, `/healthz` and `/readyz` of a server: `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn admin(&self, service: Service) -> String {
        format!("http://127.0.0.1:{}", self.port(service).admin)
    }

    /// The broker's Prometheus metrics.
    #[must_use]
    pub fn rabbit_metrics(&self) -> String {
        format!("http://127.0.0.1:{}/metrics", self.rabbit.http_port())
    }

    /// The console's configuration: `MUSTER_CONFIG` for people who want to use it.
    #[must_use]
    pub fn console_config(&self) -> PathBuf {
        self.state.root().join("console.toml")
    }

    /// The console, logged in as this site's administrator; add arguments and run it.
    #[must_use]
    pub fn console(&self) -> Command {
        let mut command = Command::new(self.program("muster"));
        command.env("MUSTER_CONFIG", self.console_config());
        command
    }

    /// A built program, such as `muster-agent`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.plan.programs.join(name)
    }

    /// The number of a server's process while it runs.
    #[must_use]
    pub fn pid(&self, service: Service) -> Option<u32> {
        self.services.get(&service).and_then(Process::pid)
    }

    /// The state folder, for processes that live beside the site (agents).
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Kills a server as a power cut would.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn kill_9(&mut self, service: Service) -> Result<()> {
        self.process(service)?.kill_9()
    }

    /// Asks a server to stop and waits for it; `true` when it did so in time by itself.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn terminate(&mut self, service: Service) -> Result<bool> {
        self.process(service)?.terminate(STOP_PATIENCE)
    }

    /// Starts a server again and waits until it is ready.
    ///
    /// # Errors
    /// It runs, or does not get ready; the error shows the end of its log.
    pub fn restart(&mut self, service: Service) -> Result<()> {
        self.process(service)?.restart()?;
        self.wait_ready(service)
    }

    /// Starts a server again as another program, which gets these arguments and then
    /// `--config FILE`. Does not wait until it is ready.
    ///
    /// # Errors
    /// It runs, or cannot be started.
    pub fn spawn_as(&mut self, service: Service, program: &str, args: &[String]) -> Result<()> {
        let launch = Launch::new(service.name(), self.program(program))
            .args(args)
            .arg("--config")
            .arg(self.config(service));
        self.process(service)?.restart_as(launch)
    }

    /// Waits until a server ends by itself.
    ///
    /// # Errors
    /// It does not run, or does not end in time.
    pub fn wait_end(
        &mut self,
        service: Service,
        deadline: Duration,
    ) -> Result<std::process::ExitStatus> {
        self.process(service)?.wait_end(deadline)
    }

    /// Whether a server runs.
    ///
    /// # Errors
    /// It was not started, or the kernel does not say.
    pub fn is_running(&mut self, service: Service) -> Result<bool> {
        self.process(service)?.is_running()
    }

    /// Sends a signal (`STOP`, `CONT`) to a server.
    ///
    /// # Errors
    /// It does not run, or the signal cannot be sent.
    pub fn signal(&mut self, service: Service, signal: &str) -> Result<()> {
        self.process(service)?.signal(signal)
    }

    /// What a server has logged since it was started last.
    #[must_use]
    pub fn log_text(&mut self, service: Service) -> String {
        self.process(service)
            .map(|it| it.log_text())
            .unwrap_or_default()
    }

    /// Waits until a server's readiness page says so.
    ///
    /// # Errors
    /// It ends or does not get ready in 60 s; the error shows the end of its log.
    pub fn wait_ready(&mut self, service: Service) -> Result<()> {
        let url = format!("{}/readyz", self.admin(service));
        self.process(service)?.wait_ready(&url, START_DEADLINE)
    }

    /// The first server that has ended without being asked to, for who watches over the site.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn fallen(&mut self) -> Result<Option<Service>> {
        for (service, process) in &mut self.services {
            if !process.is_running()? {
                return Ok(Some(*service));
            }
        }
        Ok(None)
    }

    /// The broker loses everything it had, and its virtual host and the users of this site's servers
    /// are made again, as at the installation.
    ///
    /// # Errors
    /// The broker does not come back, or refuses.
    pub fn lose_broker(&mut self) -> Result<()> {
        self.rabbit.lose_data()?;
        self.rabbit.define(self.code(), &broker_users(self.code()))
    }

    /// The site's database is gone, and an empty one is made for its servers, as at the installation.
    ///
    /// # Errors
    /// The database server refuses.
    pub fn lose_database(&mut self) -> Result<()> {
        self.postgres.drop_database(&database_name(self.code()))?;
        make_databases(&self.postgres, self.code()).map(drop)
    }

    /// Stops the servers, last started first, then the broker and the database.
    ///
    /// # Errors
    /// A signal cannot be sent.
    pub fn stop(&mut self) -> Result<()> {
        for service in Service::ALL.iter().rev() {
            if let Some(process) = self.services.get_mut(service) {
                process.terminate(STOP_PATIENCE)?;
            }
        }
        self.rabbit.stop()?;
        self.postgres.stop()
    }

    fn folder(&self) -> PathBuf {
        self.state.root().join("site")
    }

    fn port(&self, service: Service) -> Ports {
        self.ports[&service]
    }

    fn address(port: u16) -> String {
        SocketAddr::from(([127, 0, 0, 1], port)).to_string()
    }

    /// A server's configuration file.
    #[must_use]
    pub fn config(&self, service: Service) -> PathBuf {
        self.state
            .root()
            .join("config")
            .join(service.name())
            .with_extension("toml")
    }

    fn launch(&self, service: Service) -> Launch {
        Launch::new(service.name(), self.program(service.name()))
            .arg("--config")
            .arg(self.config(service))
    }

    fn process(&mut self, service: Service) -> Result<&mut Process> {
        self.services
            .get_mut(&service)
            .with_context(|| format!("the {} was not started", service.name()))
    }

    /// Makes the console this site's administrator; [`Site::start`] does it.
    ///
    /// # Errors
    /// The site server does not know the administrator.
    pub fn login(&self) -> Result<()> {
        let (cert, key) = self.certificate("administrator");
        let mut command = self.console();
        command
            .args(["login", "--site-server", &self.grpc(Service::SiteServer)])
            .arg("--ca")
            .arg(self.ca())
            .arg("--cert")
            .arg(cert)
            .arg("--key")
            .arg(key);
        process::output(command, "")
            .map(drop)
            .context("the console cannot log in")
    }
}

/// Certificates and keys. A site that was made before stays as it is.
fn init(folder: &Path, plan: &Plan) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    // Made aside and renamed when complete, so that an interrupted start leaves no half a site.
    let unfinished = folder.with_extension("new");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    let mut command = Command::new(plan.programs.join("site-server"));
    command
        .args(["init", "--site", &plan.code, "--name", &plan.name])
        .args(["--host", "127.0.0.1", "--host", "localhost", "--out"])
        .arg(&unfinished);
    process::output(command, "").context("cannot make the site's certificates")?;
    fs::rename(&unfinished, folder).context("cannot name the site's folder")
}

fn start_postgres(
    state: &State,
    servers: &Programs,
    code: &str,
) -> Result<(Postgres, Database, Database)> {
    let postgres = Postgres::start(state, servers, Durability::On)?;
    let (site, catalog) = make_databases(&postgres, code)?;
    Ok((postgres, site, catalog))
}

fn make_databases(postgres: &Postgres, code: &str) -> Result<(Database, Database)> {
    let name = database_name(code);
    postgres.create_database(&name)?;
    let site = postgres.create_schema(&name, "site", "site_server")?;
    let catalog = postgres.create_schema(&name, "catalog", "software_update_point")?;
    Ok((site, catalog))
}

fn database_name(code: &str) -> String {
    format!("muster_{}", code.to_ascii_lowercase())
}

fn start_rabbit(state: &State, servers: &Programs, plan: &Plan, folder: &Path) -> Result<Rabbit> {
    let code = &plan.code;
    let certs = folder.join("certs");
    let listener = Listener::Tls {
        ca: folder.join("ca/ca.pem"),
        cert: certs.join("broker.pem"),
        key: certs.join("broker.key"),
    };
    let management = if plan.can_be_parent {
        Management::On
    } else {
        Management::Off
    };
    let rabbit = Rabbit::start(state, servers, &listener, management)?;
    rabbit.define(code, &broker_users(code))?;
    Ok(rabbit)
}

/// The site server owns everything of its site; a management point can only hand in states.
fn broker_users(code: &str) -> [User; 2] {
    let site = format!("^(site|link)\\.{code}\\.");
    let user = |name: &str, configure: &str, write: &str, read: &str| User {
        name: name.to_owned(),
        configure: configure.to_owned(),
        write: write.to_owned(),
        read: read.to_owned(),
    };
    [
        user(Service::SiteServer.name(), &site, &site, &site),
        user(
            Service::ManagementPoint.name(),
            "^$",
            &format!("^site\\.{code}\\.states$"),
            "^$",
        ),
    ]
}

/// Agents keep the addresses they were given, so a site's ports stay the same.
fn known_or_new_ports(state: &State) -> Result<BTreeMap<Service, Ports>> {
    let file = state.root().join("ports.json");
    if let Ok(text) = fs::read_to_string(&file) {
        return serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged", file.display()));
    }
    let mut ports = BTreeMap::new();
    for service in Service::ALL {
        let some = Ports {
            grpc: free_port()?,
            admin: free_port()?,
            content: free_port()?,
        };
        ports.insert(service, some);
    }
    secret::write_private(&file, &serde_json::to_string_pretty(&ports)?)?;
    Ok(ports)
}
