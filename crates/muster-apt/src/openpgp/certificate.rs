//! Whether a key may sign now: its bindings, expiry and revocations (RFC 9580, section 10).

use jiff::{SignedDuration, Timestamp};
use pgp::composed::{SignedPublicKey, SignedPublicSubKey};
use pgp::packet::{KeyFlags, Signature, SignatureType, SubpacketData};
use pgp::types::{KeyDetails, PublicParams, Tag};

use super::{MAX_FUTURE, Refused, is_strong_digest, seconds, time};

/// A key or subkey that a signature names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) certificate: &'a SignedPublicKey,
    pub(super) subkey: Option<&'a SignedPublicSubKey>,
    /// The whole keyring: a revocation may stand in another copy of the same key.
    pub(super) copies: &'a [SignedPublicKey],
}

impl Candidate<'_> {
    /// Fingerprint of the key itself, upper case hex.
    pub(super) fn fingerprint(&self) -> String {
        match self.subkey {
            Some(subkey) => format!("{:X}", subkey.key.fingerprint()),
            None => self.primary(),
        }
    }

    /// Fingerprint of its primary key, upper case hex.
    pub(super) fn primary(&self) -> String {
        format!("{:X}", self.certificate.primary_key.fingerprint())
    }

    pub(super) fn public_params(&self) -> &PublicParams {
        match self.subkey {
            Some(subkey) => subkey.key.public_params(),
            None => self.certificate.primary_key.public_params(),
        }
    }

    /// Whether the signature names this key by fingerprint or, without one, by key id.
    pub(super) fn is_named_by(&self, signature: &Signature) -> bool {
        let (fingerprint, id) = match self.subkey {
            Some(subkey) => (subkey.key.fingerprint(), subkey.key.legacy_key_id()),
            None => {
                let key = &self.certificate.primary_key;
                (key.fingerprint(), key.legacy_key_id())
            }
        };
        let named = signature.issuer_fingerprint();
        if named.is_empty() {
            return signature.issuer_key_id().contains(&&id);
        }
        named.contains(&&fingerprint)
    }

    /// The arithmetic alone.
    pub(super) fn verifies(&self, signature: &Signature, hashed: &[u8]) -> Result<(), ()> {
        let verified = match self.subkey {
            Some(subkey) => signature.verify(&subkey.key, hashed),
            None => signature.verify(&self.certificate.primary_key, hashed),
        };
        verified.map_err(|_| ())
    }

    /// Whether the key was and is allowed to make a signature of `signed_at`.
    pub(super) fn usable(&self, signed_at: Timestamp, now: Timestamp) -> Result<(), Refused> {
        let primary = self.primary();
        let certificate = self.certificate;
        let same = |copy: &&SignedPublicKey| {
            copy.primary_key.fingerprint() == certificate.primary_key.fingerprint()
        };
        if self.copies.iter().filter(same).any(is_revoked) {
            return Err(Refused::RevokedKey { key: primary });
        }
        let binding = self_signature(certificate, now).ok_or_else(|| Refused::MayNotSign {
            key: primary.clone(),
            reason: "it has no valid signature of its own",
        })?;
        alive(&certificate.primary_key, binding, &primary, signed_at, now)?;
        let Some(subkey) = self.subkey else {
            return match flags(binding) {
                Some(flags) if !flags.sign() => Err(Refused::MayNotSign {
                    key: primary,
                    reason: "its flags do not allow it",
                }),
                _ => Ok(()),
            };
        };
        let key = self.fingerprint();
        let revoked = self.copies.iter().filter(same).any(|copy| {
            let copies = copy.public_subkeys.iter();
            copies
                .filter(|s| s.key.fingerprint() == subkey.key.fingerprint())
                .any(|subkey| {
                    subkey.signatures.iter().any(|signature| {
                        signature.typ() == Some(SignatureType::SubkeyRevocation)
                            && signature
                                .verify_subkey_binding(&certificate.primary_key, &subkey.key)
                                .is_ok()
                    })
                })
        });
        if revoked {
            return Err(Refused::RevokedKey { key });
        }
        let binding =
            subkey_binding(certificate, subkey, now).ok_or_else(|| Refused::MayNotSign {
                key: key.clone(),
                reason: "it is not bound to its primary key",
            })?;
        alive(&subkey.key, binding, &key, signed_at, now)?;
        if !flags(binding).is_some_and(|flags| flags.sign()) {
            return Err(Refused::MayNotSign {
                key,
                reason: "its flags do not allow it",
            });
        }
        let back = binding
            .embedded_signature()
            .filter(|back| counts(back, now));
        let bound = back.is_some_and(|back| {
            back.verify_primary_key_binding(&subkey.key, &certificate.primary_key)
                .is_ok()
        });
        if !bound {
            let reason = "its signature back to the primary key is missing or bad";
            return Err(Refused::MayNotSign { key, reason });
        }
        Ok(())
    }
}

