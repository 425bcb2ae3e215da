//! Simulated clients, and what measures a site under them.
//!
//! Two kinds: the real agent over a pretend machine ([`machines`], hundreds of them in the program
//! `muster-load clients`), and clients as plain numbers ([`fleet`], a hundred thousand of them in
//! benchmarks and scenarios). The second kind: [`ground`] is a site of real processes, [`relay`]
//! the way to it, [`model`] compares what it holds with what was said, [`usage`] says what it took,
//! [`scrape`] what its services say of themselves, [`wave`] is a deployment as its clients go
//! through it. [`tree`] is several such sites, one below the other.

pub mod figures;
pub mod fleet;
pub mod ground;
pub mod machines;
pub mod model;
pub mod relay;
pub mod scrape;
pub mod tree;
pub mod usage;
pub mod wave;
