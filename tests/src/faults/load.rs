//! The outside world: clients as plain numbers, which report through a management point over a
//! few connections, with a management point's certificate (`StateService/RelayReports`).
//!
//! Nothing is sent before the journal has it on disk, and a client's next report waits for the
//! acknowledgement of the one before, as the agent does it. These clients do not answer when the
//! site asks for a full report, unless they are told to: what the site repairs by asking must
//! not hide what it lost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use muster_compliance::packed;
use muster_domain::UpdateNo;
use muster_domain::states::Detection;
use muster_proto::client as pb_client;
use muster_proto::client::client_gateway_service_client::ClientGatewayServiceClient;
use muster_proto::client::client_service_client::ClientServiceClient;
use muster_proto::state as pb;
use muster_proto::state::state_service_client::StateServiceClient;
use muster_runtime::config::TlsConfig;
use muster_runtime::grpc::{Channel, ChannelOptions, channel};
use muster_runtime::tls::ca::signing_request;
use prost::Message;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;
use uuid::Uuid;

use super::journal::{self, Attempt, Change, Entry, Journal, Subject, Word, deployment_id};

/// Reports in one call.
const REPORTS: usize = 16;
/// Calls under way.
const CALLS: usize = 8;
/// How long one call may take before its outcome is unknown.
const CALL: Duration = Duration::from_secs(15);
/// Between two tries of the same call.
const PAUSE: Duration = Duration::from_millis(50);
/// One call in so many is two, the later one first.
const SWAPPED: usize = 4;
/// How far deliveries are mixed up (F-06).
const WINDOW: usize = 500;

/// Where the site is and who we are there.
#[derive(Debug, Clone, clap::Args)]
pub struct Way {
    /// gRPC address of the management point; given twice, the last one counts.
    #[arg(long, overrides_with = "management_point")]
    pub management_point: String,
    /// gRPC address of the site server.
    #[arg(long)]
    pub site_server: String,
    /// The site's folder, with `ca/` and `certs/`.
    #[arg(long)]
    pub site: PathBuf,
}

/// Where clients report that are moved while they report; nothing else moves them.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct NextWay {
    /// gRPC address of a management point of the other site.
    #[arg(long, requires = "next_site_server", requires = "next_site")]
    pub next_management_point: Option<String>,
    /// gRPC address of its site server.
    #[arg(long)]
    pub next_site_server: Option<String>,
    /// Its folder.
    #[arg(long)]
    pub next_site: Option<PathBuf>,
}

impl NextWay {
    fn way(&self) -> Option<Way> {
        Some(Way {
            management_point: self.next_management_point.clone()?,
            site_server: self.next_site_server.clone()?,
            site: self.next_site.clone()?,
        })
    }
}

/// A client as its site knows it.
#[derive(Debug, Clone)]
struct Enrolled {
    id: Uuid,
    epoch: u32,
    /// With these it proves at another site who it is.
    csr: Bytes,
    certificate: Bytes,
}

impl Way {
    /// The certificate of this name.
    #[must_use]
    pub fn tls(&self, name: &str) -> TlsConfig {
        TlsConfig {
            ca: self.site.join("ca/ca.pem"),
            cert: self.site.join(format!("certs/{name}.pem")),
            key: self.site.join(format!("certs/{name}.key")),
        }
    }

    fn channel(&self, url: &str, name: &str) -> Result<Channel> {
        let options = ChannelOptions {
            request_timeout: CALL,
            ..ChannelOptions::default()
        };
        Ok(channel(url, &self.tls(name), &options)?)
    }

    /// Hands envelopes over, once.
    ///
    /// # Errors
    /// When nobody said that they are safe.
    pub async fn relay(&self, envelopes: Vec<pb::ReportEnvelope>) -> Result<()> {
        let channel = self.channel(&self.management_point, "management-point")?;
        let request = pb::RelayReportsRequest { envelopes };
        StateServiceClient::new(channel)
            .relay_reports(request)
            .await?;
        Ok(())
    }

    /// What a client asks when it polls its policy; says whether the site wants a full report, or
    /// ranges: who has kept no states answers those with everything, too.
    ///
    /// # Errors
    /// When the site does not answer.
    pub async fn asks_for_full(&self, client: Uuid) -> Result<bool> {
        asks_for_full(&self.gateway()?, client).await
    }

