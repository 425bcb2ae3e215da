//! Where a database is and how we behave in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_runtime::config::TlsConfig;
use muster_runtime::humantime_serde;
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Socket};

use crate::Error;
use crate::tls::Tls;

/// Where a server is. In a file, an absolute path is the folder of its Unix socket, everything
/// else its name or address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Host {
    /// Folder of the server's Unix socket.
    Socket(PathBuf),
    /// A name or an IP address: over TLS, loopback too.
    Address(String),
}

impl From<String> for Host {
    fn from(text: String) -> Self {
        if Path::new(&text).is_absolute() {
            Self::Socket(text.into())
        } else {
            Self::Address(text)
        }
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        match host {
            Host::Socket(folder) => folder.to_string_lossy().into_owned(),
            Host::Address(name) => name,
        }
    }
}

impl From<&str> for Host {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<PathBuf> for Host {
    fn from(folder: PathBuf) -> Self {
        Self::Socket(folder)
    }
}

impl From<&PathBuf> for Host {
    fn from(folder: &PathBuf) -> Self {
        Self::Socket(folder.clone())
    }
}

/// One database, as the configuration file has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The server: the absolute path of its Unix socket's folder, or its name or address.
    pub host: Host,
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
    /// The authority that the server's certificate is of, and the certificate and key that we
    /// show when the server asks. An address needs it, a socket has none. The files are read
    /// again when they change.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
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

/// A server elsewhere that is silent is asked after this time whether it still lives, and again
/// after every [`KEEPALIVE_AGAIN`], [`KEEPALIVE_TRIES`] times; then the connection is over. What
/// it does not confirm ends the connection after [`UNCONFIRMED`]. So a lost network ends even a
/// COMMIT that waits for its answer: as an unknown outcome, never as a failure.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_AGAIN: Duration = Duration::from_secs(5);
const KEEPALIVE_TRIES: u32 = 3;
const UNCONFIRMED: Duration = Duration::from_secs(30);

/// Settings of every session. No statement timeout: it could fire around a COMMIT and leave its
/// outcome unknown (reliability.md D3). A lock wait is bounded instead, and a transaction that
/// its owner forgot is ended.
const SETTINGS: &str = "-c timezone=UTC -c statement_timeout=0 -c lock_timeout=30s \
     -c idle_in_transaction_session_timeout=120s -c default_transaction_isolation=read\\ committed";

impl Config {
    /// A database with defaults for the rest; one behind an address needs `tls`, too.
    #[must_use]
    pub fn new(
        host: impl Into<Host>,
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
            tls: None,
            schema: default_schema(),
            pool_size: default_pool_size(),
            durable: default_durable(),
            lease_timeout: default_lease_timeout(),
        }
    }

    /// The settings of one session, password included.
    ///
    /// # Errors
    /// When `host` and `tls` do not go together, `schema` is not a plain name, or the password
    /// file cannot be read.
    pub(crate) fn session(&self) -> Result<tokio_postgres::Config, Error> {
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
        match (&self.host, &self.tls) {
            (Host::Socket(folder), None) => session.host_path(folder).ssl_mode(SslMode::Disable),
            (Host::Socket(_), Some(_)) => {
                return Err(Error::Config(
                    "certificates are given, but host is a socket folder, which has no TLS",
                ));
            }
            (Host::Address(_), None) => {
                return Err(Error::Config(
                    "host is an address, which needs certificates (tls.ca, tls.cert, tls.key); \
                     without TLS only the absolute path of a socket folder will do",
                ));
            }
            (Host::Address(name), Some(_)) => {
                if ServerName::try_from(name.as_str()).is_err() {
                    return Err(Error::Config(
                        "host must be the absolute path of a socket folder, one name or one IP address",
                    ));
                }
                session
                    .host(name)
                    .ssl_mode(SslMode::Require)
                    // Behind one name may be several servers; a standby is of no use to us.
                    .target_session_attrs(TargetSessionAttrs::ReadWrite)
                    .tcp_user_timeout(UNCONFIRMED)
                    .keepalives_idle(KEEPALIVE)
                    .keepalives_interval(KEEPALIVE_AGAIN)
                    .keepalives_retries(KEEPALIVE_TRIES)
            }
        };
        session
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

    /// What encrypts a session.
    pub(crate) fn encryption(&self) -> Result<Tls, Error> {
        Tls::new(self.tls.as_ref())
    }

    /// Opens a connection beside the pool. It lives as long as the second part is polled.
    pub(crate) async fn open(&self) -> Result<(Client, Connection), Error> {
        Ok(self.session()?.connect(self.encryption()?).await?)
    }
}

/// The half of a connection that does its work.
pub(crate) type Connection =
    tokio_postgres::Connection<Socket, <Tls as MakeTlsConnect<Socket>>::Stream>;

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

    fn with_tls(host: &str) -> Config {
        Config {
            tls: Some(TlsConfig {
                ca: "/nonexistent/ca.pem".into(),
                cert: "/nonexistent/own.pem".into(),
                key: "/nonexistent/own.key".into(),
            }),
            ..config(host, "public")
        }
    }

    #[test]
    fn an_address_needs_certificates_and_a_socket_has_none() {
        for host in [
            "db.example",
            "127.0.0.1",
            "::1",
            "localhost",
            "run/postgresql",
        ] {
            let refused = config(host, "public").session();
            assert!(
                matches!(refused, Err(Error::Config(text)) if text.contains("tls.ca")),
                "{host}"
            );
        }
        for host in ["db.example", "127.0.0.1", "::1", "localhost"] {
            assert!(with_tls(host).session().is_ok(), "{host}");
        }
        assert!(config("/run/postgresql", "public").session().is_ok());
        assert!(matches!(
            with_tls("/run/postgresql").session(),
            Err(Error::Config(text)) if text.contains("no TLS")
        ));
    }

    #[test]
    fn an_address_is_one_name() {
        for host in [
            "",
            "run/postgresql",
            "a,b",
            "db.example:5432",
            "[::1]",
            "a b",
            "@db",
        ] {
            assert!(
                matches!(with_tls(host).session(), Err(Error::Config(_))),
                "{host}"
            );
        }
    }

    #[test]
    fn an_address_is_never_asked_without_tls() {
        let session = with_tls("db.example").session().unwrap();
        assert_eq!(session.get_ssl_mode(), SslMode::Require);
        assert!(matches!(
            with_tls("db.example").encryption(),
            Err(Error::Tls(_))
        ));
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
