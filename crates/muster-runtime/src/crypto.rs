//! One crypto provider for the whole process: aws-lc-rs.

use rustls::crypto::CryptoProvider;

/// Makes aws-lc-rs the provider of every TLS user in this process that asks for the default one.
/// Call it first in `main`; calling it again changes nothing.
pub fn install() {
    // An error only says that a provider is installed already, and no other one is compiled in.
    let _ = CryptoProvider::install_default(rustls::crypto::aws_lc_rs::default_provider());
}
