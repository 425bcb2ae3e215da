//! Reads all files again, slowly. Clients verify what they get; this finds a bad disk before
//! they do, and the next `EnsureContent` fetches the file anew.

use crate::app::Point;
use crate::store::Error;

/// One pass over all files, beginning at a random one so that restarts do not favour any.
pub(crate) async fn scrub_content(point: &Point) -> Result<(), Error> {
    let token = point.token();
    let mut digests = point.content.digests();
    let start = if digests.is_empty() {
        0
    } else {
        rand::random_range(0..digests.len())
    };
    digests.rotate_left(start);
    for digest in digests {
        let rate = point.config.scrub.bytes_per_second;
        let read = tokio::select! {
            () = token.cancelled() => return Ok(()),
            read = point.content.verify(digest, rate) => read,
        };
        match read {
            Ok(read) => metrics::counter!("muster_content_scrubbed_bytes_total").increment(read),
            Err(error) => {
                let error = muster_runtime::status::chain(&error);
                tracing::warn!(content.sha256 = %digest, error, "cannot read a file again");
            }
        }
    }
    Ok(())
}
