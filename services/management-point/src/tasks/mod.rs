//! What runs beside the calls.

mod collect;

pub(crate) use collect::collect_reports;
