//! The configuration file. `deploy/config/management-point.toml` documents every key.

use std::net::SocketAddr;
use std::time::Duration;

use muster_runtime::config::{AdminConfig, TelemetryConfig, TlsConfig};
use serde::Deserialize;

/// A management point.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The site it belongs to. Peers of other sites are refused.
    pub site_code: String,
    /// Where clients call (gRPC).
    pub listen: SocketAddr,
    /// Over how many queues the states of clients are spread; as at the site server.
    pub state_shards: u16,
    /// The site server's gRPC address.
    pub site_server: String,
    /// Our certificate.
    pub tls: TlsConfig,
    /// Logs, traces.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
    /// Probes and metrics.
    #[serde(default)]
    pub admin: AdminConfig,
    /// The broker.
    pub rabbitmq: muster_rabbitmq::Config,
    /// How often the site server is asked what clients are to be told, and whom to refuse.
    #[serde(default = "default_directions", with = "humantime_serde")]
    pub directions_interval: Duration,
    /// How reports are gathered into messages.
    #[serde(default)]
    pub collect: Collect,
    /// Bounds on the reports of one client.
    #[serde(default)]
    pub per_client: PerClient,
    /// Bounds on the one call without a certificate.
    #[serde(default)]
    pub enrol: Enrol,
}

/// How reports are gathered into messages.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Collect {
    /// Reports in one message at most.
    pub max_reports: usize,
    /// How long the first report of a message waits for others.
    #[serde(with = "humantime_serde")]
    pub max_wait: Duration,
    /// Bytes of reports that wait for the broker's confirm at most.
    pub max_bytes: u32,
    /// How often clients should report until the site server has said so.
    #[serde(with = "humantime_serde")]
    pub next_report_in: Duration,
}

impl Default for Collect {
    fn default() -> Self {
        Self {
            max_reports: 64,
            max_wait: Duration::from_millis(5),
            max_bytes: 64 * 1024 * 1024,
            next_report_in: Duration::from_secs(15 * 60),
        }
    }
}

/// Bounds on the reports of one client.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PerClient {
    /// Calls at once.
    pub burst: u32,
    /// Calls per minute, after the burst.
    pub per_minute: u32,
}

impl Default for PerClient {
    fn default() -> Self {
        Self {
            burst: 120,
            per_minute: 120,
        }
    }
}

const fn default_directions() -> Duration {
    Duration::from_secs(5)
}

/// Bounds on the one call without a certificate.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Enrol {
    /// Enrolments at the same time.
    pub concurrency: usize,
    /// Enrolments from one address at once.
    pub burst: u32,
    /// Enrolments from one address per minute, after the burst.
    pub per_minute: u32,
}

impl Default for Enrol {
    fn default() -> Self {
        Self {
            concurrency: 16,
            burst: 20,
            per_minute: 20,
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
            "/../../deploy/config/management-point.toml"
        );
        let config: Config = muster_runtime::config::load(file).unwrap();
        assert_eq!(
            format!("{:?}", config.collect),
            format!("{:?}", Collect::default())
        );
        assert_eq!(config.directions_interval, default_directions());
        assert_eq!(
            format!("{:?}", config.per_client),
            format!("{:?}", PerClient::default())
        );
        assert_eq!(
            format!("{:?}", config.enrol),
            format!("{:?}", Enrol::default())
        );
    }

    #[test]
    fn the_files_for_kubernetes_are_configurations() {
        let overlays = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../deploy/kubernetes/overlays"
        );
        let mut found = 0;
        for overlay in std::fs::read_dir(overlays).unwrap() {
            let file = overlay.unwrap().path().join("config/management-point.toml");
            if file.exists() {
                muster_runtime::config::load::<Config>(&file).unwrap();
                found += 1;
            }
        }
        assert!(found > 0);
    }
}
