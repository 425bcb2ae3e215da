//! What every use case works with.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicI32, AtomicI64};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use deadpool_postgres::GenericClient;
use muster_compliance::{Arrivals, Matrix};
use muster_postgres::{Object, Pool};
use muster_proto::catalog::catalog_service_client::CatalogServiceClient;
use muster_proto::catalog::sync_service_client::SyncServiceClient;
use muster_proto::client::Locations;
use muster_proto::content::content_service_client::ContentServiceClient;
use muster_rabbitmq::Monitor;
use muster_runtime::Role;
use muster_runtime::grpc::{Channel, ChannelOptions, channel};
use muster_runtime::tls::ca::CertificateAuthority;
use tokio::sync::Notify;

use super::Error;
use super::backlog::Rates;
use super::choose_clients::KnownSites;
use super::directory::Directory;
use super::get_policy::PolicyCache;
use super::give_directions::Directions;
use super::known_clients::KnownClients;
use super::known_deployments::KnownDeployments;
use super::links::Links;
use crate::config::{Config, DistributionPoint};
use crate::domain::deployment_states::DeploymentStates;
use crate::domain::nearby::Nearby;
use crate::domain::policy::PolicyKey;

/// The running site. Clones of the `Arc` around it are everywhere.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) config: Config,
    pub(crate) pool: Pool,
    /// The lease that makes this process the active one: its name and our fencing number.
    fence: (String, i64),
    pub(crate) ca: CertificateAuthority,
    pub(crate) policy_key: PolicyKey,
    pub(crate) nearby: Nearby,
    pub(crate) policies: PolicyCache,
    pub(crate) monitor: Monitor,
    pub(crate) rates: Rates,
    /// What management points are told.
    pub(crate) directions: Directions,
    /// Wakes the task that puts it together.
    pub(crate) directions_changed: Arc<Notify>,
    /// The distribution points in the order of the configuration, with their gRPC address.
    pub(crate) distribution_points: Vec<(String, Channel)>,
    pub(crate) software_update_point: Channel,
    /// The sites above and below.
    pub(crate) links: Links,
    /// How far each client's reports are recorded.
    pub(crate) known_clients: KnownClients,
    /// Which sites are below which.
    pub(crate) known_sites: KnownSites,
    /// Which deployments people mean.
    pub(crate) known_deployments: KnownDeployments,
    /// What clients say of updates, as committed. A lock that who waits is handed in turn.
    pub(crate) matrix: parking_lot::RwLock<Matrix>,
    /// What clients say of deployments, as committed.
    pub(crate) deployment_states: RwLock<DeploymentStates>,
    /// Clients' first rows on their way into it; only `app/matrix.rs` looks at either.
    pub(crate) arrivals: Mutex<Arrivals>,
    /// What updates, update lists and collections are called, and what is in them.
    pub(crate) directory: Directory,
    /// The period of the snapshot taken last, in seconds.
    pub(crate) last_snapshot: AtomicI64,
    /// Held while counters are summed up.
    pub(crate) summing: tokio::sync::Mutex<()>,
    /// Needs of clients that the database has: most reports repeat them.
    pub(crate) known_needs: Mutex<HashSet<(i32, String)>>,
    /// The highest number of an update in the catalog, as it was known last.
    pub(crate) highest_update: AtomicI32,
    /// When distribution points were asked for what they said they have.
    pub(crate) content_checks: Checks,
    /// Wakes the task that distributes content.
    pub(crate) content_wanted: Arc<Notify>,
    /// Wakes the task that follows the catalog.
    pub(crate) catalog_wanted: Arc<Notify>,
    /// Wakes the task that removes what sites left behind.
    pub(crate) site_gone: Arc<Notify>,
    /// Wakes the task that lets clients go which another site has.
    pub(crate) clients_moved: Arc<Notify>,
}

