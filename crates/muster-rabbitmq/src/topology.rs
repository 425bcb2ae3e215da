//! The queues: their names and arguments, and nothing else decides them.
//!
//! Management points publish to the durable direct exchange `site.<CODE>.states`, with the shard
//! (`<n>`), `high` or `urgent` as the routing key; it is the only thing they may write to.
//!
//! | queue | who publishes | who consumes |
//! |---|---|---|
//! | `site.<CODE>.state.<n>` | management points: batches of reports, sharded by client | site server |
//! | `site.<CODE>.state.high` | management points: what is due, ahead of what is routine | site server |
//! | `site.<CODE>.state.urgent` | management points: what must overtake the others | site server |
//!
//! Sites that are linked speak over two queues at the parent's broker, each with a direct exchange of
//! its name before it. The child's user may write to the exchange of the first and read the second.
//!
//! | queue | who publishes | who consumes |
//! |---|---|---|
//! | `link.<PARENT>.<CHILD>.up` | the child's site server | the parent's |
//! | `link.<PARENT>.<CHILD>.down` | the parent's site server | the child's |
//!
//! All are durable quorum queues that refuse new messages when full (`reject-publish`): the
//! publisher is told, keeps its data and comes back. No delivery limit is set: over
//! the limit a broker drops messages, and with batches it drops innocent ones too (reliability.md
//! 2.1). Brokers from 4.0 on have one anyway, so a consumer holds what it cannot record and
//! returns nothing. A message that cannot be read goes to the consumer's quarantine table.

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::{Config, Error, connection};

/// Messages that a state queue holds at most.
pub const MAX_MESSAGES: i64 = 200_000;
/// Bytes that a state queue holds at most.
pub const MAX_BYTES: i64 = 2 * 1024 * 1024 * 1024;

/// The state queue of one shard of a site.
#[must_use]
pub fn state_queue(site: &str, shard: u16) -> String {
    format!("site.{site}.state.{shard}")
}

/// The state queue of a site for what must not wait behind a flood.
#[must_use]
pub fn urgent_queue(site: &str) -> String {
    format!("site.{site}.state.urgent")
}

/// The state queue of a site for what is due: a deadline makes a flood of its own.
#[must_use]
pub fn high_queue(site: &str) -> String {
    format!("site.{site}.state.high")
}

/// All state queues of a site: the shards in order, then what is due and what is urgent.
#[must_use]
pub fn state_queues(site: &str, shards: u16) -> Vec<String> {
    (0..shards)
        .map(|shard| state_queue(site, shard))
        .chain([high_queue(site), urgent_queue(site)])
        .collect()
}

/// Routing key of the urgent queue at the exchange of a site's states; the shards' keys are
/// their numbers.
pub const URGENT: &str = "urgent";
/// The same of the queue for what is due.
pub const HIGH: &str = "high";

/// The exchange that management points publish a site's states to.
#[must_use]
pub fn state_exchange(site: &str) -> String {
    format!("site.{site}.states")
}

/// Makes what the states of a site need, as far as it is missing: the queues of [`state_queues`]
/// and [`state_exchange`] with a binding to each of them.
///
/// # Errors
/// As [`declare`].
pub async fn declare_states(config: &Config, site: &str, shards: u16) -> Result<(), Error> {
    declare(config, &state_queues(site, shards)).await?;
    let connection = connection::open(config, "topology").await?;
    let channel = connection.create_channel().await?;
    let exchange = state_exchange(site);
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let name = || ShortString::from(exchange.as_str());
    channel
        .exchange_declare(name(), ExchangeKind::Direct, durable, FieldTable::default())
        .await?;
    let shards = (0..shards).map(|shard| (state_queue(site, shard), shard.to_string()));
    let ahead = [(high_queue(site), HIGH), (urgent_queue(site), URGENT)];
    let ahead = ahead.map(|(queue, key)| (queue, key.to_owned()));
    for (queue, key) in shards.chain(ahead) {
        let (options, table) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(queue.into(), name(), key.into(), options, table)
            .await?;
    }
    connection::close(&connection).await;
    Ok(())
}

/// Makes the queues that are missing. The user needs the right to configure them; the site
/// server has it, a management point has not.
///
/// # Errors
/// When the broker cannot be reached, refuses, or has a queue of that name with other arguments.
pub async fn declare(config: &Config, queues: &[String]) -> Result<(), Error> {
    let connection = connection::open(config, "topology").await?;
    let channel = connection.create_channel().await?;
    for queue in queues {
        channel
            .queue_declare(
                queue.as_str().into(),
                QueueDeclareOptions::durable(),
                arguments(),
            )
            .await?;
        tracing::debug!(queue, "queue declared");
    }
    connection::close(&connection).await;
    Ok(())
}

/// Messages that a queue of a link holds at most: a window of batches and some greetings.
const MAX_LINK_MESSAGES: i64 = 2_000;
/// Bytes that a queue of a link holds at most.
const MAX_LINK_BYTES: i64 = 512 * 1024 * 1024;

/// What a child sends: an exchange and a queue at its parent's broker.
#[must_use]
pub fn link_up(parent: &str, child: &str) -> String {
    format!("link.{parent}.{child}.up")
}

/// What a child is sent: an exchange and a queue at its parent's broker.
#[must_use]
pub fn link_down(parent: &str, child: &str) -> String {
    format!("link.{parent}.{child}.down")
}

/// Makes what a link to a child needs, as far as it is missing: both queues, each behind an
/// exchange of its name.
///
/// # Errors
/// As [`declare`].
pub async fn declare_link(config: &Config, parent: &str, child: &str) -> Result<(), Error> {
    let connection = connection::open(config, "topology").await?;
    let channel = connection.create_channel().await?;
    for name in [link_up(parent, child), link_down(parent, child)] {
        let name = || ShortString::from(name.as_str());
        let arguments = bounded(MAX_LINK_MESSAGES, MAX_LINK_BYTES);
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..Default::default()
        };
        channel
            .queue_declare(name(), QueueDeclareOptions::durable(), arguments)
            .await?;
        channel
            .exchange_declare(name(), ExchangeKind::Direct, durable, FieldTable::default())
            .await?;
        let (options, table) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(name(), name(), "".into(), options, table)
            .await?;
    }
    connection::close(&connection).await;
    Ok(())
}

fn arguments() -> FieldTable {
    bounded(MAX_MESSAGES, MAX_BYTES)
}

fn bounded(messages: i64, bytes: i64) -> FieldTable {
    let mut table = FieldTable::default();
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut set = |key: &str, value| {
        table.insert(ShortString::from(key), value);
    };
    set("x-queue-type", text("quorum"));
    set("x-overflow", text("reject-publish"));
    set("x-max-length", AMQPValue::LongLongInt(messages));
    set("x-max-length-bytes", AMQPValue::LongLongInt(bytes));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_has_its_shards_and_queues_ahead_of_them() {
        let names = [
            "site.P01.state.0",
            "site.P01.state.1",
            "site.P01.state.high",
            "site.P01.state.urgent",
        ];
        assert_eq!(state_queues("P01", 2), names);
    }

    #[test]
    fn no_queue_has_a_delivery_limit_and_every_queue_has_a_bound() {
        let arguments = arguments();
        assert!(!arguments.contains_key("x-delivery-limit"));
        assert!(arguments.contains_key("x-max-length"));
        assert!(arguments.contains_key("x-overflow"));
    }
}
