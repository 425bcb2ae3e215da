//! Where the broker is, and how much may be under way.

use std::path::PathBuf;
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};
use muster_runtime::config::TlsConfig;
use muster_runtime::humantime_serde;
use muster_runtime::tls::ClientTls;
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
    /// The broker's management interface, for who makes users there: a site server whose site has
    /// sites below it.
    #[serde(default)]
    pub management: Option<ManagementConfig>,
    /// In the place of the files, for who keeps them elsewhere; never in a configuration file.
    #[serde(skip)]
    pub secrets: Option<Secrets>,
}

/// A password and certificates that are at hand instead of in files. Never shown.
#[derive(Clone)]
pub struct Secrets {
    /// Of the user.
    pub password: String,
    /// For `amqps://`: the broker's authority, our certificate and our key.
    pub tls: Option<Pem>,
}

/// Certificates and a key as PEM.
#[derive(Clone)]
pub struct Pem {
    /// Certificates of the authorities whose brokers are trusted.
    pub ca: String,
    /// Our certificate chain, leaf first.
    pub cert: String,
    /// Our private key (PKCS#8).
    pub key: String,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pem")
    }
}

/// The management interface of a broker (plugin `rabbitmq_management`).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManagementConfig {
    /// `https://host:port`. `http://` is accepted on loopback only.
    pub uri: String,
    /// User to log in as; it needs the tag `administrator` to make users.
    pub user: String,
    /// File with the user's password.
    pub password_file: PathBuf,
    /// Our certificate and the broker's authority; required for `https://`.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
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
            management: None,
            secrets: None,
        }
    }

    /// A virtual host whose password and certificates are at hand, with defaults for the rest.
    #[must_use]
    pub fn with_secrets(uri: impl Into<String>, user: impl Into<String>, secrets: Secrets) -> Self {
        Self {
            secrets: Some(secrets),
            ..Self::new(uri, user, PathBuf::new())
        }
    }

    /// Our end of the encrypted connection; `None` on loopback.
    pub(crate) fn client_tls(&self) -> Result<Option<ClientTls>, Error> {
        Ok(match &self.secrets {
            Some(Secrets { tls: Some(pem), .. }) => {
                Some(ClientTls::from_pem(&pem.ca, &pem.cert, &pem.key)?)
            }
            Some(Secrets { tls: None, .. }) => None,
            None => self.tls.as_ref().map(ClientTls::new).transpose()?,
        })
    }

    fn has_tls(&self) -> bool {
        match &self.secrets {
            Some(secrets) => secrets.tls.is_some(),
            None => self.tls.is_some(),
        }
    }

    /// The virtual host in the address.
    ///
    /// # Errors
    /// When the address is malformed.
    pub fn vhost(&self) -> Result<String, Error> {
        let uri: AMQPUri = self
            .uri
            .parse()
            .map_err(|_| Error::Config("the uri is not an AMQP address"))?;
        Ok(uri.vhost)
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
        match (&uri.scheme, self.has_tls()) {
            (AMQPScheme::AMQPS, false) => return Err(Error::Config("amqps needs certificates")),
            (AMQPScheme::AMQP, true) => {
                return Err(Error::Config(
                    "certificates are given, but the uri is not amqps",
                ));
            }
            (AMQPScheme::AMQP, false) if !local => {
                return Err(Error::Config("amqp without TLS is for loopback only"));
            }
            (AMQPScheme::AMQP, false) | (AMQPScheme::AMQPS, true) => {}
        }
        if self.prefetch == 0 || self.window == 0 {
            return Err(Error::Config("prefetch and window must be at least 1"));
        }
        uri.authority.userinfo.username.clone_from(&self.user);
        uri.authority.userinfo.password = match &self.secrets {
            Some(secrets) => secrets.password.clone(),
            None => muster_runtime::config::read_secret(&self.password_file)?,
        };
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
    fn secrets_at_hand_take_the_place_of_files_and_are_not_shown() {
        let secrets = |tls| Secrets {
            password: "s3cret".into(),
            tls,
        };
        let pem = Pem {
            ca: "ca".into(),
            cert: "cert".into(),
            key: "s3cret".into(),
        };
        let plain = Config::with_secrets("amqp://localhost/P01", "c01", secrets(None));
        let password = plain.address().unwrap().authority.userinfo.password;
        assert_eq!(password, "s3cret");
        let remote = "amqps://broker.example:5671/P01";
        let remote = |tls| Config::with_secrets(remote, "c01", secrets(tls));
        assert!(remote(None).address().is_err());
        let encrypted = remote(Some(pem));
        assert!(encrypted.address().is_ok());
        assert!(!format!("{encrypted:?}").contains("s3cret"));
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
