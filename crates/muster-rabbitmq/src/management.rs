//! Users of the broker, made over its management interface.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_runtime::tls::ClientTls;
use reqwest::{Method, StatusCode, Url};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{Error, ManagementConfig};

/// Time for one request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections and channels that a user may have: several times what a link needs, also while it
/// connects again.
const MAX_CONNECTIONS: u32 = 16;
const MAX_CHANNELS: u32 = 64;
/// What is kept of an answer for people.
const ANSWER: usize = 200;

/// Somebody who may use a virtual host. The rights are regular expressions, as in RabbitMQ.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it may declare and delete.
    pub configure: &'a str,
    /// What it may publish to.
    pub write: &'a str,
    /// What it may consume.
    pub read: &'a str,
}

/// What a broker keeps of a password, as RabbitMQ wants it: a salt, and the hash of both. With it a
/// user is made again whose password nobody but the user knows.
#[must_use]
pub fn password_hash(password: &str) -> String {
    salted(rand::random(), password)
}

fn salted(salt: [u8; 4], password: &str) -> String {
    let hash = Sha256::new().chain_update(salt).chain_update(password);
    STANDARD.encode([&salt[..], &hash.finalize()[..]].concat())
}

/// A way to make and remove users.
#[derive(Debug)]
pub struct Management {
    http: reqwest::Client,
    base: Url,
    user: String,
    password: String,
}

impl Management {
    /// Reads password and certificates. Nothing is connected.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(config: &ManagementConfig) -> Result<Self, Error> {
        let malformed = || Error::Config("the uri of the management interface is not an address");
        let base: Url = config.uri.parse().map_err(|_| malformed())?;
        let local = matches!(base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none());
        match (base.scheme(), &config.tls) {
            ("https", Some(tls)) => {
                let mut settings = ClientTls::new(tls)?.current().as_ref().clone();
                settings.alpn_protocols.clear();
                builder = builder.tls_backend_preconfigured(settings);
            }
            ("https", None) => return Err(Error::Config("https needs certificates")),
            ("http", None) if local => {}
            ("http", _) => return Err(Error::Config("http without TLS is for loopback only")),
            _ => return Err(malformed()),
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(Error::Config("the uri must not hold a user or a password"));
        }
        Ok(Self {
            http: builder.build()?,
            base,
            user: config.user.clone(),
            password: muster_runtime::config::read_secret(&config.password_file)?,
        })
    }

    /// Makes the user, or gives it this password ([`password_hash`]) and exactly these rights in
    /// the virtual host, with few connections.
    ///
    /// # Errors
    /// When the interface cannot be reached or refuses.
    pub async fn set_user(&self, vhost: &str, user: User<'_>, hash: &str) -> Result<(), Error> {
        let account = json!({
            "password_hash": hash,
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": "",
        });
        self.send(Method::PUT, &["users", user.name], Some(account))
            .await?;
        let rights = json!({
            "configure": user.configure, "write": user.write, "read": user.read,
        });
        let path = ["permissions", vhost, user.name];
        self.send(Method::PUT, &path, Some(rights)).await?;
        for (limit, value) in [
            ("max-connections", MAX_CONNECTIONS),
            ("max-channels", MAX_CHANNELS),
        ] {
            let path = ["user-limits", user.name, limit];
            let value = json!({ "value": value });
            self.send(Method::PUT, &path, Some(value)).await?;
        }
        Ok(())
    }

    /// Removes the user, and with it every connection it has. One that is not there is removed.
    ///
    /// # Errors
    /// When the interface cannot be reached or refuses.
    pub async fn remove_user(&self, name: &str) -> Result<(), Error> {
        match self.send(Method::DELETE, &["users", name], None).await {
            Err(Error::Refused { status: 404, .. }) => Ok(()),
            outcome => outcome,
        }
    }

    async fn send(&self, method: Method, path: &[&str], body: Option<Value>) -> Result<(), Error> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| Error::Config("the uri of the management interface is not an address"))?
            .pop_if_empty()
            .push("api")
            .extend(path);
        let mut request = self
            .http
            .request(method, url)
            .basic_auth(&self.user, Some(&self.password));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.map_err(reqwest::Error::without_url)?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let text = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "the user may not make users there".to_owned()
            }
            _ => answer.text().await.unwrap_or_default(),
        };
        Err(Error::Refused {
            status: status.as_u16(),
            answer: text.chars().take(ANSWER).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_hashed_as_the_broker_does_it() {
        // The example of RabbitMQ's page on passwords: "test12" with the salt 908DC60A.
        let salt = [0x90, 0x8d, 0xc6, 0x0a];
        let hash = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";
        assert_eq!(salted(salt, "test12"), hash);
    }

    #[test]
    fn passwords_travel_encrypted_or_not_at_all() {
        let config = |uri: &str| ManagementConfig {
            uri: uri.to_owned(),
            user: "u".to_owned(),
            password_file: "/dev/null".into(),
            tls: None,
        };
        muster_runtime::crypto::install();
        assert!(Management::new(&config("http://127.0.0.1:15672")).is_ok());
        for bad in [
            "http://broker.example:15672",
            "https://broker.example:15671",
            "ftp://127.0.0.1",
            "http://u:p@127.0.0.1:1",
            "nonsense",
        ] {
            assert!(Management::new(&config(bad)).is_err(), "{bad}");
        }
    }
}
