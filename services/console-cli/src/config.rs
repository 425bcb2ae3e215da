//! Which sites this administrator knows: `$MUSTER_CONFIG`, or `~/.config/muster/config.toml`.
//! The file holds addresses and the paths of certificate and key, never a key itself; it is
//! written whole and readable by its owner alone.

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use muster_runtime::config::TlsConfig;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Kind};

/// The file as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Name of the context that commands use; empty before the first login.
    #[serde(default)]
    pub(crate) current: String,
    /// The sites, by name.
    #[serde(default)]
    pub(crate) contexts: Vec<Context>,
}

/// One site and how to be let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// What the administrator calls it; by default the site code.
    pub(crate) name: String,
    /// `https://host:port` of the site server.
    pub(crate) site_server: String,
    /// The site's CA, PEM.
    pub(crate) ca: PathBuf,
    /// The administrator's certificate, PEM.
    pub(crate) cert: PathBuf,
    /// Its private key, PEM.
    pub(crate) key: PathBuf,
}

impl Context {
    /// The files as the channel wants them.
    pub(crate) fn tls(&self) -> TlsConfig {
        TlsConfig {
            ca: self.ca.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
        }
    }
}

impl Config {
    /// Reads the file; a missing one is an empty one.
    pub(crate) fn load() -> Result<Self, Failure> {
        let path = path()?;
        if !path.exists() {
            return Ok(Self::default());
        }
        Ok(muster_runtime::config::load(&path)?)
    }

    /// Writes the file (mode 0600) beside the old one and puts it in its place.
    pub(crate) fn save(&self) -> Result<PathBuf, Failure> {
        let path = path()?;
        let text = toml::to_string(self)
            .map_err(|error| Failure::new(Kind::General, "CONFIG", error.to_string()))?;
        write(&path, text.as_bytes()).map_err(|error| {
            let message = format!("cannot write {}: {error}", path.display());
            Failure::new(Kind::General, "CONFIG", message)
        })?;
        Ok(path)
    }

    /// The context with this name, or the current one.
    pub(crate) fn context(&self, name: Option<&str>) -> Result<&Context, Failure> {
        let wanted = name.unwrap_or(&self.current);
        if wanted.is_empty() {
            return Err(Failure::usage("NOT_LOGGED_IN", "no site is known yet")
                .hint("muster login --site-server https://HOST:PORT --ca F --cert F --key F"));
        }
        self.contexts
            .iter()
            .find(|context| context.name == wanted)
            .ok_or_else(|| {
                Failure::new(
                    Kind::NotFound,
                    "UNKNOWN_CONTEXT",
                    format!("no context {wanted:?}"),
                )
                .hint("`muster context list` lists the contexts")
            })
    }

    /// Adds a context, or replaces the one of the same name, and makes it the current one.
    pub(crate) fn put(&mut self, context: Context) {
        self.current.clone_from(&context.name);
        match self
            .contexts
            .iter_mut()
            .find(|known| known.name == context.name)
        {
            Some(known) => *known = context,
            None => self.contexts.push(context),
        }
    }
}

fn path() -> Result<PathBuf, Failure> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("MUSTER_CONFIG")
        .or_else(|| {
            let base = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
            Some(base.join("muster/config.toml"))
        })
        .ok_or_else(|| {
            Failure::new(
                Kind::General,
                "CONFIG",
                "neither HOME nor MUSTER_CONFIG is set",
            )
        })
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written
        .and_then(|()| fs::rename(&new, path))
        .inspect_err(|_| {
            // The error that counts is the first one.
            let _ = fs::remove_file(&new);
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(name: &str, site_server: &str) -> Context {
        let file = || PathBuf::from("/etc/muster/x.pem");
        let (name, site_server) = (name.to_owned(), site_server.to_owned());
        Context {
            name,
            site_server,
            ca: file(),
            cert: file(),
            key: file(),
        }
    }

    #[test]
    fn logging_in_again_replaces_the_context_of_the_same_name() {
        let mut config = Config::default();
        config.put(context("P01", "https://a.example:1"));
        config.put(context("P02", "https://b.example:1"));
        config.put(context("P01", "https://c.example:1"));
        assert_eq!(config.contexts.len(), 2);
        assert_eq!(
            config.context(None).unwrap().site_server,
            "https://c.example:1"
        );
        assert_eq!(
            config.context(Some("P02")).unwrap().site_server,
            "https://b.example:1"
        );
        assert_eq!(
            config.context(Some("P03")).unwrap_err().kind,
            Kind::NotFound
        );
    }

    #[test]
    fn the_file_reads_as_it_was_written() {
        let mut config = Config::default();
        config.put(context("P01", "https://a.example:1"));
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
    }
}
