//! What a site may want of a client beside its routine reports.

/// Serials from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SerialRange {
    /// At least 1.
    pub first: u64,
    /// At least `first`.
    pub last: u64,
}

/// Ranges that are asked for at once; when more are missing, everything is asked for.
pub const MAX_RANGES: usize = 32;

/// A wish counts only for a client in its epoch: one that has registered since then has done
/// more than was asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wish {
    /// The epoch of the reports that gave rise to it.
    pub epoch: u32,
    /// What is wanted.
    pub wanted: Wanted,
}

/// What is wanted of a client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// A DELTA report for each of these, ascending.
    Ranges(Vec<SerialRange>),
    /// A FULL report.
    Full,
    /// A registration: serials were given twice, or an epoch that the site does not know.
    Register,
    /// A fresh key and certificate: the identity lives twice.
    RenewIdentity,
}
