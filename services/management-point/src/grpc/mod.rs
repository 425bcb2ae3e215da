//! The doors of the clients, one file per service.

pub(crate) mod access;
mod policy_service;
mod registration_service;
mod state_service;

use std::net::IpAddr;
use std::sync::Arc;

use muster_domain::ClientId;
use muster_runtime::status::to_status;
use muster_runtime::{Role, auth};
use tonic::{Request, Status};

use crate::app::{Error, Point};

/// Opens the message, calls the use case, closes the reply.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) point: Arc<Point>,
}

impl Door {
    /// Who calls: the id in the certificate, and nothing that the message says. One whose
    /// certificate counts no more is refused.
    fn client<T>(&self, request: &Request<T>) -> Result<ClientId, Status> {
        let client = self.named(request)?;
        self.point.directions.check(request).map_err(to_status)?;
        Ok(client)
    }

    /// As [`Self::client`], also when another certificate has taken the place of this one.
    fn even_replaced<T>(&self, request: &Request<T>) -> Result<ClientId, Status> {
        let client = self.named(request)?;
        match self.point.directions.check(request) {
            Ok(()) | Err(Error::Replaced) => Ok(client),
            Err(error) => Err(to_status(error)),
        }
    }

    fn named<T>(&self, request: &Request<T>) -> Result<ClientId, Status> {
        let caller = auth::identity(request)?;
        let ours = caller.role == Role::Client && caller.site == self.point.config.site_code;
        let id = ours.then(|| caller.name.parse().ok()).flatten();
        id.ok_or_else(|| to_status(Error::NotAClient))
    }
}

/// The address that a call came from.
fn from<T>(request: &Request<T>) -> Result<IpAddr, Status> {
    let peer = auth::peer(request).ok_or_else(|| Status::internal("a call from nowhere"))?;
    Ok(peer.addr.ip())
}
