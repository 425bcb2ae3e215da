//! The use cases, one file each. They own the order of steps and the transaction.

pub(crate) mod ask_clients;
pub(crate) mod backlog;
pub(crate) mod deployment_states;
pub(crate) mod directory;
pub(crate) mod distribute_content;
pub(crate) mod enrol_client;
mod error;
pub(crate) mod follow_catalog;
pub(crate) mod get_policy;
pub(crate) mod give_directions;
pub(crate) mod keep_trend;
pub(crate) mod known_clients;
pub(crate) mod known_deployments;
pub(crate) mod links;
pub(crate) mod manage_clients;
pub(crate) mod manage_collections;
pub(crate) mod manage_deployments;
pub(crate) mod manage_packages;
pub(crate) mod manage_quarantine;
pub(crate) mod manage_update_lists;
pub(crate) mod matrix;
mod negative_controls;
pub(crate) mod open_batch;
pub(crate) mod read_compliance;
pub(crate) mod read_failures;
pub(crate) mod read_reports;
pub(crate) mod read_site;
pub(crate) mod record_states;
pub(crate) mod register_client;
pub(crate) mod renew_identity;
pub(crate) mod resync_clients;
mod site;
pub(crate) mod sum_up_counters;

pub(crate) use error::Error;
pub(crate) use site::Site;
