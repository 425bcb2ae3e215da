//! The stream of reports between one client and its site, both ends, without I/O, clock or dice:
//! what is known comes in, what follows from it goes out. The agent keeps its end ([`Sender`]) in
//! SQLite, the site server its own ([`Receiver`]) in PostgreSQL and in memory; both decide here,
//! and the model in `tests/it/` calls the very same functions.
//!
//! # What makes it right
//!
//! A client gives every change of a state the next serial and saves both before it sends. A report
//! of the serials `first..=last` holds each state whose *newest* change is among them; a state that
//! changed again later is in a later report. So whatever reports of one epoch are applied in an
//! order in which each begins at or before the end of what is recorded and ends after it, no state
//! ever goes back: a report that held an older change of a state was packed before the newer one was
//! given, and would end before it.
//!
//! That rests on one rule: **a serial is never given twice in an epoch.** What breaks it, a database that
//! was restored or copied, is found in three places. The agent's own mark ([`Mark`]) finds a
//! restored database. A wish that names serials which were never given finds it too. And when the
//! whole machine went back, or lives twice, the site finds it by the runs of the agent's program
//! ([`runs`]). Each ends the same way: a registration, a new epoch, a FULL report.

pub mod runs;

mod mark;
mod receiver;
mod sender;
mod wish;

pub use mark::{Mark, Marked};
pub use receiver::{Early, Header, MAX_EARLY, Moment, Receiver, Retry, Taken};
pub use runs::{Run, Runs};
pub use sender::{Draft, DraftKind, Heard, Sender, heartbeat_due};
pub use wish::{MAX_RANGES, SerialRange, Wanted, Wish};
