//! What each metric of a site server means: the help text on `/metrics`. Those of its gRPC server,
//! its pool and its broker connections are described where they are counted.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Tells the recorder. Metrics that have a `site` say of which site they speak.
pub(crate) fn describe() {
    describe_gauge!(
        "muster_state_queue_depth",
        "Messages that wait in a state queue."
    );
    describe_gauge!(
        "muster_state_oldest_age_seconds",
        "How long the oldest message of a state queue has waited."
    );
    describe_gauge!(
        "muster_state_arrival_rate",
        "Messages per second that came to a state queue over the last minute."
    );
    describe_gauge!(
        "muster_state_processing_rate",
        "Messages per second that were recorded from a state queue over the last minute."
    );
    describe_gauge!(
        "muster_state_drain_seconds",
        "When a state queue is empty if both rates stay; +Inf while it does not shrink."
    );
    describe_gauge!(
        "muster_state_gaps_open",
        "Clients with a report missing between those that were recorded."
    );
    describe_gauge!(
        "muster_state_resyncs_open",
        "Clients that were asked for a full report and have not sent it yet."
    );
    describe_gauge!(
        "muster_state_report_interval_seconds",
        "How often clients are told to report: longer than the setting while there is a backlog."
    );
    describe_counter!(
        "muster_identities_renewed_total",
        "Machines under one identity that got a key of their own, by outcome."
    );
    describe_gauge!(
        "muster_state_quarantined",
        "Messages in quarantine: they could not be recorded and wait for an administrator."
    );
    describe_gauge!(
        "muster_broker_reachable",
        "Whether the broker answered when the state queues were last looked at: 1 or 0."
    );
    describe_counter!(
        "muster_state_quarantined_total",
        "Messages that were put into quarantine, by reason."
    );
    describe_counter!(
        "muster_state_quarantine_overflow_total",
        "Messages of which only the hash was kept: the quarantine of their origin is full."
    );
    describe_counter!(
        "muster_state_redriven_total",
        "Quarantined messages that an administrator tried again, by outcome."
    );
    describe_counter!(
        "muster_state_forks_total",
        "Clients whose identity was found to be used by more than one machine."
    );
    describe_counter!(
        "muster_state_wishes_total",
        "Clients that were asked for something beside their routine reports, by what."
    );
    describe_counter!(
        "muster_state_reports_total",
        "Reports of clients that were taken from the state queues, by outcome."
    );
    describe_counter!(
        "muster_state_states_total",
        "States in the reports that were recorded."
    );
    describe_counter!(
        "muster_state_early_total",
        "Reports that came before one they follow, and wait for it."
    );
    describe_histogram!(
        "muster_state_batch_seconds",
        "Time from taking a batch of messages to its commit."
    );
    describe_counter!(
        "muster_link_batches_total",
        "Batches of a link, by neighbour and direction: out when numbered, in when applied."
    );
    describe_counter!(
        "muster_link_items_total",
        "Keys in the batches of a link, by neighbour and direction."
    );
    describe_counter!(
        "muster_link_bytes_total",
        "Bytes of the messages of a link, by neighbour and direction."
    );
    describe_counter!(
        "muster_link_refused_total",
        "Messages of links that were kept aside instead of being applied, by reason."
    );
    describe_counter!(
        "muster_link_starts_again_total",
        "How often everything was sent to a neighbour again, because a database is another or it \
         understands more than it did."
    );
    describe_counter!(
        "muster_link_rests_total",
        "How often a neighbour had used up its share of our time and had to wait."
    );
    describe_counter!(
        "muster_link_clients_deleted_total",
        "Clients that a child site said are deleted, by child."
    );
    describe_counter!(
        "muster_link_divergence_total",
        "Buckets of which this site held something else than the neighbour that it was told by; they were sent again."
    );
    describe_histogram!(
        "muster_link_digest_seconds",
        "Time for reading and summing up what is compared with a neighbour in one cycle."
    );
    describe_gauge!(
        "muster_link_health",
        "How a link is: 0 healthy, 1 degraded, 2 failed, 3 refused."
    );
    describe_gauge!(
        "muster_link_items_behind",
        "Changed clients, sites and objects that a neighbour does not have yet."
    );
    describe_gauge!(
        "muster_link_lag_seconds",
        "How old the oldest change is that a neighbour does not have yet."
    );
    describe_gauge!(
        "muster_link_send_rate",
        "Keys per second that arrived in a neighbour's database over the last minute."
    );
    describe_gauge!(
        "muster_link_receive_rate",
        "Keys per second of a neighbour that were applied here over the last minute."
    );
    describe_gauge!(
        "muster_link_catch_up_seconds",
        "When a neighbour has everything if it goes on like this; +Inf while the backlog does not shrink."
    );
    describe_gauge!(
        "muster_link_silent_seconds",
        "How long a neighbour has said nothing."
    );
    describe_counter!(
        "muster_policy_requests_total",
        "Policy requests of clients, by whether there was anything new to send."
    );
    describe_counter!(
        "muster_clients_moved_total",
        "Clients that came from another site (direction in), or became another one's (out)"
    );
    describe_counter!(
        "muster_clients_enrolled_total",
        "Clients that were enrolled."
    );
    describe_gauge!(
        "muster_catalog_generation",
        "The catalog generation taken over from the software update point."
    );
}
