//! A site's certificates in a folder that goes away with the test.

use std::path::Path;

use muster_runtime::config::TlsConfig;
use muster_runtime::tls::Role;
use muster_runtime::tls::ca::CertificateAuthority;
use tempfile::TempDir;

/// The CA of a site and the files it issues. Every certificate is good for `127.0.0.1` and
/// `localhost`.
#[derive(Debug)]
pub struct TestCa {
    folder: TempDir,
    ca: CertificateAuthority,
}

impl TestCa {
    /// The CA of the site `P01`.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn new() -> Self {
        Self::of_site("P01")
    }

    /// The CA of a site; of another one than `P01` to prove that its certificates are refused.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn of_site(code: &str) -> Self {
        muster_runtime::crypto::install();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ca = CertificateAuthority::create(&folder.path().join("ca"), code)
            .expect("a new certificate authority");
        Self { folder, ca }
    }

    /// The authority itself, to sign requests with.
    #[must_use]
    pub fn authority(&self) -> &CertificateAuthority {
        &self.ca
    }

    /// A new certificate for a role under a name.
    ///
    /// # Panics
    /// When the name is not one, or the files cannot be written.
    #[must_use]
    pub fn issue(&self, role: Role, name: &str) -> TlsConfig {
        self.ca
            .issue(role, name, &["127.0.0.1", "localhost"])
            .and_then(|it| {
                it.write(
                    self.folder.path(),
                    &format!("{role}-{name}"),
                    self.ca.path(),
                )
            })
            .unwrap_or_else(|error| panic!("no certificate for {role} {name}: {error}"))
    }

    /// Where the files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Default for TestCa {
    fn default() -> Self {
        Self::new()
    }
}
