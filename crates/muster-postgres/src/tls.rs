//! TLS to a server elsewhere: 1.3 only, its certificate verified against the configured authority
//! and by its name, ours shown when it asks.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use muster_runtime::config::TlsConfig;
use muster_runtime::tls::ClientTls;
use tokio_postgres::Socket;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::Error;

/// The protocol's name in the handshake: a server that speaks another one and trusts the same
/// authority is not taken for a database.
const ALPN: &[u8] = b"postgresql";

type Rustls = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;
type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// Makes a connection's TLS from the files as they are at that moment. Without files it makes
/// none: that is for sockets, which never get so far as to want it.
#[derive(Clone)]
pub(crate) struct Tls(Option<Arc<ClientTls>>);

impl Tls {
    pub(crate) fn new(files: Option<&TlsConfig>) -> Result<Self, Error> {
        let tls = files.map(ClientTls::new).transpose()?;
        Ok(Self(tls.map(Arc::new)))
    }
}

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Stream;
    type TlsConnect = Connector;
    type Error = std::convert::Infallible;

    fn make_tls_connect(&mut self, host: &str) -> Result<Connector, Self::Error> {
        let Some(tls) = &self.0 else {
            return Ok(Connector(None));
        };
        let mut settings = tls.current().as_ref().clone();
        settings.alpn_protocols = vec![ALPN.to_vec()];
        let mut make = MakeRustlsConnect::new(settings);
        let connector =
            <MakeRustlsConnect as MakeTlsConnect<Socket>>::make_tls_connect(&mut make, host)?;
        Ok(Connector(Some(connector)))
    }
}

/// The TLS of one connection.
pub(crate) struct Connector(Option<Rustls>);

impl TlsConnect<Socket> for Connector {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            match self.0 {
                Some(rustls) => rustls.connect(socket).await,
                None => Err(io::Error::other("no certificates are configured")),
            }
        })
    }
}
