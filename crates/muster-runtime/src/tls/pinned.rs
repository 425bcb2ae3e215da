//! Trusting exactly one authority of which only the fingerprint is known.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, PeerIncompatible, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

/// Accepts a server whose chain shows the authority with this fingerprint, and whose certificate is
/// good when that one is the only root: signature, name, time and usage are checked as always.
#[derive(Debug)]
pub(super) struct OneAuthority {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl OneAuthority {
    pub(super) const fn new(fingerprint: [u8; 32], provider: Arc<CryptoProvider>) -> Self {
        Self {
            fingerprint,
            provider,
        }
    }
}

impl ServerCertVerifier for OneAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates
            .iter()
            .find(|it| Sha256::digest(it)[..] == self.fingerprint)
            .ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::pem::PemObject;

    use super::*;
    use crate::Role;
    use crate::tls::ca::CertificateAuthority;

    struct World {
        leaf: CertificateDer<'static>,
        authority: CertificateDer<'static>,
        _folder: tempfile::TempDir,
    }

    fn world() -> World {
        let folder = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::create(folder.path(), "P01").unwrap();
        let issued = ca.issue(Role::SiteServer, "s", &["site.example"]).unwrap();
        World {
            leaf: issued.certificate.der.into(),
            authority: CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap(),
            _folder: folder,
        }
    }

    fn check(
        pinned: &CertificateDer<'_>,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &str,
    ) -> Result<(), Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let name = ServerName::try_from(name.to_owned()).unwrap();
        OneAuthority::new(Sha256::digest(pinned).into(), provider)
            .verify_server_cert(leaf, chain, &name, &[], UnixTime::now())
            .map(drop)
    }

    #[test]
    fn only_who_is_certified_by_the_one_authority_is_accepted() {
        let (ours, theirs) = (world(), world());
        let chain = [ours.authority.clone()];
        check(&ours.authority, &ours.leaf, &chain, "site.example").unwrap();
        // Another authority, though it calls itself the same.
        assert!(check(&theirs.authority, &ours.leaf, &chain, "site.example").is_err());
        // The right authority is shown, but it did not certify who shows it.
        assert!(check(&ours.authority, &theirs.leaf, &chain, "site.example").is_err());
        // Nobody shows it.
        assert!(check(&ours.authority, &ours.leaf, &[], "site.example").is_err());
        // The fingerprint of a certificate that is no authority helps nobody.
        let leaf = [ours.leaf.clone()];
        assert!(check(&ours.leaf, &ours.leaf, &leaf, "site.example").is_err());
        // The name counts as always.
        assert!(check(&ours.authority, &ours.leaf, &chain, "other.example").is_err());
    }
}
