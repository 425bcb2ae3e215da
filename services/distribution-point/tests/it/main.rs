//! A distribution point between an archive that plays tricks, a software update point, the site
//! server, and clients: everything over the wire.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs)] // a failure here is a failure of the test

mod facts;
mod fetch;
mod parent;
mod publish;
mod serve;
mod world;