impl Site {
    /// Puts a site together; nothing is connected but the pool.
    pub(crate) fn new(config: Config, pool: Pool, fence: (String, i64)) -> anyhow::Result<Self> {
        let folder = config.ca.cert.parent().unwrap_or(&config.ca.cert);
        anyhow::ensure!(
            config.ca.cert == folder.join("ca.pem") && config.ca.key == folder.join("ca.key"),
            "the site CA must be ca.pem and ca.key in one folder, as `site-server init` makes them"
        );
        let ca = CertificateAuthority::load(folder)?;
        anyhow::ensure!(
            ca.site() == config.site_code.as_str(),
            "the site CA is that of site {}, not of {}",
            ca.site(),
            config.site_code
        );
        let policy_key = PolicyKey::load(&config.policy_key)?;
        let to = |url: &str, role: Role| {
            let options = ChannelOptions {
                server_role: Some(role),
                ..ChannelOptions::default()
            };
            channel(url, &config.tls, &options)
        };
        let distribution_points = config
            .distribution_points()
            .map(|point| {
                Ok((
                    point.grpc.clone(),
                    to(&point.grpc, Role::DistributionPoint)?,
                ))
            })
            .collect::<Result<_, muster_runtime::grpc::Error>>()?;
        let software_update_point = to(
            &config.roles.software_update_point,
            Role::SoftwareUpdatePoint,
        )?;
        Ok(Self {
            monitor: Monitor::new(&config.rabbitmq),
            nearby: nearby(&config),
            policies: PolicyCache::default(),
            rates: Rates::default(),
            directions: Directions::default(),
            directions_changed: Arc::default(),
            links: Links::default(),
            known_clients: KnownClients::new(config.state_shards),
            known_sites: KnownSites::default(),
            known_deployments: KnownDeployments::default(),
            matrix: parking_lot::RwLock::default(),
            deployment_states: RwLock::default(),
            arrivals: Mutex::default(),
            directory: Directory::default(),
            last_snapshot: AtomicI64::new(i64::MIN),
            summing: tokio::sync::Mutex::default(),
            known_needs: Mutex::default(),
            highest_update: AtomicI32::new(0),
            content_checks: Checks::every(config.content_check_interval),
            content_wanted: Arc::default(),
            catalog_wanted: Arc::default(),
            site_gone: Arc::default(),
            clients_moved: Arc::default(),
            distribution_points,
            software_update_point,
            ca,
            policy_key,
            pool,
            fence,
            config,
        })
    }

    /// A connection to the site database.
    pub(crate) async fn db(&self) -> Result<Object, Error> {
        Ok(self.pool.get().await?)
    }

    /// Proves inside a transaction that no other process has taken over this site; until it ends
    /// none can.
    pub(crate) async fn still_active(&self, tx: &impl GenericClient) -> Result<(), Error> {
        let (name, fence) = &self.fence;
        Ok(muster_postgres::lease::check(tx, name, *fence).await?)
    }

    pub(crate) fn catalog(&self) -> CatalogServiceClient<Channel> {
        CatalogServiceClient::new(self.software_update_point.clone())
            .max_decoding_message_size(muster_runtime::grpc::MAX_MESSAGE)
    }

    pub(crate) fn sync(&self) -> SyncServiceClient<Channel> {
        SyncServiceClient::new(self.software_update_point.clone())
    }

    pub(crate) fn content(channel: &Channel) -> ContentServiceClient<Channel> {
        ContentServiceClient::new(channel.clone())
    }

    /// Where a client finds its servers that calls from `address`.
    pub(crate) fn locations(&self, address: Option<IpAddr>) -> Locations {
        let place = self.nearby.place(address);
        self.nearby.locations(place).clone()
    }
}

/// Where clients find their servers, of this site and nearer ones.
fn nearby(config: &Config) -> Nearby {
    let content = |points: &[DistributionPoint]| -> Vec<String> {
        points.iter().map(|point| point.content.clone()).collect()
    };
    let roles = &config.roles;
    let own = Locations {
        management_points: roles.management_points.clone(),
        software_update_points: roles.software_update_points.clone(),
        distribution_points: content(&roles.distribution_points),
    };
    let secondary = config.secondary_sites.iter().map(|site| {
        let servers = Locations {
            management_points: site.management_points.clone(),
            software_update_points: site.software_update_points.clone(),
            distribution_points: content(&site.distribution_points),
        };
        (site.subnets.clone(), servers)
    });
    Nearby::new(own, secondary.collect())
}

/// What is looked at from time to time, by name, and when each was looked at last.
#[derive(Debug)]
pub(crate) struct Checks {
    every: Duration,
    done: Mutex<HashMap<String, Instant>>,
}

impl Checks {
    fn every(every: Duration) -> Self {
        Self {
            every,
            done: Mutex::default(),
        }
    }

    /// Whether it is time; it is when nothing was looked at since the process started.
    pub(crate) fn due(&self, name: &str, now: Instant) -> bool {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.get(name)
            .is_none_or(|at| now.saturating_duration_since(*at) >= self.every)
    }

    /// It was looked at.
    pub(crate) fn done(&self, name: &str, now: Instant) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.insert(name.to_owned(), now);
    }
}
