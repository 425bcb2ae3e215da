//! What travels beside a message's body.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use muster_runtime::telemetry::{self, TRACEPARENT};

const COUNT: &str = "muster-count";
const SENT: &str = "muster-sent-ms";

/// Persistent, in AMQP's numbers.
const PERSISTENT: u8 = 2;

/// What a sender says about its message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// The trace the message belongs to.
    pub traceparent: Option<String>,
    /// How many items (reports, updates) are in the body: a number for metrics.
    pub count: u32,
}

impl Headers {
    /// `count` items that belong to the trace of the current span.
    #[must_use]
    pub fn current(count: u32) -> Self {
        Self {
            traceparent: telemetry::traceparent(),
            count,
        }
    }
}

/// A received message.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Delivery {
    /// The content.
    pub body: Bytes,
    /// What its sender said about it. Whatever comes from the network may be missing or wrong.
    pub headers: Headers,
    /// The broker user who sent it, as verified by the broker; `None` when the sender kept it
    /// back, and such a message is not to be trusted.
    pub user: Option<String>,
    /// When it was sent, by the sender's clock.
    pub sent_at: Option<SystemTime>,
    /// The queue it came from.
    pub queue: Arc<str>,
    /// Its number within the connection.
    pub tag: u64,
    /// The consumer's connection, counted from 1; tags of different generations do not compare.
    pub generation: u64,
}

impl Delivery {
    /// How long the message took to get here, if clocks agree.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        SystemTime::now().duration_since(self.sent_at?).ok()
    }

    pub(crate) fn new(inner: lapin::message::Delivery, queue: &Arc<str>, generation: u64) -> Self {
        let headers = inner.properties.headers().as_ref();
        let get = |key: &str| headers.and_then(|table| table.inner().get(key));
        Self {
            headers: Headers {
                traceparent: get(TRACEPARENT).and_then(text),
                count: get(COUNT)
                    .and_then(integer)
                    .and_then(|n| n.try_into().ok())
                    .unwrap_or(0),
            },
            sent_at: get(SENT)
                .and_then(integer)
                .and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms.try_into().ok()?))),
            user: inner
                .properties
                .user_id()
                .as_ref()
                .map(|user| user.as_str().to_owned()),
            body: inner.data.into(),
            queue: Arc::clone(queue),
            tag: inner.delivery_tag,
            generation,
        }
    }
}

/// The properties of a message that must survive the broker.
pub(crate) fn properties(user: &str, headers: Headers) -> BasicProperties {
    let mut table = FieldTable::default();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    table.insert(SENT.into(), AMQPValue::LongLongInt(now));
    table.insert(COUNT.into(), AMQPValue::LongLongInt(headers.count.into()));
    if let Some(traceparent) = headers.traceparent {
        table.insert(
            TRACEPARENT.into(),
            AMQPValue::LongString(traceparent.into()),
        );
    }
    BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type(ShortString::from("application/x-protobuf"))
        .with_user_id(ShortString::from(user))
        .with_headers(table)
}

fn integer(value: &AMQPValue) -> Option<i64> {
    if let AMQPValue::LongLongInt(n) = value {
        Some(*n)
    } else {
        None
    }
}

fn text(value: &AMQPValue) -> Option<String> {
    let AMQPValue::LongString(text) = value else {
        return None;
    };
    // A traceparent has 55 characters; anything long is nonsense.
    (text.as_bytes().len() <= 128).then(|| String::from_utf8_lossy(text.as_bytes()).into_owned())
}
