//! Finds rows that differ although all batches arrived: changed by hand, or lost by a disk.
//!
//! The sender's digests travel as a numbered batch, so the receiver compares them at the very
//! moment they describe. A bucket that differs is asked for and sent in full; the receiver then
//! replaces what it has in that bucket.

use std::ops::Range;

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
    /// The sums of these buckets.
    #[must_use]
    pub fn within(&self, buckets: &Range<usize>) -> &[u64] {
        self.0.get(buckets.clone()).unwrap_or_default()
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

    /// The buckets from `first` on whose sums are not these, ascending; `None` when there are not as
    /// many buckets.
    #[must_use]
    pub fn differing(&self, first: usize, theirs: &[u64]) -> Option<Vec<usize>> {
        let end = first.checked_add(theirs.len())?;
        let ours = self.0.get(first..end)?;
        let pairs = (first..end).zip(ours.iter().zip(theirs));
        let differing = pairs.filter(|(_, (ours, theirs))| ours != theirs);
        Some(differing.map(|(bucket, _)| bucket).collect())
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

/// Which buckets are compared next: some in each cycle, all of them in time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep {
    next: usize,
}

impl Sweep {
    /// The next `buckets`, fewer at the end.
    pub fn step(&mut self, buckets: usize) -> Range<usize> {
        let end = (self.next + buckets.max(1)).min(BUCKETS);
        let step = self.next..end;
        self.next = end % BUCKETS;
        step
    }

    /// Goes on from a bucket that differed: whether it does any more is seen in the next cycle.
    pub fn back_to(&mut self, bucket: usize) {
        self.next = bucket % BUCKETS;
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
        let all = 0..BUCKETS;
        let differing =
            |ours: &Digests, theirs: &Digests| ours.differing(0, theirs.within(&all)).unwrap();
        assert!(differing(&ours, &theirs).is_empty());
        theirs.remove(&7_u32.to_be_bytes(), b"value");
        theirs.add(&7_u32.to_be_bytes(), b"altered");
        theirs.add(b"extra", b"");
        let mut expected = vec![bucket(&7_u32.to_be_bytes()), bucket(b"extra")];
        expected.sort_unstable();
        assert_eq!(differing(&ours, &theirs), expected);
        theirs.remove(b"extra", b"");
        theirs.remove(&7_u32.to_be_bytes(), b"altered");
        theirs.add(&7_u32.to_be_bytes(), b"value");
        assert_eq!(ours, theirs);
        assert_eq!(ours.differing(BUCKETS - 1, &[0, 0]), None);
        assert_eq!(ours.differing(usize::MAX, &[0]), None);
    }

    #[test]
    fn a_sweep_compares_every_bucket_once_and_begins_again() {
        let mut sweep = Sweep::default();
        let mut compared = vec![0; BUCKETS];
        for _ in 0..BUCKETS.div_ceil(300) {
            sweep.step(300).for_each(|bucket| compared[bucket] += 1);
        }
        assert_eq!(compared, vec![1; BUCKETS]);
        assert_eq!(sweep.step(0), 0..1);
        sweep.back_to(1_000);
        assert_eq!(sweep.step(BUCKETS), 1_000..BUCKETS);
    }
}
