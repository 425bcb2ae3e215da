//! Ids, states and rules of the hierarchy: plain data and functions, no I/O.
//!
//! Start with [`states`] (what a client can be in), then [`rule`] (how an update decides
//! whether it applies) and [`applicability`] (what a scan answers). [`ids`] has the names
//! of things, [`error_code`] the numbers of what can go wrong on a client, [`priority`] which states
//! come first.

pub mod applicability;
pub mod error_code;
pub mod ids;
pub mod priority;
pub mod rule;
pub mod states;

pub use ids::{ClientId, DeploymentId, SiteCode, UpdateNo, shard_of};
