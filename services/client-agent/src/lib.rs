//! The client agent: what runs on each managed machine. It scans the machine against the site's
//! catalog, brings it to what is deployed, and reports what is so, until it is told that the
//! report is safe.
//!
//! In the order in which things happen: [`enrol`] makes the machine a client (`renew` when
//! another one has the same identity, `move_site` when it is to be another site's), [`policy`] says
//! what the site wants, `scan` and [`evaluate`] what the machine needs, [`plan`] and `enforce`
//! what is done about it, [`download`] and [`provider`] how, and [`reporter`] tells the site. All
//! of it survives in [`store`]; [`daemon`] does each at its time. [`Agent`] is one client.

mod agent;
mod candidates;
mod comply;
pub mod daemon;
pub mod download;
mod enforce;
pub mod enrol;
mod error;
pub mod evaluate;
mod identity;
mod mark;
mod move_site;
mod pack;
pub mod plan;
pub mod policy;
mod priority;
pub mod provider;
mod renew;
pub mod reporter;
mod scan;
mod status;
pub mod store;
mod topics;
mod wire;

pub use agent::{Agent, AgentFile, Options, short, tls_files};
pub use enforce::Enforced;
pub use error::{Error, Failure, MAX_DETAIL};
pub use plan::Mode;
pub use scan::{Scanned, Trigger};
pub use status::{DeploymentStatus, Status};
