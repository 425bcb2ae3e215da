//! Doors in from the broker, one file per kind of queue.

pub(crate) mod links;
pub(crate) mod states;
