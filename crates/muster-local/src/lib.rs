//! Private PostgreSQL, RabbitMQ and whole sites as child processes of this machine.
//!
//! `cargo xtask up`, `demo`, `bench` and `test` stand on this crate. Reading order: [`packages`] finds
//! (or installs) the servers, [`state`] is the folder everything is kept in and the list of
//! processes that were started, [`process`] starts and ends one of them, [`postgres`] and
//! [`rabbit`] know the two servers, [`instances`] is what tests are told about them, [`site`] is a
//! whole site.
//!
//! Three rules hold everywhere: only processes this crate started are ever signalled (a pid is
//! compared with the start time the kernel gives), everything listens on loopback or on a socket
//! in an own folder, and nothing is sent to a server before it has proven to be ours.

pub mod account;
pub mod administrator;
pub mod agents;
pub mod debian_root;
pub mod hierarchy;
pub mod http;
pub mod instances;
pub mod interrupt;
pub mod packages;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod rabbit;
pub mod secondary;
pub mod secret;
pub mod site;
pub mod state;

pub use debian_root::DebianRoot;
pub use hierarchy::Hierarchy;
pub use interrupt::Interrupt;
pub use postgres::Postgres;
pub use process::{Launch, Process};
pub use rabbit::Rabbit;
pub use site::{Service, Site};
pub use state::State;
