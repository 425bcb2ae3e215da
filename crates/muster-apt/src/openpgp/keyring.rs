//! The keys that a machine trusts for a source: apt's default keyrings or `Signed-By`.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use pgp::composed::{Deserializable, SignedPublicKey};
use pgp::packet::Signature;
use pgp::types::KeyDetails;

use super::certificate::Candidate;
use super::is_current;
use crate::sources::{SignedBy, parts};

/// The largest keyring file read, in bytes.
const MAX_FILE: u64 = 8 << 20;

/// The most keys of a keyring.
const MAX_KEYS: usize = 10_000;

const ARMOR: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";

/// Public keys that may sign, with the bindings and revocations that came with them.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    keys: Vec<SignedPublicKey>,
    only: Option<Vec<Only>>,
    skipped: usize,
}

/// A fingerprint that `Signed-By` names.
#[derive(Debug, Clone)]
struct Only {
    fingerprint: String,
    /// With `!` at the end: this very key, not the subkeys of it.
    exact: bool,
}

/// Why a keyring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// A file cannot be read.
    #[error("keyring {} cannot be read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file or block has no usable public key.
    #[error("keyring {name} has no usable public key: {reason}")]
    NoKey {
        /// The file.
        name: String,
        /// Why.
        reason: String,
    },
}

impl Keyring {
    /// An empty keyring: it trusts nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// The keys that apt would use for a source of the root: the files, fingerprints or block of its
    /// `Signed-By`, otherwise every key of `trusted.gpg` and `trusted.gpg.d`.
    ///
    /// # Errors
    /// When a named file cannot be read or has no key. Of the default files, those without a usable key
    /// are passed over, as apt does.
    pub fn for_source(root: &Path, signed_by: &SignedBy) -> Result<Self, KeyringError> {
        let mut keyring = Self::new();
        match signed_by {
            SignedBy::Files(paths) => {
                for path in paths {
                    keyring.add_file(&root.join(path.strip_prefix("/").unwrap_or(path)))?;
                }
            }
            SignedBy::Embedded(block) => {
                keyring.add(block.as_bytes(), "in the source's own entry")?;
            }
            SignedBy::Default => keyring.add_defaults(root)?,
            SignedBy::Fingerprints(fingerprints) => {
                keyring.add_defaults(root)?;
                let only = |text: &String| Only {
                    exact: text.ends_with('!'),
                    fingerprint: text.trim_end_matches('!').to_ascii_uppercase(),
                };
                keyring.only = Some(fingerprints.iter().map(only).collect());
            }
        }
        Ok(keyring)
    }

    fn add_defaults(&mut self, root: &Path) -> Result<(), KeyringError> {
        let apt = root.join("etc/apt");
        let folder = apt.join("trusted.gpg.d");
        let io = |source| KeyringError::Io {
            path: folder.clone(),
            source,
        };
        let mut paths = parts(&folder, &["gpg", "asc"]).map_err(io)?;
        let single = apt.join("trusted.gpg");
        if single.is_file() {
            paths.push(single);
        }
        for path in paths {
            match self.add_file(&path) {
                Err(KeyringError::NoKey { .. }) => self.skipped += 1,
                other => other?,
            }
        }
        Ok(())
    }

    /// Adds the keys of a file, binary or armored.
    ///
    /// # Errors
    /// When it cannot be read, is larger than 8 MiB, or has no usable key.
    pub fn add_file(&mut self, path: &Path) -> Result<(), KeyringError> {
        let io = |source| KeyringError::Io {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        fs::File::open(path)
            .map_err(io)?
            .take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(io)?;
        self.add(&bytes, &path.display().to_string())
    }

    /// Adds the keys in `bytes`, binary or armored (one or more blocks). `name` serves the error's text.
    ///
    /// # Errors
    /// When there is no usable key, or too much of it.
    pub fn add(&mut self, bytes: &[u8], name: &str) -> Result<(), KeyringError> {
        let no_key = |reason: String| KeyringError::NoKey {
            name: name.to_owned(),
            reason,
        };
        if bytes.len() as u64 > MAX_FILE {
            return Err(no_key(format!("it is larger than {MAX_FILE} bytes")));
        }
        let before = self.keys.len();
        let mut reason = "it is empty".to_owned();
        if let Some(text) = std::str::from_utf8(bytes)
            .ok()
            .filter(|text| text.contains(ARMOR))
        {
            for block in text.split(ARMOR).skip(1) {
                let block = format!("{ARMOR}{block}");
                match SignedPublicKey::from_string_many(&block) {
                    Ok((keys, _)) => self.take(keys, &mut reason),
                    Err(error) => reason = error.to_string(),
                }
            }
        } else {
            match SignedPublicKey::from_bytes_many(bytes) {
                Ok(keys) => self.take(keys, &mut reason),
                Err(error) => reason = error.to_string(),
            }
        }
        if self.keys.len() > MAX_KEYS {
            return Err(no_key(format!("more than {MAX_KEYS} keys")));
        }
        if self.keys.len() == before {
            Err(no_key(reason))
        } else {
            Ok(())
        }
    }

    fn take(
        &mut self,
        keys: impl Iterator<Item = pgp::errors::Result<SignedPublicKey>>,
        reason: &mut String,
    ) {
        // An iterator over damaged bytes could go on with errors; keys are counted, errors too.
        let mut errors = 0;
        for key in keys {
            match key {
                Ok(key) if is_current(&key) => self.keys.push(key),
                Ok(_) => self.skipped += 1,
                Err(error) => {
                    *reason = error.to_string();
                    self.skipped += 1;
                    errors += 1;
                }
            }
            if errors > 100 || self.keys.len() > MAX_KEYS {
                return;
            }
        }
    }

    /// How many keys it has.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it trusts nobody.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Keys and default files that were passed over because they could not be used.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The keys and subkeys that `signature` names as its maker.
    pub(super) fn candidates<'a>(
        &'a self,
        signature: &'a Signature,
    ) -> impl Iterator<Item = Candidate<'a>> + 'a {
        let copies = self.keys.as_slice();
        let all = copies.iter().flat_map(move |certificate| {
            let subkeys = certificate.public_subkeys.iter().map(Some);
            std::iter::once(None)
                .chain(subkeys)
                .map(move |subkey| Candidate {
                    certificate,
                    subkey,
                    copies,
                })
        });
        all.filter(|candidate| candidate.is_named_by(signature) && self.is_allowed(candidate))
    }

    fn is_allowed(&self, candidate: &Candidate<'_>) -> bool {
        let Some(only) = &self.only else { return true };
        let (own, primary) = (candidate.fingerprint(), candidate.primary());
        only.iter()
            .any(|only| only.fingerprint == own || (!only.exact && only.fingerprint == primary))
    }

    /// The fingerprints of the primary keys, upper case hex.
    pub fn fingerprints(&self) -> Vec<String> {
        self.keys
            .iter()
            .map(|key| format!("{:X}", key.fingerprint()))
            .collect()
    }
}
