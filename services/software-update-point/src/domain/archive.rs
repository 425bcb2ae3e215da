//! The signed files of an archive: what was accepted, and what belongs to a generation.

use jiff::Timestamp;

/// What was last accepted of a suite.
#[derive(Debug, Clone)]
pub(crate) struct SuiteState {
    pub(crate) followed_as: String,
    pub(crate) release_date: Timestamp,
    pub(crate) valid_until: Option<Timestamp>,
    pub(crate) not_automatic: bool,
    pub(crate) fully_applied: bool,
    pub(crate) inrelease_sha256: [u8; 32],
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
    pub(crate) snapshot: SuiteSnapshot,
}

/// The signed files of a suite.
#[derive(Debug, Clone)]
pub(crate) struct SuiteSnapshot {
    pub(crate) archive_uri: String,
    pub(crate) suite: String,
    pub(crate) components: Vec<String>,
    pub(crate) architectures: Vec<String>,
    pub(crate) signed_by: String,
    pub(crate) ignore_valid_until: bool,
    pub(crate) files: Vec<SignedFile>,
}

/// A file below `dists/<suite>/`.
#[derive(Debug, Clone)]
pub(crate) struct SignedFile {
    pub(crate) path: String,
    pub(crate) sha256: [u8; 32],
    pub(crate) size: u64,
}
