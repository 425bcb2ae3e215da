//! Where a database is and how we behave in it.

use std::path::PathBuf;
use std::time::Duration;

use muster_runtime::humantime_serde;
use serde::{Deserialize, Serialize};

use crate::Error;

/// One database, as the configuration file has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder of the server's Unix socket, as an absolute path.
    pub host: PathBuf,
    /// The server's port, which names the socket in that folder.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Name of the database.
    pub dbname: String,
    /// Role to log in as.
    pub user: String,
    /// File with the role's password; without it the server must know us by our account.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Schema that holds our tables: lower-case letters, digits and `_`. [`crate::migrate`]
    /// makes it. It is the whole search path, so no table of another schema is ever meant.
    #[serde(default = "default_schema")]
    pub schema: String,
    /// Connections at most.
    #[serde(default = "default_pool_size")]
    pub pool_size: usize,
    /// Refuse a server that could lose what it acknowledged. `false` is for tests of other
    /// things.
    #[serde(default = "default_durable")]
    pub durable: bool,
    /// How long the one active process may be silent before a standby ends its session and takes
    /// over; it says every third of this that it lives. At least 3 seconds.
    #[serde(default = "default_lease_timeout", with = "humantime_serde")]
    pub lease_timeout: Duration,
}

const fn default_port() -> u16 {
    5432
}

fn default_schema() -> String {
    "public".to_owned()
}

const fn default_pool_size() -> usize {
    16
}

const fn default_durable() -> bool {
    true
}

const fn default_lease_timeout() -> Duration {
    Duration::from_secs(15)
}

/// How long a new connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Settings of every session. No statement timeout: it could fire around a COMMIT and leave its
/// outcome unknown (reliability.md D3). A lock wait is bounded instead, and a transaction that
/// its owner forgot is ended.
const SETTINGS: &str = "-c timezone=UTC -c statement_timeout=0 -c lock_timeout=30s \
     -c idle_in_transaction_session_timeout=120s -c default_transaction_isolation=read\\ committed";

impl Config {
    /// A database behind a socket, with defaults for the rest.
    #[must_use]
    pub fn new(
        host: impl Into<PathBuf>,
        port: u16,
        dbname: impl Into<String>,
        user: impl Into<String>,
    ) -> Self {
        Self {
            host: host.into(),
            port,
            dbname: dbname.into(),
            user: user.into(),
            password_file: None,
            schema: default_schema(),
            pool_size: default_pool_size(),
            durable: default_durable(),
            lease_timeout: default_lease_timeout(),
        }
    }

    /// The settings of one session, password included.
    ///
    /// # Errors
    /// When `host` is not a folder's absolute path, `schema` is not a plain name, or the
    /// password file cannot be read.
    pub(crate) fn session(&self) -> Result<tokio_postgres::Config, Error> {
        if !self.host.is_absolute() {
            return Err(Error::Config(
                "host must be the absolute path of a socket folder",
            ));
        }
        if self.lease_timeout < Duration::from_secs(3) {
            return Err(Error::Config("lease_timeout must be at least 3 s"));
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let starts = self
            .schema
            .bytes()
            .next()
            .is_some_and(|b| !b.is_ascii_digit());
        if !starts || self.schema.len() > 63 || !self.schema.bytes().all(plain) {
            return Err(Error::Config(
                "schema must be lower-case letters, digits and _",
            ));
        }
        let mut session = tokio_postgres::Config::new();
        session
            .host_path(&self.host)
            .port(self.port)
            .dbname(&self.dbname)
            .user(&self.user)
            .connect_timeout(CONNECT)
            .application_name(application_name())
            // Start-up options rather than SET: they hold from the first statement on, and
            // outlive DISCARD ALL.
            .options(format!("{SETTINGS} -c search_path={}", self.schema));
        if let Some(file) = &self.password_file {
            session.password(muster_runtime::config::read_secret(file)?);
        }
        Ok(session)
    }
}

/// Shown in `pg_stat_activity`: the name of our program.
fn application_name() -> String {
    std::env::args_os()
        .next()
        .map(PathBuf::from)
        .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "muster".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(host: &str, schema: &str) -> Config {
        Config {
            schema: schema.to_owned(),
            ..Config::new(host, 5432, "muster", "muster")
        }
    }

    #[test]
    fn an_address_is_refused_while_there_is_no_tls_for_it() {
        assert!(matches!(
            config("db.example", "public").session(),
            Err(Error::Config(_))
        ));
        assert!(config("/run/postgresql", "public").session().is_ok());
    }

    #[test]
    fn a_schema_is_a_plain_name() {
        for schema in [
            "",
            "a b",
            "A",
            "1a",
            "a,b",
            "a;DROP",
            "\"a\"",
            "a -c fsync=off",
        ] {
            assert!(
                matches!(config("/run", schema).session(), Err(Error::Config(_))),
                "{schema}"
            );
        }
    }

    #[test]
    fn an_unknown_key_is_refused_and_a_short_file_suffices() {
        let short = "host = \"/run/postgresql\"\ndbname = \"m\"\nuser = \"m\"\n";
        let config: Config = toml::from_str(short).unwrap();
        assert_eq!(
            (config.port, config.schema.as_str(), config.durable),
            (5432, "public", true)
        );
        assert!(toml::from_str::<Config>(&format!("{short}pasword = \"x\"\n")).is_err());
    }
}