    fn gateway(&self) -> Result<ClientGatewayServiceClient<Channel>> {
        let channel = self.channel(&self.site_server, "management-point")?;
        Ok(ClientGatewayServiceClient::new(channel))
    }

    /// Enrols so many clients; their ids in order.
    ///
    /// # Errors
    /// When the site refuses one.
    pub async fn enrol(&self, count: u32, name: &str) -> Result<Vec<(Uuid, u32)>> {
        let enrolled = self.enrol_all(count, name).await?;
        Ok(enrolled.into_iter().map(|it| (it.id, it.epoch)).collect())
    }

    async fn enrol_all(&self, count: u32, name: &str) -> Result<Vec<Enrolled>> {
        let request = pb_client::CreateEnrolmentTokensRequest {
            count,
            valid_for: Some(prost_types::Duration {
                seconds: 600,
                nanos: 0,
            }),
            collection_ids: Vec::new(),
        };
        let admin = self.channel(&self.site_server, "administrator")?;
        let tokens = ClientServiceClient::new(admin)
            .create_enrolment_tokens(request)
            .await?
            .into_inner()
            .tokens;
        let gateway = self.gateway()?;
        let mut enrolled = Vec::new();
        for (number, token) in tokens.into_iter().enumerate() {
            let machine = pb_client::MachineFacts {
                host_name: format!("{name}-{number:05}"),
                os_id: "debian".into(),
                os_version_id: "12".into(),
                architecture: "amd64".into(),
                ..Default::default()
            };
            let csr = Bytes::from(signing_request()?.der);
            let request = pb_client::EnrolRequest {
                token,
                csr: csr.clone(),
                machine: Some(machine),
                arrival: None,
            };
            let request = pb_client::EnrolClientRequest {
                request: Some(request),
                ..Default::default()
            };
            let answer = gateway.clone().enrol_client(request).await?.into_inner();
            let answer = answer.response.context("an enrolment without an answer")?;
            enrolled.push(Enrolled {
                id: Uuid::from_slice(&answer.client_id)?,
                epoch: answer.epoch,
                csr,
                certificate: answer
                    .certificate_chain
                    .first()
                    .cloned()
                    .unwrap_or_default(),
            });
        }
        Ok(enrolled)
    }
}

async fn asks_for_full(
    gateway: &ClientGatewayServiceClient<Channel>,
    client: Uuid,
) -> Result<bool> {
    Ok(poll(gateway, client).await?.0)
}

