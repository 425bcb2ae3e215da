//! Reports that come in while people ask: changes of updates that nobody asks for, at half of the
//! rate that the site takes when there is always more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use load_tests::fleet::{Member, Random, Sent, cell};
use load_tests::ground::Ground;
use load_tests::relay::Relay;
use muster_domain::states::Detection;
use tokio::task::JoinHandle;

/// Updates from here on are changed; the questions are about lower numbers.
const FROM: usize = 20_000;
const CHANGES: usize = 5;
const PER_CALL: usize = 64;
const CONNECTIONS: usize = 4;
/// Reports that measure what the site takes.
const SAMPLE: usize = 10_000;

/// Running.
pub(super) struct Ingest {
    /// Reports per second.
    pub(super) rate: f64,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    task: JoinHandle<Result<()>>,
}

impl Ingest {
    /// Measures what the site takes, and goes on with half of it.
    pub(super) async fn start(ground: &Ground, members: &[Member]) -> Result<Self> {
        let relay = Arc::new(ground.relay(CONNECTIONS)?);
        let mut members = members.to_vec();
        members.retain(|member| !member.states.is_empty());
        let (mut random, mut at) = (Random::new(11), 0);
        let mut some = move |reports: usize| -> Vec<Sent> {
            let mut sent = Vec::with_capacity(reports);
            for _ in 0..reports {
                let member = &mut members[at];
                at += 1;
                let changes: Vec<u32> = {
                    let mut numbers = std::collections::BTreeSet::new();
                    while numbers.len() < CHANGES {
                        numbers.insert(u32::try_from(FROM + random.below(9_000)).unwrap_or(0));
                    }
                    numbers
                        .into_iter()
                        .map(|number| cell(number, Detection::Required))
                        .collect()
                };
                let report = member.delta(&changes);
                sent.push(member.sent(report));
                at %= members.len();
            }
            sent
        };
        let sample = some(SAMPLE);
        let before = ground.recorded().await?;
        let begin = Instant::now();
        relay.send(&sample, PER_CALL, 64).await?;
        ground.wait_for(before + sample.len() as u64).await?;
        #[allow(clippy::cast_precision_loss)]
        let rate = sample.len() as f64 / begin.elapsed().as_secs_f64() / 2.0;
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        #[allow(clippy::disallowed_methods)] // its handle is awaited
        let task = tokio::spawn(async move {
            let pause = Duration::from_secs_f64(PER_CALL as f64 / rate);
            let mut ticks = tokio::time::interval(pause);
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                let reports = some(PER_CALL);
                deliver(&relay, &reports).await?;
                counted.fetch_add(PER_CALL as u64, Ordering::Relaxed);
            }
            Ok(())
        });
        Ok(Self {
            rate,
            stop,
            sent,
            task,
        })
    }

    /// Ends; how many reports were accepted.
    pub(super) async fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the ingest panicked")??;
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

async fn deliver(relay: &Relay, reports: &[Sent]) -> Result<()> {
    let envelopes = reports.iter().map(Sent::envelope).collect();
    relay
        .deliver(envelopes)
        .await
        .context("a report was refused")
}
