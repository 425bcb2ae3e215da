//! PostgreSQL for the services that own tables: a pool with fixed session settings, the check
//! that the server keeps what it acknowledges, migrations, and the lease of the one active site
//! server.
//!
//! A server is reached over its Unix socket, or by its name or address over TLS 1.3 with
//! certificates on both sides; an address without certificates is refused. The pool hides
//! notifications: whoever needs LISTEN opens a connection of its own.

mod config;
mod durable;
mod error;
pub mod lease;
mod migrate;
mod tls;

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, RecyclingMethod, Runtime};
use muster_runtime::Tasks;
use muster_runtime::faults::{self, Control};

pub use config::{Config, Host};
pub use deadpool_postgres::{GenericClient, Object, Pool, Transaction};
pub use durable::assert_durable;
pub use error::{Error, is_retryable};
pub use lease::Lease;
pub use migrate::migrate;
pub use refinery;

/// How long a caller waits for a free connection, and a new connection may take.
const WAIT: Duration = Duration::from_secs(10);
/// How often the gauges of a pool are written.
const GAUGE_PERIOD: Duration = Duration::from_secs(5);

/// Opens a pool and one connection of it, so that a wrong address, password or database stops
/// the process at its start; checks the server's durability (see [`assert_durable`]) unless the
/// configuration says that this database may lose data.
///
/// # Errors
/// When the configuration is invalid, the server cannot be reached, or it could lose what it
/// acknowledged.
pub async fn connect(config: &Config) -> Result<Pool, Error> {
    let recycling_method = RecyclingMethod::Fast;
    let manager = Manager::from_config(
        config.session()?,
        config.encryption()?,
        ManagerConfig { recycling_method },
    );
    let pool = Pool::builder(manager)
        .max_size(config.pool_size)
        .wait_timeout(Some(WAIT))
        .create_timeout(Some(WAIT))
        .recycle_timeout(Some(WAIT))
        .runtime(Runtime::Tokio1)
        .build()?;
    let client = pool.get().await?;
    if config.durable && !faults::without(Control::VolatileDatabase) {
        assert_durable(&client).await?;
    }
    Ok(pool)
}

/// Shows a pool in the metrics `muster_postgres_connections{pool, state}` and
/// `muster_postgres_waiting{pool}` until `tasks` stop.
pub fn watch(pool: &Pool, name: &'static str, tasks: &Tasks) {
    metrics::describe_gauge!(
        "muster_postgres_connections",
        "Connections of a pool to the database, by whether they are in use."
    );
    metrics::describe_gauge!(
        "muster_postgres_waiting",
        "Requests that wait for a connection of a pool."
    );
    let pool = pool.clone();
    tasks.every("postgres-gauges", GAUGE_PERIOD, None, move || {
        let status = pool.status();
        let used = status.size.saturating_sub(status.available);
        gauge(name, "idle", status.available);
        gauge(name, "used", used);
        metrics::gauge!("muster_postgres_waiting", "pool" => name).set(count(status.waiting));
        std::future::ready(())
    });
}

fn gauge(pool: &'static str, state: &'static str, value: usize) {
    metrics::gauge!("muster_postgres_connections", "pool" => pool, "state" => state)
        .set(count(value));
}

fn count(value: usize) -> f64 {
    f64::from(u32::try_from(value).unwrap_or(u32::MAX))
}
