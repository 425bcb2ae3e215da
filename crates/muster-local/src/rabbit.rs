//! A private RabbitMQ: own node, own epmd, own cookie, everything on 127.0.0.1.
//!
//! The node is the child itself (no shell in between), so its pid is the one to kill in a fault
//! test. epmd, Erlang's name service, is a second child of ours: the node would otherwise start
//! one that outlives it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::account::{self, Account};
use crate::instances::Broker;
use crate::packages::Programs;
use crate::ports::free_port;
use crate::process::{self, Launch, Process};
use crate::secret;
use crate::state::State;

const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const ADMINISTRATOR: &str = "muster_admin";

/// How AMQP is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Without TLS: tests only.
    Plain,
    /// Mutual TLS 1.3 and nothing else. The files are copied, so the server's account need not
    /// be able to read the originals.
    Tls {
        /// Who signs the clients' certificates.
        ca: PathBuf,
        /// The server's certificate.
        cert: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

/// Whether the management interface (HTTP on loopback) runs: it makes a virtual host in
/// milliseconds where `rabbitmqctl` takes seconds, and costs some 50 MB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Management {
    /// It runs.
    On,
    /// Only Prometheus metrics are served.
    Off,
    /// As `Off`, and messages can be passed on to another broker (the shovel plugin).
    Shovel,
}

/// What the node keeps between starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Node {
    name: String,
    amqp_port: u16,
    http_port: u16,
    dist_port: u16,
    epmd_port: u16,
}

/// A virtual host's user and what it may do there: three regular expressions, as in RabbitMQ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// Its name.
    pub name: String,
    /// What it may declare and delete.
    pub configure: String,
    /// What it may publish to.
    pub write: String,
    /// What it may consume.
    pub read: String,
}

/// A private broker. Dropping it stops it; its data stays in the state folder.
#[derive(Debug)]
pub struct Rabbit {
    state: State,
    programs: Programs,
    home: PathBuf,
    account: Option<Account>,
    node: Node,
    server: Process,
    epmd: Process,
}

impl Rabbit {
    /// Starts the node of this state folder (an empty one when there is none yet) and waits until
    /// its AMQP port answers. There is no user `guest`.
    ///
    /// # Errors
    /// It cannot be set up or does not get ready in 60 s; the error shows the end of its log.
    pub fn start(
        state: &State,
        programs: &Programs,
        listener: &Listener,
        management: Management,
    ) -> Result<Self> {
        // Between our probe of a port and the node's bind somebody else can take it.
        let mut attempts = 0;
        loop {
            attempts += 1;
            match Self::try_start(state, programs, listener, management) {
                Err(error) if attempts < 3 && format!("{error:#}").contains("eaddrinuse") => {
                    fs::remove_dir_all(state.servers().join("rabbitmq"))?;
                }
                result => return result,
            }
        }
    }

    fn try_start(
        state: &State,
        programs: &Programs,
        listener: &Listener,
        management: Management,
    ) -> Result<Self> {
        let account = account::for_server(&["rabbitmq", "nobody"])?;
        let home = state.servers().join("rabbitmq");
        for folder in ["", "data", "log", "tls"] {
            private_folder(&home.join(folder), account.as_ref())?;
        }
        let node = known_or_new_node(&home)?;
        write_files(state, &home, &node, listener, management, account.as_ref())?;

        let epmd = Launch::new("epmd", &programs.epmd)
            .args([
                "-port",
                &node.epmd_port.to_string(),
                "-address",
                "127.0.0.1",
            ])
            .account(account.as_ref())
            .bare_environment();
        let mut epmd = Process::spawn(state, epmd)?;
        epmd.wait_until(Duration::from_secs(10), || Ok(answers(node.epmd_port)))?;

        let server = environment(
            Launch::new("rabbitmq", programs.rabbitmq_bin.join("rabbitmq-server")),
            &home,
            &node,
            account.as_ref(),
        );
        let server = Process::spawn(state, server)?;
        let mut rabbit = Self {
            state: state.clone(),
            programs: programs.clone(),
            home,
            account,
            node,
            server,
            epmd,
        };
        rabbit.wait_until_ready()?;
        Ok(rabbit)
    }

    /// The AMQP port on 127.0.0.1: TLS or not as chosen at the start.
    #[must_use]
    pub fn amqp_port(&self) -> u16 {
        self.node.amqp_port
    }

    /// The port of `/metrics` (and of the management interface when that runs) on 127.0.0.1.
    #[must_use]
    pub fn http_port(&self) -> u16 {
        self.node.http_port
    }

    /// The administrator's way in.
    #[must_use]
    pub fn administrator(&self) -> Broker {
        Broker {
            amqp_port: self.node.amqp_port,
            management_port: self.node.http_port,
            user: ADMINISTRATOR.to_owned(),
            password_file: password_file(&self.state, ADMINISTRATOR),
        }
    }