/// Whether the owner revoked the key. A revocation counts with any digest and from any time.
fn is_revoked(certificate: &SignedPublicKey) -> bool {
    certificate
        .details
        .revocation_signatures
        .iter()
        .any(|signature| {
            signature.typ() == Some(SignatureType::KeyRevocation)
                && signature.verify_key(&certificate.primary_key).is_ok()
        })
}

/// The newest valid signature of the key on itself: on the key, or on one of its names that is not
/// revoked.
fn self_signature(certificate: &SignedPublicKey, now: Timestamp) -> Option<&Signature> {
    let key = &certificate.primary_key;
    let direct = certificate
        .details
        .direct_signatures
        .iter()
        .filter(|signature| {
            signature.typ() == Some(SignatureType::Key)
                && counts(signature, now)
                && signature.verify_key(key).is_ok()
        });
    let on_names = certificate.details.users.iter().filter_map(|user| {
        let valid = |signature: &&Signature| {
            counts(signature, now)
                && signature
                    .verify_certification(key, Tag::UserId, &user.id)
                    .is_ok()
        };
        // A revocation of the name that is the newest word on it takes the name away.
        let newest = user
            .signatures
            .iter()
            .filter(valid)
            .max_by_key(|s| s.created())?;
        (newest.typ() != Some(SignatureType::CertRevocation)).then_some(newest)
    });
    direct
        .chain(on_names)
        .max_by_key(|signature| signature.created())
}

/// The newest valid binding of a subkey.
fn subkey_binding<'a>(
    certificate: &SignedPublicKey,
    subkey: &'a SignedPublicSubKey,
    now: Timestamp,
) -> Option<&'a Signature> {
    let valid = subkey.signatures.iter().filter(|signature| {
        signature.typ() == Some(SignatureType::SubkeyBinding)
            && counts(signature, now)
            && signature
                .verify_subkey_binding(&certificate.primary_key, &subkey.key)
                .is_ok()
    });
    valid.max_by_key(|signature| signature.created())
}

/// Whether a signature on a key counts at all: strong digest, made before now, not expired, nothing
/// critical that is not known.
fn counts(signature: &Signature, now: Timestamp) -> bool {
    let Some(config) = signature.config() else {
        return false;
    };
    let Some(created) = signature.created() else {
        return false;
    };
    let created = time(created.as_secs());
    let lifetime = signature.signature_expiration_time().map_or(0, seconds);
    let expired = lifetime > 0 && created + SignedDuration::from_secs(lifetime) <= now;
    let unknown = config.hashed_subpackets().any(|part| {
        let known = !matches!(
            part.data,
            SubpacketData::Other(..) | SubpacketData::Experimental(..)
        );
        part.is_critical && !known
    });
    is_strong_digest(config.hash_alg)
        && created.duration_since(now) <= MAX_FUTURE
        && !expired
        && !unknown
}

/// Whether the key existed when it signed and has not expired now.
fn alive(
    key: &impl KeyDetails,
    binding: &Signature,
    name: &str,
    signed_at: Timestamp,
    now: Timestamp,
) -> Result<(), Refused> {
    let created = time(key.created_at().as_secs());
    if signed_at < created {
        let reason = "the signature is older than the key";
        return Err(Refused::MayNotSign {
            key: name.to_owned(),
            reason,
        });
    }
    let lifetime = binding.key_expiration_time().map_or(0, seconds);
    let expired_at = created + SignedDuration::from_secs(lifetime);
    if lifetime > 0 && expired_at <= now {
        return Err(Refused::ExpiredKey {
            key: name.to_owned(),
            expired_at,
        });
    }
    Ok(())
}

/// The key flags of a binding, `None` when it has none.
fn flags(binding: &Signature) -> Option<KeyFlags> {
    let has_flags = binding
        .config()?
        .hashed_subpackets()
        .any(|part| matches!(part.data, SubpacketData::KeyFlags(_)));
    has_flags.then(|| binding.key_flags())
}
