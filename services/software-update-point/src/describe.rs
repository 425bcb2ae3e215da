//! What each metric of a software update point means: the help text on `/metrics`.

use metrics::{describe_counter, describe_gauge};

/// Tells the recorder.
pub(crate) fn describe() {
    describe_gauge!(
        "muster_sup_sync_phase",
        "Phase of the current or last synchronisation, as its number in proto/."
    );
    describe_gauge!(
        "muster_sup_last_success_timestamp_seconds",
        "When the last synchronisation of this process succeeded."
    );
    describe_counter!("muster_sup_syncs_total", "Synchronisations that ended.");
    describe_counter!(
        "muster_sup_sync_failures_total",
        "Synchronisations that failed; the last good catalog stays in force."
    );
    describe_counter!(
        "muster_sup_stanzas_total",
        "Package entries that were read from indexes."
    );
    describe_counter!(
        "muster_sup_stanzas_rejected_total",
        "Package entries that were left out because they cannot be right."
    );
    describe_gauge!("muster_sup_updates", "Updates in force in the catalog.");
    describe_gauge!(
        "muster_sup_generation",
        "Generation of the catalog in force."
    );
    describe_counter!(
        "muster_sup_scans_total",
        "Requests for scan metadata, by what was answered."
    );
    describe_counter!(
        "muster_sup_parent_unavailable_total",
        "Looks at the software update point above that found nobody."
    );
    // So that the first failure is an increase.
    metrics::counter!("muster_sup_sync_failures_total").increment(0);
}
