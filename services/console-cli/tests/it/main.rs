//! The console as an administrator has it: the real program, over mutual TLS, against a site
//! server that is made up in [`fake`].

#![allow(clippy::unwrap_used)]

mod commands;
mod console;
mod documents;
mod errors;
mod fake;
mod login;
mod watches;
