//! Becoming another site's client: the policy says where to go, and the other site takes the client in by
//! the certificate and key that it has.
//!
//! The client is always one site's: until the other one has answered it stays where it is, and the
//! switch is one transaction, from which the files follow as after a renewal (`renew`). What it is told
//! is part of the policy at hand, so it is tried again with each poll, and after a kill.

use muster_domain::ClientId;
use muster_proto::client::registration_service_client::RegistrationServiceClient;
use muster_proto::client::{Arrival, EnrolRequest, EnrolResponse};
use muster_proto::policy::{MoveOrder, Policy};
use muster_runtime::Role;
use muster_runtime::grpc::{ChannelOptions, channel_without_certificate};
use prost::Message;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::agent::{Agent, tls_files, write_file};
use crate::enrol::{facts, key_of, pem, policy_keys, request_for};
use crate::policy::Polled;
use crate::renew::{self, Next};
use crate::store::{Registration, meta};
use crate::{Error, identity, wire};

/// What a site says to a client that it does not have, or has no more.
const BLOCKED: &str = "CLIENT_BLOCKED";
/// What a site says to a client that is not to come there.
const REFUSED: &str = "MOVE_REFUSED";

impl Agent {
    /// After a poll: goes where the policy at hand says, and asks for the policy there. Whatever
    /// prevents that, the client stays where it is and tries again after the next poll.
    pub(crate) async fn polled_or_moved(
        &self,
        polled: Result<Polled, Error>,
    ) -> Result<Polled, Error> {
        let Some(policy) = self.policy()? else {
            return polled;
        };
        let Some(order) = policy.r#move.clone() else {
            return polled;
        };
        match self.go_to(&order, policy).await {
            Ok(()) => self.ask_for_policy().await,
            Err(error @ (Error::Crashed | Error::Database(_))) => Err(error),
            Err(error) => {
                tracing::warn!(%error, site.code = order.site_code, "not moved, staying for now");
                match &polled {
                    // The other site has us already, though we never heard: it is asked again.
                    Err(here)
                        if here.reason().as_deref() == Some(BLOCKED)
                            && error.reason().as_deref() != Some(REFUSED) =>
                    {
                        Err(error)
                    }
                    Ok(_) | Err(_) => polled,
                }
            }
        }
    }

    async fn go_to(&self, order: &MoveOrder, policy: Policy) -> Result<(), Error> {
        let _alone = self.renewing().lock().await;
        let held = self.registration()?;
        let answer = self.ask_to_be_taken_in(order, &held).await?;
        let files = tls_files(self.dir());
        let before = held.site_code.clone();
        let fresh = accept(held, order, &answer)?;
        let key = key_of(&files.key)?;
        let certificate = answer.certificate_chain.iter().map(|der| pem(der));
        let next = Next {
            key: key.serialize_pem(),
            certificate: certificate.collect(),
            ca: Some(pem(&order.authority)),
        };
        let next = serde_json::to_vec(&next).map_err(|_| Error::Saved { what: "identity" })?;
        let mut locations = answer.locations.unwrap_or_default();
        if locations.management_points.is_empty() {
            locations
                .management_points
                .clone_from(&order.management_points);
        }
        // Its settings stay in force until the first policy of the other site; that one may have any
        // revision.
        let policy = Policy {
            r#move: None,
            ..policy
        };
        self.store().write(|w| {
            w.set_registration(&fresh)?;
            w.set_bytes(meta::LOCATIONS, &locations.encode_to_vec())?;
            w.set_bytes(meta::NEXT_IDENTITY, &next)?;
            w.set_bytes(meta::POLICY, &policy.encode_to_vec())?;
            w.clear(meta::POLICY_VERSION)?;
            w.clear(meta::POLICY_REVISION)?;
            w.clear(meta::UPDATE_POINT)
        })?;
        renew::finish(self.dir(), self.store(), self.options().durability)?;
        identity::keep(self.dir(), self.store(), self.options().durability)?;
        self.wire().release();
        self.content().renew(&files)?;
        self.urgent().notify_one();
        tracing::warn!(client.id = %fresh.client_id, from = before, site.code = fresh.site_code,
                       epoch = fresh.epoch, "client of another site now");
        Ok(())
    }

    async fn ask_to_be_taken_in(
        &self,
        order: &MoveOrder,
        held: &Registration,
    ) -> Result<EnrolResponse, Error> {
        let files = tls_files(self.dir());
        // Its authority, as the policy names it.
        let ca = self.dir().join("certs/next-ca.pem");
        let authority = pem(&order.authority);
        write_file(&ca, authority.as_bytes(), self.options().durability)?;
        let unreadable = |_| Error::Certificate("it is unreadable".into());
        let certificate = CertificateDer::from_pem_file(&files.cert).map_err(unreadable)?;
        let request = EnrolRequest {
            csr: request_for(&key_of(&files.key)?)?.into(),
            machine: Some(facts(&self.provider().machine())),
            arrival: Some(Arrival {
                client_id: held.client_id.as_bytes().to_vec().into(),
                certificate: certificate.to_vec().into(),
                known_epoch: held.epoch,
            }),
            ..EnrolRequest::default()
        };
        let mut last = Error::NoServer(Role::ManagementPoint.as_str());
        for url in &order.management_points {
            let options = ChannelOptions {
                server_role: Some(Role::ManagementPoint),
                ..wire::options()
            };
            let channel = channel_without_certificate(url, &ca, &options)?;
            let mut point = RegistrationServiceClient::new(channel);
            match point.enrol(request.clone()).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => {
                    let go_on = wire::try_next(&status);
                    last = Error::call("the other site does not take this client in")(status);
                    if !go_on {
                        break;
                    }
                }
            }
        }
        Err(last)
    }
}

fn accept(
    held: Registration,
    order: &MoveOrder,
    answer: &EnrolResponse,
) -> Result<Registration, Error> {
    let client_id =
        ClientId::from_slice(&answer.client_id).map_err(|e| Error::Answer(e.to_string()))?;
    let ours = client_id == held.client_id && answer.site_code == order.site_code;
    if !ours || answer.epoch <= held.epoch || answer.certificate_chain.is_empty() {
        let text = "another client or site, an old epoch, or no certificate";
        return Err(Error::Answer(text.into()));
    }
    Ok(Registration {
        client_id,
        site_code: answer.site_code.clone(),
        epoch: answer.epoch,
        policy_keys: policy_keys(&answer.policy_keys)?,
    })
}
