//! Is this `InRelease` signed by a key that the machine trusts, and what exactly was signed.
//!
//! The OpenPGP library only does arithmetic; the policy is here:
//!
//! - the file is one clear-signed text and nothing else ([`Refused::TextOutside`]), and only the text
//!   that was hashed is given out ([`Verified::text`]);
//! - one good signature by a key of the keyring suffices, since archives sign with several keys while
//!   they change them;
//! - MD5, SHA-1 and RIPEMD-160 count as no signature, for data and for keys' own bindings;
//! - the key must be bound, not revoked, not expired **now**, and allowed to sign; a subkey needs the
//!   signature back to its primary key;
//! - a signature must not be expired nor come from the future.
//!
//! When no signature is good, the error names the check that the most promising one failed.

mod certificate;
mod cleartext;
mod keyring;

use jiff::{SignedDuration, Timestamp};
use pgp::composed::{Deserializable, DetachedSignature};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType, SubpacketData};
use pgp::types::{KeyDetails, KeyVersion, PublicParams};

pub use keyring::{Keyring, KeyringError};

/// The largest `InRelease` taken, in bytes. Debian's is 150 KB.
pub const MAX_SIZE: usize = 8 << 20;

/// The most signatures looked at in one file.
const MAX_SIGNATURES: usize = 32;

/// How far in the future a signature may have been made: clocks differ a little.
const MAX_FUTURE: SignedDuration = SignedDuration::from_secs(300);

/// A text whose signature is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The text that was signed, and nothing else: lines end in `\n`, without blanks at their ends.
    pub text: String,
    /// Who signed it, at least one.
    pub signers: Vec<Signer>,
}

/// A key whose signature on the text is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// Fingerprint of the key or subkey that signed, upper case hex.
    pub fingerprint: String,
    /// Fingerprint of its primary key.
    pub primary: String,
    /// When it signed.
    pub signed_at: Timestamp,
}

/// Why a file is not taken. Each variant is one check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The file is larger than [`MAX_SIZE`].
    #[error("the file is larger than {MAX_SIZE} bytes")]
    TooLarge,
    /// The file is no clear-signed text, or has no signature.
    #[error("the file is not signed")]
    NotSigned,
    /// There is text before or after the signed block.
    #[error("there is text outside of the signed block")]
    TextOutside,
    /// The framework of the clear-signed text is broken.
    #[error("the signed block is malformed: {0}")]
    Malformed(String),
    /// The text is not what the key signed.
    #[error("the signature of key {key} does not match the text")]
    BadSignature {
        /// The key that should have made it.
        key: String,
    },
    /// No key of the keyring made any of the signatures.
    #[error("no trusted key made a signature on it; it names {}", keys.join(", "))]
    UnknownKey {
        /// Key ids or fingerprints that the signatures name.
        keys: Vec<String>,
    },
    /// The signature uses a digest that can be forged.
    #[error("the signature of key {key} uses the weak digest {digest}")]
    WeakDigest {
        /// The key.
        key: String,
        /// The digest.
        digest: String,
    },
    /// The key is too small or of a kind that is no longer safe.
    #[error("key {key} is too weak: {reason}")]
    WeakKey {
        /// The key.
        key: String,
        /// Why.
        reason: &'static str,
    },
    /// The key has expired.
    #[error("key {key} expired at {expired_at}")]
    ExpiredKey {
        /// The key.
        key: String,
        /// Since when.
        expired_at: Timestamp,
    },
    /// The key or its primary key was revoked by its owner.
    #[error("key {key} is revoked")]
    RevokedKey {
        /// The key.
        key: String,
    },
    /// The key has no valid binding, or may not sign data.
    #[error("key {key} may not sign: {reason}")]
    MayNotSign {
        /// The key.
        key: String,
        /// Why.
        reason: &'static str,
    },
    /// The signature itself has expired.
    #[error("the signature of key {key} expired at {expired_at}")]
    ExpiredSignature {
        /// The key.
        key: String,
        /// Since when.
        expired_at: Timestamp,
    },
    /// The signature says that it was made in the future.
    #[error("the signature of key {key} was made in the future, at {signed_at}")]
    FutureSignature {
        /// The key.
        key: String,
        /// When.
        signed_at: Timestamp,
    },
    /// The signature is of a kind or has a critical part that we do not know.
    #[error("the signature of key {key} is not understood: {reason}")]
    NotUnderstood {
        /// The key.
        key: String,
        /// What is not understood.
        reason: &'static str,
    },
}

