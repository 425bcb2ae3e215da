//! Doors in: open the message, call app, close the reply.

pub(crate) mod access;
mod catalog_service;
mod convert;
mod replica_service;
mod scan_service;
mod sync_service;

pub(crate) use catalog_service::Catalog;
pub(crate) use replica_service::Replicas;
pub(crate) use scan_service::Scan;
pub(crate) use sync_service::Syncs;
