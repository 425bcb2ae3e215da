//! What can go wrong between a service and the broker.

use muster_runtime::status::{HasKind, Kind};

/// A message was not taken, or the broker could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration names no usable broker.
    #[error("invalid broker configuration: {0}")]
    Config(&'static str),
    /// The password could not be read.
    #[error(transparent)]
    Secret(#[from] muster_runtime::config::Error),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] muster_runtime::tls::Error),
    /// Too many messages are under way: nothing was sent.
    #[error("too many messages are waiting for the broker")]
    Busy,
    /// The broker refused the message, because the queue is full: it does not have it.
    #[error("the queue {queue:?} is full")]
    Full {
        /// Name of the queue.
        queue: String,
    },
    /// There is no such queue: the broker does not have the message.
    #[error("there is no queue {queue:?}")]
    Unroutable {
        /// Name of the queue.
        queue: String,
    },
    /// The message can never be sent.
    #[error(
        "a message of {bytes} bytes is too long, {} are allowed",
        crate::MAX_BODY
    )]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// There is no connection, or it was lost before the confirm came. Whether the broker has the
    /// message is unknown: send it again, its receiver drops what it has.
    #[error("the broker is not available: {0}")]
    Unavailable(&'static str),
    /// The management interface refused.
    #[error("the broker's management interface answered {status}: {answer}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The beginning of what it said.
        answer: String,
    },
    /// The management interface could not be used.
    #[error("the broker's management interface is not available")]
    Http(#[from] reqwest::Error),
    /// The broker or the connection failed.
    #[error("the broker failed")]
    Amqp(#[from] lapin::Error),
}

impl HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Config(_) | Self::Secret(_) | Self::Tls(_) => Kind::Internal,
            Self::Busy | Self::Full { .. } => Kind::Exhausted,
            Self::TooLarge { .. } => Kind::Invalid,
            // A missing queue is a mistake of ours; the caller must keep its data meanwhile.
            Self::Unroutable { .. }
            | Self::Unavailable(_)
            | Self::Refused { .. }
            | Self::Http(_)
            | Self::Amqp(_) => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Config(_) | Self::Secret(_) | Self::Tls(_) => "BROKER_CONFIGURATION",
            Self::Busy => "BROKER_BUSY",
            Self::Full { .. } => "QUEUE_FULL",
            Self::TooLarge { .. } => "MESSAGE_TOO_LARGE",
            Self::Unroutable { .. } => "QUEUE_MISSING",
            Self::Refused { .. } => "BROKER_REFUSED",
            Self::Unavailable(_) | Self::Http(_) | Self::Amqp(_) => "BROKER_UNAVAILABLE",
        }
    }
}
