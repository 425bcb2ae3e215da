//! The clients of the wave as plain structs, and the open loop that makes them speak: a state
//! changes when the schedule says so, whether the site keeps up or not.
//!
//! Each is what an agent is: it gives a changed state the next serial and keeps it until the site
//! has accepted it, has one report under way, and sends what has come together since in the next
//! one; who is put off waits with full jitter, not less than the server asks for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use load_tests::fleet::{Member, Random};
use load_tests::relay::{Relay, comes_again};
use muster_domain::states::{DeploymentCompliance, DeploymentEnforcement, UpdateEnforcement};
use muster_proto::state as pb;
use muster_runtime::Backoff;
use prost::Message;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use uuid::Uuid;

/// Updates in the deployment, numbered from 1.
pub(super) const UPDATES: usize = 5;
/// State changes of one client from the beginning to the end: six of each update and five of the
/// deployment.
pub(super) const STEPS: usize = UPDATES * 6 + 5;
/// One client in so many fails.
const FAILS_ONE_IN: usize = 33;
const ERROR: i32 = 101;
/// Clients in one call: what comes together within [`TICK`], as when management points relay.
const PER_CALL: usize = 64;
/// How often the schedule is looked at.
const TICK: Duration = Duration::from_millis(1);
/// Calls under way at most; who comes later waits, and its time counts. More than a management
/// point lets wait: it is for the site to say when it is too much.
const CALLS: usize = 2_000;
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// What a client says of one thing: of an update by its number, of the deployment at 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) state: u8,
    pub(super) compliance: u8,
    pub(super) error_code: i32,
    pub(super) serial: u64,
}

/// One client.
#[derive(Debug)]
pub(super) struct Agent {
    member: Member,
    step: usize,
    fails: bool,
    pub(super) says: [Said; UPDATES + 1],
    /// Accepted up to here.
    accepted: u64,
    waits: Waits,
    backoff: Backoff,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// Has nothing to say.
    Idle,
    /// Will be in the next call with room, is in one, or has been put off.
    Busy,
}

impl Agent {
    fn new(member: Member, random: &mut Random) -> Self {
        Self {
            accepted: member.serial,
            member,
            step: 0,
            fails: random.once_in(FAILS_ONE_IN),
            says: Default::default(),
            waits: Waits::Idle,
            backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
        }
    }

    /// The next state changes. Round and round: after the end the deployment begins anew.
    fn change(&mut self) {
        use {DeploymentEnforcement as D, UpdateEnforcement as U};
        const ON_UPDATE: [U; 5] = [
            U::Downloading,
            U::Downloaded,
            U::PendingInstallation,
            U::Installing,
            U::PendingRestart,
        ];
        const ON_DEPLOYMENT: [D; 4] = [
            D::Downloading,
            D::Downloaded,
            D::Installing,
            D::PendingRestart,
        ];
        self.member.serial += 1;
        // A round of the updates, then five rounds that begin with the deployment.
        let (round, number) = (
            (self.step + 1) / (UPDATES + 1),
            (self.step + 1) % (UPDATES + 1),
        );
        self.step = (self.step + 1) % STEPS;
        let said = &mut self.says[number];
        said.serial = self.member.serial;
        said.error_code = if round == 5 && self.fails { ERROR } else { 0 };
        if number > 0 {
            let end = if self.fails {
                U::FailedToInstall
            } else {
                U::SuccessfullyInstalled
            };
            said.state = ON_UPDATE.get(round).copied().unwrap_or(end).id();
        } else {
            let end = if self.fails {
                D::FailedToInstall
            } else {
                D::SuccessfullyInstalled
            };
            let state = ON_DEPLOYMENT.get(round - 1).copied().unwrap_or(end);
            let done = state == D::SuccessfullyInstalled;
            let compliance = [
                DeploymentCompliance::NonCompliant,
                DeploymentCompliance::Compliant,
            ];
            said.state = state.id();
            said.compliance = compliance[usize::from(done)].id();
        }
    }

    /// All that is not accepted yet, as one report.
    fn report(&self, deployment: Uuid) -> pb::Report {
        let mut report = pb::Report {
            client_id: self.member.id.as_bytes().to_vec().into(),
            epoch: self.member.epoch,
            first_serial: self.accepted + 1,
            last_serial: self.member.serial,
            kind: pb::ReportKind::Delta.into(),
            priority: pb::Priority::Normal.into(),
            catalog_generation: 1,
            ..Default::default()
        };
        for (number, said) in (0..).zip(&self.says) {
            if said.serial > self.accepted {
                said.put(&mut report, deployment, number);
            }
        }
        report
    }
}

impl Said {
    /// Adds this to a report.
    pub(super) fn put(&self, report: &mut pb::Report, deployment: Uuid, update_no: u32) {
        let deployment_id = deployment.as_bytes().to_vec().into();
        let (state, error_code, serial) = (self.state.into(), self.error_code, self.serial);
        if update_no > 0 {
            report.update_enforcements.push(pb::UpdateEnforcementState {
                deployment_id,
                update_no,
                state,
                error_code,
                serial,
                ..Default::default()
            });
        } else {
            report.deployments.push(pb::DeploymentState {
                deployment_id,
                compliance: self.compliance.into(),
                enforcement: state,
                evaluation: 2,
                error_code,
                serial,
                ..Default::default()
            });
        }
    }
}

/// When states change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    /// Changes per second, as a Poisson process.
    pub(super) rate: f64,
    pub(super) time: Duration,
    /// In the middle so many clients in a hundred change at the same moment: the deadline.
    pub(super) at_once: usize,
}

