//! The certificate authority of a site: made once at `site init`, kept in one folder
//! (`ca.pem`, `ca.key`), and the only one who says who somebody is.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateSigningRequestDer;

use super::{Error, Identity, InvalidIdentity, Role, fingerprint};
use crate::config::TlsConfig;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long the authority itself lives.
pub const CA_VALIDITY: Duration = DAY.saturating_mul(3653);
/// How long a service's certificate lives.
pub const SERVICE_VALIDITY: Duration = DAY.saturating_mul(365);
/// How long a client's certificate lives.
pub const CLIENT_VALIDITY: Duration = DAY.saturating_mul(365);
/// Certificates begin this much in the past, because no two clocks agree.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Longest signing request that is looked at, in bytes.
const MAX_REQUEST: usize = 16 * 1024;
/// An uncompressed point of P-256.
const P256_POINT: usize = 65;

/// A new certificate.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Certificate {
    /// In PEM.
    pub pem: String,
    /// In DER.
    pub der: Vec<u8>,
    /// SHA-256 of the DER, in hex.
    pub fingerprint: String,
    /// When it ends.
    pub not_after: SystemTime,
}

/// A new certificate and its private key. It has no `Debug`: the key must not end up in a log.
#[non_exhaustive]
#[allow(missing_debug_implementations)]
pub struct Issued {
    /// The certificate.
    pub certificate: Certificate,
    /// Its private key: PKCS#8 in PEM.
    pub key_pem: String,
}

impl Issued {
    /// Writes `<stem>.pem` and `<stem>.key` (mode 0600) and returns the paths together with the
    /// authority's, ready for a service's configuration.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path, stem: &str, ca: &Path) -> Result<TlsConfig, Error> {
        let cert = folder.join(format!("{stem}.pem"));
        let key = folder.join(format!("{stem}.key"));
        replace(&key, self.key_pem.as_bytes(), 0o600)?;
        replace(&cert, self.certificate.pem.as_bytes(), 0o644)?;
        Ok(TlsConfig {
            ca: ca.to_owned(),
            cert,
            key,
        })
    }
}

/// The authority of one site.
pub struct CertificateAuthority {
    site: String,
    pem: String,
    path: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// Makes a new authority and writes it to `folder`. An existing one is never overwritten.
    ///
    /// # Errors
    /// When there is one already, the site code is invalid, or the files cannot be written.
    pub fn create(folder: &Path, site: &str) -> Result<Self, Error> {
        let owner = Identity::new(Role::SiteServer, site, "ca")?;
        let path = folder.join("ca.pem");
        if path.exists() {
            return Err(Error::Exists { path });
        }
        let mut params = base(&format!("Muster site {site} CA"), CA_VALIDITY);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // The authority carries its site in its own name, so that `load` knows it.
        params.subject_alt_names = vec![SanType::URI(authority_uri(&owner.site).try_into()?)];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let pem = params.self_signed(&key)?.pem();
        fs::create_dir_all(folder).map_err(|source| Error::Write {
            path: folder.to_owned(),
            source,
        })?;
        replace(
            &folder.join("ca.key"),
            key.serialize_pem().as_bytes(),
            0o600,
        )?;
        replace(&path, pem.as_bytes(), 0o644)?;
        let issuer = Issuer::new(params, key);
        Ok(Self {
            site: owner.site,
            pem,
            path,
            issuer,
        })
    }

