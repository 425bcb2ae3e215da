//! The agent over a pretend machine against a pretend site: real TLS, real gRPC, real HTTP.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod crashes;
mod downloads;
mod enforcement;
mod enrolment;
mod identities;
mod moves;
mod priorities;
mod reports;
mod scans;
mod site;
mod world;
