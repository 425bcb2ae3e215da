//! Clients as plain numbers, what each of them reports, and the model that says what must come
//! of it. Everything follows from the seed.
//!
//! A [`Member`] is one client: it numbers its reports as an agent does and remembers what it said.
//! It does no I/O: who sends its reports (the relay, a publisher, a journal) is no matter to it.

use std::time::Duration;

use bytes::Bytes;
use muster_compliance::packed;
use muster_domain::states::Detection;
use muster_domain::{ClientId, UpdateNo, shard_of};
use muster_proto::state as pb;
use prost::Message;
use uuid::Uuid;

/// Updates in the catalog.
pub const UPDATES: usize = 30_000;
/// Reports in one message, as a management point collects them.
pub const REPORTS: usize = 64;
/// Queues.
pub const SHARDS: u16 = 2;

/// Small, fast, seeded (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.any() % (bound as u64)).unwrap_or(0)
    }

    /// Until the next event of a Poisson process of so many per second.
    pub fn pause(&mut self, rate: f64) -> Duration {
        let unit = f64::from(u32::try_from(self.any() >> 32).unwrap_or(0)) + 1.0;
        Duration::from_secs_f64(-(unit / 4_294_967_297.0).ln() / rate)
    }

    /// True once in `in_how_many`.
    pub fn once_in(&mut self, in_how_many: usize) -> bool {
        self.below(in_how_many) == 0
    }
}

/// Draws update numbers: number n is drawn with a weight of 1 / n.
struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    fn new() -> Self {
        let mut sum = 0.0;
        let weigh = |n: u32| {
            sum += 1.0 / f64::from(n);
            sum
        };
        let updates = u32::try_from(UPDATES).unwrap_or(u32::MAX);
        Self {
            sums: (1..=updates).map(weigh).collect(),
        }
    }

    fn draw(&self, random: &mut Random) -> u32 {
        let top = self.sums.last().copied().unwrap_or(1.0);
        let unit = f64::from(u32::try_from(random.any() >> 32).unwrap_or(0)) / 4_294_967_296.0;
        let at = self.sums.partition_point(|sum| *sum < unit * top);
        u32::try_from(at.min(UPDATES - 1)).unwrap_or(0) + 1
    }
}

/// One client: its number is its place in the fleet.
#[derive(Debug, Clone)]
pub struct Member {
    /// The id its certificate would name.
    pub id: Uuid,
    /// The site gave it this one at its registration.
    pub epoch: u32,
    /// Of its newest report.
    pub serial: u64,
    /// What it says: ascending update numbers, each with its state; packed as `number * 4 + state`.
    pub states: Vec<u32>,
}

/// A state as a [`Member`] keeps it.
#[must_use]
pub const fn cell(number: u32, state: Detection) -> u32 {
    number * 4 + state.id() as u32
}

/// The other way round.
#[must_use]
pub fn uncell(cell: u32) -> (UpdateNo, Detection) {
    let state = Detection::from_id(u8::try_from(cell % 4).unwrap_or(0));
    (UpdateNo(cell / 4), state.unwrap_or(Detection::Unknown))
}

/// All clients.
#[derive(Debug)]
pub struct Fleet {
    /// In the order of their numbers at the site.
    pub members: Vec<Member>,
}

impl Fleet {
    /// So many clients with so many states each, drawn by Zipf: 65 % installed, 30 % required, 5 % unknown.
    #[must_use]
    pub fn new(clients: usize, states: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let zipf = Zipf::new();
        let mut numbers = std::collections::HashSet::new();
        let member = |_| {
            let id = Uuid::from_u64_pair(random.any(), random.any());
            numbers.clear();
            while numbers.len() < states.min(UPDATES / 2) {
                numbers.insert(zipf.draw(&mut random));
            }
            let mut states: Vec<u32> = numbers
                .iter()
                .map(|number| {
                    let state = match random.below(100) {
                        0..65 => Detection::Installed,
                        65..95 => Detection::Required,
                        _ => Detection::Unknown,
                    };
                    cell(*number, state)
                })
                .collect();
            states.sort_unstable();
            Member {
                id,
                epoch: 1,
                serial: 0,
                states,
            }
        };
        Self {
            members: (0..clients).map(member).collect(),
        }
    }
}

