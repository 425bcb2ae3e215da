//! RabbitMQ as Muster uses it: persistent messages in durable quorum queues, a publisher that
//! says yes only when the broker has the message on disk, and a consumer that acknowledges only
//! what its handler has made durable.
//!
//! Every connection is supervised by one task: when it is lost it is made anew for ever, with
//! jitter, and everything unacknowledged counts as unknown. lapin's own recovery stays off
//! (reliability.md 2.1). Names and arguments of the queues are in [`topology`].

mod config;
mod connection;
mod consumer;
mod describe;
mod error;
mod management;
mod message;
mod monitor;
mod publisher;
pub mod topology;

pub use config::{Config, ManagementConfig, Pem, Secrets};
pub use connection::open;
pub use consumer::{Batch, Declare, consume, consume_declared};
pub use error::Error;
pub use management::{Management, User, password_hash};
pub use message::{Delivery, Headers};
pub use monitor::{Depth, Monitor};
pub use publisher::Publisher;

/// Longest message body, in bytes: what one gRPC message may be.
pub const MAX_BODY: usize = 4 * 1024 * 1024;