impl Refused {
    /// How telling the error is when several signatures fail: the highest is reported.
    fn weight(&self) -> u8 {
        match self {
            Self::TooLarge | Self::NotSigned | Self::TextOutside | Self::Malformed(_) => 9,
            Self::BadSignature { .. } => 8,
            Self::RevokedKey { .. } => 7,
            Self::ExpiredKey { .. } => 6,
            Self::WeakDigest { .. } | Self::WeakKey { .. } => 5,
            Self::ExpiredSignature { .. } | Self::FutureSignature { .. } => 4,
            Self::MayNotSign { .. } => 3,
            Self::NotUnderstood { .. } => 2,
            Self::UnknownKey { .. } => 1,
        }
    }

    /// A stable word for programs and reports.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge => "TOO_LARGE",
            Self::NotSigned => "NOT_SIGNED",
            Self::TextOutside => "TEXT_OUTSIDE_SIGNATURE",
            Self::Malformed(_) => "MALFORMED_SIGNATURE",
            Self::BadSignature { .. } => "BAD_SIGNATURE",
            Self::UnknownKey { .. } => "UNKNOWN_KEY",
            Self::WeakDigest { .. } => "WEAK_DIGEST",
            Self::WeakKey { .. } => "WEAK_KEY",
            Self::ExpiredKey { .. } => "EXPIRED_KEY",
            Self::RevokedKey { .. } => "REVOKED_KEY",
            Self::MayNotSign { .. } => "KEY_MAY_NOT_SIGN",
            Self::ExpiredSignature { .. } => "EXPIRED_SIGNATURE",
            Self::FutureSignature { .. } => "FUTURE_SIGNATURE",
            Self::NotUnderstood { .. } => "SIGNATURE_NOT_UNDERSTOOD",
        }
    }
}

/// Verifies a clear-signed file with the keys of a keyring, as of `now`.
///
/// # Errors
/// Names the check that failed; see the module's text for the policy.
pub fn verify(file: &[u8], keyring: &Keyring, now: Timestamp) -> Result<Verified, Refused> {
    if file.len() > MAX_SIZE {
        return Err(Refused::TooLarge);
    }
    let signed = cleartext::split(file)?;
    let mut signers = Vec::new();
    let mut unknown = Vec::new();
    let mut worst: Option<Refused> = None;
    for signature in signatures(signed.armor)? {
        match check(&signature, signed.hashed.as_bytes(), keyring, now) {
            Ok(signer) => signers.push(signer),
            Err(Refused::UnknownKey { keys }) => unknown.extend(keys),
            Err(refused) => {
                if worst
                    .as_ref()
                    .is_none_or(|held| refused.weight() > held.weight())
                {
                    worst = Some(refused);
                }
            }
        }
    }
    if signers.is_empty() {
        return Err(worst.unwrap_or(Refused::UnknownKey { keys: unknown }));
    }
    let text = signed.hashed.replace("\r\n", "\n") + "\n";
    Ok(Verified { text, signers })
}

/// The signatures in an armored block.
fn signatures(armor: &str) -> Result<Vec<Signature>, Refused> {
    let malformed = |error: pgp::errors::Error| Refused::Malformed(error.to_string());
    let (parsed, _) = DetachedSignature::from_string_many(armor).map_err(malformed)?;
    let mut signatures = Vec::new();
    for signature in parsed {
        if signatures.len() == MAX_SIGNATURES {
            return Err(Refused::Malformed(format!(
                "more than {MAX_SIGNATURES} signatures"
            )));
        }
        signatures.push(signature.map_err(malformed)?.signature);
    }
    if signatures.is_empty() {
        return Err(Refused::NotSigned);
    }
    Ok(signatures)
}

