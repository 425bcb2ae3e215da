//! What an administrator sees, and when: single clients with a deployment of their own each, whose
//! reports go the same way as those of the wave, and are looked for in `GetEnforcement` until they
//! are there. The time is that from when the report was due to the answer that showed it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use load_tests::fleet::{Member, Random};
use load_tests::relay::Relay;
use muster_proto::report::GetEnforcementRequest;
use muster_proto::report::report_service_client::ReportServiceClient;
use muster_proto::state as pb;
use muster_runtime::Backoff;
use muster_runtime::grpc::Channel;
use prost::Message;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::agents::Said;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);
/// A report that is not visible after this long is lost.
const PATIENCE: Duration = Duration::from_secs(240);
/// The enforcement states that probes go through, round and round: no two the same in turn.
const STATES: [u8; 4] = [7, 8, 1, 5];

/// What became of one report, from when it was due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// The management point said yes.
    pub(super) accepted: Duration,
    /// An answer showed it.
    pub(super) visible: Duration,
    /// Times it was looked for.
    pub(super) looks: u32,
}

/// Milliseconds until visible, of each.
pub(super) fn visible(seen: &[Seen]) -> Vec<f64> {
    let milliseconds = |seen: &Seen| seen.visible.as_secs_f64() * 1e3;
    seen.iter().map(milliseconds).collect()
}

/// A client with a deployment of its own.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) member: Member,
    pub(super) deployment: Uuid,
    pub(super) said: Said,
}

impl Probe {
    /// One report, until it is seen.
    async fn report(
        &mut self,
        relay: &Relay,
        reports: &mut ReportServiceClient<Channel>,
        due: Instant,
    ) -> Result<Seen> {
        let mut report = self.member.next(pb::ReportKind::Delta);
        let turn = usize::try_from(self.member.serial % 4).unwrap_or(0);
        self.said = Said {
            state: STATES[turn],
            compliance: 2,
            error_code: 0,
            serial: self.member.serial,
        };
        self.said.put(&mut report, self.deployment, 0);
        let sent = self.member.sent(report.encode_to_vec().into());
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        while let Err(status) = relay.try_once(vec![sent.envelope()]).await {
            tokio::time::sleep(backoff.after(&status)).await;
        }
        let accepted = due.elapsed();
        let state = i32::from(self.said.state);
        let mut looks = 0;
        loop {
            looks += 1;
            let request = GetEnforcementRequest {
                deployment: self.deployment.to_string(),
                state,
                page_size: 1,
                ..Default::default()
            };
            let answer = reports.get_enforcement(request).await?.into_inner();
            if answer.states.iter().any(|it| it.state == state) {
                ensure!(answer.clients.len() == 1, "a count without its client");
                let visible = due.elapsed();
                return Ok(Seen {
                    accepted,
                    visible,
                    looks,
                });
            }
            ensure!(
                due.elapsed() < PATIENCE,
                "a report is not visible after {PATIENCE:?}"
            );
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Sends probes at random moments, so many per second, until the time is over; what became of
/// each. One at a time of each client: when all are under way, one waits, and its time counts.
pub(super) async fn watch(
    probes: &mut Vec<Probe>,
    relay: &Arc<Relay>,
    reports: &ReportServiceClient<Channel>,
    rate: f64,
    time: Duration,
    random: &mut Random,
) -> Result<Vec<Seen>> {
    let mut under_way: JoinSet<Result<(Probe, Seen)>> = JoinSet::new();
    let mut all = Vec::new();
    let begin = Instant::now();
    let mut due = begin;
    let mut take = |done: Result<Result<(Probe, Seen)>, tokio::task::JoinError>,
                    probes: &mut Vec<Probe>| {
        let (probe, seen) = done.context("a probe panicked")??;
        all.push(seen);
        probes.push(probe);
        anyhow::Ok(())
    };
    loop {
        due += random.pause(rate);
        if due >= begin + time {
            break;
        }
        sleep_until(due).await;
        while let Some(done) = under_way.try_join_next() {
            take(done, probes)?;
        }
        let mut probe = loop {
            if let Some(probe) = probes.pop() {
                break probe;
            }
            let done = under_way.join_next().await.context("there are no probes")?;
            take(done, probes)?;
        };
        let (relay, mut reports) = (Arc::clone(relay), reports.clone());
        under_way.spawn(async move {
            let seen = probe.report(&relay, &mut reports, due).await?;
            Ok((probe, seen))
        });
    }
    while let Some(done) = under_way.join_next().await {
        take(done, probes)?;
    }
    Ok(all)
}
