//! The site server against a real database and a real broker, seen from outside: over gRPC with
//! certificates, over AMQP as a management point would publish.
#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking

mod bounds;
mod catalog;
mod clients;
mod content;
mod deployment_states;
mod deployments;
mod directions;
mod hostile_child;
mod identities;
mod joining;
mod link_digests;
mod links;
mod metrics;
mod moves;
mod nearby;
mod packages;
mod pair;
mod quarantine;
mod recording;
mod reports;
mod roles;
mod running;
mod schema;
mod site;
mod streams;
mod versions;
