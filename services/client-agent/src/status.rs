//! What a client can say about itself without asking anybody.

use jiff::Timestamp;
use muster_domain::states::Detection;
use muster_domain::{ClientId, DeploymentId};
use muster_proto::state::DeploymentState;
use prost::Message;

use crate::Error;
use crate::agent::Agent;
use crate::scan::detections;
use crate::store::{Kind, meta};

/// Who the client is and how far it got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Given by the site.
    pub client_id: ClientId,
    /// The site.
    pub site_code: String,
    /// Of the registration.
    pub epoch: u32,
    /// The last serial given.
    pub last_serial: u64,
    /// The last serial that the site acknowledged.
    pub acked_serial: u64,
    /// Of the policy in force; 0: none.
    pub policy_revision: u64,
    /// Of the catalog at hand; 0: none.
    pub catalog_generation: u64,
    /// When the machine was last scanned.
    pub last_scan_at: Option<Timestamp>,
    /// Required updates.
    pub required: usize,
    /// Whether updates wait for a restart.
    pub restart_pending: bool,
    /// Each deployment of the policy that concerns the client already.
    pub deployments: Vec<DeploymentStatus>,
}

/// Topics 300 and 301 of one deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentStatus {
    /// Its id.
    pub deployment_id: DeploymentId,
    /// Its name in the policy.
    pub name: String,
    /// Topic 300.
    pub compliance: u8,
    /// Topic 301.
    pub enforcement: u8,
    /// Of the first failed update; 0: none.
    pub error_code: i32,
    /// For people.
    pub detail: String,
}

impl Agent {
    /// Who this client is and how far it got.
    ///
    /// # Errors
    /// When it is not enrolled, or the database fails.
    pub fn status(&self) -> Result<Status, Error> {
        let registration = self.registration()?;
        let policy = self.policy()?.unwrap_or_default();
        self.store().read(|r| {
            let sender = r.sender()?;
            let (last_serial, acked_serial) = (sender.last, sender.acked);
            let required = detections(r)?
                .values()
                .filter(|state| **state == Detection::Required)
                .count();
            let mut deployments = Vec::new();
            for (key, value) in r.all(Kind::Deployment)? {
                let broken = || Error::Saved { what: "deployment" };
                let deployment_id = DeploymentId::from_slice(&key).map_err(|_| broken())?;
                let state = DeploymentState::decode(value.as_slice()).map_err(|_| broken())?;
                let named = policy.deployments.iter().find(|d| d.deployment_id == key);
                deployments.push(DeploymentStatus {
                    deployment_id,
                    name: named.map_or_else(String::new, |d| d.name.clone()),
                    compliance: u8::try_from(state.compliance).unwrap_or(0),
                    enforcement: u8::try_from(state.enforcement).unwrap_or(0),
                    error_code: state.error_code,
                    detail: state.detail,
                });
            }
            Ok(Status {
                client_id: registration.client_id,
                site_code: registration.site_code.clone(),
                epoch: registration.epoch,
                last_serial,
                acked_serial,
                policy_revision: r.number(meta::POLICY_REVISION)?.unwrap_or(0),
                catalog_generation: r.number(meta::GENERATION)?.unwrap_or(0),
                last_scan_at: r.time(meta::LAST_SCAN)?,
                required,
                restart_pending: !r.restart_pending()?.is_empty(),
                deployments,
            })
        })
    }
}
