//! The protocol between a child site and its parent, without I/O: one direction of a link.
//!
//! A link carries what *is so*, not what happened. Whoever owns a row marks its key dirty in the transaction
//! that changes it; the one publisher of a direction takes dirty keys, reads their rows as they
//! are now, and numbers a batch ([`Outbound::number`]). The other side applies batches in their
//! order and keeps its [`Mark`] in the transaction that applies them ([`Inbound::take`]). A batch
//! is forgotten when the other side's *database* has it ([`Outbound::acknowledged`]).
//!
//! Three things go wrong that numbers alone cannot see:
//!
//! - a database is restored from a backup, here or there: marks go backwards, or differ in the
//!   [`Chain`] of what they cover. The sender then starts again: a higher epoch, everything dirty;
//! - rows are changed behind the link's back: [`Digests`] of buckets travel as numbered batches, so both
//!   sides compare the same moment, and a bucket that differs is sent in full;
//! - nobody answers: [`Health`] says since when.
//!
//! Rows need no versions of their own: within an epoch the link's order is the order, and a batch
//! of an older epoch is not applied any more (reliability.md D8).
//!
//! The state in here is what a caller loads from and stores to its database; it holds no clock
//! and draws no numbers. `model` explores all orders of crash, loss, duplicate and restore.

mod digest;
mod health;
mod inbound;
mod mark;
mod outbound;

#[cfg(test)]
mod model;

pub use digest::{BUCKETS, Digests, Sweep, bucket};
pub use health::{Health, State};
pub use inbound::{Inbound, Taken};
pub use mark::{BatchHead, Chain, Mark};
pub use outbound::{Outbound, Reason, Verdict, WINDOW};
