//! Mutual TLS 1.3 with certificates of the site CA, and the identity that a certificate carries.
//!
//! [`Identity`] is who a peer is; [`ServerTls`] and [`ClientTls`] are the two ends, and read
//! their files again when they change; [`incoming`] accepts connections; [`ca`] issues.

pub mod ca;
mod identity;
mod incoming;
mod pinned;
mod settings;

use std::path::PathBuf;

use sha2::{Digest, Sha256};

pub use identity::{Identity, InvalidIdentity, Role};
pub use incoming::{AcceptLimits, Connection, Peer, incoming};
pub use settings::{Alpn, ClientAuth, ClientTls, ServerTls};

/// Certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing, unreadable or not PEM.
    #[error("cannot read certificates from {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rustls_pki_types::pem::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// There is no certificate in the file.
    #[error("no certificate in {}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Key and certificate do not fit, or a certificate is broken.
    #[error("cannot use certificate and key")]
    Rustls(#[from] rustls::Error),
    /// The certificate of the authority cannot verify client certificates.
    #[error("cannot verify client certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// A certificate could not be made.
    #[error("cannot issue a certificate")]
    Issue(#[from] rcgen::Error),
    /// A signing request is not signed by its own key, or asks for a key we do not accept.
    #[error("the certificate signing request is refused: {0}")]
    Request(&'static str),
    /// The identity is not one.
    #[error(transparent)]
    Identity(#[from] InvalidIdentity),
    /// The identity belongs to a site that this authority does not speak for.
    #[error("this authority issues for site {own}, not for site {asked}")]
    WrongSite {
        /// The site of the authority.
        own: String,
        /// The site that was asked for.
        asked: String,
    },
    /// There is an authority in the folder already, and it is never overwritten.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

/// The SHA-256 fingerprint of a certificate in DER, in lower-case hex: what people compare and
/// what a list of refused certificates holds.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> String {
    hex::encode(Sha256::digest(certificate))
}
