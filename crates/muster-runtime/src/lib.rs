//! What every Muster process has in common, in the order in which a process needs it:
//! [`crypto`], [`config`], [`telemetry`], [`tls`] with the site CA, [`grpc`] servers and
//! channels with their [`auth`] table, [`status`] for errors, [`admin`] for probes and metrics,
//! [`Tasks`] and [`shutdown_signal`] for an orderly end.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! muster_runtime::crypto::install();
//! let telemetry = muster_runtime::telemetry::start("management-point", &Default::default())?;
//! // start the service, then:
//! muster_runtime::shutdown_signal().await;
//! telemetry.stop().await;
//! # Ok(()) }
//! ```

pub mod admin;
pub mod auth;
pub mod backoff;
pub mod config;
pub mod crypto;
pub mod faults;
pub mod grpc;
mod shutdown;
pub mod status;
mod tasks;
pub mod telemetry;
pub mod tls;

pub use backoff::Backoff;
pub use humantime_serde;
pub use shutdown::shutdown_signal;
pub use tasks::{Outcome, Tasks};
pub use tls::{Identity, Role};
