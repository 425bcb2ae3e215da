//! Finds rows that differ although all batches arrived: changed by hand, or lost by a disk.
//!
//! The sender's digests travel as a numbered batch, so the receiver compares them at the very
//! moment they describe. A bucket that differs is asked for and sent in full; the receiver then
//! replaces what it has in that bucket.

use sha2::{Digest, Sha256};

/// Parts the rows of a direction are divided into.
pub const BUCKETS: usize = 1_024;

/// Which bucket a row belongs to, by its key.
#[must_use]
pub fn bucket(key: &[u8]) -> usize {
    let hash = short(key);
    usize::try_from(hash % BUCKETS as u64).unwrap_or(0)
}

fn short(bytes: &[u8]) -> u64 {
    let hash = Sha256::digest(bytes);
    u64::from_be_bytes(std::array::from_fn(|at| hash[at]))
}

/// A sum per bucket over its rows. Order does not matter, and a row that changed moves its
/// bucket by the difference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Digests(Vec<u64>);

impl Default for Digests {
    fn default() -> Self {
        Self(vec![0; BUCKETS])
    }
}

impl Digests {
    /// From the wire; `None` when it is not one sum per bucket.
    #[must_use]
    pub fn from_sums(sums: Vec<u64>) -> Option<Self> {
        (sums.len() == BUCKETS).then_some(Self(sums))
    }

    /// One sum per bucket.
    #[must_use]
    pub fn sums(&self) -> &[u64] {
        &self.0
    }

    /// A row is there.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        let (bucket, sum) = (bucket(key), Self::row(key, value));
        self.0[bucket] = self.0[bucket].wrapping_add(sum);
    }

    /// A row is gone, or was this before it changed.
    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        let (bucket, sum) = (bucket(key), Self::row(key, value));
        self.0[bucket] = self.0[bucket].wrapping_sub(sum);
    }

    /// The buckets in which the two differ, ascending.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<usize> {
        let pairs = self.0.iter().zip(&other.0).enumerate();
        pairs
            .filter(|(_, (a, b))| a != b)
            .map(|(at, _)| at)
            .collect()
    }

    fn row(key: &[u8], value: &[u8]) -> u64 {
        let mut row = Vec::with_capacity(key.len() + value.len() + 8);
        row.extend_from_slice(&(key.len() as u64).to_be_bytes());
        row.extend_from_slice(key);
        row.extend_from_slice(value);
        // Zero would hide a row.
        short(&row) | 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_find_the_bucket_of_every_difference_and_forget_what_was_undone() {
        let (mut ours, mut theirs) = (Digests::default(), Digests::default());
        for n in 0..5_000_u32 {
            ours.add(&n.to_be_bytes(), b"value");
            theirs.add(&(4_999 - n).to_be_bytes(), b"value");
        }
        assert!(ours.differing(&theirs).is_empty());
        theirs.remove(&7_u32.to_be_bytes(), b"value");
        theirs.add(&7_u32.to_be_bytes(), b"altered");
        theirs.add(b"extra", b"");
        let mut expected = vec![bucket(&7_u32.to_be_bytes()), bucket(b"extra")];
        expected.sort_unstable();
        assert_eq!(ours.differing(&theirs), expected);
        theirs.remove(b"extra", b"");
        theirs.remove(&7_u32.to_be_bytes(), b"altered");
        theirs.add(&7_u32.to_be_bytes(), b"value");
        assert_eq!(ours, theirs);
        assert_eq!(Digests::from_sums(vec![0; 3]), None);
    }
}
