//! What can go wrong, and what the client does about it.

use std::time::Duration;

use muster_runtime::status::{HasKind, Kind};

use crate::domain::report::Refused;

/// Why a call was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A report does not pass.
    #[error(transparent)]
    Report(#[from] Refused),
    /// A field is not what it should be.
    #[error("{0}")]
    Invalid(&'static str),
    /// The certificate does not name a client of this site.
    #[error("the certificate does not name a client of this site")]
    NotAClient,
    /// The certificate is that of a deleted client.
    #[error("this client was deleted")]
    Blocked,
    /// The client has another certificate by now.
    #[error("another certificate took the place of this one")]
    Replaced,
    /// A client reports far too often.
    #[error("too many reports of one client")]
    TooManyReports(Duration),
    /// Too many reports wait for the broker.
    #[error("too many reports are waiting")]
    CollectorFull(Duration),
    /// The broker takes no more of them.
    #[error("too many reports are waiting in the broker")]
    BrokerFull(Duration, #[source] Arced),
    /// The broker did not confirm.
    #[error("the broker has not confirmed the reports")]
    Broker(#[source] Arced),
    /// Our own end is coming.
    #[error("shutting down")]
    Stopping,
    /// Too many enrolments.
    #[error("too many enrolments, come back later")]
    TooManyEnrolments(Duration),
    /// The site server is away, or does not know us.
    #[error("the site server does not answer")]
    Site(#[source] Box<tonic::Status>),
    /// The site server refused the client's call.
    #[error("{message}")]
    Refused {
        kind: Kind,
        reason: &'static str,
        message: String,
    },
}

/// One failure of the broker, told to every report that was in the message.
pub(crate) type Arced = std::sync::Arc<muster_rabbitmq::Error>;

/// Clients that found something away come back after this, and their own jitter.
const WHEN_AWAY: Duration = Duration::from_secs(10);

impl HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Report(Refused::Foreign) | Self::NotAClient | Self::Blocked | Self::Replaced => {
                Kind::Denied
            }
            Self::Report(_) | Self::Invalid(_) => Kind::Invalid,
            Self::CollectorFull(_)
            | Self::BrokerFull(..)
            | Self::TooManyReports(_)
            | Self::TooManyEnrolments(_) => Kind::Exhausted,
            // Whatever is wrong between us and the broker, the client keeps its reports.
            Self::Broker(error) => match error.kind() {
                Kind::Exhausted => Kind::Exhausted,
                Kind::Invalid
                | Kind::NotFound
                | Kind::Conflict
                | Kind::Denied
                | Kind::Unavailable
                | Kind::Internal => Kind::Unavailable,
            },
            Self::Stopping | Self::Site(_) => Kind::Unavailable,
            Self::Refused { kind, .. } => *kind,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Report(Refused::Foreign) => "FOREIGN_CLIENT",
            Self::Report(Refused::Undecodable) => "UNDECODABLE_REPORT",
            Self::Report(Refused::TooLarge) => "REPORT_TOO_LARGE",
            Self::Report(Refused::Count) => "REPORT_COUNT",
            Self::Report(Refused::Field(_)) | Self::Invalid(_) => "INVALID_FIELD",
            Self::NotAClient => "NOT_A_CLIENT",
            Self::Blocked => "CLIENT_BLOCKED",
            Self::Replaced => "CERTIFICATE_REPLACED",
            Self::TooManyReports(_) => "TOO_MANY_REPORTS",
            Self::CollectorFull(_) => "COLLECTOR_FULL",
            Self::Broker(error) | Self::BrokerFull(_, error) => error.reason(),
            Self::Stopping => "STOPPING",
            Self::TooManyEnrolments(_) => "TOO_MANY_ENROLMENTS",
            Self::Site(_) => "SITE_SERVER_UNAVAILABLE",
            Self::Refused { reason, .. } => reason,
        }
    }

    fn retry_delay(&self) -> Option<Duration> {
        match self {
            Self::CollectorFull(delay)
            | Self::BrokerFull(delay, _)
            | Self::TooManyReports(delay)
            | Self::TooManyEnrolments(delay) => Some(*delay),
            Self::Broker(_) => Some(WHEN_AWAY),
            Self::Site(_) => Some(WHEN_AWAY),
            Self::Report(_)
            | Self::Invalid(_)
            | Self::NotAClient
            | Self::Blocked
            | Self::Replaced
            | Self::Stopping
            | Self::Refused { .. } => None,
        }
    }
}