    /// Where the generated password of a user is.
    #[must_use]
    pub fn password_file(&self, user: &str) -> PathBuf {
        password_file(&self.state, user)
    }

    /// Makes a virtual host and its users with generated passwords, in one call of
    /// `rabbitmqctl` (which costs seconds, however much it is asked). Repeating is harmless.
    ///
    /// # Errors
    /// The node refuses; the error shows what it says.
    pub fn define(&self, vhost: &str, users: &[User]) -> Result<()> {
        let mut accounts = Vec::new();
        let mut permissions = Vec::new();
        for user in users {
            let password = secret::read_or_create(&self.password_file(&user.name))?;
            accounts.push(serde_json::json!({
                "name": user.name, "password": password, "tags": [],
            }));
            permissions.push(serde_json::json!({
                "user": user.name, "vhost": vhost,
                "configure": user.configure, "write": user.write, "read": user.read,
            }));
        }
        let definitions = serde_json::json!({
            "vhosts": [{ "name": vhost }], "users": accounts, "permissions": permissions,
        });
        self.import(&definitions.to_string())
            .with_context(|| format!("cannot define the virtual host {vhost}"))
    }

    /// Makes what is in a file of definitions, as RabbitMQ exports it. Repeating is harmless.
    ///
    /// # Errors
    /// The node refuses; the error shows what it says.
    pub fn import(&self, definitions: &str) -> Result<()> {
        let file = self.home.join("definitions.json");
        secret::write_private(&file, definitions)?;
        account::give(&file, self.account.as_ref())?;
        // A node on a busy machine answers AMQP a moment before it takes commands.
        let end = Instant::now() + Duration::from_secs(30);
        let result = loop {
            let result = self.ctl(&["import_definitions".as_ref(), file.as_os_str()]);
            let starting =
                |error: &anyhow::Error| format!("{error:#}").contains("app to be running");
            match result {
                Err(error) if starting(&error) && Instant::now() < end => {
                    self.state.interrupt().sleep(Duration::from_millis(500))?;
                }
                result => break result,
            }
        };
        fs::remove_file(&file)?;
        result.map(drop)
    }

    /// Copies a file to where the node may read it.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn lend(&self, source: &Path, name: &str) -> Result<PathBuf> {
        let text = fs::read_to_string(source)
            .with_context(|| format!("cannot read {}", source.display()))?;
        let copy = self.home.join("tls").join(name);
        secret::write_private(&copy, &text)?;
        account::give(&copy, self.account.as_ref())?;
        Ok(copy)
    }

    /// Runs `rabbitmqctl` against this node and returns what it prints.
    ///
    /// # Errors
    /// It fails; the error shows the end of what it says.
    pub fn ctl(&self, args: &[&std::ffi::OsStr]) -> Result<String> {
        let launch = environment(
            Launch::new(
                "rabbitmqctl",
                self.programs.rabbitmq_bin.join("rabbitmqctl"),
            ),
            &self.home,
            &self.node,
            self.account.as_ref(),
        );
        process::output(launch.arg("--quiet").args(args).command(), "")
    }

    /// Kills the node as a power cut would: nothing is flushed. epmd stays.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn kill_9(&mut self) -> Result<()> {
        self.server.kill_9()
    }

    /// Sends a signal (`STOP`, `CONT`) to the node.
    ///
    /// # Errors
    /// It does not run, or the signal cannot be sent.
    pub fn signal(&self, signal: &str) -> Result<()> {
        self.server.signal(signal)
    }

    /// Starts the node again on the same data and ports, and waits until it answers.
    ///
    /// # Errors
    /// It runs, or does not come back; the error shows the end of its log.
    pub fn restart(&mut self) -> Result<()> {
        if !self.epmd.is_running()? {
            self.epmd.restart()?;
        }
        self.server.restart()?;
        self.wait_until_ready()
    }

    /// Kills the node and removes everything it knew: messages, queues, virtual hosts, users. Then
    /// starts it, empty but for its administrator.
    ///
    /// # Errors
    /// A file cannot be removed, or it does not come back.
    pub fn lose_data(&mut self) -> Result<()> {
        self.kill_9()?;
        let data = self.home.join("data");
        fs::remove_dir_all(&data).context("cannot remove the broker's data")?;
        private_folder(&data, self.account.as_ref())?;
        self.restart()
    }

    /// Stops the node, then its epmd.
    ///
    /// # Errors
    /// One of them cannot be signalled.
    pub fn stop(&mut self) -> Result<()> {
        self.server.terminate(STOP_PATIENCE)?;
        self.epmd.terminate(Duration::from_secs(2)).map(drop)
    }

    /// The number of the Erlang machine while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let node = self.node.clone();
        self.server.wait_until(START_DEADLINE, || {
            Ok(answers(node.amqp_port) && answers(node.http_port))
        })
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

fn private_folder(folder: &Path, account: Option<&Account>) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    account::give(folder, account)
}

