//! Becoming a client: a one-use token and a key made here, for a certificate of the site.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use muster_domain::ClientId;
use muster_proto::client::registration_service_client::RegistrationServiceClient;
use muster_proto::client::{EnrolRequest, EnrolResponse, Locations, MachineFacts, RegisterRequest};
use muster_runtime::Role;
use muster_runtime::grpc::{ChannelOptions, channel_without_certificate};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::agent::{Agent, tls_files, write_private};
use crate::download::private_dir;
use crate::provider::Machine;
use crate::store::{Durability, Registration, Store, meta};
use crate::{Error, identity, wire};

/// What an enrolment needs.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// `https://host:port` of a management point.
    pub management_point: String,
    /// The site CA's certificate (PEM), brought here by whoever installs the agent.
    pub ca: PathBuf,
    /// The one-use token.
    pub token: String,
}

/// Enrols the machine and fills the state folder. Killed at any point, it can be repeated with
/// the same token: the key is on disk before the token is used, and the site knows it again.
///
/// # Errors
/// [`Error::AlreadyEnrolled`]; the management point's answer, such as `TOKEN_REFUSED`; or when the
/// folder cannot be written.
pub async fn enrol(dir: &Path, machine: &Machine, with: &Enrolment) -> Result<ClientId, Error> {
    private_dir(dir)?;
    let files = tls_files(dir);
    private_dir(&dir.join("certs"))?;
    let store = Store::open(&dir.join("agent.db"), Durability::Full)?;
    if let Some(registration) = store.registration()?
        && files.cert.exists()
    {
        return Err(Error::AlreadyEnrolled(registration.client_id));
    }
    let ca = fs::read(&with.ca).map_err(Error::file(&with.ca))?;
    write_private(&files.ca, &ca)?;
    let csr = request_for(&key_of(&files.key)?)?;

    let options = ChannelOptions {
        server_role: Some(Role::ManagementPoint),
        ..wire::options()
    };
    let channel = channel_without_certificate(&with.management_point, &files.ca, &options)?;
    let request = EnrolRequest {
        token: with.token.trim().to_owned(),
        csr: csr.into(),
        machine: Some(facts(machine)),
        arrival: None,
    };
    let answer = RegistrationServiceClient::new(channel)
        .enrol(request)
        .await
        .map_err(Error::call("enrolment failed"))?
        .into_inner();
    accept(&store, &files.cert, &answer, &with.management_point)
}

/// Takes over what the site decided. The certificate comes last: with it the client is enrolled.
fn accept(
    store: &Store,
    cert: &Path,
    answer: &EnrolResponse,
    management_point: &str,
) -> Result<ClientId, Error> {
    let invalid = |what: &str| Error::Answer(what.to_owned());
    let client_id =
        ClientId::from_slice(&answer.client_id).map_err(|e| Error::Answer(e.to_string()))?;
    if answer.epoch == 0 || answer.certificate_chain.is_empty() {
        return Err(invalid("epoch or certificate is missing"));
    }
    let registration = Registration {
        client_id,
        site_code: answer.site_code.clone(),
        epoch: answer.epoch,
        policy_keys: policy_keys(&answer.policy_keys)?,
    };
    let mut locations = answer.locations.clone().unwrap_or_default();
    if locations.management_points.is_empty() {
        locations
            .management_points
            .push(management_point.to_owned());
    }
    store.write(|w| {
        w.set_registration(&registration)?;
        w.set_bytes(meta::LOCATIONS, &locations.encode_to_vec())
    })?;
    let chain: String = answer
        .certificate_chain
        .iter()
        .map(|der| pem(der))
        .collect();
    write_private(cert, chain.as_bytes())?;
    tracing::info!(client.id = %client_id, site.code = registration.site_code, "enrolled");
    Ok(client_id)
}

pub(crate) fn policy_keys(keys: &[bytes::Bytes]) -> Result<Vec<Vec<u8>>, Error> {
    if keys.is_empty() || keys.iter().any(|key| key.len() != 32) {
        return Err(Error::Answer("policy keys must be 32 bytes".into()));
    }
    Ok(keys.iter().map(|key| key.to_vec()).collect())
}

