//! An update with everything that is known of it.

use jiff::Timestamp;

use super::channel::Channel;
use super::collect::Leaf;

/// An update as the site server gets it.
#[derive(Debug)]
pub(crate) struct StoredUpdate {
    pub(crate) update_no: u32,
    pub(crate) update_id: String,
    pub(crate) revision: u32,
    pub(crate) generation: u64,
    pub(crate) channel: Channel,
    pub(crate) source: String,
    pub(crate) version: String,
    pub(crate) title: String,
    pub(crate) description: String,
    pub(crate) classification: i16,
    pub(crate) severity: i16,
    pub(crate) cve_ids: Vec<String>,
    pub(crate) released_at: Timestamp,
    pub(crate) supersedes: Vec<u32>,
    pub(crate) superseded_by: Vec<u32>,
    pub(crate) expired_at: Option<Timestamp>,
    pub(crate) max_run_time_minutes: u32,
    pub(crate) needs_exclusive_handling: bool,
    pub(crate) leaves: Vec<Leaf>,
}
