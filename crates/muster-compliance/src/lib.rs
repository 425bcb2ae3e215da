//! What clients × updates say: how one client's answers are packed for the wire
//! ([`packed`]), how a report changes what is held ([`client_states`]), and the same cells the
//! other way round for reports ([`matrix`]).
//!
//! # Which side is the truth
//!
//! ```text
//! report ─► ClientStates, one row per client in PostgreSQL        the truth: durable, plain SQL
//!              │ replace / merge give the Changes
//!              ├─► counters per update in SQL, the same transaction      derived, durable
//!              └─► Matrix, bitmaps of clients per (update, state)        derived, in memory
//! ```
//!
//! The rows are right by definition. The [`Matrix`] is told of a [`Change`] only after the
//! transaction that made it has committed, in the order of the commits, so it is behind by at
//! most the batch in hand and never ahead. It is never written anywhere: a site server that
//! starts, or that takes over, builds it again from the rows with [`Matrix::load`]; when in
//! doubt, throw it away and do that. [`StateBitmaps`] is the same idea for the states of
//! deployments, whose truth are rows too.
//!
//! No I/O and no clock here, and no lock: who shares a matrix between tasks wraps it.

pub mod client_states;
pub mod matrix;
pub mod packed;
pub mod state_bitmaps;

mod pages;

pub use client_states::{Change, ClientStates};
pub use matrix::{Answer, Arrivals, ListAnswer, ListCompliance, Matrix, UpdateCounts};
pub use packed::{Packed, PackedError};
pub use pages::{MAX_PAGE, page};
pub use roaring::RoaringBitmap;
pub use state_bitmaps::StateBitmaps;