impl Agent {
    /// Asks for a new epoch: after the agent's own database was restored, so that the site takes
    /// its states as new. The keys that may sign policy stay those of the enrolment: who can
    /// answer this call could otherwise bring keys of its own.
    ///
    /// # Errors
    /// When no management point answers.
    pub async fn register(&self) -> Result<(), Error> {
        self.register_after(0).await
    }

    /// As [`Self::register`]; `seen` is an epoch that was in use, though the database may not know.
    pub(crate) async fn register_after(&self, seen: u32) -> Result<(), Error> {
        let mut registration = self.registration()?;
        let known_epoch = registration.epoch.max(seen);
        let request = RegisterRequest {
            machine: Some(facts(&self.provider().machine())),
            known_epoch,
        };
        let points = self.locations()?.management_points;
        let answer = wire::first(
            self.wire(),
            &points,
            (Role::ManagementPoint, "registration failed"),
            |channel| {
                let request = request.clone();
                async move {
                    RegistrationServiceClient::new(channel)
                        .register(request)
                        .await
                }
            },
        )
        .await?
        .into_inner();
        if answer.epoch <= known_epoch {
            return Err(Error::Answer("the epoch did not grow".into()));
        }
        registration.epoch = answer.epoch;
        let known = |key: &bytes::Bytes| registration.policy_keys.iter().any(|held| held == key);
        if !answer.policy_keys.iter().any(known) {
            tracing::warn!("the site signs with other keys than at the enrolment");
        }
        self.store().write(|w| {
            w.set_registration(&registration)?;
            self.save_locations(w, answer.locations.as_ref())
        })?;
        identity::keep(self.dir(), self.store(), self.options().durability)?;
        tracing::info!(epoch = registration.epoch, "registered again");
        Ok(())
    }

    /// Asks where the servers are now.
    ///
    /// # Errors
    /// When no management point answers.
    pub async fn refresh_locations(&self) -> Result<(), Error> {
        let points = self.locations()?.management_points;
        let answer = wire::first(
            self.wire(),
            &points,
            (Role::ManagementPoint, "no locations"),
            |channel| async move {
                let request = muster_proto::client::GetLocationsRequest {};
                RegistrationServiceClient::new(channel)
                    .get_locations(request)
                    .await
            },
        )
        .await?
        .into_inner();
        self.store()
            .write(|w| self.save_locations(w, answer.locations.as_ref()))?;
        identity::keep(self.dir(), self.store(), self.options().durability)
    }

    fn save_locations(
        &self,
        w: &crate::store::Writer<'_>,
        locations: Option<&Locations>,
    ) -> Result<(), Error> {
        // A client without a management point could never be reached again.
        match locations {
            Some(locations) if !locations.management_points.is_empty() => {
                w.set_bytes(meta::LOCATIONS, &locations.encode_to_vec())
            }
            _ => Ok(()),
        }
    }
}

pub(crate) fn facts(machine: &Machine) -> MachineFacts {
    let id = machine.machine_id.as_deref().unwrap_or_default();
    MachineFacts {
        host_name: machine.host_name.clone(),
        os_id: machine.os_id.clone(),
        os_version_id: machine.os_version_id.clone(),
        architecture: machine.architecture.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        machine_id_hash: Sha256::digest(id).to_vec().into(),
    }
}

/// The key of an enrolment that was begun before, or a new one.
pub(crate) fn key_of(path: &Path) -> Result<rcgen::KeyPair, Error> {
    let failed = |error: rcgen::Error| Error::Certificate(error.to_string());
    if path.exists() {
        let text = fs::read_to_string(path).map_err(Error::file(path))?;
        return rcgen::KeyPair::from_pem(&text).map_err(failed);
    }
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    write_private(path, key.serialize_pem().as_bytes())?;
    Ok(key)
}

/// A signing request that asks for nothing: the site decides the name.
pub(crate) fn request_for(key: &rcgen::KeyPair) -> Result<Vec<u8>, Error> {
    let failed = |error: rcgen::Error| Error::Certificate(error.to_string());
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params
        .serialize_request(key)
        .map_err(failed)?
        .der()
        .to_vec())
}

pub(crate) fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in lines {
        pem.push_str(&line);
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
