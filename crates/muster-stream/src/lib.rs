//! The stream of reports between one client and its site, both ends, without I/O, clock or dice:
//! what is known comes in, what follows from it goes out. The agent keeps its end in SQLite, the
//! site server in PostgreSQL and in memory; both decide here, and the model in `tests/` calls the
//! very same functions.

mod wish;

pub use wish::{MAX_RANGES, SerialRange, Wanted, Wish};
