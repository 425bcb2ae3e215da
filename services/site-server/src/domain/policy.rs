//! What the site wants of a client, as one signed message. The same content serves every client
//! with the same deployments; only the name on it and the signature differ.

use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::Bytes;
use jiff::Timestamp;
use muster_domain::ClientId;
use muster_proto::{client, convert, policy as pb};
use prost::Message;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

/// Put before the policy when it is signed, so that the signature fits nothing else.
pub(crate) const SIGNING_CONTEXT: &[u8] = b"muster-policy-v1\0";

/// The site's policy key cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("cannot read the policy key from {}", path.display())]
    Read {
        path: PathBuf,
        source: rustls_pki_types::pem::Error,
    },
    #[error("{} is not an Ed25519 key", path.display())]
    NotEd25519 { path: PathBuf },
    #[error("cannot make a policy key")]
    Generate,
}

/// The key that signs policy.
pub(crate) struct PolicyKey {
    pair: Ed25519KeyPair,
}

impl PolicyKey {
    /// A new key, as PKCS#8 in PEM.
    pub(crate) fn generate() -> Result<String, KeyError> {
        let document =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::Generate)?;
        Ok(pem(document.as_ref()))
    }

    pub(crate) fn load(path: &Path) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_file(path).map_err(|source| KeyError::Read {
            path: path.to_owned(),
            source,
        })?;
        let pair = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| {
            KeyError::NotEd25519 {
                path: path.to_owned(),
            }
        })?;
        Ok(Self { pair })
    }

    /// The public half, 32 bytes: what clients get at enrolment.
    pub(crate) fn public(&self) -> Bytes {
        Bytes::copy_from_slice(self.pair.public_key().as_ref())
    }

    /// A signature over a message, with what it is for before it.
    pub(crate) fn sign(&self, context: &[u8], message: &[u8]) -> Bytes {
        let signature = self.pair.sign(&[context, message].concat());
        Bytes::copy_from_slice(signature.as_ref())
    }

    /// First 8 bytes of the SHA-256 of the public key.
    fn key_id(&self) -> Bytes {
        Bytes::copy_from_slice(&Sha256::digest(self.pair.public_key().as_ref())[..8])
    }
}

impl std::fmt::Debug for PolicyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PolicyKey")
    }
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    pem
}

/// The revision that policy has at least when a site server starts at this time: a site restored
/// from a backup must not give revisions again that clients have seen. Leaves room for a million
/// changes in each second before.
pub(crate) fn least_revision(now: Timestamp) -> i64 {
    now.as_second().clamp(0, i64::from(u32::MAX)) << 20
}

/// What a policy says, without the name of a client.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    policy: pb::Policy,
    version: Bytes,
}

impl Content {
    /// Freezes what is in `policy`; client, revision and time are set when it is signed.
    pub(crate) fn new(policy: pb::Policy) -> Self {
        let digest = Sha256::digest(policy.encode_to_vec());
        Self {
            version: Bytes::copy_from_slice(&digest[..16]),
            policy,
        }
    }

    /// The same for a client that is to be another site's.
    pub(crate) fn moving(&self, order: pb::MoveOrder) -> Self {
        Self::new(pb::Policy {
            r#move: Some(order),
            ..self.policy.clone()
        })
    }

    /// Names the content: 16 bytes, equal for equal content.
    pub(crate) const fn version(&self) -> &Bytes {
        &self.version
    }

    /// The policy of one client.
    pub(crate) fn sign(
        &self,
        key: &PolicyKey,
        client_id: ClientId,
        revision: u64,
        now: Timestamp,
    ) -> client::SignedPolicy {
        let mut policy = self.policy.clone();
        policy.client_id = Bytes::copy_from_slice(client_id.as_bytes());
        policy.revision = revision;
        policy.issued_at = Some(convert::to_timestamp(now));
        let policy = policy.encode_to_vec();
        let signature = key.sign(SIGNING_CONTEXT, &policy);
        client::SignedPolicy {
            policy: policy.into(),
            signature,
            key_id: key.key_id(),
            version: self.version.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    #[test]
    fn revisions_after_a_restart_are_above_those_before_it() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (monday, tuesday) = (at(1_700_000_000), at(1_700_086_400));
        assert!(least_revision(monday) + 1_000_000 < least_revision(tuesday));
        assert!(least_revision(Timestamp::MAX) > 0);
        assert_eq!(least_revision(Timestamp::MIN), 0);
    }

    #[test]
    fn a_signed_policy_verifies_and_an_altered_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.key");
        std::fs::write(&path, PolicyKey::generate().unwrap()).unwrap();
        let key = PolicyKey::load(&path).unwrap();
        let content = Content::new(pb::Policy {
            site_code: "P01".into(),
            ..Default::default()
        });
        let client = ClientId::generate();
        let signed = content.sign(&key, client, 7, Timestamp::UNIX_EPOCH);
        let public = UnparsedPublicKey::new(&ED25519, key.public());
        let message = [SIGNING_CONTEXT, &signed.policy].concat();
        public.verify(&message, &signed.signature).unwrap();
        assert!(public.verify(&signed.policy, &signed.signature).is_err());
        let read = pb::Policy::decode(signed.policy.clone()).unwrap();
        assert_eq!(
            (read.revision, read.client_id.as_ref()),
            (7, client.as_bytes().as_slice())
        );
        // Another client, another time, the same content: the same version.
        let other = content.sign(&key, ClientId::generate(), 9, Timestamp::MAX);
        assert_eq!(other.version, signed.version);
        assert_ne!(other.signature, signed.signature);
    }
}
