//! A synchronisation: what it is, how far it got, and what it found.

use jiff::Timestamp;

/// semantics.md 2.6: `SELF.SYN` and `FULL.SYN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Manual: new updates only.
    Delta,
    /// Scheduled: new, modified and expired ones. Only this one expires.
    Full,
}

/// The status message ids of semantics.md 2.6. A software update point of this kind has no replicas
/// behind it, so 6706 does not occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// 6701
    Started,
    /// 6704
    Fetching,
    /// 6705
    Recording,
    /// 6702
    Done,
    /// 6703
    Failed,
}

impl Kind {
    pub(crate) fn code(self) -> i16 {
        match self {
            Self::Delta => 1,
            Self::Full => 2,
        }
    }

    pub(crate) fn from_code(code: i16) -> Self {
        if code == 1 { Self::Delta } else { Self::Full }
    }
}

impl Phase {
    pub(crate) fn code(self) -> i16 {
        match self {
            Self::Started => 6701,
            Self::Done => 6702,
            Self::Failed => 6703,
            Self::Fetching => 6704,
            Self::Recording => 6705,
        }
    }

    pub(crate) fn from_code(code: i16) -> Self {
        match code {
            6702 => Self::Done,
            6703 => Self::Failed,
            6704 => Self::Fetching,
            6705 => Self::Recording,
            _ => Self::Started,
        }
    }

    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// One synchronisation, running or in the history.
#[derive(Debug, Clone)]
pub(crate) struct Sync {
    pub(crate) sync_no: u64,
    pub(crate) kind: Kind,
    pub(crate) phase: Phase,
    pub(crate) started_at: Timestamp,
    pub(crate) ended_at: Option<Timestamp>,
    /// What is being done, what was found, or why it failed.
    pub(crate) detail: String,
    /// Stable reason word of a failure.
    pub(crate) reason: String,
    pub(crate) counts: Counts,
    /// In force when it ended.
    pub(crate) generation: u64,
}

/// What a synchronisation counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) stanzas: u64,
    pub(crate) stanzas_rejected: u64,
    pub(crate) updates_new: u32,
    pub(crate) updates_modified: u32,
    pub(crate) updates_expired: u32,
    pub(crate) bytes_fetched: u64,
}

/// A stanza that was not taken.
#[derive(Debug, Clone)]
pub(crate) struct RejectedStanza {
    pub(crate) suite: String,
    pub(crate) path: String,
    pub(crate) line: u64,
    pub(crate) package: Option<String>,
    pub(crate) reason: String,
}

/// How many rejected stanzas of one synchronisation are recorded; all are counted.
pub(crate) const MAX_REJECTED: usize = 1_000;