fn answers(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

fn password_file(state: &State, user: &str) -> PathBuf {
    state.secrets().join(format!("rabbitmq-{user}.password"))
}

/// The node's data belongs to its name and its clients know its port, so both stay the same.
fn known_or_new_node(home: &Path) -> Result<Node> {
    let file = home.join("node.json");
    if let Ok(text) = fs::read_to_string(&file) {
        return serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged", file.display()));
    }
    let node = Node {
        name: format!("muster-{:08x}@localhost", rand::random::<u32>()),
        amqp_port: free_port()?,
        http_port: free_port()?,
        dist_port: free_port()?,
        epmd_port: free_port()?,
    };
    secret::write_private(&file, &serde_json::to_string_pretty(&node)?)?;
    Ok(node)
}

/// The same for the node and for `rabbitmqctl`. Nothing of `/etc/rabbitmq` is read.
fn environment(launch: Launch, home: &Path, node: &Node, account: Option<&Account>) -> Launch {
    // One scheduler thread and no busy waiting: the node shares two cores with everything else.
    let lean = "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none";
    let loopback = "-kernel inet_dist_use_interface {127,0,0,1}";
    launch
        .folder(home)
        .account(account)
        .bare_environment()
        .env("HOME", home)
        .env("LC_ALL", "C.UTF-8")
        .env("ERL_EPMD_PORT", node.epmd_port.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_CRASH_DUMP_SECONDS", "0")
        .env("RABBITMQ_NODENAME", &node.name)
        .env("RABBITMQ_DIST_PORT", node.dist_port.to_string())
        .env("RABBITMQ_CONF_ENV_FILE", home.join("rabbitmq-env.conf"))
        .env("RABBITMQ_CONFIG_FILE", home.join("rabbitmq.conf"))
        .env(
            "RABBITMQ_ADVANCED_CONFIG_FILE",
            home.join("advanced.config"),
        )
        .env(
            "RABBITMQ_ENABLED_PLUGINS_FILE",
            home.join("enabled_plugins"),
        )
        .env("RABBITMQ_MNESIA_BASE", home.join("data"))
        .env("RABBITMQ_LOG_BASE", home.join("log"))
        .env("RABBITMQ_LOGS", "-")
        // Makes the script become the Erlang machine instead of watching over it.
        .env("RABBITMQ_ALLOW_INPUT", "true")
        .env("RABBITMQ_SERVER_START_ARGS", "-noinput")
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            format!("{lean} {loopback}"),
        )
        .env("RABBITMQ_CTL_ERL_ARGS", format!("{lean} {loopback}"))
}

fn write_files(
    state: &State,
    home: &Path,
    node: &Node,
    listener: &Listener,
    management: Management,
    account: Option<&Account>,
) -> Result<()> {
    let private = |name: &str, text: &str| -> Result<PathBuf> {
        let path = home.join(name);
        secret::write_private(&path, text)?;
        account::give(&path, account)?;
        Ok(path)
    };
    let cookie = secret::read_or_create(&state.secrets().join("rabbitmq-cookie"))?;
    let cookie = private(".erlang.cookie", &cookie)?;
    fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400))?;
    private("rabbitmq-env.conf", "")?;
    private("advanced.config", "[].\n")?;
    private(
        "enabled_plugins",
        match management {
            Management::On => "[rabbitmq_management].\n",
            Management::Off => "[rabbitmq_prometheus].\n",
            Management::Shovel => "[rabbitmq_prometheus,rabbitmq_shovel].\n",
        },
    )?;

    let port = node.amqp_port;
    let listener = match listener {
        Listener::Plain => format!("listeners.tcp.1 = 127.0.0.1:{port}\n"),
        Listener::Tls { ca, cert, key } => {
            let mut lines = format!(
                "listeners.tcp = none
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.versions.1 = tlsv1.3
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
"
            );
            for (option, name, source) in [
                ("cacertfile", "tls/ca.pem", ca),
                ("certfile", "tls/cert.pem", cert),
                ("keyfile", "tls/key.pem", key),
            ] {
                let text = fs::read_to_string(source)
                    .with_context(|| format!("cannot read {}", source.display()))?;
                let copy = private(name, &text)?;
                lines.push_str(&format!("ssl_options.{option} = {}\n", copy.display()));
            }
            lines
        }
    };
    let http = match management {
        Management::On => "management",
        Management::Off | Management::Shovel => "prometheus",
    };
    let http_port = node.http_port;
    let password = secret::read_or_create(&password_file(state, ADMINISTRATOR))?;
    private(
        "rabbitmq.conf",
        &format!(
            "# Written by muster-local at each start.
{listener}{http}.tcp.ip = 127.0.0.1
{http}.tcp.port = {http_port}
default_user = {ADMINISTRATOR}
default_pass = {password}
default_user_tags.administrator = true
heartbeat = 30
disk_free_limit.absolute = 100MB
vm_memory_high_watermark.absolute = 1GB
log.console = true
log.console.level = info
log.file = false
"
        ),
    )?;
    Ok(())
}