/// How many states these clients report.
#[must_use]
pub fn cells(members: &[Member]) -> usize {
    members.iter().map(|member| member.states.len()).sum()
}

impl Member {
    /// Which queue its reports go to.
    #[must_use]
    pub fn shard(&self) -> u16 {
        shard_of(ClientId(self.id), SHARDS)
    }

    /// Everything it says, in one report.
    pub fn full(&mut self) -> Bytes {
        let cells = std::mem::take(&mut self.states);
        let report = self.with_compliance(pb::ReportKind::Full, &cells);
        self.states = cells;
        report.encode_to_vec().into()
    }

    /// A report of changes, which are taken over.
    pub fn delta(&mut self, changes: &[u32]) -> Bytes {
        self.change(changes);
        let report = self.with_compliance(pb::ReportKind::Delta, changes);
        report.encode_to_vec().into()
    }

    /// Takes changes over without saying so: what a report that gets lost would have said.
    pub fn change(&mut self, changes: &[u32]) {
        for change in changes {
            let at = self.states.partition_point(|held| held / 4 < change / 4);
            match self.states.get_mut(at) {
                Some(held) if *held / 4 == change / 4 => *held = *change,
                _ => self.states.insert(at, *change),
            }
        }
    }

    /// A report with the next serial and nothing in it yet: the caller adds states and encodes it.
    pub fn next(&mut self, kind: pb::ReportKind) -> pb::Report {
        self.serial += 1;
        pb::Report {
            client_id: Bytes::copy_from_slice(self.id.as_bytes()),
            epoch: self.epoch,
            first_serial: self.serial,
            last_serial: self.serial,
            kind: kind.into(),
            priority: pb::Priority::Normal.into(),
            catalog_generation: 1,
            ..Default::default()
        }
    }

    fn with_compliance(&mut self, kind: pb::ReportKind, cells: &[u32]) -> pb::Report {
        let packed = packed::pack(cells.iter().map(|cell| uncell(*cell)));
        let report = self.next(kind);
        pb::Report {
            compliance: Some(pb::Compliance {
                update_numbers: packed.update_numbers,
                states: packed.states.into(),
                serial: report.last_serial,
                needs: Vec::new(),
            }),
            ..report
        }
    }

    /// An encoded report of this client, ready to be sent.
    #[must_use]
    pub fn sent(&self, report: Bytes) -> Sent {
        Sent {
            id: self.id,
            shard: self.shard(),
            report,
        }
    }
}

/// A report with the client that sends it.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The client.
    pub id: Uuid,
    /// Its queue.
    pub shard: u16,
    /// The encoded report.
    pub report: Bytes,
}

impl Sent {
    /// As a management point hands it on: with the client that it has checked.
    #[must_use]
    pub fn envelope(&self) -> pb::ReportEnvelope {
        pb::ReportEnvelope {
            report: self.report.clone(),
            client_id: Bytes::copy_from_slice(self.id.as_bytes()),
            traceparent: String::new(),
            received_at: None,
        }
    }
}

/// Messages as management points make them: the queue's number and the body, in turn.
#[must_use]
pub fn messages(reports: &[Sent]) -> Vec<(u16, Bytes, u32)> {
    let mut lanes: Vec<Vec<pb::ReportEnvelope>> = (0..SHARDS).map(|_| Vec::new()).collect();
    let mut messages = Vec::new();
    let received_at = Some(prost_types::Timestamp {
        seconds: 1_176_163_200,
        nanos: 0,
    });
    let mut close = |shard: usize, lane: &mut Vec<pb::ReportEnvelope>| {
        let count = u32::try_from(lane.len()).unwrap_or(0);
        let reports = std::mem::take(lane);
        let body = pb::ReportBatch { reports }.encode_to_vec();
        messages.push((u16::try_from(shard).unwrap_or(0), body.into(), count));
    };
    for sent in reports {
        let shard = usize::from(sent.shard);
        lanes[shard].push(pb::ReportEnvelope {
            received_at,
            ..sent.envelope()
        });
        if lanes[shard].len() == REPORTS {
            close(shard, &mut lanes[shard]);
        }
    }
    for (shard, lane) in lanes.iter_mut().enumerate() {
        if !lane.is_empty() {
            close(shard, lane);
        }
    }
    messages
}
