//! The configuration file. `deploy/config/software-update-point.toml` documents every key.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use muster_runtime::config::{AdminConfig, TelemetryConfig, TlsConfig};
use serde::Deserialize;

/// A software update point.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The site it belongs to.
    pub site_code: String,
    /// Where the site server, distribution points and clients call (gRPC).
    pub listen: SocketAddr,
    /// Folder of the signed index files; replicas have one each.
    pub data_dir: PathBuf,
    /// Our certificate.
    pub tls: TlsConfig,
    /// Logs, traces.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
    /// Probes and metrics.
    #[serde(default)]
    pub admin: AdminConfig,
    /// The catalog's database.
    pub postgres: muster_postgres::Config,
    /// When to synchronise.
    #[serde(default)]
    pub schedule: Schedule,
    /// What to follow.
    pub source: Source,
    /// How to fetch.
    #[serde(default)]
    pub fetch: Fetch,
}

/// When to synchronise.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Time between two full synchronisations.
    #[serde(with = "humantime_serde")]
    pub full_sync_every: Duration,
    /// Time until a failed one is tried again (semantics.md 2.5).
    #[serde(with = "humantime_serde")]
    pub retry_after: Duration,
    /// Whether the very first one starts by itself.
    pub sync_at_start: bool,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            full_sync_every: Duration::from_secs(7 * 86_400),
            retry_after: Duration::from_secs(3600),
            sync_at_start: true,
        }
    }
}

/// What to follow.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The kind of upstream.
    #[serde(default)]
    pub kind: SourceKind,
    /// `"machine"`: what the machine's own apt follows, without suites that apt does not choose
    /// from by itself (`NotAutomatic`); otherwise a list.
    #[serde(default = "Sources::machine")]
    pub sources: Sources,
    /// The root whose `etc/apt` and keyrings count.
    #[serde(default = "Source::default_root")]
    pub root: PathBuf,
    /// Whether an expired `Valid-Until` is refused: `true`, `false`, or `"machine"` to do as the
    /// machine's apt is configured.
    #[serde(default)]
    pub check_valid_until: CheckValidUntil,
    /// The architectures to follow where a source does not say; empty: this machine's own.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// How the software update point above is followed.
    #[serde(default)]
    pub parent: ParentSource,
}

impl Source {
    fn default_root() -> PathBuf {
        PathBuf::from("/")
    }
}

/// The kind of upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// Debian archives.
    #[default]
    Apt,
    /// The software update point of the parent site.
    Parent,
}

/// How the software update point above is followed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParentSource {
    /// Our own site server (gRPC), which knows the parent.
    pub site_server: Option<String>,
    /// How often the parent is asked for its generation.
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
    /// Files with the vendors' keys. None: those that the root's own sources name for a suite, otherwise
    /// the root's default keyrings.
    pub keyrings: Vec<PathBuf>,
}

impl Default for ParentSource {
    fn default() -> Self {
        Self {
            site_server: None,
            poll_interval: Duration::from_secs(60),
            keyrings: Vec::new(),
        }
    }
}

/// `"machine"`, or a list of suites.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Sources {
    /// The word `machine`.
    Word(MachineWord),
    /// Written out.
    List(Vec<ListedSource>),
}

impl Sources {
    fn machine() -> Self {
        Self::Word(MachineWord::Machine)
    }
}

/// The word `"machine"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineWord {
    /// As the machine's own apt has it.
    Machine,
}

/// A suite to follow.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedSource {
    /// The archive's address, `http://` or `https://`.
    pub uri: String,
    /// The suite.
    pub suite: String,
    /// Its components.
    pub components: Vec<String>,
    /// Its architectures; empty: those of the section above.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// Keyring files; empty: the root's default keyrings.
    #[serde(default)]
    pub signed_by: Vec<PathBuf>,
}

/// Whether `Valid-Until` is enforced.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
pub enum CheckValidUntil {
    /// Yes or no.
    Fixed(bool),
    /// The word `machine`.
    Word(MachineWord),
}

impl Default for CheckValidUntil {
    fn default() -> Self {
        Self::Fixed(true)
    }
}

/// How to fetch.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fetch {
    /// Time for a connection to the archive.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Longest silence of the archive.
    #[serde(with = "humantime_serde")]
    pub read_timeout: Duration,
    /// The largest index, compressed, in bytes.
    pub index_bytes: u64,
    /// The largest index, decompressed, in bytes.
    pub text_bytes: u64,
}

impl Default for Fetch {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            index_bytes: 512 << 20,
            text_bytes: 4 << 30,
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
            "/../../deploy/config/software-update-point.toml"
        );
        let config: Config = muster_runtime::config::load(file).unwrap();
        assert_eq!(
            format!("{:?}", config.schedule),
            format!("{:?}", Schedule::default())
        );
        assert_eq!(
            format!("{:?}", config.fetch),
            format!("{:?}", Fetch::default())
        );
        assert!(matches!(
            config.source.sources,
            Sources::Word(MachineWord::Machine)
        ));
        let parent = ParentSource {
            site_server: config.source.parent.site_server.clone(),
            ..ParentSource::default()
        };
        assert_eq!(format!("{:?}", config.source.parent), format!("{parent:?}"));
        assert!(matches!(
            config.source.check_valid_until,
            CheckValidUntil::Fixed(true)
        ));
    }

    #[test]
    fn suites_can_be_written_out() {
        let text = "sources = [{ uri = \"http://archive.example/d\", suite = \"s\", components = [\"main\"] }]\n\
                    check_valid_until = \"machine\"\n";
        let source: Source = toml::from_str(text).unwrap();
        assert!(matches!(source.sources, Sources::List(list) if list[0].suite == "s"));
        assert!(matches!(source.check_valid_until, CheckValidUntil::Word(_)));
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
                .join("config/software-update-point.toml");
            if file.exists() {
                muster_runtime::config::load::<Config>(&file).unwrap();
                found += 1;
            }
        }
        assert!(found > 0);
    }
}
