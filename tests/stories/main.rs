//! Stories about one whole site, with real processes: against the real archive, or against faults of every kind.

mod agent_failpoints;
mod controls;
mod failpoints;
mod hierarchy;
mod kill_nine;
mod link_controls;
mod link_failpoints;
mod mangled;
mod moved;
mod oracle;
mod partitions;
mod restored;
mod secondary;
mod takeover;
mod tampering;
