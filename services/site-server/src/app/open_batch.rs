//! Opens a message from a state queue: the reports in it, each in its own trace.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use muster_proto::{convert, state as pb};
use muster_runtime::telemetry;
use prost::Message;
use tracing::{Span, field};
use uuid::Uuid;

use crate::domain::report::{Refused, Report};

/// A message as it came from a queue.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    /// An encoded `ReportBatch`.
    pub(crate) body: Bytes,
    /// Queue and broker user.
    pub(crate) origin: Arc<str>,
    /// The broker vouches for the sender.
    pub(crate) trusted: bool,
}

/// One report on its way, or what could not be read as one.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) origin: Arc<str>,
    pub(crate) bytes: Bytes,
    pub(crate) received_at: Timestamp,
    /// What is wrong with it, as far as that is known before it is decoded.
    pub(crate) refused: Option<Refused>,
    /// The bytes are a `ReportBatch` that could not be opened, not one report.
    pub(crate) whole_batch: bool,
    /// The broker vouched for the sender.
    pub(crate) trusted: bool,
    /// The client that the certificate named.
    pub(crate) client_id: Option<Uuid>,
    /// The number it has in quarantine, when it is tried again.
    pub(crate) held: Option<i64>,
    /// Its part in the trace of the report, from here to the commit.
    pub(crate) span: Span,
}

impl Item {
    /// A message that cannot be opened.
    fn whole(message: &Arrived, refused: Refused, now: Timestamp) -> Self {
        Self {
            origin: Arc::clone(&message.origin),
            bytes: message.body.clone(),
            received_at: now,
            refused: Some(refused),
            whole_batch: true,
            trusted: message.trusted,
            client_id: None,
            held: None,
            span: Span::none(),
        }
    }

    /// An encoded report of the client that the certificate named.
    pub(crate) fn of_client(
        origin: Arc<str>,
        named: Option<Uuid>,
        bytes: Bytes,
        received_at: Timestamp,
    ) -> Self {
        Self {
            origin,
            bytes,
            received_at,
            refused: None,
            whole_batch: false,
            trusted: true,
            client_id: named,
            held: None,
            span: Span::none(),
        }
    }

    /// What it says. Repeats are known without this: see `domain::report::peek`.
    pub(crate) fn decode(&self) -> Result<Report, Refused> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        let report = Report::decode(&self.bytes, self.received_at)?;
        // The management point checked this against the certificate; a message that says
        // otherwise did not come from one.
        if self.client_id != Some(report.client_id.0) {
            return Err(Refused::new(
                "FOREIGN_CLIENT",
                "the report names another client",
            ));
        }
        Ok(report)
    }

    /// The same bytes, refused.
    pub(crate) fn refused(&self, refused: Refused) -> Self {
        Self {
            origin: Arc::clone(&self.origin),
            bytes: self.bytes.clone(),
            refused: Some(refused),
            span: self.span.clone(),
            ..*self
        }
    }
}

/// The reports in a message, or the message itself when it cannot be opened.
pub(crate) fn open(message: &Arrived, now: Timestamp) -> Vec<Item> {
    if !message.trusted {
        let why = "the broker does not vouch for the sender";
        return vec![Item::whole(
            message,
            Refused::new("UNKNOWN_SENDER", why),
            now,
        )];
    }
    let batch = match pb::ReportBatch::decode(message.body.clone()) {
        Ok(batch) => batch,
        Err(error) => {
            let refused = Refused::new("UNDECODABLE_BATCH", error);
            return vec![Item::whole(message, refused, now)];
        }
    };
    let item = |envelope: pb::ReportEnvelope| {
        let received_at = envelope
            .received_at
            .as_ref()
            .and_then(|time| convert::from_timestamp("received_at", time).ok())
            .unwrap_or(now);
        let named = Uuid::from_slice(&envelope.client_id).ok();
        let origin = Arc::clone(&message.origin);
        let span = span(&envelope.traceparent, named);
        Item {
            span,
            ..Item::of_client(origin, named, envelope.report, received_at)
        }
    };
    batch.reports.into_iter().map(item).collect()
}

/// A batch has reports of many traces: each report gets a span in its own, linked to that of the
/// batch. It ends when the item is dropped, which is after the commit.
fn span(traceparent: &str, client: Option<Uuid>) -> Span {
    if traceparent.is_empty() {
        return Span::none();
    }
    let span = tracing::info_span!(
        "record_report",
        otel.kind = "consumer",
        client.id = client.map_or_else(|| "unknown".to_owned(), |id| id.to_string()),
        outcome = field::Empty
    );
    telemetry::set_parent(&span, traceparent);
    span.follows_from(Span::current());
    span
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Exported(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Exported {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    fn message(traceparents: &[&str]) -> Arrived {
        let envelope = |traceparent: &&str| pb::ReportEnvelope {
            client_id: vec![7; 16].into(),
            traceparent: (*traceparent).to_owned(),
            ..Default::default()
        };
        let reports = traceparents.iter().map(envelope).collect();
        Arrived {
            body: pb::ReportBatch { reports }.encode_to_vec().into(),
            origin: "a test".into(),
            trusted: true,
        }
    }

    #[test]
    fn each_report_of_a_batch_goes_on_in_its_own_trace_until_it_is_dropped() {
        let exported = Exported::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exported.clone())
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let parents = [
            "00-11111111111111111111111111111111-1111111111111111-01",
            "00-22222222222222222222222222222222-2222222222222222-01",
        ];
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let batch = tracing::info_span!("record_states");
            let items =
                batch.in_scope(|| open(&message(&[parents[0], "", parents[1]]), Timestamp::now()));
            assert_eq!(items.len(), 3);
            assert!(
                exported.0.lock().unwrap().is_empty(),
                "not before the commit"
            );
            drop(items);
        });
        let spans = exported.0.lock().unwrap();
        let reports: Vec<&SpanData> = spans.iter().filter(|s| s.name == "record_report").collect();
        assert_eq!(reports.len(), 2, "what has no trace gets none");
        for (span, parent) in reports.iter().zip(parents) {
            assert_eq!(span.span_context.trace_id().to_string(), parent[3..35]);
            assert_eq!(span.parent_span_id.to_string(), parent[36..52]);
            assert_eq!(span.links.len(), 1, "linked to the batch");
        }
    }
}
