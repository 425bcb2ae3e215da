//! One file per use case. [`point::Point`] is what they work on.

pub(crate) mod error;
pub(crate) mod fetch_suite;
pub(crate) mod list_syncs;
pub(crate) mod look_at_parent;
pub(crate) mod plan_sources;
pub(crate) mod point;
pub(crate) mod read_archive;
pub(crate) mod read_indexes;
pub(crate) mod start_sync;
pub(crate) mod stream_catalog;
pub(crate) mod stream_updates;
pub(crate) mod sync_catalog;
pub(crate) mod take_over_catalog;
pub(crate) mod verify_suite;

pub(crate) use error::{Error, Failure};
pub(crate) use point::Point;
