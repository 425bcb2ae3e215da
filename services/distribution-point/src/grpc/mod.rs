//! The door of the site server.

pub(crate) mod access;
mod content_service;

pub(crate) use content_service::Door;
