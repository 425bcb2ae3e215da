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
//!
//! The last of them needs every report to say all that it was built on: a report of the serials 1
//! to 3 that leaves a state out because serial 5 changed it again depends on serial 5, though
//! nobody may ever hear of that one. So reports carry the last serial that had been given
//! ([`Header::given`]), a run begins after the highest of those that its database knows of, and a
//! report of a machine that went back overlaps with whatever the site has heard of what was lost.
//! Where the run in between is the one that the site never heard of, nothing overlaps; then the
//! run says that it followed another one than the site knows ([`Run::after`]), and the site asks
//! for everything.
//!
//! # How much of it was explored
//!
//! Every order of these, breadth first; each state is also run to its end without further faults,
//! after which the site must hold what is so. Counted on 2026-11-20.
//!
//! | what may happen, beside sending, answering and delivering in any order | states |
//! |---|---|
//! | 3 changes, a repeat, a loss in the broker, a lost call or answer, a wish | 111,523 |
//! | 3 changes, a kill, a lost call or answer, a loss in the broker, a wish | 303,748 |
//! | 3 changes, a database that goes back, a lost call or answer | 331,795 |
//! | 3 changes, a machine that lives twice, a wish | 489,043 |
//! | 3 changes, a site that goes back to its backup, a demand, a wish | 143,846 |
//! | 2 changes, **a machine that goes back as a whole**, a kill, a loss in the broker, a lost call or answer, a wish | 823,939 |
//! | 2 changes, a machine that goes back, a repeat, a lost call or answer, a demand | 83,034 |
//! | 2 changes, a machine that goes back twice, to the same copy or a later one, a loss in the broker | 71,053 |
//! | wider: 3 changes, a machine that goes back, a lost call or answer, a wish | 1,855,758 |
//! | wider: 3 changes, a machine that goes back, a kill, a loss in the broker, a wish | 4,836,196 |
//! | wider: 3 changes, a machine that goes back twice, two losses in the broker | 2,353,148 |
//! | wider: 3 changes, a machine that goes back, a repeat, a lost call or answer, a demand | 1,896,018 |
//!
//! The wider ones take minutes: `cargo test -p muster-stream -- --ignored`. Each protection is also
//! taken away, and the same model must find that it is gone.

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
