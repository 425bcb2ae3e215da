//! One client: its state folder, the machine below it, and its connections. What it does is in
//! the modules named after it: `enrol`, `policy`, `scan`, `enforce`, `reporter`, `daemon`.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use muster_domain::ClientId;
use muster_proto::client::Locations;
use muster_runtime::config::TlsConfig;
use muster_stream::Run;
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::download::{Content, private_dir};
use crate::provider::Provider;
use crate::renew;
use crate::store::{Durability, Registration, Store, meta};
use crate::wire::Wire;
use crate::{Error, identity};

/// How an agent is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether commits wait for the disk.
    pub durability: Durability,
    /// First delay after a failed download or installation; it doubles with every failure.
    pub retry_after: Duration,
    /// Never install, whatever is deployed: for machines that are only watched.
    pub read_only: bool,
    /// How long after an urgent change a report goes out, so that a burst makes one report.
    pub gather: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::Full,
            retry_after: Duration::from_secs(300),
            read_only: false,
            gather: Duration::from_secs(1),
        }
    }
}

/// The client agent over one machine.
#[derive(Debug)]
pub struct Agent {
    dir: PathBuf,
    store: Store,
    provider: Arc<dyn Provider>,
    wire: Wire,
    content: Content,
    options: Options,
    urgent: Notify,
    renewing: tokio::sync::Mutex<()>,
    run: Mutex<Option<Run>>,
}

impl Agent {
    /// Opens an enrolled client. Sets nothing in motion.
    ///
    /// # Errors
    /// [`Error::NotEnrolled`] before enrolment; else when the folder cannot be used.
    pub fn open(dir: &Path, provider: Arc<dyn Provider>, options: Options) -> Result<Self, Error> {
        private_dir(dir)?;
        let tls = tls_files(dir);
        if !tls.cert.exists() {
            return Err(Error::NotEnrolled);
        }
        let store = Store::open_or_replace(&dir.join("agent.db"), options.durability)?;
        identity::bring_back(dir, &store)?;
        renew::finish(dir, &store, options.durability)?;
        identity::keep(dir, &store, options.durability)?;
        let content = Content::open(&dir.join("cache"), Some(&tls))?;
        let wire = Wire::new(tls);
        let dir = dir.to_owned();
        Ok(Self {
            dir,
            store,
            provider,
            wire,
            content,
            options,
            urgent: Notify::new(),
            renewing: tokio::sync::Mutex::default(),
            run: Mutex::new(None),
        })
    }

    /// Replaces the HTTP client, for tests with a distribution point of their own.
    #[doc(hidden)]
    #[must_use]
    pub fn with_content(mut self, content: Content) -> Self {
        self.content = content;
        self
    }

    /// The state folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is remembered.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The machine.
    #[must_use]
    pub const fn provider(&self) -> &Arc<dyn Provider> {
        &self.provider
    }

    pub(crate) const fn wire(&self) -> &Wire {
        &self.wire
    }

    pub(crate) const fn content(&self) -> &Content {
        &self.content
    }

    pub(crate) const fn options(&self) -> &Options {
        &self.options
    }

    /// Notified when something should be reported at once.
    pub(crate) const fn urgent(&self) -> &Notify {
        &self.urgent
    }

    /// Held by whoever renews the identity.
    pub(crate) const fn renewing(&self) -> &tokio::sync::Mutex<()> {
        &self.renewing
    }

    /// The run that reports of this process belong to.
    pub(crate) fn run(&self) -> MutexGuard<'_, Option<Run>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine's clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.provider.now()
    }

    /// Who this client is.
    ///
    /// # Errors
    /// [`Error::NotEnrolled`], or when the database fails.
    pub fn registration(&self) -> Result<Registration, Error> {
        self.store.registration()?.ok_or(Error::NotEnrolled)
    }

    /// Where the servers are, as the site last said.
    ///
    /// # Errors
    /// When it cannot be read back.
    pub fn locations(&self) -> Result<Locations, Error> {
        let bytes = self
            .store
            .read(|r| r.bytes(meta::LOCATIONS))?
            .unwrap_or_default();
        Locations::decode(bytes.as_slice()).map_err(|_| Error::Saved { what: "locations" })
    }

    /// The lock of everybody who installs with this state folder: the daemon and commands.
    ///
    /// # Errors
    /// [`Error::Busy`] when somebody has it.
    pub(crate) fn lock(&self) -> Result<File, Error> {
        let path = self.dir.join("install.lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::file(&path))?;
        file.try_lock().map_err(|_| Error::Busy)?;
        Ok(file)
    }
}

/// Where the certificate of a client is.
#[must_use]
pub fn tls_files(dir: &Path) -> TlsConfig {
    let certs = dir.join("certs");
    TlsConfig {
        ca: certs.join("ca.pem"),
        cert: certs.join("client.pem"),
        key: certs.join("client.key"),
    }
}

/// `agent.toml` of a state folder: what enrolment was told about this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentFile {
    /// Which machine it is: `dpkg`.
    pub provider: String,
    /// The root that is managed: `/`, or a folder with a Debian in it.
    pub root: PathBuf,
    /// Scan and report, never install.
    pub read_only: bool,
    /// The name to report instead of the root's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
}

impl AgentFile {
    const NAME: &str = "agent.toml";

    /// Reads it.
    ///
    /// # Errors
    /// When it is missing or has an unknown key.
    pub fn load(dir: &Path) -> Result<Self, muster_runtime::config::Error> {
        muster_runtime::config::load(dir.join(Self::NAME))
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), Error> {
        let text = toml::to_string(self).map_err(|_| Error::Saved { what: "agent.toml" })?;
        write_private(&dir.join(Self::NAME), text.as_bytes())
    }
}

/// Writes a file that only this user can read, on disk when it returns, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_file(path, bytes, Durability::Full)
}

/// As [`write_private`]; with [`Durability::Relaxed`] a power failure may lose it.
pub(crate) fn write_file(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), Error> {
    let fresh = path.with_extension("new");
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(bytes)?;
        if durability == Durability::Full {
            file.sync_all()?;
        }
        fs::rename(&fresh, path)?;
        match path.parent() {
            Some(parent) if durability == Durability::Full => File::open(parent)?.sync_all(),
            Some(_) | None => Ok(()),
        }
    };
    write().map_err(Error::file(path))
}

/// A client id for people who look for it in a folder's name.
#[must_use]
pub fn short(id: ClientId) -> String {
    id.to_string().chars().take(8).collect()
}
