//! gRPC between Muster's processes: [`Server`] and [`channel()`], with TLS, limits, authorisation,
//! traces and metrics in place, so that a handler holds nothing but its use case.

mod channel;
mod gate;
mod server;

pub use channel::{
    Channel, ChannelOptions, channel, channel_pinned, channel_with, channel_without_certificate,
    is_foreign,
};
pub use server::{Handle, Limits, Server, ServerConfig};

/// Largest message in either direction, in bytes (tonic's own default for decoding, fixed here
/// because documents and tests name it). Longer lists are paged or streamed.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// A gRPC server or channel could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, or not ours.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address of the configuration.
        addr: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Certificates or key cannot be used.
    #[error(transparent)]
    Tls(#[from] crate::tls::Error),
    /// The descriptors for reflection cannot be used.
    #[error("invalid service descriptors")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The address of a channel is not `https://host:port`.
    #[error("{0:?} is not an address like https://host:port")]
    Endpoint(String),
}
