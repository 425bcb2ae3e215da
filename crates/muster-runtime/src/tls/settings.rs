//! The two ends of a TLS connection, made from files and made anew when the files change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::Error;
use super::pinned::OneAuthority;
use crate::config::TlsConfig;

/// How often the files are looked at, at most.
const CHECK: Duration = Duration::from_secs(1);

/// Whether a server insists on a client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate, no connection.
    Required,
    /// A peer without a certificate may connect and is nobody; a certificate that is shown must
    /// be good. For the management point, where a new client enrols.
    Optional,
}

/// Which HTTP versions a server offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/2 only: gRPC.
    Http2,
    /// HTTP/2 and HTTP/1.1: content.
    Http2AndHttp1,
}

/// The server end: TLS 1.3 with our certificate, peers verified against the site CA.
#[derive(Debug)]
pub struct ServerTls(Reloading<ServerConfig>);

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// When a file is missing or broken, or key and certificate do not belong together.
    pub fn new(files: &TlsConfig, auth: ClientAuth, alpn: Alpn) -> Result<Self, Error> {
        let files = files.clone();
        let watched = vec![files.ca.clone(), files.cert.clone(), files.key.clone()];
        Reloading::new(watched, move || server_config(&files, auth, alpn)).map(Self)
    }

    /// The settings as the files are now. When new files are broken, the last good ones stay in
    /// force and a warning is logged.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        self.0.current()
    }
}

/// The client end: TLS 1.3, the server verified against the site CA and by its name.
#[derive(Debug)]
pub struct ClientTls(Reloading<ClientConfig>);

impl ClientTls {
    /// Connects with our own certificate.
    ///
    /// # Errors
    /// When a file is missing or broken, or key and certificate do not belong together.
    pub fn new(files: &TlsConfig) -> Result<Self, Error> {
        let files = files.clone();
        let watched = vec![files.ca.clone(), files.cert.clone(), files.key.clone()];
        Reloading::new(watched, move || {
            client_config(&files.ca, Some((&files.cert, &files.key)))
        })
        .map(Self)
    }

    /// Connects as nobody, which only an enrolment may do. The server is still verified.
    ///
    /// # Errors
    /// When the file is missing or broken.
    pub fn without_certificate(ca: &Path) -> Result<Self, Error> {
        let ca = ca.to_owned();
        Reloading::new(vec![ca.clone()], move || client_config(&ca, None)).map(Self)
    }

    /// Connects as nobody to who is certified by the one authority with this fingerprint (SHA-256 of
    /// its certificate), which the server must show. For a site that has only a token yet.
    ///
    /// # Errors
    /// When the settings cannot be made.
    pub fn pinned(authority: [u8; 32]) -> Result<Self, Error> {
        Reloading::new(Vec::new(), move || {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let verifier = OneAuthority::new(authority, Arc::clone(&provider));
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&TLS13])?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth();
            config.alpn_protocols = vec![b"h2".to_vec()];
            Ok(config)
        })
        .map(Self)
    }

    /// As [`ClientTls::new`], from PEM instead of files.
    ///
    /// # Errors
    /// When one is broken, or key and certificate do not belong together.
    pub fn from_pem(ca: &str, cert: &str, key: &str) -> Result<Self, Error> {
        let (ca, cert, key) = (ca.to_owned(), cert.to_owned(), key.to_owned());
        Reloading::new(Vec::new(), move || {
            let broken = |source| Error::Read {
                path: PathBuf::from("PEM"),
                source,
            };
            let all = |pem: &str| -> Result<Vec<_>, Error> {
                CertificateDer::pem_slice_iter(pem.as_bytes())
                    .collect::<Result<_, _>>()
                    .map_err(broken)
            };
            let mut roots = RootCertStore::empty();
            for authority in all(&ca)? {
                roots.add(authority)?;
            }
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(broken)?;
            client_settings(roots, Some((all(&cert)?, key)))
        })
        .map(Self)
    }

    /// The settings as the files are now (see [`ServerTls::current`]).
    #[must_use]
    pub fn current(&self) -> Arc<ClientConfig> {
        self.0.current()
    }
}

