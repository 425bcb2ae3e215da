//! What a test run is told about its private servers.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::packages::Programs;
use crate::postgres::{Database, Durability, Postgres};
use crate::rabbit::{Listener, Management, Rabbit};
use crate::secret::write_private;
use crate::state::State;

/// The environment variable that names the file with an [`Instances`] as JSON.
pub const VARIABLE: &str = "MUSTER_TEST_INSTANCES";

/// The servers of a test run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instances {
    /// A role that may make databases, and a database to say so in.
    pub postgres: Database,
    /// The administrator's way in.
    pub rabbitmq: Broker,
}

/// A broker with its management interface, as an administrator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broker {
    /// AMQP without TLS on 127.0.0.1.
    pub amqp_port: u16,
    /// The HTTP interface on 127.0.0.1 that makes virtual hosts and users.
    pub management_port: u16,
    /// The administrator.
    pub user: String,
    /// A file with the administrator's password.
    pub password_file: PathBuf,
}

impl Instances {
    /// Reads what [`TestServers::start`] wrote.
    ///
    /// # Errors
    /// The file cannot be read or is something else.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }
}

/// The two servers that the tests of one run share; stopped when dropped.
#[derive(Debug)]
pub struct TestServers {
    /// The database server.
    pub postgres: Postgres,
    /// The broker.
    pub rabbit: Rabbit,
    /// What to give to [`VARIABLE`].
    pub file: PathBuf,
}

impl TestServers {
    /// Starts both side by side. PostgreSQL is durable as in production: services refuse to run on
    /// one that is not.
    ///
    /// # Errors
    /// One of them does not get ready.
    pub fn start(state: &State, programs: &Programs) -> Result<Self> {
        let (postgres, rabbit) = std::thread::scope(|scope| {
            let rabbit =
                scope.spawn(|| Rabbit::start(state, programs, &Listener::Plain, Management::On));
            let postgres = Postgres::start(state, programs, Durability::On);
            let rabbit = rabbit
                .join()
                .map_err(|_| anyhow::anyhow!("the start of RabbitMQ panicked"));
            (postgres, rabbit)
        });
        let (postgres, rabbit) = (postgres?, rabbit??);
        let instances = Instances {
            postgres: postgres.create_test_role("muster_test")?,
            rabbitmq: rabbit.administrator(),
        };
        let file = state.root().join("instances.json");
        write_private(&file, &serde_json::to_string_pretty(&instances)?)?;
        Ok(Self {
            postgres,
            rabbit,
            file,
        })
    }
}
