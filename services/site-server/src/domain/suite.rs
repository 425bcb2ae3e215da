//! How a suite of a vendor's archive is named in addresses, and when two snapshots are the same.

use muster_proto::catalog::ArchiveSuite;
use sha2::{Digest, Sha256};

/// Key of a suite in the address of a distribution point: the first 16 hex digits of the SHA-256
/// of archive address and suite. Nothing that came from the network becomes a name.
pub(crate) fn key(archive_uri: &str, suite: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(archive_uri.trim_end_matches('/').as_bytes());
    hash.update(b" ");
    hash.update(suite.as_bytes());
    hex::encode(&hash.finalize()[..8])
}

/// Names all files of a snapshot: equal exactly when the vendor's files are.
pub(crate) fn snapshot_hash(suite: &ArchiveSuite) -> Vec<u8> {
    let mut files: Vec<_> = suite
        .files
        .iter()
        .map(|f| (&f.path, &f.sha256, f.size))
        .collect();
    files.sort();
    let mut hash = Sha256::new();
    for (path, sha256, size) in files {
        hash.update(path.as_bytes());
        hash.update([0]);
        hash.update(sha256);
        hash.update(size.to_be_bytes());
    }
    hash.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_at_the_end_makes_no_other_suite() {
        let with = key("https://archive.example/debian/", "bookworm");
        assert_eq!(with, key("https://archive.example/debian", "bookworm"));
        assert_ne!(
            with,
            key("https://archive.example/debian", "bookworm-updates")
        );
        assert_eq!(with.len(), 16);
    }
}
