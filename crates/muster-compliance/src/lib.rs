//! What clients × updates say: how one client's answers are packed for the wire
//! ([`packed`]), and how a report changes what is held ([`client_states`]).
//!
//! No I/O. The site server keeps a [`ClientStates`] per client in PostgreSQL and moves its
//! counters by the [`Change`]s that applying a report returns; the agent packs its own.

pub mod client_states;
pub mod packed;

pub use client_states::{Change, ClientStates};
pub use packed::{Packed, PackedError};
