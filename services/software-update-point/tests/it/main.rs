//! A software update point against a real database and a small archive that the test signs itself.

#![allow(clippy::unwrap_used)] // also in what the tests share

mod access;
mod archive;
mod bad_input;
mod catalog;
mod chain;
mod point;
mod scan;
