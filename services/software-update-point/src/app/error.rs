//! What can go wrong, and the stable words for it.

use muster_apt::index::Mismatch;
use muster_apt::openpgp::{KeyringError, Refused};
use muster_apt::release::{self, Stale};
use muster_runtime::status::{HasKind, Kind};

use crate::domain::replica;
use crate::store::upstream::FetchError;

/// A call cannot be answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Database(#[from] muster_postgres::Error),
    #[error("cannot read or write {what}")]
    File {
        what: &'static str,
        source: std::io::Error,
    },
    #[error("synchronisation {0} is not known")]
    UnknownSync(u64),
    #[error("generation {0} is not held")]
    UnknownSnapshot(u64),
    #[error("this file is not held")]
    UnknownArtifact,
    #[error("there is no catalog yet")]
    NoCatalog,
    #[error("generation {0} is not known here: start again from 0, or ask another server")]
    GenerationUnknown(u64),
    #[error("{0}")]
    Invalid(String),
}

impl HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Database(error) => error.kind(),
            Self::File { .. } => Kind::Internal,
            Self::UnknownSync(_) | Self::UnknownSnapshot(_) | Self::UnknownArtifact => {
                Kind::NotFound
            }
            Self::NoCatalog | Self::GenerationUnknown(_) => Kind::Conflict,
            Self::Invalid(_) => Kind::Invalid,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Database(error) => error.reason(),
            Self::File { .. } => "FILE_ERROR",
            Self::UnknownSync(_) => "UNKNOWN_SYNC",
            Self::UnknownSnapshot(_) => "UNKNOWN_GENERATION",
            Self::UnknownArtifact => "UNKNOWN_ARTIFACT",
            Self::NoCatalog => "NO_CATALOG",
            Self::GenerationUnknown(_) => "GENERATION_UNKNOWN",
            Self::Invalid(_) => "INVALID_REQUEST",
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

/// A synchronisation failed: for which suite, and at which check.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {cause}")]
pub(crate) struct Failure {
    /// The suite, or the part of the work.
    pub(crate) place: String,
    #[source]
    pub(crate) cause: Cause,
}

/// The check that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error("the sources cannot be read: {0}")]
    Sources(String),
    #[error("{file} cannot be fetched: {source}")]
    Fetch { file: String, source: FetchError },
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Release(#[from] release::Error),
    #[error(transparent)]
    Stale(#[from] Stale),
    #[error("the release is for {got}, not for {wanted}")]
    OtherSuite { wanted: String, got: String },
    #[error("the release lists no index for {0}")]
    NoIndex(String),
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    #[error("{file} ends too early")]
    Truncated { file: String },
    #[error("{file} cannot be decompressed: {reason}")]
    Unreadable { file: String, reason: String },
    #[error("this site has no parent to follow")]
    NoParent,
    #[error("the software update point of the parent site is not reached: {0}")]
    Parent(String),
    #[error("what the parent sends makes no sense: {0}")]
    Malformed(String),
    #[error(transparent)]
    Replica(#[from] replica::Refusal),
    #[error("another software update point recorded a synchronisation meanwhile")]
    Overtaken,
    #[error("the process is stopping")]
    Stopping,
    #[error("{0}")]
    Own(Error),
}

impl Cause {
    /// Names the suite it is about.
    pub(crate) fn at(self, place: impl Into<String>) -> Failure {
        Failure {
            place: place.into(),
            cause: self,
        }
    }
}

impl Failure {
    /// A stable word for programs and reports.
    pub(crate) fn reason(&self) -> &'static str {
        match &self.cause {
            Cause::Sources(_) => "SOURCES_UNREADABLE",
            Cause::Fetch {
                source: FetchError::Mismatch(mismatch),
                ..
            }
            | Cause::Mismatch(mismatch) => mismatch_reason(mismatch),
            Cause::Fetch { .. } => "FETCH_FAILED",
            Cause::Keyring(_) => "KEYRING_UNUSABLE",
            Cause::Refused(refused) => refused.reason(),
            Cause::Release(_) => "RELEASE_MALFORMED",
            Cause::Stale(Stale::Expired { .. }) => "RELEASE_EXPIRED",
            Cause::Stale(Stale::Rollback { .. }) => "RELEASE_OLDER",
            Cause::Stale(Stale::Future { .. }) => "RELEASE_FROM_FUTURE",
            Cause::OtherSuite { .. } => "RELEASE_OTHER_SUITE",
            Cause::NoIndex(_) => "INDEX_MISSING",
            Cause::Truncated { .. } => "INDEX_TRUNCATED",
            Cause::Unreadable { .. } => "INDEX_UNREADABLE",
            Cause::NoParent => "NO_PARENT",
            Cause::Parent(_) => "PARENT_UNAVAILABLE",
            Cause::Malformed(_) => "PARENT_MALFORMED",
            Cause::Replica(refusal) => refusal.reason(),
            Cause::Overtaken => "OVERTAKEN",
            Cause::Stopping => "STOPPING",
            Cause::Own(error) => error.reason(),
        }
    }
}

fn mismatch_reason(mismatch: &Mismatch) -> &'static str {
    match mismatch {
        Mismatch::Size {
            expected, actual, ..
        } if actual < expected => "INDEX_TRUNCATED",
        Mismatch::Size { .. } => "INDEX_SIZE_MISMATCH",
        Mismatch::Hash { .. } => "INDEX_HASH_MISMATCH",
        Mismatch::Bomb { .. } | Mismatch::Ratio { .. } => "DECOMPRESSION_LIMIT",
    }
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Cause::Own(error.into()).at("the catalog")
    }
}
