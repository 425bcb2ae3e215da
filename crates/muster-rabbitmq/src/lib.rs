//! muster-rabbitmq
