//! Configuration files: one TOML file per process, every key known, secrets as paths to files.
//!
//! Structs of a service use `#[serde(deny_unknown_fields)]`, and durations are written `"30s"`
//! with `#[serde(with = "muster_runtime::humantime_serde")]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Longest configuration file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// A configuration file or a file it names could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is longer than any configuration or secret is.
    #[error("{} is larger than {MAX_FILE} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not the TOML that the process expects: an unknown key, a missing one, or a
    /// value of the wrong kind. The source names key and line.
    #[error("{} is not a valid configuration: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Which key, in which line.
        source: Box<toml::de::Error>,
    },
}

/// Reads a configuration file.
///
/// # Errors
/// When the file cannot be read or has an unknown key, a missing key or a wrong value; the
/// message names the file.
pub fn load<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T, Error> {
    let path = path.as_ref();
    let text = read(path)?;
    toml::from_str(&text).map_err(|source| Error::Parse {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

/// Reads a secret (a password, a token) from its file, without the line end.
///
/// # Errors
/// When the file cannot be read; the message names the file, never what is in it.
pub fn read_secret(path: impl AsRef<Path>) -> Result<String, Error> {
    Ok(read(path.as_ref())?
        .trim_end_matches(['\r', '\n'])
        .to_owned())
}

fn read(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_FILE {
        return Err(Error::TooLarge {
            path: path.to_owned(),
        });
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// Where a process takes its certificate from. The files are PEM; they are read again when they
/// change, so a renewed certificate needs no restart.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificates of the authorities whose peers are trusted: the site CA.
    pub ca: PathBuf,
    /// Our certificate chain, leaf first.
    pub cert: PathBuf,
    /// Our private key (PKCS#8), readable by this process alone.
    pub key: PathBuf,
}

/// What a process tells about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Which log lines are written, as an env-filter: `info,muster=debug`.
    #[serde(default = "TelemetryConfig::default_log")]
    pub log: String,
    /// One JSON object per line, or text for people.
    #[serde(default)]
    pub format: LogFormat,
    /// Where traces go (OTLP over gRPC, such as `http://127.0.0.1:4317`). Without it no traces
    /// are kept.
    #[serde(default)]
    pub otlp_endpoint: Option<String>,
}

impl TelemetryConfig {
    fn default_log() -> String {
        "info".to_owned()
    }
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log: Self::default_log(),
            format: LogFormat::default(),
            otlp_endpoint: None,
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// For a person at a terminal.
    Text,
}

/// The admin port: probes and metrics, in plain HTTP (see [`crate::admin`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// Address and port; port 0 takes a free one. Loopback, or the pod's own address.
    #[serde(default = "AdminConfig::default_listen")]
    pub listen: SocketAddr,
}

impl AdminConfig {
    fn default_listen() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: Self::default_listen(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        telemetry: TelemetryConfig,
        #[serde(with = "humantime_serde")]
        period: std::time::Duration,
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_file_is_read_with_durations_and_defaults() {
        let file = file("period = \"30s\"\n[telemetry]\nformat = \"text\"\n");
        let config: Config = load(file.path()).unwrap();
        assert_eq!(config.period.as_secs(), 30);
        assert_eq!(config.telemetry.format, LogFormat::Text);
        assert_eq!(config.telemetry.log, "info");
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_file_and_the_key_in_the_message() {
        let file = file("period = \"30s\"\n[telemetry]\nlgo = \"debug\"\n");
        let error = load::<Config>(file.path()).unwrap_err().to_string();
        assert!(
            error.contains(&file.path().display().to_string()),
            "{error}"
        );
        assert!(error.contains("lgo"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load::<Config>("/nonexistent/muster.toml")
            .unwrap_err()
            .to_string();
        assert!(error.contains("/nonexistent/muster.toml"), "{error}");
    }

    #[test]
    fn a_secret_loses_its_line_end_and_nothing_else() {
        let file = file(" s3cret \r\n");
        assert_eq!(read_secret(file.path()).unwrap(), " s3cret ");
    }
}
