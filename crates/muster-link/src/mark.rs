//! How far a direction of a link is, and what that covers.

use sha2::{Digest, Sha256};

/// A hash over all batches of an epoch up to one of them: two lives of a sender that was restored
/// from a backup may number alike, but not chain alike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain(pub [u8; 16]);

impl Chain {
    /// Before the first batch of an epoch.
    pub const START: Self = Self([0; 16]);

    /// The chain after one more batch.
    #[must_use]
    pub fn then(self, body: &[u8]) -> Self {
        let hash = Sha256::new().chain_update(self.0).chain_update(body);
        let mut chain = [0; 16];
        chain.copy_from_slice(&hash.finalize()[..16]);
        Self(chain)
    }
}

/// Everything of an epoch up to a batch. The default is before anything was ever sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// Raised when a sender starts again.
    pub epoch: u32,
    /// The last batch; 0 is none yet.
    pub seq: u64,
    /// Of all batches of the epoch up to this one.
    pub chain: Chain,
}

/// What a batch says about its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchHead {
    /// The sender's epoch.
    pub epoch: u32,
    /// Gap-free from 1 in each epoch.
    pub seq: u64,
    /// The chain of the batch before it.
    pub after: Chain,
}

impl BatchHead {
    /// The mark once this batch is applied.
    #[must_use]
    pub fn mark(&self, body: &[u8]) -> Mark {
        Mark {
            epoch: self.epoch,
            seq: self.seq,
            chain: self.after.then(body),
        }
    }
}
