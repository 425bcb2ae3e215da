//! What can go wrong in the agent, and the failures of an update that it reports.

use std::path::PathBuf;

use muster_domain::error_code;

/// An operation of the agent failed. What fails for one update is a [`Failure`] instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the state folder could not be used.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The agent's own database failed.
    #[error("the agent's database failed")]
    Database(#[from] rusqlite::Error),
    /// Pages of the database are not what was written.
    #[error("the agent's database is damaged: {0}")]
    Damaged(String),
    /// The database is newer than this program.
    #[error("the state folder was used by a newer agent (schema {found}, this one knows {known})")]
    NewerSchema {
        /// `PRAGMA user_version` of the file.
        found: i64,
        /// The newest that this program has.
        known: i64,
    },
    /// Something that was saved cannot be read back.
    #[error("saved {what} cannot be read")]
    Saved {
        /// What it is.
        what: &'static str,
    },
    /// The machine is not enrolled.
    #[error("this machine is not enrolled, use `muster-agent enrol`")]
    NotEnrolled,
    /// The machine is enrolled already.
    #[error("this state folder is enrolled already, as client {0}")]
    AlreadyEnrolled(muster_domain::ClientId),
    /// A certificate or key could not be made or used.
    #[error("cannot set up the client certificate: {0}")]
    Certificate(String),
    /// A channel could not be set up.
    #[error(transparent)]
    Channel(#[from] muster_runtime::grpc::Error),
    /// The TLS files of this client cannot be used.
    #[error(transparent)]
    Tls(#[from] muster_runtime::tls::Error),
    /// The HTTP client could not be set up.
    #[error("cannot set up the HTTP client")]
    Http(#[from] reqwest::Error),
    /// A server answered with an error, or none answered.
    #[error("{what}: {}", .status.message())]
    Call {
        /// What was asked for.
        what: &'static str,
        /// The answer.
        status: Box<tonic::Status>,
    },
    /// No address of such a server is known.
    #[error("no {0} is known")]
    NoServer(&'static str),
    /// An answer breaks the contract.
    #[error("an answer of the site is not valid: {0}")]
    Answer(String),
    /// A policy was not accepted.
    #[error("policy refused: {0}")]
    PolicyRefused(#[from] crate::policy::Refused),
    /// Another process of the agent installs on this machine right now.
    #[error("another muster-agent is installing")]
    Busy,
    /// Tests ask for this: everything after it fails as if the process had been killed.
    #[error("simulated crash")]
    Crashed,
}

impl Error {
    /// For `map_err` on I/O.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    /// For `map_err` on calls.
    pub(crate) fn call(what: &'static str) -> impl FnOnce(tonic::Status) -> Self {
        move |status| Self::Call {
            what,
            status: Box::new(status),
        }
    }

    /// The stable reason word that a server sent, if the error is one of a server.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        muster_runtime::status::reason(self.status()?)
    }

    /// The gRPC code, if the error is one of a server.
    #[must_use]
    pub fn code(&self) -> Option<tonic::Code> {
        self.status().map(tonic::Status::code)
    }

    /// Whether a server of the site failed us, or none could be asked; not this machine.
    pub(crate) const fn is_of_the_site(&self) -> bool {
        matches!(
            self,
            Self::Call { .. }
                | Self::NoServer(_)
                | Self::Answer(_)
                | Self::Channel(_)
                | Self::Tls(_)
        )
    }

    /// What a server answered, if the error is one of a server.
    pub(crate) fn status(&self) -> Option<&tonic::Status> {
        if let Self::Call { status, .. } = self {
            Some(status)
        } else {
            None
        }
    }
}

/// Longest detail of a failure on the wire, in bytes (`UpdateEnforcementState.detail`).
pub const MAX_DETAIL: usize = 1_024;

/// Why an update was not downloaded or installed: a number of
/// [`muster_domain::error_code`], and words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The number.
    pub code: i32,
    /// What failed, at most [`MAX_DETAIL`] bytes.
    pub detail: String,
}

impl Failure {
    /// A failure with its detail cut to what a report can carry.
    pub fn new(code: i32, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: cut(detail.into()),
        }
    }

    /// Whether the package manager was at work for somebody else: not the update's fault.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        self.code == error_code::PACKAGE_MANAGER_BUSY
    }

    /// Whether no distribution point answered: not the update's fault either, and over when one
    /// is back.
    #[must_use]
    pub const fn is_away(&self) -> bool {
        self.code == error_code::CONTENT_UNREACHABLE
    }

    /// A failure of the disk while doing `what`.
    pub(crate) fn disk(what: &str, error: &std::io::Error) -> Self {
        let full = [
            std::io::ErrorKind::StorageFull,
            std::io::ErrorKind::QuotaExceeded,
        ];
        let code = if full.contains(&error.kind()) {
            error_code::DISK_FULL
        } else {
            error_code::INSTALL_FAILED
        };
        Self::new(code, format!("{what}: {error}"))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.detail, self.code)
    }
}

/// Cuts text for people at a character boundary, keeping the end of it out.
pub(crate) fn cut(mut text: String) -> String {
    if text.len() > MAX_DETAIL {
        let mut at = MAX_DETAIL - 3;
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.truncate(at);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_fits_a_report_and_stays_valid_text() {
        let failure = Failure::new(1, "ä".repeat(2_000));
        assert!(failure.detail.len() <= MAX_DETAIL);
        assert!(failure.detail.ends_with('…'));
    }
}