    /// Reads the authority from the folder it was created in.
    ///
    /// # Errors
    /// When the files are missing or are not an authority of ours.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("ca.pem");
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| Error::Read {
                path: path.to_owned(),
                source: rustls_pki_types::pem::Error::Io(source),
            })
        };
        let pem = read(&path)?;
        let key = KeyPair::from_pem(&read(&folder.join("ca.key"))?)?;
        let site = authority_site(&pem)?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key)?;
        Ok(Self {
            site,
            pem,
            path,
            issuer,
        })
    }

    /// The site this authority speaks for.
    #[must_use]
    pub fn site(&self) -> &str {
        &self.site
    }

    /// The authority's certificate, in PEM: what peers trust.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Where the authority's certificate lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a key and a certificate for `role` under the given name. `hosts` are the DNS names
    /// and addresses at which peers reach it; a role that does not serve gets none.
    ///
    /// # Errors
    /// When the name or a host is invalid.
    pub fn issue(&self, role: Role, name: &str, hosts: &[&str]) -> Result<Issued, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let validity = if role.serves() {
            SERVICE_VALIDITY
        } else {
            CLIENT_VALIDITY
        };
        let identity = Identity::new(role, self.site.as_str(), name)?;
        let certificate = self.certify(&key, &identity, hosts, validity)?;
        Ok(Issued {
            certificate,
            key_pem: key.serialize_pem(),
        })
    }

    /// Certifies the key of a signing request under an identity that *we* chose. Of the request
    /// only the public key counts, and only after its own signature proved that the sender has
    /// the private one; every name, usage and lifetime it asks for is ignored.
    ///
    /// # Errors
    /// When the request is unreadable or too long, is not signed by its own key, or its key is
    /// not ECDSA P-256; when the identity belongs to another site.
    pub fn sign_csr(
        &self,
        csr_der: &[u8],
        identity: &Identity,
        validity: Duration,
    ) -> Result<Certificate, Error> {
        if csr_der.len() > MAX_REQUEST {
            return Err(Error::Request("it is too long"));
        }
        let request = CertificateSigningRequestDer::from(csr_der);
        let request = CertificateSigningRequestParams::from_der(&request)
            .map_err(|_| Error::Request("it is unreadable or not signed by its own key"))?;
        let key = request.public_key;
        if *key.algorithm() != PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != P256_POINT {
            return Err(Error::Request("its key is not ECDSA P-256"));
        }
        self.certify(&key, identity, &[], validity)
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        identity: &Identity,
        hosts: &[&str],
        validity: Duration,
    ) -> Result<Certificate, Error> {
        if identity.site != self.site {
            let (own, asked) = (self.site.clone(), identity.site.clone());
            return Err(Error::WrongSite { own, asked });
        }
        let mut params = base(
            &format!("{} {}", identity.role, short(&identity.name)),
            validity,
        );
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        if identity.role.serves() {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if identity.role.calls() {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        params
            .subject_alt_names
            .push(SanType::URI(identity.to_string().try_into()?));
        for host in hosts.iter().filter(|_| identity.role.serves()) {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(addr) => SanType::IpAddress(addr),
                Err(_) => SanType::DnsName((*host).try_into()?),
            });
        }
        let certificate = params.signed_by(key, &self.issuer)?;
        let der = certificate.der().to_vec();
        Ok(Certificate {
            pem: certificate.pem(),
            fingerprint: fingerprint(&der),
            der,
            not_after: SystemTime::now() + validity,
        })
    }
}

/// A signing request for a new key: what a client sends to enrol. The names in it mean nothing;
/// the authority chooses them.
///
/// # Errors
/// When no key can be made.
pub fn signing_request() -> Result<SigningRequest, Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let params = CertificateParams::default();
    let der = params.serialize_request(&key)?.der().to_vec();
    Ok(SigningRequest {
        der,
        key_pem: key.serialize_pem(),
    })
}

/// A signing request and the private key behind it. It has no `Debug`, as the key must not end
/// up in a log.
#[non_exhaustive]
#[allow(missing_debug_implementations)]
pub struct SigningRequest {
    /// The request, in DER: what is sent.
    pub der: Vec<u8>,
    /// The private key: PKCS#8 in PEM. It never leaves the machine.
    pub key_pem: String,
}

fn base(common_name: &str, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATE);
    params.not_after = epoch + now + validity;
    // Random, and positive in DER: the first bit is clear.
    let mut serial: [u8; 16] = rand::random();
    serial[0] = (serial[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

/// A common name may have 64 characters.
fn short(name: &str) -> &str {
    name.get(..40).unwrap_or(name)
}

fn authority_uri(site: &str) -> String {
    format!("muster-ca://{site}")
}

fn authority_site(pem: &str) -> Result<String, Error> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    use x509_parser::extensions::GeneralName;
    use x509_parser::prelude::FromDer;

    let refused = || Error::Request("the certificate is not that of a site's authority");
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| refused())?;
    let (_, certificate) =
        x509_parser::certificate::X509Certificate::from_der(&der).map_err(|_| refused())?;
    let names = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .ok_or_else(refused)?;
    let site = names.value.general_names.iter().find_map(|name| {
        let GeneralName::URI(uri) = name else {
            return None;
        };
        uri.strip_prefix("muster-ca://")
    });
    let site = site.ok_or_else(refused)?;
    Identity::new(Role::SiteServer, site, "ca")
        .map(|identity| identity.site)
        .map_err(|error: InvalidIdentity| error.into())
}

/// Replaces a file so that a reader sees the old one or the new one, never half of one.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let _ = fs::remove_file(&temporary);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .map_err(failed)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}

#[cfg(test)]
mod tests;