/// Checks one signature with every key of the keyring that may have made it.
fn check(
    signature: &Signature,
    hashed: &[u8],
    keyring: &Keyring,
    now: Timestamp,
) -> Result<Signer, Refused> {
    let named = names(signature);
    let key = named
        .first()
        .cloned()
        .unwrap_or_else(|| "without a name".to_owned());
    let mut worst: Option<Refused> = None;
    for candidate in keyring.candidates(signature) {
        let result = well_formed(signature, &candidate.fingerprint(), now)
            .and_then(|signed_at| {
                strong(candidate.public_params(), &candidate.fingerprint()).map(|()| signed_at)
            })
            .and_then(|signed_at| {
                // Only now the arithmetic: before, the key might not even be one that we trust.
                let key = candidate.fingerprint();
                let verified = candidate.verifies(signature, hashed);
                verified.map_err(|()| Refused::BadSignature { key })?;
                Ok(signed_at)
            })
            .and_then(|signed_at| candidate.usable(signed_at, now).map(|()| signed_at));
        match result {
            Ok(signed_at) => {
                let (fingerprint, primary) = (candidate.fingerprint(), candidate.primary());
                return Ok(Signer {
                    fingerprint,
                    primary,
                    signed_at,
                });
            }
            Err(refused) => {
                // A key that stands twice in the keyring may be expired in one copy only.
                if worst
                    .as_ref()
                    .is_none_or(|held| refused.weight() > held.weight())
                {
                    worst = Some(refused);
                }
            }
        }
    }
    Err(worst.unwrap_or(Refused::UnknownKey { keys: vec![key] }))
}

/// What a signature says about itself: kind, digest, critical parts, times. Gives when it was made.
fn well_formed(signature: &Signature, key: &str, now: Timestamp) -> Result<Timestamp, Refused> {
    let key = || key.to_owned();
    let misunderstood = |reason| Refused::NotUnderstood { key: key(), reason };
    let config = signature
        .config()
        .ok_or_else(|| misunderstood("its version is not known"))?;
    if !matches!(config.typ, SignatureType::Text | SignatureType::Binary) {
        return Err(misunderstood("it is no signature of a document"));
    }
    if !is_strong_digest(config.hash_alg) {
        return Err(Refused::WeakDigest {
            key: key(),
            digest: config.hash_alg.to_string(),
        });
    }
    let unknown = |data: &SubpacketData| {
        matches!(
            data,
            SubpacketData::Other(..) | SubpacketData::Experimental(..) | SubpacketData::Notation(_)
        )
    };
    if config
        .hashed_subpackets()
        .any(|part| part.is_critical && unknown(&part.data))
    {
        return Err(misunderstood("it has a critical part that is not known"));
    }
    let signed_at = signature
        .created()
        .ok_or_else(|| misunderstood("it has no time"))?;
    let signed_at = time(signed_at.as_secs());
    if signed_at.duration_since(now) > MAX_FUTURE {
        return Err(Refused::FutureSignature {
            key: key(),
            signed_at,
        });
    }
    let lifetime = signature.signature_expiration_time().map_or(0, seconds);
    if lifetime > 0 {
        let expired_at = signed_at + SignedDuration::from_secs(lifetime);
        if expired_at <= now {
            return Err(Refused::ExpiredSignature {
                key: key(),
                expired_at,
            });
        }
    }
    Ok(signed_at)
}

fn is_strong_digest(digest: HashAlgorithm) -> bool {
    matches!(
        digest,
        HashAlgorithm::Sha224
            | HashAlgorithm::Sha256
            | HashAlgorithm::Sha384
            | HashAlgorithm::Sha512
            | HashAlgorithm::Sha3_256
            | HashAlgorithm::Sha3_512
    )
}

fn strong(params: &PublicParams, key: &str) -> Result<(), Refused> {
    use pgp::ser::Serialize;
    let refuse = |reason| {
        Err(Refused::WeakKey {
            key: key.to_owned(),
            reason,
        })
    };
    // Modulus and exponent as numbers of the format: a modulus of 2,048 bits is 256 bytes.
    if matches!(params, PublicParams::RSA(_)) && params.write_len() < 256 {
        return refuse("RSA below 2048 bits");
    }
    if matches!(params, PublicParams::DSA(_)) {
        refuse("DSA")
    } else {
        Ok(())
    }
}

/// Fingerprints and key ids that a signature names, upper case hex, fingerprints first.
fn names(signature: &Signature) -> Vec<String> {
    let fingerprints = signature
        .issuer_fingerprint()
        .into_iter()
        .map(|f| format!("{f:X}"));
    let ids = signature
        .issuer_key_id()
        .into_iter()
        .map(|id| id.to_string().to_ascii_uppercase());
    fingerprints.chain(ids).collect()
}

fn time(seconds: u32) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(i64::from(seconds))
}

fn seconds(duration: pgp::types::Duration) -> i64 {
    i64::from(duration.as_secs())
}

/// Whether a key is of a version whose fingerprint is safe.
fn is_current(key: &impl KeyDetails) -> bool {
    matches!(key.version(), KeyVersion::V4 | KeyVersion::V6)
}

#[cfg(test)]
mod tests;
