//! What can go wrong, and what the caller does about it.

use muster_runtime::status::{HasKind, Kind};

use crate::store;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A field is not what it should be.
    #[error("{0}")]
    Invalid(String),
    /// There is no room for this many files.
    #[error("{0}")]
    Full(&'static str),
    /// Another publication is under way.
    #[error("another publication is under way")]
    Publishing,
    /// The software update point does not answer, or no longer holds the file.
    #[error("cannot read {path} from the software update point")]
    Upstream {
        path: String,
        source: Box<tonic::Status>,
    },
    /// The address of the software update point cannot be used.
    #[error("cannot reach the software update point")]
    Channel(#[from] muster_runtime::grpc::Error),
    /// A file of a snapshot is not what its name says.
    #[error("{path} is not what the snapshot says: {why}")]
    Altered { path: String, why: store::Refused },
    /// The disk.
    #[error("the content store failed")]
    Store(#[from] store::Error),
    /// The work was cut off by our own end.
    #[error("shutting down")]
    Stopping,
}

impl HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Invalid(_) => Kind::Invalid,
            Self::Full(_) => Kind::Exhausted,
            Self::Publishing | Self::Upstream { .. } | Self::Channel(_) | Self::Stopping => {
                Kind::Unavailable
            }
            Self::Altered { .. } => Kind::Conflict,
            Self::Store(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "INVALID_FIELD",
            Self::Full(_) => "CONTENT_FULL",
            Self::Publishing => "PUBLICATION_RUNNING",
            Self::Upstream { .. } | Self::Channel(_) => "SOFTWARE_UPDATE_POINT_UNAVAILABLE",
            Self::Altered { .. } => "FILE_ALTERED",
            Self::Store(_) => "STORE_FAILED",
            Self::Stopping => "STOPPING",
        }
    }
}
