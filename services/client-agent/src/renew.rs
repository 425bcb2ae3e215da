//! A key and an identity of its own for a machine that shares them with another one, because the
//! disk of one was copied. The site says who keeps the client id.
//!
//! The switch is one transaction: the new registration together with the new key and certificate.
//! The files follow from it, now or at the next start, so that the client is always one or
//! the other.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use muster_domain::ClientId;
use muster_proto::client::registration_service_client::RegistrationServiceClient;
use muster_proto::client::{RenewIdentityRequest, RenewIdentityResponse};
use muster_runtime::Role;
use serde::{Deserialize, Serialize};

use crate::agent::{Agent, tls_files, write_file};
use crate::enrol::{facts, key_of, pem, request_for};
use crate::store::{Durability, Registration, Store, meta};
use crate::{Error, identity, wire};

/// What a management point says of a certificate that another one took the place of.
const REPLACED: &str = "CERTIFICATE_REPLACED";

/// What the site says when nobody doubts the identity.
const NOT_ASKED: &str = "RENEWAL_NOT_ASKED";

/// Key and certificate that the files are to have, as they lie in the database until they do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Next {
    pub(crate) key: String,
    pub(crate) certificate: String,
    /// The authority, when it is another one now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
}

impl Agent {
    /// Gets a new key and certificate, and whatever client id the site decides on. Killed at any
    /// point, it goes on where it was: the key is on disk before the site hears of it, and the
    /// site gives the same answer for it again.
    ///
    /// # Errors
    /// When no management point answers, or the site refuses: `CLIENT_BLOCKED`, `RENEWAL_NOT_ASKED`.
    pub async fn renew_identity(&self) -> Result<(), Error> {
        let _alone = self.renewing().lock().await;
        let registration = self.registration()?;
        let key = key_of(&next_key(self.dir()))?;
        let request = RenewIdentityRequest {
            csr: request_for(&key)?.into(),
            machine: Some(facts(&self.provider().machine())),
            run_id: self.run().map_or(0, |run| run.id),
        };
        let points = self.locations()?.management_points;
        let answer = wire::first(
            self.wire(),
            &points,
            (Role::ManagementPoint, "identity not renewed"),
            |channel| {
                let request = request.clone();
                async move {
                    RegistrationServiceClient::new(channel)
                        .renew_identity(request)
                        .await
                }
            },
        )
        .await?
        .into_inner();
        let before = registration.client_id;
        let fresh = accept(registration, &answer)?;
        let next = Next {
            key: key.serialize_pem(),
            certificate: answer
                .certificate_chain
                .iter()
                .map(|der| pem(der))
                .collect(),
            ca: None,
        };
        let next = serde_json::to_vec(&next).map_err(|_| Error::Saved { what: "identity" })?;
        self.store().write(|w| {
            w.set_registration(&fresh)?;
            w.set_bytes(meta::NEXT_IDENTITY, &next)?;
            // The policy at hand names the client that this one was.
            w.clear(meta::POLICY_VERSION)
        })?;
        finish(self.dir(), self.store(), self.options().durability)?;
        identity::keep(self.dir(), self.store(), self.options().durability)?;
        self.wire().release();
        self.content().renew(&tls_files(self.dir()))?;
        tracing::warn!(client.id = %before, new.id = %fresh.client_id, epoch = fresh.epoch,
                       "identity renewed");
        Ok(())
    }

    /// As [`Self::renew_identity`], for a wish that may be older than what became of it. Says
    /// whether there is a new one.
    ///
    /// # Errors
    /// As [`Self::renew_identity`].
    pub(crate) async fn renew_if_asked(&self) -> Result<bool, Error> {
        match self.renew_identity().await {
            Ok(()) => Ok(true),
            Err(error) if error.reason().as_deref() == Some(NOT_ASKED) => {
                // A key that lies around could be copied with the disk.
                let path = next_key(self.dir());
                fs::remove_file(&path).map_err(Error::file(&path))?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// After a call failed: whether it is worth repeating, because the certificate it was made
    /// under had been replaced and there is a new one now.
    ///
    /// # Errors
    /// As [`Self::renew_identity`].
    pub(crate) async fn renewed_after(&self, error: &Error) -> Result<bool, Error> {
        if error.reason().as_deref() != Some(REPLACED) {
            return Ok(false);
        }
        self.renew_identity().await?;
        Ok(true)
    }
}

fn accept(held: Registration, answer: &RenewIdentityResponse) -> Result<Registration, Error> {
    let client_id =
        ClientId::from_slice(&answer.client_id).map_err(|e| Error::Answer(e.to_string()))?;
    let grown = client_id != held.client_id || answer.epoch > held.epoch;
    if answer.epoch == 0 || !grown || answer.certificate_chain.is_empty() {
        return Err(Error::Answer("epoch or certificate is missing".into()));
    }
    Ok(Registration {
        client_id,
        epoch: answer.epoch,
        ..held
    })
}

/// Brings the files to what the database says, if it says something. Done before anything else
/// uses them.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn finish(dir: &Path, store: &Store, durability: Durability) -> Result<(), Error> {
    let Some(bytes) = store.read(|r| r.bytes(meta::NEXT_IDENTITY))? else {
        return Ok(());
    };
    let broken = |_| Error::Saved { what: "identity" };
    let next: Next = serde_json::from_slice(&bytes).map_err(broken)?;
    let files = tls_files(dir);
    write_file(&files.key, next.key.as_bytes(), durability)?;
    write_file(&files.cert, next.certificate.as_bytes(), durability)?;
    if let Some(ca) = &next.ca {
        write_file(&files.ca, ca.as_bytes(), durability)?;
    }
    // The mark speaks of the serials of another epoch, maybe of another client.
    for path in [next_key(dir), dir.join("serial.mark")] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::file(&path)(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    store.write(|w| w.clear(meta::NEXT_IDENTITY))
}

/// The key of a renewal that has been begun.
fn next_key(dir: &Path) -> PathBuf {
    dir.join("certs/next.key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_were_not_written_before_a_kill_follow_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir(dir.join("certs")).unwrap();
        let store = Store::open(&dir.join("agent.db"), Durability::Full).unwrap();
        let files = tls_files(dir);
        let write = |path: &Path, text: &str| fs::write(path, text).unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        write(&files.key, "old key");
        write(&files.cert, "old certificate");
        finish(dir, &store, Durability::Full).unwrap();
        assert_eq!(read(&files.key), "old key", "nothing was decided");

        let next = Next {
            key: "new key".into(),
            certificate: "new certificate".into(),
            ca: Some("new authority".into()),
        };
        let next = serde_json::to_vec(&next).unwrap();
        let decide = || store.write(|w| w.set_bytes(meta::NEXT_IDENTITY, &next));
        decide().unwrap();
        // Killed between the two files.
        write(&files.key, "new key");
        write(&dir.join("serial.mark"), "{}");
        for _ in 0..2 {
            finish(dir, &store, Durability::Full).unwrap();
            assert_eq!(read(&files.key), "new key");
            assert_eq!(read(&files.cert), "new certificate");
            assert_eq!(read(&files.ca), "new authority");
            assert!(!dir.join("serial.mark").exists());
            // Killed before it was written down that the files are there.
            decide().unwrap();
        }
    }
}
