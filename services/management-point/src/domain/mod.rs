//! Rules that only a management point has: which report may pass, which queue it belongs to, and
//! how often a stranger may knock.

pub(crate) mod bucket;
pub(crate) mod report;
