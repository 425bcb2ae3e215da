//! Faults, and the oracle that says what came of them (reliability.md, section 4).
//!
//! [`load`] is the outside world: simulated clients that report through a management point and
//! write what they attempted, and what was acknowledged, into a [`journal`] that is on disk before
//! anything is sent. It runs in a process of its own (`muster-oracle`) which nothing kills.
//! [`ground`] is a site of real processes, any of which can be started with a failpoint or without
//! a protection. [`oracle`] compares the journal with what the site holds, row by row.
//! [`tree`] is a hierarchy of them, and [`proxy`] the network between two. [`agent`] is the real agent
//! on a machine that changes, for the places in it. [`schedule`] draws from a seed what goes wrong,
//! and when.

pub mod agent;
pub mod catalog;
pub mod ground;
pub mod journal;
pub mod load;
pub mod oracle;
pub mod proxy;
pub mod schedule;
pub mod tree;
