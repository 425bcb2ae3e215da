//! A secondary site on this machine: a management point and a broker of its own beside a primary
//! site's. The broker passes on what its clients report (`deploy/secondary-site`).

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use toml::{Table, Value};

use crate::packages::Programs;
use crate::ports::free_port;
use crate::process::{Launch, Process};
use crate::rabbit::{Listener, Management, Rabbit, User};
use crate::secret;
use crate::site::{Service, Site};
use crate::state::State;

const START_DEADLINE: Duration = Duration::from_secs(60);
const NAME: &str = "secondary-management-point";

/// Running servers of a secondary site; dropping it stops them.
#[derive(Debug)]
pub struct Secondary {
    point: Process,
    /// Its broker.
    pub rabbit: Rabbit,
    address: String,
    ready: String,
}

impl Secondary {
    /// Starts a broker and a management point for clients of `primary`. `port` is where clients
    /// call; `definitions` is the text of `deploy/secondary-site/definitions.json`.
    ///
    /// # Errors
    /// A step fails; the error shows the end of the log.
    pub fn start(
        state: &State,
        servers: &Programs,
        primary: &Site,
        (code, port): (&str, u16),
        definitions: &str,
    ) -> Result<Self> {
        let site = primary.code();
        let ca = primary.ca();
        let (cert, key) = primary.certificate("broker");
        let listener = Listener::Tls { ca, cert, key };
        let rabbit = Rabbit::start(state, servers, &listener, Management::Shovel)?;
        let states = format!("^site\\.{site}\\.states$");
        let writer = |name: &str| User {
            name: name.to_owned(),
            configure: "^$".to_owned(),
            write: states.clone(),
            read: "^$".to_owned(),
        };
        let point = Service::ManagementPoint.name();
        rabbit.define(site, &[writer(point)])?;
        let user = format!("secondary-{code}");
        primary.rabbit.define(site, &[writer(&user)])?;
        let password = fs::read_to_string(primary.rabbit.password_file(&user))?;
        // A broker's own certificate is good for being called only.
        let (cert, key) = primary.certificate(point);
        let mut uri = format!(
            "amqps://{user}:{}@localhost:{}/{site}?verify=verify_peer\
             &server_name_indication=localhost",
            password.trim(),
            primary.rabbit.amqp_port()
        );
        for (option, source) in [
            ("cacertfile", primary.ca()),
            ("certfile", cert),
            ("keyfile", key),
        ] {
            let file = rabbit.lend(&source, &format!("primary-{option}.pem"))?;
            uri.push_str(&format!("&{option}={}", file.display()));
        }
        let definitions = definitions
            .replace("@SITE@", site)
            .replace("@USER@", &user)
            .replace("@PRIMARY_URI@", &uri);
        rabbit
            .import(&definitions)
            .context("cannot make the shovels")?;

        let admin = free_port()?;
        let file = primary.config(Service::ManagementPoint);
        let mut config: Table = fs::read_to_string(&file)?.parse()?;
        config.insert("listen".into(), local(port));
        let inner = |config: &mut Table, table: &str, key: &str, value: Value| -> Result<()> {
            let inner = config.get_mut(table).and_then(Value::as_table_mut);
            let inner = inner.with_context(|| format!("{table} is missing"))?;
            inner.insert(key.to_owned(), value);
            Ok(())
        };
        inner(&mut config, "admin", "listen", local(admin))?;
        let own = format!("amqps://127.0.0.1:{}/{site}", rabbit.amqp_port());
        inner(&mut config, "rabbitmq", "uri", own.into())?;
        let secret_file = rabbit.password_file(point).display().to_string();
        inner(&mut config, "rabbitmq", "password_file", secret_file.into())?;
        let file = state.root().join("management-point.toml");
        secret::write_private(&file, &toml::to_string_pretty(&config)?)?;
        let launch = Launch::new(NAME, primary.program(point))
            .arg("--config")
            .arg(&file);
        let mut it = Self {
            point: Process::spawn(state, launch)?,
            rabbit,
            address: format!("https://127.0.0.1:{port}"),
            ready: format!("http://127.0.0.1:{admin}/readyz"),
        };
        it.point.wait_ready(&it.ready, START_DEADLINE)?;
        Ok(it)
    }

    /// Where clients report.
    #[must_use]
    pub fn management_point(&self) -> &str {
        &self.address
    }

    /// Kills the management point and starts it again.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn kill_management_point(&mut self) -> Result<()> {
        self.point.kill_9()?;
        self.point.restart()?;
        self.point.wait_ready(&self.ready, START_DEADLINE)
    }
}

fn local(port: u16) -> Value {
    SocketAddr::from(([127, 0, 0, 1], port)).to_string().into()
}
