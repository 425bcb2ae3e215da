//! The configuration file of a site server; `deploy/config/site-server.toml` explains each key.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use muster_domain::SiteCode;
use muster_proto::{convert, policy};
use muster_runtime::config::{AdminConfig, TelemetryConfig, TlsConfig};
use muster_runtime::grpc::Limits;
use muster_runtime::humantime_serde;
use muster_stream::Retry;
use serde::Deserialize;

/// Everything a site server is told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Three characters that name the site in the whole hierarchy.
    pub site_code: SiteCode,
    /// For people.
    pub site_name: String,
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// How many queues the clients' reports are spread over; the management points must agree.
    #[serde(default = "default_shards")]
    pub state_shards: u16,
    /// How often the software update point is asked for news.
    #[serde(default = "default_catalog_poll", with = "humantime_serde")]
    pub catalog_poll_interval: Duration,
    /// How long something may be missing in a client's reports before the client is asked for it.
    #[serde(default = "default_resync_after", with = "humantime_serde")]
    pub resync_after: Duration,
    /// Added to that at random, at most: a fleet that lost something together is asked spread out.
    #[serde(default = "default_resync_jitter", with = "humantime_serde")]
    pub resync_jitter: Duration,
    /// After these it is asked again while nothing comes, the last one for ever.
    #[serde(default = "default_resync_pauses")]
    pub resync_pauses: Vec<Pause>,
    /// How far the interval at which clients report is stretched while there is a backlog.
    #[serde(default = "default_report_interval_max", with = "humantime_serde")]
    pub report_interval_max: Duration,
    /// How long a machine whose certificate was replaced may still ask for one of its own.
    #[serde(default = "default_renewal_grace", with = "humantime_serde")]
    pub renewal_grace: Duration,
    /// How often distribution points are asked whether they still have what they said they have.
    #[serde(default = "default_content_check", with = "humantime_serde")]
    pub content_check_interval: Duration,
    /// The key that signs policy (Ed25519, PKCS#8, PEM).
    pub policy_key: PathBuf,
    /// Our certificate and the authority of our peers.
    pub tls: TlsConfig,
    /// Bounds of the gRPC server.
    #[serde(default)]
    pub limits: Limits,
    /// Logs and traces.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
    /// Probes and metrics.
    #[serde(default)]
    pub admin: AdminConfig,
    /// The authority that certifies clients.
    pub ca: CaConfig,
    /// The site database.
    pub postgres: muster_postgres::Config,
    /// The site's broker.
    pub rabbitmq: muster_rabbitmq::Config,
    /// Where the other roles of the site are.
    pub roles: Roles,
    /// Servers near some of the clients, in places without a site server.
    #[serde(default)]
    pub secondary_sites: Vec<SecondarySite>,
    /// What every client is told about its schedules.
    #[serde(default)]
    pub client_settings: ClientSettings,
    /// What is remembered of reports.
    #[serde(default)]
    pub trend: TrendConfig,
    /// How neighbouring sites are spoken with.
    #[serde(default)]
    pub links: LinksConfig,
}

/// Links to the parent site and to child sites.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinksConfig {
    /// A neighbour that is silent for so long is greeted; after 12 silent cycles the link is degraded,
    /// after 24 it has failed.
    #[serde(with = "humantime_serde")]
    pub cycle: Duration,
    /// In this time everything that a neighbour was told is compared with what it holds, some of it
    /// in each cycle; with up to 1,000 clients everything in each.
    #[serde(with = "humantime_serde")]
    pub sweep: Duration,
    /// How sites below reach us: our gRPC address, `https://host:port`.
    pub address: Option<String>,
    /// How sites below reach our broker: `amqps://host:port/vhost`; as in `[rabbitmq]` by default.
    pub broker_uri: Option<String>,
    /// How much of the time one neighbour may keep us busy once `receive_burst` is used up, so that a
    /// flood of one leaves room for the others; 1 is no limit.
    pub receive_share: f64,
    /// What a neighbour may keep us busy at once, when it has been quiet before.
    #[serde(with = "humantime_serde")]
    pub receive_burst: Duration,
}

impl Default for LinksConfig {
    fn default() -> Self {
        Self {
            cycle: Duration::from_secs(30),
            sweep: Duration::from_secs(3600),
            address: None,
            broker_uri: None,
            receive_share: 0.5,
            receive_burst: Duration::from_secs(60),
        }
    }
}

/// Snapshots of what reports say.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrendConfig {
    /// How often one is taken; the first at the start, when it is due.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// How long they are kept, in whole months.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
}

impl Default for TrendConfig {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self {
            interval: Duration::from_secs(3600),
            retention: DAY * 396,
        }
    }
}

/// The files of the site CA, made by `site-server init`: `ca.pem` and `ca.key` in one folder.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaConfig {
    /// Its certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Where the other roles of the site are.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    /// gRPC address of the software update point whose catalog the site follows.
    pub software_update_point: String,
    /// Distribution points.
    #[serde(default)]
    pub distribution_points: Vec<DistributionPoint>,
    /// Management points, as clients reach them.
    #[serde(default)]
    pub management_points: Vec<String>,
    /// Software update points, as clients reach them.
    #[serde(default)]
    pub software_update_points: Vec<String>,
}

