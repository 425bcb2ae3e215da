//! Loops that bring what is closer to what should be.

pub(crate) mod follow_parent;
pub(crate) mod refresh_catalog;
pub(crate) mod sync_on_schedule;
