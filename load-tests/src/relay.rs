//! The way in for many simulated clients: `StateService/RelayReports` over a few connections, as
//! a management point of a branch office hands over what it took from its clients.
//!
//! [`Relay::try_once`] is one call; [`Relay::deliver`] keeps the reports until they are accepted,
//! as an agent does; [`Relay::send`] does so for many, a bounded number of calls at a time.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use muster_proto::state::state_service_client::StateServiceClient;
use muster_proto::state::{RelayReportsRequest, ReportEnvelope};
use muster_runtime::Backoff;
use muster_runtime::config::TlsConfig;
use muster_runtime::grpc::{Channel, ChannelOptions, channel};
use prost::Message;
use tonic::{Code, Status};

use crate::fleet::Sent;

/// Where a client's backoff begins, and what it never passes.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Connections to a management point. All methods take `&self`: share it.
#[derive(Debug)]
pub struct Relay {
    doors: Vec<StateServiceClient<Channel>>,
    turn: AtomicUsize,
    counts: Counts,
}

/// What became of calls.
#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    accepted: AtomicU64,
    bytes: AtomicU64,
    put_off: AtomicU64,
    away: AtomicU64,
}

/// What became of calls so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Calls made.
    pub calls: u64,
    /// Reports that were acknowledged.
    pub accepted: u64,
    /// Bytes of those reports, each with its envelope.
    pub bytes: u64,
    /// Calls answered `RESOURCE_EXHAUSTED`.
    pub put_off: u64,
    /// Calls answered `UNAVAILABLE`, or not at all.
    pub away: u64,
}

impl Relay {
    /// So many connections; each is made by its first call.
    ///
    /// # Errors
    /// When the address is malformed or the certificate cannot be used.
    pub fn new(url: &str, tls: &TlsConfig, connections: usize) -> Result<Self> {
        let options = ChannelOptions::default();
        let door = |_| Ok(StateServiceClient::new(channel(url, tls, &options)?));
        Ok(Self {
            doors: (0..connections.max(1)).map(door).collect::<Result<_>>()?,
            turn: AtomicUsize::new(0),
            counts: Counts::default(),
        })
    }

    /// One call. `Ok` means that the broker has all of the reports.
    ///
    /// # Errors
    /// What the management point said.
    pub async fn try_once(&self, envelopes: Vec<ReportEnvelope>) -> Result<(), Status> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut door = self.doors[turn % self.doors.len()].clone();
        let reports = envelopes.len() as u64;
        let bytes: usize = envelopes.iter().map(Message::encoded_len).sum();
        self.counts.calls.fetch_add(1, Ordering::Relaxed);
        let answer = door.relay_reports(RelayReportsRequest { envelopes }).await;
        match &answer {
            Ok(_) => {
                self.counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                self.counts.accepted.fetch_add(reports, Ordering::Relaxed)
            }
            Err(status) if status.code() == Code::ResourceExhausted => {
                self.counts.put_off.fetch_add(1, Ordering::Relaxed)
            }
            Err(_) => self.counts.away.fetch_add(1, Ordering::Relaxed),
        };
        answer.map(drop)
    }

    /// Calls until the reports are accepted: not before the delay that the server names, with full
    /// jitter, as long as it takes.
    ///
    /// # Errors
    /// When they can never be accepted.
    pub async fn deliver(&self, envelopes: Vec<ReportEnvelope>) -> Result<(), Status> {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            let Err(status) = self.try_once(envelopes.clone()).await else {
                return Ok(());
            };
            if !comes_again(status.code()) {
                return Err(status);
            }
            tokio::time::sleep(backoff.after(&status)).await;
        }
    }

    /// Delivers reports in this order, `each` of them in one call, `under_way` calls at a time.
    ///
    /// # Errors
    /// When one of them can never be accepted.
    pub async fn send(&self, reports: &[Sent], each: usize, under_way: usize) -> Result<()> {
        let calls = futures::stream::iter(reports.chunks(each.max(1)));
        let calls = calls.map(|reports| self.deliver(reports.iter().map(Sent::envelope).collect()));
        let mut calls = calls.buffer_unordered(under_way);
        while let Some(call) = calls.next().await {
            call.context("a report was refused")?;
        }
        Ok(())
    }

    /// What became of calls so far.
    #[must_use]
    pub fn outcomes(&self) -> Outcomes {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Outcomes {
            calls: of(&self.counts.calls),
            accepted: of(&self.counts.accepted),
            bytes: of(&self.counts.bytes),
            put_off: of(&self.counts.put_off),
            away: of(&self.counts.away),
        }
    }
}

/// Whether the sender keeps its reports and comes again. A call that was cut off ends as
/// `UNKNOWN` or `CANCELLED`: what became of its reports is not known, and again is harmless.
#[must_use]
pub fn comes_again(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Aborted
            | Code::Internal
    )
}
