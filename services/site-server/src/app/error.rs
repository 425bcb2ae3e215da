//! What can go wrong in a use case. One word, the kind, decides what happens with it.

use std::time::Duration;

use muster_runtime::status::{HasKind, Kind};
use tonic::Status;

/// A use case failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The request can never succeed as it is.
    #[error("{message}")]
    Invalid {
        reason: &'static str,
        message: String,
    },
    /// What the request names does not exist.
    #[error("{message}")]
    NotFound {
        reason: &'static str,
        message: String,
    },
    /// A name is taken.
    #[error("there is a {what} named {name:?} already")]
    Exists { what: &'static str, name: String },
    /// A site code is taken in this hierarchy.
    #[error("there is a site {code} in this hierarchy already")]
    SiteExists { code: String },
    /// The request contradicts the present state.
    #[error("{message}")]
    Conflict {
        reason: &'static str,
        message: String,
    },
    /// The caller may not do this.
    #[error("{message}")]
    Denied {
        reason: &'static str,
        message: String,
    },
    /// The database failed or is away.
    #[error(transparent)]
    Database(#[from] muster_postgres::Error),
    /// The broker failed or is away.
    #[error("the broker is away")]
    Broker(#[from] muster_rabbitmq::Error),
    /// Another service refused or is away.
    #[error("the {role} did not answer as expected")]
    Service {
        role: &'static str,
        source: Box<Status>,
    },
    /// A certificate could not be issued.
    #[error("cannot issue a certificate")]
    Certificate(#[from] muster_runtime::tls::Error),
    /// What is asked for is being put together.
    #[error("not known yet")]
    NotYet,
    /// Our own fault.
    #[error("{0}")]
    Internal(&'static str),
}

impl Error {
    pub(crate) fn invalid(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid {
            reason,
            message: message.into(),
        }
    }

    pub(crate) fn not_found(reason: &'static str, message: impl Into<String>) -> Self {
        Self::NotFound {
            reason,
            message: message.into(),
        }
    }

    pub(crate) fn conflict(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Conflict {
            reason,
            message: message.into(),
        }
    }

    pub(crate) fn denied(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Denied {
            reason,
            message: message.into(),
        }
    }

    pub(crate) fn service(role: &'static str) -> impl FnOnce(Status) -> Self {
        move |source| Self::Service {
            role,
            source: Box::new(source),
        }
    }

    /// Whether a value, not the state of the database, made a statement fail: the same bytes will
    /// fail again (SQLSTATE classes 21, 22 and 23).
    pub(crate) fn is_data_error(&self) -> bool {
        let Self::Database(muster_postgres::Error::Sql(error)) = self else {
            return false;
        };
        let class = error.code().and_then(|state| state.code().get(..2));
        matches!(class, Some("21" | "22" | "23"))
    }

    /// Turns a violated unique constraint into "the name is taken".
    pub(crate) fn taken(self, what: &'static str, name: &str) -> Self {
        use tokio_postgres::error::SqlState;
        if let Self::Database(muster_postgres::Error::Sql(error)) = &self
            && error.code() == Some(&SqlState::UNIQUE_VIOLATION)
        {
            return Self::Exists {
                what,
                name: name.to_owned(),
            };
        }
        self
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<deadpool_postgres::PoolError> for Error {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        Self::Database(error.into())
    }
}

impl From<muster_proto::convert::InvalidField> for Error {
    fn from(error: muster_proto::convert::InvalidField) -> Self {
        Self::invalid("INVALID_FIELD", error.to_string())
    }
}

impl From<muster_domain::ids::InvalidId> for Error {
    fn from(error: muster_domain::ids::InvalidId) -> Self {
        Self::invalid("INVALID_ID", error.to_string())
    }
}

impl HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Invalid { .. } => Kind::Invalid,
            Self::NotFound { .. } => Kind::NotFound,
            Self::Exists { .. } | Self::SiteExists { .. } | Self::Conflict { .. } => Kind::Conflict,
            Self::Denied { .. } => Kind::Denied,
            Self::Database(error) => error.kind(),
            Self::Broker(_) | Self::Service { .. } | Self::NotYet => Kind::Unavailable,
            // A signing request that is refused is the caller's.
            Self::Certificate(muster_runtime::tls::Error::Request(_)) => Kind::Invalid,
            Self::Certificate(_) | Self::Internal(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid { reason, .. }
            | Self::NotFound { reason, .. }
            | Self::Conflict { reason, .. }
            | Self::Denied { reason, .. } => reason,
            Self::Exists { .. } => "ALREADY_EXISTS",
            Self::SiteExists { .. } => "DUPLICATE_SITE_CODE",
            Self::Database(error) => error.reason(),
            Self::Broker(_) => "BROKER_UNAVAILABLE",
            Self::Service { .. } => "SERVICE_UNAVAILABLE",
            Self::NotYet => "NOT_YET",
            Self::Certificate(muster_runtime::tls::Error::Request(_)) => "INVALID_CSR",
            Self::Certificate(_) | Self::Internal(_) => "INTERNAL",
        }
    }

    fn retry_delay(&self) -> Option<Duration> {
        None
    }
}
