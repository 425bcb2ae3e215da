//! Rules that only a management point has: which report may pass, which queue it belongs to, how
//! often somebody may knock, and when clients come back.

pub(crate) mod bucket;
pub(crate) mod pace;
pub(crate) mod pressure;
pub(crate) mod report;
