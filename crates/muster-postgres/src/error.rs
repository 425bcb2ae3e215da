//! What can go wrong between a service and its database.

use deadpool_postgres::{BuildError, PoolError};
use muster_runtime::status::{HasKind, Kind};
use tokio_postgres::error::SqlState;

/// A database could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration names no usable database.
    #[error("invalid database configuration: {0}")]
    Config(&'static str),
    /// The password could not be read.
    #[error(transparent)]
    Secret(#[from] muster_runtime::config::Error),
    /// Certificates or keys cannot be used.
    #[error("no certificates for the database")]
    Tls(#[from] muster_runtime::tls::Error),
    /// The pool could not be made.
    #[error("cannot make a connection pool")]
    Pool(#[from] BuildError),
    /// There was no connection to be had.
    #[error("no database connection")]
    Connection(#[from] PoolError),
    /// The server refused a statement, or went away.
    #[error("the database failed")]
    Sql(#[from] tokio_postgres::Error),
    /// A migration failed.
    #[error("cannot migrate the database")]
    Migration(#[from] Box<refinery::Error>),
    /// The server may lose what it acknowledged.
    #[error("the database server is not durable: {name} is {value:?}, it must be {wanted}")]
    NotDurable {
        /// The server's setting.
        name: String,
        /// Its value.
        value: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// The connection ended while it was needed.
    #[error("the database connection ended")]
    Closed,
    /// Another process holds the lease by now; what this one does no longer counts.
    #[error("the lease {name:?} with fence {fence} is lost")]
    LeaseLost {
        /// Name of the lease.
        name: String,
        /// Our fencing number.
        fence: i64,
    },
}

impl HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Connection(_) | Self::Closed | Self::LeaseLost { .. } => Kind::Unavailable,
            Self::Sql(error) if is_retryable(error) => Kind::Unavailable,
            Self::Config(_)
            | Self::Secret(_)
            | Self::Tls(_)
            | Self::Pool(_)
            | Self::Sql(_)
            | Self::Migration(_)
            | Self::NotDurable { .. } => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self.kind() {
            Kind::Unavailable => "DATABASE_UNAVAILABLE",
            Kind::Invalid
            | Kind::NotFound
            | Kind::Conflict
            | Kind::Denied
            | Kind::Exhausted
            | Kind::Internal => "DATABASE_ERROR",
        }
    }
}

/// Whether the same transaction may succeed when it is run again: the connection was lost, the
/// server starts, stops or is out of something, or two transactions met. A lost connection
/// during COMMIT also counts: the outcome is unknown, and our transactions may be repeated.
#[must_use]
pub fn is_retryable(error: &tokio_postgres::Error) -> bool {
    let Some(state) = error.code() else {
        // Not an answer of the server, so a matter of the connection; except when we ourselves
        // read or wrote a value of the wrong type.
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            if inner.is::<tokio_postgres::types::WrongType>() {
                return false;
            }
            if inner.is::<std::io::Error>() {
                return true;
            }
            cause = inner.source();
        }
        return error.is_closed();
    };
    // 08 connection, 53 insufficient resources, 57P operator intervention, 58 system error.
    let class = state.code().get(..2).unwrap_or_default();
    matches!(class, "08" | "53" | "58")
        || state.code().starts_with("57P")
        || [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ]
        .contains(state)
}
