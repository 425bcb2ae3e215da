//! Where the broker is, and how much may be under way.

use std::path::PathBuf;
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};
use muster_runtime::config::TlsConfig;
use muster_runtime::humantime_serde;
use serde::{Deserialize, Serialize};

use crate::Error;

/// One virtual host of a broker, as the configuration file has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `amqps://host:port/vhost`, without user and password. `amqp://` is accepted on loopback
    /// only.
    pub uri: String,
    /// User to log in as; the broker writes it on each message we send.
    pub user: String,
    /// File with the user's password.
    pub password_file: PathBuf,
    /// Our certificate and the broker's authority; required for `amqps://`.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Messages that a consumer may hold unacknowledged.
    #[serde(default = "default_prefetch")]
    pub prefetch: u16,
    /// Messages that a publisher may have under way.
    #[serde(default = "default_window")]
    pub window: u16,
    /// How long a publisher waits for a confirm before it calls the outcome unknown.
    #[serde(default = "default_confirm_timeout", with = "humantime_serde")]
    pub confirm_timeout: Duration,
}

const fn default_prefetch() -> u16 {
    256
}

const fn default_window() -> u16 {
    500
}

const fn default_confirm_timeout() -> Duration {
    Duration::from_secs(10)
}

/// Seconds between heartbeats: a dead peer is noticed after two of them.
const HEARTBEAT: u16 = 15;

impl Config {
    /// A virtual host with defaults for the rest.
    #[must_use]
    pub fn new(
        uri: impl Into<String>,
        user: impl Into<String>,
        password_file: impl Into<PathBuf>,
    ) -> Self {
        Self {
            uri: uri.into(),
            user: user.into(),
            password_file: password_file.into(),
            tls: None,
            prefetch: default_prefetch(),
            window: default_window(),
            confirm_timeout: default_confirm_timeout(),
        }
    }

    /// The broker's address with our credentials. Never log it.
    pub(crate) fn address(&self) -> Result<AMQPUri, Error> {
        // The parser's own message could repeat a password that somebody wrote into the address.
        if self.uri.contains('@') {
            return Err(Error::Config("the uri must not hold a user or a password"));
        }
        let mut uri: AMQPUri = self
            .uri
            .parse()
            .map_err(|_| Error::Config("the uri is not an AMQP address"))?;
        let local = matches!(
            uri.authority.host.as_str(),
            "localhost" | "127.0.0.1" | "::1"
        );
        match (&uri.scheme, &self.tls) {
            (AMQPScheme::AMQPS, None) => return Err(Error::Config("amqps needs certificates")),
            (AMQPScheme::AMQP, Some(_)) => {
                return Err(Error::Config(
                    "certificates are given, but the uri is not amqps",
                ));
            }
            (AMQPScheme::AMQP, None) if !local => {
                return Err(Error::Config("amqp without TLS is for loopback only"));
            }
            (AMQPScheme::AMQP, None) | (AMQPScheme::AMQPS, Some(_)) => {}
        }
        if self.prefetch == 0 || self.window == 0 {
            return Err(Error::Config("prefetch and window must be at least 1"));
        }
        uri.authority.userinfo.username.clone_from(&self.user);
        uri.authority.userinfo.password = muster_runtime::config::read_secret(&self.password_file)?;
        uri.query.heartbeat = Some(HEARTBEAT);
        Ok(uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(uri: &str) -> Result<AMQPUri, Error> {
        Config::new(uri, "mp", "/dev/null").address()
    }

    #[test]
    fn plaintext_stays_on_loopback() {
        assert!(check("amqp://127.0.0.1:5672/P01").is_ok());
        assert!(matches!(
            check("amqp://broker.example:5672/P01"),
            Err(Error::Config(_))
        ));
        assert!(matches!(
            check("amqps://broker.example:5671/P01"),
            Err(Error::Config(_))
        ));
    }

    #[test]
    fn a_password_in_the_address_is_refused_and_not_repeated() {
        let error = check("amqp://mp:s3cret@127.0.0.1/P01")
            .unwrap_err()
            .to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn the_credentials_come_from_the_file() {
        let uri = check("amqp://localhost/P01").unwrap();
        assert_eq!(
            (uri.vhost.as_str(), uri.authority.userinfo.username.as_str()),
            ("P01", "mp")
        );
    }
}