/// What became of a schedule.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Played {
    pub(super) changes: u64,
    /// Calls that were put off.
    pub(super) put_off: u64,
    /// From the end of the schedule until the last change was accepted.
    pub(super) settled_after: Duration,
}

/// Who was in a call, up to which serial of each, and the answer.
type Answered = (Vec<(usize, u64)>, Result<(), Status>);

/// All clients, and those who have something to send.
#[derive(Debug)]
pub(super) struct Wave {
    pub(super) agents: Vec<Agent>,
    pub(super) deployment: Uuid,
    /// So many of them have the deployment by now; nothing changes at the others.
    pub(super) taking_part: usize,
    relay: Arc<Relay>,
    ready: Vec<usize>,
    put_off: BinaryHeap<Reverse<(Instant, usize)>>,
    calls: JoinSet<Answered>,
    random: Random,
    next: usize,
}

impl Wave {
    pub(super) fn new(
        members: Vec<Member>,
        taking_part: usize,
        deployment: Uuid,
        relay: Arc<Relay>,
        seed: u64,
    ) -> Self {
        let mut random = Random::new(seed);
        let agents = members
            .into_iter()
            .map(|member| Agent::new(member, &mut random));
        Self {
            agents: agents.collect(),
            deployment,
            taking_part,
            relay,
            ready: Vec::new(),
            put_off: BinaryHeap::new(),
            calls: JoinSet::new(),
            random,
            next: 0,
        }
    }

    /// Plays a schedule to its end, and then until everything is accepted.
    pub(super) async fn play(&mut self, schedule: Schedule) -> Result<Played> {
        let mut played = self.run(schedule).await?;
        let end = Instant::now();
        while !self.is_settled() {
            self.turn(&mut played).await?;
        }
        played.settled_after = end.elapsed();
        Ok(played)
    }

    /// Plays a schedule to its end; what is not accepted by then stays with the clients.
    pub(super) async fn run(&mut self, schedule: Schedule) -> Result<Played> {
        let mut played = Played::default();
        let begin = Instant::now();
        let mut due = begin;
        let mut deadline = (schedule.at_once > 0).then(|| begin + schedule.time / 2);
        let end = begin + schedule.time;
        while Instant::now() < end {
            let now = Instant::now();
            while due <= now && due < end {
                played.changes += 1;
                let at = self.next;
                self.next = (self.next + 1) % self.taking_part;
                self.change(at);
                due += self.random.pause(schedule.rate);
            }
            if deadline.is_some_and(|at| at <= now) {
                deadline = None;
                for _ in 0..self.taking_part * schedule.at_once / 100 {
                    played.changes += 1;
                    let at = self.random.below(self.taking_part);
                    self.change(at);
                }
            }
            self.turn(&mut played).await?;
        }
        Ok(played)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.calls.is_empty() && self.ready.is_empty() && self.put_off.is_empty()
    }

    fn change(&mut self, at: usize) {
        let agent = &mut self.agents[at];
        agent.change();
        if agent.waits == Waits::Idle {
            agent.waits = Waits::Busy;
            self.ready.push(at);
        }
    }

    /// Sends what is ready, takes answers in, and waits for the next tick.
    async fn turn(&mut self, played: &mut Played) -> Result<()> {
        let next = Instant::now() + TICK;
        while let Some(Reverse((at, agent))) = self.put_off.peek().copied() {
            if at > Instant::now() {
                break;
            }
            self.put_off.pop();
            self.ready.push(agent);
        }
        while !self.ready.is_empty() && self.calls.len() < CALLS {
            let together = self.ready.len().min(PER_CALL);
            let agents: Vec<usize> = self.ready.drain(..together).collect();
            self.call(agents);
        }
        loop {
            tokio::select! {
                biased;
                () = sleep_until(next) => return Ok(()),
                Some(done) = self.calls.join_next() => {
                    let (agents, answer) = done?;
                    self.answered(agents, answer, played)?;
                }
            }
        }
    }

    fn call(&mut self, agents: Vec<usize>) {
        let sent = |at: usize| (at, self.agents[at].member.serial);
        let sent: Vec<(usize, u64)> = agents.into_iter().map(sent).collect();
        let envelope = |(at, _): &(usize, u64)| {
            let agent = &self.agents[*at];
            pb::ReportEnvelope {
                report: agent.report(self.deployment).encode_to_vec().into(),
                client_id: agent.member.id.as_bytes().to_vec().into(),
                traceparent: String::new(),
                received_at: None,
            }
        };
        let envelopes: Vec<pb::ReportEnvelope> = sent.iter().map(envelope).collect();
        let relay = Arc::clone(&self.relay);
        self.calls
            .spawn(async move { (sent, relay.try_once(envelopes).await) });
    }

    fn answered(
        &mut self,
        sent: Vec<(usize, u64)>,
        answer: Result<(), Status>,
        played: &mut Played,
    ) -> Result<()> {
        match answer {
            Ok(()) => {
                for (at, serial) in sent {
                    let agent = &mut self.agents[at];
                    agent.accepted = serial;
                    agent.backoff.reset();
                    if agent.member.serial > serial {
                        self.ready.push(at);
                    } else {
                        agent.waits = Waits::Idle;
                    }
                }
            }
            Err(status) if comes_again(status.code()) => {
                played.put_off += 1;
                for (at, _) in sent {
                    let pause = self.agents[at].backoff.after(&status);
                    self.put_off.push(Reverse((Instant::now() + pause, at)));
                }
            }
            Err(status) => bail!("a report was refused: {status}"),
        }
        Ok(())
    }
}
