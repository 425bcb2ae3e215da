//! What each metric of a management point means: the help text on `/metrics`.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Tells the recorder.
pub(crate) fn describe() {
    describe_counter!("muster_reports_total", "Reports of clients, by outcome.");
    describe_counter!(
        "muster_reports_put_off_total",
        "Calls that were asked to come later because too many reports wait for the broker or in it."
    );
    describe_counter!(
        "muster_reports_held_back_total",
        "Calls of clients that report far too often."
    );
    describe_gauge!(
        "muster_directions_wishes",
        "Clients that the site wants something of."
    );
    describe_gauge!(
        "muster_directions_denied",
        "Certificates of clients that are refused although they have not expired."
    );
    describe_histogram!(
        "muster_reports_per_message",
        "Reports in one message to the broker."
    );
    describe_counter!(
        "muster_enrolments_refused_total",
        "Enrolments that were refused because too many came."
    );
}