fn server_config(files: &TlsConfig, auth: ClientAuth, alpn: Alpn) -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = Arc::new(roots(&files.ca)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
    let verifier = match auth {
        ClientAuth::Required => verifier,
        ClientAuth::Optional => verifier.allow_unauthenticated(),
    }
    .build()?;
    let mut chain = certificates(&files.cert)?;
    if auth == ClientAuth::Optional {
        show_authority(&mut chain, certificates(&files.ca)?);
    }
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key(&files.key)?)?;
    config.alpn_protocols = match alpn {
        Alpn::Http2 => vec![b"h2".to_vec()],
        Alpn::Http2AndHttp1 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    // Nothing is done before the handshake is complete: early data can be replayed.
    config.max_early_data_size = 0;
    Ok(config)
}

/// Adds the authority that issued our certificate: who is nobody yet may know only its fingerprint.
fn show_authority(chain: &mut Vec<CertificateDer<'static>>, known: Vec<CertificateDer<'static>>) {
    let issuer = chain.last().and_then(|last| names(last)).map(|(_, it)| it);
    let authority = known
        .into_iter()
        .find(|it| issuer.is_some() && names(it).map(|(subject, _)| subject) == issuer);
    if let Some(authority) = authority.filter(|it| !chain.contains(it)) {
        chain.push(authority);
    }
}

/// Subject and issuer of a certificate, as they are encoded.
fn names(certificate: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = |name: &X509Name<'_>| name.as_raw().to_vec();
    Some((name(certificate.subject()), name(certificate.issuer())))
}

type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_config(ca: &Path, own: Option<(&PathBuf, &PathBuf)>) -> Result<ClientConfig, Error> {
    let own = match own {
        Some((cert, path)) => Some((certificates(cert)?, key(path)?)),
        None => None,
    };
    client_settings(roots(ca)?, own)
}

fn client_settings(roots: RootCertStore, own: Option<Own>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_webpki_verifier(verifier);
    let mut config = match own {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let failed = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(failed)?;
    if found.is_empty() {
        return Err(Error::Empty {
            path: path.to_owned(),
        });
    }
    Ok(found)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// What a file looked like: enough to see that it was replaced.
type Stamp = Option<(SystemTime, u64)>;

type Build<T> = Box<dyn Fn() -> Result<T, Error> + Send + Sync>;

/// A value made from files. Looking costs three `stat` calls per second at most.
struct Reloading<T> {
    files: Vec<PathBuf>,
    build: Build<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    looked: Instant,
    stamps: Vec<Stamp>,
    value: Arc<T>,
}

impl<T> std::fmt::Debug for Reloading<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloading")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl<T> Reloading<T> {
    fn new(
        files: Vec<PathBuf>,
        build: impl Fn() -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let stamps = stamps(&files);
        let value = Arc::new(build()?);
        let state = Mutex::new(State {
            looked: Instant::now(),
            stamps,
            value,
        });
        Ok(Self {
            files,
            build: Box::new(build),
            state,
        })
    }

    fn current(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= CHECK {
            state.looked = Instant::now();
            // Stamped before reading: a change during the read is seen at the next look.
            let stamps = stamps(&self.files);
            if stamps != state.stamps {
                match (self.build)() {
                    Ok(value) => {
                        tracing::info!(files = ?self.files, "certificates reloaded");
                        state.value = Arc::new(value);
                        state.stamps = stamps;
                    }
                    // Certificate and key are two files, so half a renewal is seen now and
                    // then: try again at the next look.
                    Err(error) => tracing::warn!(
                        error = %crate::status::chain(&error),
                        "new certificates are not usable, keeping the old ones"
                    ),
                }
            }
        }
        Arc::clone(&state.value)
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    files
        .iter()
        .map(|file| {
            let metadata = std::fs::metadata(file).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again_and_a_broken_one_is_not_used() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        std::fs::write(&path, "one").unwrap();
        let source = path.clone();
        let value = Reloading::new(vec![path.clone()], move || {
            let text = std::fs::read_to_string(&source).unwrap();
            if text == "broken" {
                Err(Error::Request("broken"))
            } else {
                Ok(text)
            }
        })
        .unwrap();
        let look = |text: &str| {
            std::fs::write(&path, text).unwrap();
            value.state.lock().unwrap().looked = Instant::now() - CHECK;
            value.current().as_ref().clone()
        };
        assert_eq!(look("second"), "second");
        assert_eq!(look("broken"), "second");
        assert_eq!(look("three"), "three");
    }
}
