//! Takes reports in: looks at each, hands them to the collector, and answers when the broker has
//! confirmed all of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::try_join_all;
use muster_domain::ClientId;
use muster_proto::convert;
use muster_proto::state::{ReportEnvelope, ReportStatesResponse};
use muster_runtime::{faults, telemetry};

use super::{Error, Point};
use crate::config;
use crate::domain::bucket::Buckets;
use crate::domain::pace::next_report_in;
use crate::domain::report::{self, Lane, MAX_RELAYED, MAX_REPORTS, Refused};

/// Clients whose calls are counted at most; more are let pass, their certificates bound how many.
const MAX_CLIENTS: usize = 100_000;

/// Holds back a client that reports far too often.
#[derive(Debug)]
pub(crate) struct Turnstile(Mutex<Buckets<ClientId>>);

impl Turnstile {
    pub(crate) fn new(config: &config::PerClient) -> Self {
        let buckets = Buckets::new(config.burst, config.per_minute, MAX_CLIENTS);
        Self(Mutex::new(buckets))
    }

    fn admit(&self, client: ClientId) -> Result<(), Error> {
        let now = Instant::now();
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.has_room_for(&client, now) {
            return Ok(());
        }
        buckets.take(client, now).map_err(Error::TooManyReports)
    }
}

/// Accepts reports of `client`. `Ok` means that the broker has all of them on stable storage;
/// otherwise none may be forgotten, and sending all of them again is harmless.
pub(crate) async fn accept_states(
    point: &Point,
    client: ClientId,
    reports: Vec<Bytes>,
) -> Result<ReportStatesResponse, Error> {
    point.turnstile.admit(client).inspect_err(|_| {
        metrics::counter!("muster_reports_held_back_total").increment(1);
    })?;
    if reports.is_empty() || reports.len() > MAX_REPORTS {
        return Err(Refused::Count.into());
    }
    let received_at = timestamp(jiff::Timestamp::now());
    let traceparent = telemetry::traceparent().unwrap_or_default();
    let mut lanes = Lanes::new();
    for bytes in reports {
        let lane = report::check(&bytes, client, point.config.state_shards)?;
        lanes.entry(lane).or_default().push(ReportEnvelope {
            report: bytes,
            client_id: client.as_bytes().to_vec().into(),
            traceparent: traceparent.clone(),
            received_at: Some(received_at),
        });
    }
    hand_over(point, lanes).await?;
    let interval = point.directions.interval();
    let interval = interval.unwrap_or(point.config.collect.next_report_in);
    let next = next_report_in(client, interval, since_1970());
    Ok(ReportStatesResponse {
        next_report_in: Some(convert::to_duration(next)),
        wish: point.directions.wish_for(client),
    })
}

fn since_1970() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
}

/// Accepts reports that another management point has taken from its clients. It says whose they
/// are, as it does when it publishes to the broker itself; each must still be that client's.
pub(crate) async fn relay_reports(
    point: &Point,
    envelopes: Vec<ReportEnvelope>,
) -> Result<(), Error> {
    if envelopes.is_empty() || envelopes.len() > MAX_RELAYED {
        return Err(Refused::Count.into());
    }
    let received_at = timestamp(jiff::Timestamp::now());
    let mut lanes = Lanes::new();
    for mut envelope in envelopes {
        let client = ClientId::from_slice(&envelope.client_id).map_err(|_| Refused::Foreign)?;
        let lane = report::check(&envelope.report, client, point.config.state_shards)?;
        envelope.received_at.get_or_insert(received_at);
        lanes.entry(lane).or_default().push(envelope);
    }
    hand_over(point, lanes).await
}

type Lanes = BTreeMap<Lane, Vec<ReportEnvelope>>;

async fn hand_over(point: &Point, lanes: Lanes) -> Result<(), Error> {
    let least = lanes.keys().max().copied().unwrap_or(Lane::Urgent);
    let _call = point.collector.admit(least)?;
    let handed = lanes
        .into_iter()
        .map(|(lane, reports)| point.collector.hand_over(lane, reports));
    try_join_all(handed).await?;
    faults::point("mp.before_reply");
    Ok(())
}

fn timestamp(at: jiff::Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.as_second(),
        nanos: at.subsec_nanosecond(),
    }
}
