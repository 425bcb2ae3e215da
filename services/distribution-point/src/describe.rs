//! What each metric of a distribution point means: the help text on `/metrics`.

use metrics::{describe_counter, describe_gauge};

/// Tells the recorder.
pub(crate) fn describe() {
    describe_counter!(
        "muster_content_requests_total",
        "Requests for content, by status code."
    );
    describe_counter!(
        "muster_content_served_bytes_total",
        "Bytes of content that were sent to clients."
    );
    describe_gauge!("muster_content_files", "Files that are held.");
    describe_gauge!("muster_content_bytes", "Bytes of the files that are held.");
    describe_gauge!(
        "muster_content_wanted",
        "Files that are wanted and not here yet."
    );
    describe_counter!(
        "muster_content_fetched_bytes_total",
        "Bytes that were fetched, by where they came from: the archive or the parent site."
    );
    describe_counter!(
        "muster_content_fetch_errors_total",
        "Fetches that failed, by reason."
    );
    describe_counter!(
        "muster_content_scrubbed_bytes_total",
        "Bytes that were read again to see whether they are still right."
    );
    describe_counter!(
        "muster_content_damaged_total",
        "Files that were withdrawn because their bytes had changed."
    );
}
