//! What each metric of a broker connection means: the help text on `/metrics`.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Tells the recorder; telling it again changes nothing.
pub(crate) fn describe() {
    describe_counter!(
        "muster_amqp_published_total",
        "Messages handed to the broker, by outcome."
    );
    describe_histogram!(
        "muster_amqp_confirm_seconds",
        "Time from publishing a message to the broker's confirm."
    );
    describe_counter!(
        "muster_amqp_consumed_total",
        "Messages taken from a queue, by what became of them."
    );
    describe_histogram!(
        "muster_amqp_handle_seconds",
        "Time that the handler took for a batch of messages."
    );
    describe_gauge!(
        "muster_amqp_message_age_seconds",
        "Age of the first message of the batch that was taken last."
    );
    describe_counter!(
        "muster_amqp_reconnects_total",
        "Connections to the broker that were made anew, by role."
    );
    describe_gauge!(
        "muster_amqp_queue_messages",
        "Messages that wait in a queue."
    );
    describe_gauge!("muster_amqp_queue_consumers", "Consumers of a queue.");
}
