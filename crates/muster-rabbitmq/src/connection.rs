//! One connection to the broker, over the site's TLS or on loopback.

use std::time::Duration;

use lapin::tcp::{AMQPUriTcpExt, RustlsConnector, TLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};

use crate::{Config, Error};

/// Time for TCP, TLS and the AMQP handshake.
const CONNECT: Duration = Duration::from_secs(15);
/// Time for saying goodbye.
const CLOSE: Duration = Duration::from_secs(2);

/// Opens a connection. It does not recover by itself and nothing on it is bounded: services use
/// [`crate::Publisher`] and [`crate::consume`], this is for who measures the bare broker.
///
/// # Errors
/// When the configuration cannot be used or the broker does not let us in.
pub async fn open(config: &Config, purpose: &str) -> Result<Connection, Error> {
    let uri = config.address()?;
    let properties = ConnectionProperties::default()
        .with_connection_name(format!("muster {purpose} ({})", config.user).into());
    let tls = config.client_tls()?;
    let runtime = lapin::runtime::default_runtime()?;
    let connect = Connection::connector(
        uri,
        runtime,
        async move |uri: AMQPUri, runtime| {
            // lapin's own TLS would trust every authority of the machine and accept TLS 1.2, so
            // it opens a plain socket, and our settings encrypt it.
            let plain = AMQPUri {
                scheme: AMQPScheme::AMQP,
                ..uri.clone()
            };
            let socket = plain
                .connect_with_config_async(TLSConfig::default(), &runtime)
                .await?;
            let Some(tls) = &tls else { return Ok(socket) };
            let mut settings = tls.current().as_ref().clone();
            settings.alpn_protocols.clear();
            let connector = RustlsConnector::from(settings);
            Ok(socket.into_rustls(&connector, &uri.authority.host).await?)
        },
        properties,
    );
    match tokio::time::timeout(CONNECT, connect).await {
        Ok(connection) => Ok(connection?),
        Err(_) => Err(Error::Unavailable("it does not answer")),
    }
}

/// Says goodbye. Whoever does not answer is left alone.
pub(crate) async fn close(connection: &Connection) {
    let _ = tokio::time::timeout(CLOSE, connection.close(200, "OK".into())).await;
}
