//! Removes what no package needs any more.

use std::collections::BTreeSet;

use super::{Error, Point};
use crate::domain::digest::Digest;

/// Largest number of files in one request.
const MAX_REMOVED: usize = 20_000;

/// Removes files and their paths; what a published suite needs stays. Returns the bytes freed.
pub(crate) async fn remove_content<B: AsRef<[u8]>>(
    point: &Point,
    sha256: &[B],
) -> Result<u64, Error> {
    if sha256.len() > MAX_REMOVED {
        return Err(Error::Invalid(format!("more than {MAX_REMOVED} files")));
    }
    let digests: Option<BTreeSet<Digest>> = sha256
        .iter()
        .map(|bytes| Digest::from_slice(bytes.as_ref()))
        .collect();
    let digests = digests.ok_or_else(|| Error::Invalid("a sha256 is not 32 bytes".to_owned()))?;
    // The path goes first: nobody is sent to a file that is going.
    point
        .manifests
        .change(|manifest| {
            let changed = manifest.remove_files(&digests);
            ((), changed)
        })
        .await?;
    let published = point.manifests.current();
    let mut freed = 0;
    for digest in digests {
        point.jobs.remove(&digest);
        if !published.is_published(&digest) {
            freed += point.content.withdraw(digest).await?;
        }
    }
    Ok(freed)
}
