//! Rules that only the software update point has: pure functions, time comes in as an argument.

pub(crate) mod archive;
pub(crate) mod catalog;
pub(crate) mod channel;
pub(crate) mod collect;
pub(crate) mod diff;
pub(crate) mod replica;
pub(crate) mod scan;
pub(crate) mod schedule;
pub(crate) mod sync;
pub(crate) mod update;
