//! The configuration file. `deploy/config/distribution-point.toml` documents every key.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use muster_runtime::config::{AdminConfig, TelemetryConfig, TlsConfig};
use serde::Deserialize;

/// A distribution point.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The site it belongs to. Peers of other sites are refused.
    pub site_code: String,
    /// Where the site server calls (gRPC).
    pub listen: SocketAddr,
    /// Where clients fetch content (HTTPS).
    pub content_listen: SocketAddr,
    /// Folder of the content; this process alone uses it.
    pub data_dir: PathBuf,
    /// Our certificate.
    pub tls: TlsConfig,
    /// Logs, traces.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
    /// Probes and metrics.
    #[serde(default)]
    pub admin: AdminConfig,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
    /// How files come from the archive.
    #[serde(default)]
    pub fetch: Fetch,
    /// How files are looked at again.
    #[serde(default)]
    pub scrub: Scrub,
    /// How files come from the parent site.
    #[serde(default)]
    pub parent: Parent,
}

/// How files come from the distribution points of the parent site.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parent {
    /// Our own site server (gRPC), which knows the parent; without it files come from the archive.
    pub site_server: Option<String>,
    /// Whether what the parent has not got comes from the archive.
    pub from_archive: bool,
}

impl Default for Parent {
    fn default() -> Self {
        Self {
            site_server: None,
            from_archive: true,
        }
    }
}

/// Bounds of a distribution point.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of content in all.
    pub content_bytes: u64,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Paths of archive files that are offered.
    pub paths: usize,
    /// Open connections of clients.
    pub connections: usize,
    /// Files being sent at once over all connections; one more is answered 503.
    pub transfers: usize,
    /// Requests in hand per HTTP/2 connection.
    pub streams_per_connection: u32,
    /// Time for the headers of a request, and for an idle connection.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// A connection this old takes no new request, and is closed a minute later at the latest.
    #[serde(with = "humantime_serde")]
    pub connection_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            content_bytes: 1 << 40,
            file_bytes: 8 << 30,
            paths: 500_000,
            connections: 5_000,
            transfers: 1_000,
            streams_per_connection: 32,
            header_timeout: Duration::from_secs(30),
            connection_age: Duration::from_secs(3600),
        }
    }
}

/// How files come from the archive.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fetch {
    /// Files at once.
    pub concurrency: usize,
    /// Files waiting or failed; more are refused until some are done.
    pub queue: usize,
    /// Attempts per file before it counts as failed.
    pub attempts: u32,
    /// The first delay between two attempts; doubles up to a minute, with jitter.
    #[serde(with = "humantime_serde")]
    pub retry_after: Duration,
    /// A failed file is tried again when it is asked for after this time.
    #[serde(with = "humantime_serde")]
    pub failed_for: Duration,
    /// Time for a connection to the archive.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Longest silence of the archive.
    #[serde(with = "humantime_serde")]
    pub read_timeout: Duration,
    /// An attempt gets a minute and the time that the file takes at this rate.
    pub min_bytes_per_second: u64,
}

impl Default for Fetch {
    fn default() -> Self {
        Self {
            concurrency: 4,
            queue: 20_000,
            attempts: 5,
            retry_after: Duration::from_secs(1),
            failed_for: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            min_bytes_per_second: 16 * 1024,
        }
    }
}

/// How files are looked at again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scrub {
    /// Time between two passes over all files.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// How fast a pass reads.
    pub bytes_per_second: u64,
}

impl Default for Scrub {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(24 * 3600),
            bytes_per_second: 16 * 1024 * 1024,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_file_is_valid_and_shows_the_defaults() {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../deploy/config/distribution-point.toml"
        );
        let config: Config = muster_runtime::config::load(file).unwrap();
        assert_eq!(
            format!("{:?}", config.limits),
            format!("{:?}", Limits::default())
        );
        assert_eq!(
            format!("{:?}", config.fetch),
            format!("{:?}", Fetch::default())
        );
        assert_eq!(
            format!("{:?}", config.scrub),
            format!("{:?}", Scrub::default())
        );
        assert_eq!(config.parent.from_archive, Parent::default().from_archive);
    }

    #[test]
    fn the_files_for_kubernetes_are_configurations() {
        let overlays = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../deploy/kubernetes/overlays"
        );
        let mut found = 0;
        for overlay in std::fs::read_dir(overlays).unwrap() {
            let file = overlay
                .unwrap()
                .path()
                .join("config/distribution-point.toml");
            if file.exists() {
                muster_runtime::config::load::<Config>(&file).unwrap();
                found += 1;
            }
        }
        assert!(found > 0);
    }
}