/// A secondary site: servers near the clients in its boundary, which belong to this site. They ask
/// those first and this site's own after them; what they report travels on to this site.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecondarySite {
    /// Three characters, as those of other sites.
    pub code: SiteCode,
    /// For people.
    pub name: String,
    /// Its boundary: the networks its clients call from, such as `10.20.0.0/16`. Of two that an
    /// address is in, the longer prefix counts.
    pub subnets: Vec<IpNet>,
    /// As those of [`Roles`].
    #[serde(default)]
    pub management_points: Vec<String>,
    /// As those of [`Roles`].
    #[serde(default)]
    pub software_update_points: Vec<String>,
    /// As those of [`Roles`].
    #[serde(default)]
    pub distribution_points: Vec<DistributionPoint>,
}

/// One distribution point.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistributionPoint {
    /// Where the site server reaches it.
    pub grpc: String,
    /// Where clients fetch content.
    pub content: String,
}

/// Schedules of clients; the defaults are those of semantics.md 2.5.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientSettings {
    /// How often policy is asked for.
    #[serde(with = "humantime_serde")]
    pub policy_poll_interval: Duration,
    /// How often changed states are sent.
    #[serde(with = "humantime_serde")]
    pub report_interval: Duration,
    /// How long a client may have nothing to report before it says that it is there.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// How often a client scans by itself.
    #[serde(with = "humantime_serde")]
    pub scan_interval: Duration,
    /// Random delay added to schedules, at most.
    #[serde(with = "humantime_serde")]
    pub scan_jitter: Duration,
    /// How long a scan's answer may be used without asking the software update point.
    #[serde(with = "humantime_serde")]
    pub scan_ttl: Duration,
    /// How often deployments are evaluated again.
    #[serde(with = "humantime_serde")]
    pub reevaluation_interval: Duration,
    /// Whether the scheduled scan ignores the time to live (semantics.md 2.4).
    pub scheduled_scan_is_forced: bool,
    /// `false`: clients scan and report and never install.
    pub installs_allowed: bool,
}

impl Default for ClientSettings {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            policy_poll_interval: HOUR,
            report_interval: Duration::from_secs(15 * 60),
            heartbeat_interval: HOUR,
            scan_interval: HOUR * 24 * 7,
            scan_jitter: HOUR * 2,
            scan_ttl: HOUR * 24,
            reevaluation_interval: HOUR * 24 * 7,
            scheduled_scan_is_forced: false,
            installs_allowed: true,
        }
    }
}

impl ClientSettings {
    /// As policy carries them.
    pub(crate) fn to_wire(&self) -> policy::ClientSettings {
        policy::ClientSettings {
            policy_poll_interval: Some(convert::to_duration(self.policy_poll_interval)),
            report_interval: Some(convert::to_duration(self.report_interval)),
            scan_interval: Some(convert::to_duration(self.scan_interval)),
            scan_jitter: Some(convert::to_duration(self.scan_jitter)),
            scan_ttl: Some(convert::to_duration(self.scan_ttl)),
            reevaluation_interval: Some(convert::to_duration(self.reevaluation_interval)),
            scheduled_scan_is_forced: self.scheduled_scan_is_forced,
            installs_allowed: self.installs_allowed,
            heartbeat_interval: Some(convert::to_duration(self.heartbeat_interval)),
        }
    }
}

impl Config {
    /// Distribution points of this site and of its secondary sites.
    pub(crate) fn distribution_points(&self) -> impl Iterator<Item = &DistributionPoint> {
        let nearby = self.secondary_sites.iter();
        let nearby = nearby.flat_map(|site| &site.distribution_points);
        self.roles.distribution_points.iter().chain(nearby)
    }

    /// When clients are asked for what is missing.
    pub(crate) fn retry(&self) -> Retry {
        Retry {
            after: self.resync_after,
            jitter: self.resync_jitter,
            pauses: self.resync_pauses.iter().map(|pause| pause.0).collect(),
        }
    }
}

/// A length of time in a list.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(transparent)]
pub struct Pause(#[serde(with = "humantime_serde")] pub Duration);

fn default_resync_jitter() -> Duration {
    Retry::default().jitter
}

fn default_resync_pauses() -> Vec<Pause> {
    Retry::default().pauses.into_iter().map(Pause).collect()
}

const fn default_shards() -> u16 {
    2
}

const fn default_catalog_poll() -> Duration {
    Duration::from_secs(60)
}

const fn default_content_check() -> Duration {
    Duration::from_secs(300)
}

const fn default_resync_after() -> Duration {
    Duration::from_secs(120)
}

const fn default_report_interval_max() -> Duration {
    Duration::from_secs(2 * 3600)
}

const fn default_renewal_grace() -> Duration {
    Duration::from_secs(30 * 24 * 3600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_file_is_a_configuration() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../deploy/config/site-server.toml"
        );
        let config: Config = muster_runtime::config::load(path).unwrap();
        assert_eq!(config.site_code.as_str(), "P01");
        assert_eq!(config.report_interval_max, default_report_interval_max());
        assert_eq!(config.links.cycle, LinksConfig::default().cycle);
        assert_eq!(config.links.sweep, LinksConfig::default().sweep);
        assert_eq!(config.renewal_grace, default_renewal_grace());
        assert_eq!(
            config.client_settings.scan_jitter,
            ClientSettings::default().scan_jitter
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
            let file = overlay.unwrap().path().join("config/site-server.toml");
            if file.exists() {
                muster_runtime::config::load::<Config>(&file).unwrap();
                found += 1;
            }
        }
        assert!(found > 0);
    }
}