/// Whether the site wants a full report, and whether the client is to be another site's.
async fn poll(gateway: &ClientGatewayServiceClient<Channel>, client: Uuid) -> Result<(bool, bool)> {
    let request = pb_client::GetClientPolicyRequest {
        client_id: Bytes::copy_from_slice(client.as_bytes()),
        known_version: Bytes::new(),
        ..Default::default()
    };
    let answer = gateway.clone().get_client_policy(request).await?;
    let answer = answer.into_inner();
    let ranges = matches!(&answer.wish, Some(wish) if wish.kind() == pb::WishKind::Ranges);
    let policy = answer.policy.unwrap_or_default().policy;
    let policy = muster_proto::policy::Policy::decode(policy)?;
    Ok((answer.send_full_report || ranges, policy.r#move.is_some()))
}

/// How the fleet behaves.
#[derive(Debug, Clone, clap::Args)]
pub struct Manner {
    /// Clients.
    #[arg(long, default_value_t = 400)]
    pub clients: u32,
    /// Updates they have states of, numbered from 1.
    #[arg(long, default_value_t = 64)]
    pub updates: u32,
    /// Where all random choices come from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Reports a second of the whole fleet at most, in `load`. A broker may give messages back in any
    /// order; the site lets 16 reports of a client wait for one that is missing, and asks again for
    /// what is beyond. So what a client sends in half a minute must stay below that.
    #[arg(long, default_value_t = 120)]
    pub rate: u32,
    /// Answer when the site asks for a full report.
    #[arg(long)]
    pub answer_resync: bool,
    /// Changes of updates between two reports of a client, at most.
    #[arg(long, default_value_t = 3)]
    pub states: u32,
    /// How often clients ask, as they go on, whether the site wants a full report; with
    /// `--answer-resync`. Otherwise they ask at the end.
    #[arg(long, value_name = "SECONDS")]
    pub poll: Option<u64>,
    /// One call in so many comes again although it was acknowledged, as when its answer is lost.
    #[arg(long)]
    pub twice: Option<u64>,
    /// Every state is new to its client: what is counted twice then shows.
    #[arg(long)]
    pub once: bool,
    /// Reports of each client, in `mangle`.
    #[arg(long, default_value_t = 20)]
    pub rounds: usize,
    /// The clients' clocks go back by an hour in the middle of it, in `mangle`.
    #[arg(long)]
    pub clock_steps_back: bool,
    /// Delays are this many times shorter than the 30 seconds they stand for, in `mangle`.
    #[arg(long, default_value_t = 10)]
    pub hurry: u32,
    /// Where they go when they are moved.
    #[command(flatten)]
    pub next: NextWay,
}

/// Deployments that clients have states of, numbered from 1; `Ground` makes them.
pub(super) const DEPLOYMENTS: u8 = 2;
/// Updates in each of them, numbered from 1.
const DEPLOYED: u32 = 4;

/// One client: what its spool would hold.
#[derive(Debug)]
struct Member {
    place: usize,
    id: Uuid,
    /// As its first site gave it.
    enrolled: Enrolled,
    /// To go to another site, and that it is there.
    is_told: bool,
    moved: bool,
    epoch: u32,
    serial: u64,
    acknowledged: u64,
    states: BTreeMap<u32, (u64, Detection)>,
    words: BTreeMap<Subject, (u64, u16)>,
    sends_full: bool,
    random: StdRng,
}

impl Member {
    fn new(place: usize, enrolled: Enrolled, seed: u64) -> Self {
        Self {
            place,
            id: enrolled.id,
            epoch: enrolled.epoch,
            enrolled,
            is_told: false,
            moved: false,
            serial: 0,
            acknowledged: 0,
            states: BTreeMap::new(),
            words: BTreeMap::new(),
            sends_full: true,
            random: StdRng::seed_from_u64(seed.rotate_left(32) ^ place as u64),
        }
    }

    /// A deployment goes on, or an update in it.
    fn deploy(&mut self) {
        let deployment = self.random.random_range(1..=DEPLOYMENTS);
        let of = (deployment, self.random.random_range(0..=DEPLOYED));
        let held = self.words.get(&of).map(|(_, state)| *state);
        let state = if of.1 == 0 {
            Word::whole([4, 13, 4].map(|states| self.random.random_range(0..states)))
        } else {
            self.random.random_range(0..=14)
        };
        if held != Some(state) {
            self.serial += 1;
            self.words.insert(of, (self.serial, state));
        }
    }

    /// Something about the machine changes.
    fn change(&mut self, manner: &Manner) {
        if self.random.random_range(0..2) == 0 {
            self.deploy();
        }
        for _ in 0..self.random.random_range(1..=manner.states.max(1)) {
            let free = u32::try_from(self.states.len()).unwrap_or(0) + 1;
            let update_no = if manner.once {
                if free > manner.updates {
                    return;
                }
                free
            } else {
                self.random.random_range(1..=manner.updates)
            };
            let held = self.states.get(&update_no).map(|(_, state)| *state);
            let all = [
                Detection::Unknown,
                Detection::NotRequired,
                Detection::Required,
                Detection::Installed,
            ];
            let state = if manner.once {
                Detection::Required
            } else {
                let others: Vec<_> = all.into_iter().filter(|it| Some(*it) != held).collect();
                others[self.random.random_range(0..others.len())]
            };
            self.serial += 1;
            self.states.insert(update_no, (self.serial, state));
        }
    }

    /// A report of what is newer than what was acknowledged; of everything, when that is due.
    fn pack(&mut self) -> Option<Attempt> {
        let full = std::mem::take(&mut self.sends_full);
        if !full && self.serial == self.acknowledged {
            return None;
        }
        let after = if full { 0 } else { self.acknowledged };
        let changes = self.states.iter();
        let mut changes: Vec<Change> = changes
            .filter(|(_, (serial, _))| *serial > after)
            .map(|(update_no, (serial, state))| Change {
                serial: *serial,
                update_no: *update_no,
                state: state.id(),
            })
            .collect();
        changes.sort_by_key(|change| change.update_no);
        let words = self.words.iter();
        let words = words
            .filter(|(_, (serial, _))| *serial > after)
            .map(|(of, (serial, state))| Word {
                serial: *serial,
                of: *of,
                state: *state,
            })
            .collect();
        Some(Attempt {
            client: self.place,
            epoch: self.epoch,
            full,
            first: after + 1,
            last: self.serial,
            changes,
            words,
        })
    }

    /// The bytes of it. One of four is urgent and overtakes others on its way.
    fn envelope(&mut self, attempt: &Attempt, reported_at: u64) -> pb::ReportEnvelope {
        let states = attempt.changes.iter().filter_map(|change| {
            let state = Detection::from_id(change.state)?;
            Some((UpdateNo(change.update_no), state))
        });
        let packed = packed::pack(states);
        let kind = if attempt.full {
            pb::ReportKind::Full
        } else {
            pb::ReportKind::Delta
        };
        let urgent = self.random.random_range(0..4) == 0;
        let priority = if urgent {
            pb::Priority::UrgentUnspecified
        } else {
            pb::Priority::Normal
        };
        let reported_at = prost_types::Timestamp {
            seconds: i64::try_from(reported_at / 1_000_000).unwrap_or(0),
            nanos: i32::try_from(reported_at % 1_000_000).unwrap_or(0) * 1_000,
        };
        let id = Bytes::copy_from_slice(self.id.as_bytes());
        let (whole, single): (Vec<Word>, Vec<Word>) =
            attempt.words.iter().partition(|word| word.of.1 == 0);
        let of = |word: &Word| Bytes::copy_from_slice(deployment_id(word.of.0).as_bytes());
        let deployments = whole.iter().map(|word| {
            let [compliance, enforcement, evaluation] = Word::topics(word.state).map(i32::from);
            pb::DeploymentState {
                deployment_id: of(word),
                compliance,
                enforcement,
                evaluation,
                serial: word.serial,
                changed_at: Some(reported_at),
                ..Default::default()
            }
        });
        let update_enforcements = single.iter().map(|word| pb::UpdateEnforcementState {
            deployment_id: of(word),
            update_no: word.of.1,
            state: word.state.into(),
            serial: word.serial,
            changed_at: Some(reported_at),
            ..Default::default()
        });
        let report = pb::Report {
            client_id: id.clone(),
            deployments: deployments.collect(),
            update_enforcements: update_enforcements.collect(),
            epoch: attempt.epoch,
            first_serial: attempt.first,
            last_serial: attempt.last,
            kind: kind.into(),
            priority: priority.into(),
            reported_at: Some(reported_at),
            catalog_generation: 1,
            compliance: Some(pb::Compliance {
                update_numbers: packed.update_numbers,
                states: packed.states.into(),
                serial: attempt.last,
                needs: Vec::new(),
            }),
            ..Default::default()
        };
        pb::ReportEnvelope {
            report: report.encode_to_vec().into(),
            client_id: id,
            traceparent: String::new(),
            received_at: None,
        }
    }
}

/// What all parts of a fleet share.
struct Fleet {
    way: Way,
    manner: Manner,
    journal: Journal,
    home: Home,
    /// Where clients go that are moved.
    next: Option<Home>,
    calls: AtomicU64,
    stop: AtomicBool,
    stopped: Notify,
}

/// The servers of a site.
struct Home {
    service: StateServiceClient<Channel>,
    gateway: ClientGatewayServiceClient<Channel>,
}

impl Home {
    fn new(way: &Way) -> Result<Self> {
        let channel = way.channel(&way.management_point, "management-point")?;
        Ok(Self {
            service: StateServiceClient::new(channel),
            gateway: way.gateway()?,
        })
    }
}

impl Fleet {
    fn new(way: &Way, manner: &Manner, journal: &Path) -> Result<Self> {
        Ok(Self {
            way: way.clone(),
            manner: manner.clone(),
            journal: Journal::create(journal)?,
            home: Home::new(way)?,
            next: manner.next.way().as_ref().map(Home::new).transpose()?,
            calls: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            stopped: Notify::new(),
        })
    }

    async fn members(&self) -> Result<Vec<Member>> {
        let enrolled = self.way.enrol_all(self.manner.clients, "sim").await?;
        let clients: Vec<Entry> = enrolled.iter().map(|it| Entry::Client(it.id)).collect();
        self.journal.write(&clients).await?;
        let member = |(place, enrolled)| Member::new(place, enrolled, self.manner.seed);
        Ok(enrolled.into_iter().enumerate().map(member).collect())
    }

    /// The site that a client reports to.
    fn home(&self, moved: bool) -> &Home {
        let next = self.next.as_ref().filter(|_| moved);
        next.unwrap_or(&self.home)
    }

    /// What a client asks as it goes on. One that is to be another site's goes there, and tells
    /// it everything.
    async fn poll(&self, member: &mut Member) -> Result<()> {
        let polled = poll(&self.home(member.moved).gateway, member.id).await;
        if let Ok((full, moves)) = polled {
            member.sends_full |= full;
            member.is_told = moves && !member.moved;
        }
        // Also when its site lets it go before it has heard of the other one.
        let Some(next) = self.next.as_ref().filter(|_| member.is_told) else {
            return Ok(());
        };
        let machine = pb_client::MachineFacts {
            host_name: format!("sim-{:05}", member.place),
            ..Default::default()
        };
        let request = pb_client::EnrolRequest {
            csr: member.enrolled.csr.clone(),
            machine: Some(machine),
            arrival: Some(pb_client::Arrival {
                client_id: Bytes::copy_from_slice(member.id.as_bytes()),
                certificate: member.enrolled.certificate.clone(),
                known_epoch: member.epoch,
            }),
            ..Default::default()
        };
        let request = pb_client::EnrolClientRequest {
            request: Some(request),
            ..Default::default()
        };
        let answer = next.gateway.clone().enrol_client(request).await?;
        let answer = answer.into_inner().response;
        member.epoch = answer.context("an arrival without an answer")?.epoch;
        (member.moved, member.is_told, member.sends_full) = (true, false, true);
        Ok(())
    }

    /// Sends the same reports until they are acknowledged, each to the site of its client.
    async fn deliver(
        &self,
        members: &[Member],
        reports: Vec<(Attempt, pb::ReportEnvelope)>,
    ) -> Result<()> {
        let moved = |(attempt, _): &(Attempt, _)| {
            let mut of = members.iter().filter(|it| it.place == attempt.client);
            of.next().is_some_and(|it| it.moved)
        };
        let (there, here): (Vec<_>, Vec<_>) = reports.into_iter().partition(moved);
        for (reports, home) in [(here, self.home(false)), (there, self.home(true))] {
            if !reports.is_empty() {
                self.deliver_to(home, &reports).await?;
            }
        }
        Ok(())
    }

    async fn deliver_to(
        &self,
        home: &Home,
        reports: &[(Attempt, pb::ReportEnvelope)],
    ) -> Result<()> {
        let mut again = false;
        loop {
            let call = self.calls.fetch_add(1, Ordering::SeqCst);
            let attempts: Vec<Entry> = reports
                .iter()
                .map(|(attempt, _)| Entry::Attempt(call, attempt.clone()))
                .collect();
            self.journal.write(&attempts).await?;
            let envelopes = reports.iter().map(|(_, envelope)| envelope.clone());
            let request = pb::RelayReportsRequest {
                envelopes: envelopes.collect(),
            };
            let answer = home.service.clone().relay_reports(request).await;
            match answer {
                Ok(_) => {
                    self.journal.write(&[Entry::Acknowledged(call)]).await?;
                    let twice = self.manner.twice;
                    if again || twice.is_none_or(|of| !call.is_multiple_of(of)) {
                        return Ok(());
                    }
                    again = true;
                }
                Err(status) => {
                    ensure!(
                        status.code() != tonic::Code::InvalidArgument,
                        "a report was refused: {status}"
                    );
                    self.journal.write(&[Entry::Unknown(call)]).await?;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Some clients, until the end; then until everything is acknowledged.
    async fn part(self: Arc<Self>, mut members: Vec<Member>) -> Result<()> {
        let mut round = 0;
        let share = members.len() as f64 / f64::from(self.manner.clients.max(1));
        let reports = REPORTS.min(members.len()) as f64;
        let every = Duration::from_secs_f64(reports / (f64::from(self.manner.rate.max(1)) * share));
        // Not all parts at the same moment.
        let first = members
            .first_mut()
            .map_or(0.0, |it| it.random.random_range(0.0..1.0));
        let mut due = tokio::time::Instant::now() + every.mul_f64(first);
        let mut asked_at = tokio::time::Instant::now();
        while !self.stop.load(Ordering::SeqCst) {
            let poll = self.manner.poll.map(Duration::from_secs);
            if poll.is_some_and(|poll| asked_at.elapsed() >= poll) {
                for member in &mut members {
                    // A site that does not answer is asked again.
                    let _ = self.poll(member).await;
                }
                asked_at = tokio::time::Instant::now();
            }
            let from = round % members.len();
            round += REPORTS;
            if (round / REPORTS).is_multiple_of(SWAPPED) {
                self.swapped_calls(&mut members, from).await?;
            } else {
                self.one_call(&mut members, from, true).await?;
            }
            // What could not be sent in time is not made up for.
            due = (due + every).max(tokio::time::Instant::now());
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = self.stopped.notified() => {}
            }
        }
        if self.manner.answer_resync {
            self.answer_resync(&mut members).await?;
        }
        Ok(())
    }

    async fn one_call(&self, members: &mut [Member], from: usize, changes: bool) -> Result<()> {
        let count = members.len();
        let mut reports = Vec::new();
        for at in 0..REPORTS.min(count) {
            let member = &mut members[(from + at) % count];
            if changes {
                member.change(&self.manner);
            }
            if let Some(attempt) = member.pack() {
                let envelope = member.envelope(&attempt, journal::now());
                reports.push((attempt, envelope));
            }
        }
        if reports.is_empty() {
            tokio::time::sleep(PAUSE).await;
            return Ok(());
        }
        let sent: BTreeMap<usize, u64> = reports
            .iter()
            .map(|(attempt, _)| (attempt.client, attempt.last))
            .collect();
        self.deliver(members, reports).await?;
        for member in members {
            if let Some(last) = sent.get(&member.place) {
                member.acknowledged = *last;
            }
        }
        Ok(())
    }

    /// Two reports of each client, of which the later one arrives first: a broker that is killed
    /// gives messages back in any order, but not on every machine often enough.
    async fn swapped_calls(&self, members: &mut [Member], from: usize) -> Result<()> {
        let count = members.len();
        let (mut earlier, mut later) = (Vec::new(), Vec::new());
        for at in 0..REPORTS.min(count) {
            let member = &mut members[(from + at) % count];
            // What comes before everything is told has nothing to overtake.
            if member.sends_full {
                continue;
            }
            for calls in [&mut earlier, &mut later] {
                member.change(&self.manner);
                if let Some(attempt) = member.pack() {
                    member.acknowledged = attempt.last;
                    let envelope = member.envelope(&attempt, journal::now());
                    calls.push((attempt, envelope));
                }
            }
        }
        for reports in [later, earlier] {
            self.deliver(members, reports).await?;
        }
        Ok(())
    }

    /// Asks for each client what the site wants of it, until it wants nothing more.
    async fn answer_resync(&self, members: &mut [Member]) -> Result<()> {
        let mut quiet = 0;
        while quiet < 3 {
            let mut asked = 0;
            for place in 0..members.len() {
                let id = members[place].id;
                let gateway = &self.home(members[place].moved).gateway;
                if let Ok(true) = asks_for_full(gateway, id).await {
                    asked += 1;
                    members[place].sends_full = true;
                    self.one_call(&mut members[place..=place], 0, false).await?;
                }
            }
            quiet = if asked == 0 { quiet + 1 } else { 0 };
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        Ok(())
    }
}

/// Clients that report until SIGTERM, and then until everything they have is acknowledged.
///
/// # Errors
/// When a report is refused, or the journal cannot be written.
pub async fn run(way: &Way, manner: &Manner, journal: &Path) -> Result<()> {
    let fleet = Arc::new(Fleet::new(way, manner, journal)?);
    let mut members = fleet.members().await?;
    let each = members.len().div_ceil(CALLS).max(1);
    let mut parts = Vec::new();
    while !members.is_empty() {
        let rest = members.split_off(each.min(members.len()));
        parts.push(Arc::clone(&fleet).part(members));
        members = rest;
    }
    let all = futures::future::try_join_all(parts);
    let stopped = async {
        muster_runtime::shutdown_signal().await;
        fleet.stop.store(true, Ordering::SeqCst);
        fleet.stopped.notify_waiters();
    };
    let (done, ()) = tokio::join!(all, stopped);
    done.map(drop)
}

/// F-06: reports that come twice, late and out of order. Each client's reports are made up front,
/// one in five goes out twice, each up to 500 places later than it should, and one in fifty up to
/// 30 seconds later (by the manner's hurry). Every call is kept in `capture`.
///
/// # Errors
/// As [`run`].
pub async fn mangle(way: &Way, manner: &Manner, journal: &Path, capture: &Path) -> Result<()> {
    let fleet = Fleet::new(way, manner, journal)?;
    let mut members = fleet.members().await?;
    let mut random = StdRng::seed_from_u64(manner.seed ^ 0x06);
    let mut planned: Vec<(usize, Attempt, pb::ReportEnvelope)> = Vec::new();
    let begin = journal::now();
    for round in 0..manner.rounds {
        for member in &mut members {
            member.change(manner);
            let Some(attempt) = member.pack() else {
                continue;
            };
            member.acknowledged = attempt.last;
            // A round is a minute of the client's day.
            let mut clock = begin + round as u64 * 60_000_000;
            if manner.clock_steps_back && round >= manner.rounds / 2 {
                clock -= 3_600_000_000;
            }
            let envelope = member.envelope(&attempt, clock);
            let place = planned.len();
            planned.push((place, attempt, envelope));
        }
    }
    let repeats: Vec<_> = planned
        .iter()
        .filter(|_| random.random_range(0..5) == 0)
        .cloned()
        .collect();
    planned.extend(repeats);
    planned.shuffle(&mut random);
    for (place, _, _) in &mut planned {
        *place += random.random_range(0..=WINDOW);
    }
    planned.sort_by_key(|(place, _, _)| *place);
    // The same in places: how many go by in the seconds that a delay stands for is not known, so
    // the late ones go out at the end, in the order of their delays.
    let late = planned.len() / 50;
    let mut delayed: Vec<(u32, Attempt, pb::ReportEnvelope)> = Vec::new();
    for _ in 0..late {
        let at = random.random_range(0..planned.len());
        let (_, attempt, envelope) = planned.remove(at);
        delayed.push((random.random_range(0..30_000), attempt, envelope));
    }
    delayed.sort_by_key(|(delay, _, _)| *delay);
    let mut captured = Vec::new();
    for batch in planned.chunks(REPORTS) {
        let reports: Vec<_> = batch
            .iter()
            .map(|(_, attempt, envelope)| (attempt.clone(), envelope.clone()))
            .collect();
        fleet.deliver_to(&fleet.home, &reports).await?;
        captured.push(reports);
    }
    let began = tokio::time::Instant::now();
    for (delay, attempt, envelope) in delayed {
        let delay = Duration::from_millis(u64::from(delay / manner.hurry.max(1)));
        tokio::time::sleep_until(began + delay).await;
        let reports = vec![(attempt, envelope)];
        fleet.deliver_to(&fleet.home, &reports).await?;
        captured.push(reports);
    }
    if manner.answer_resync {
        fleet.answer_resync(&mut members).await?;
    }
    let calls = captured.into_iter().flatten().map(|(_, envelope)| envelope);
    let all = pb::ReportBatch {
        reports: calls.collect(),
    };
    std::fs::write(capture, all.encode_to_vec()).context("cannot keep the capture")
}

/// Sends again what `mangle` sent.
///
/// # Errors
/// When a call is not acknowledged within a minute.
pub async fn replay(way: &Way, capture: &Path) -> Result<usize> {
    let all = pb::ReportBatch::decode(Bytes::from(std::fs::read(capture)?))?;
    for batch in all.reports.chunks(REPORTS) {
        way.relay(batch.to_vec()).await?;
    }
    Ok(all.reports.len())
}
