//! Clients as plain numbers, what each of them reports, and the model that says what must come
//! of it. Everything follows from the seed.

use bytes::Bytes;
use muster_compliance::packed;
use muster_domain::states::Detection;
use muster_domain::{ClientId, UpdateNo, shard_of};
use muster_proto::state as pb;
use prost::Message;
use uuid::Uuid;

/// Updates in the catalog.
pub(crate) const UPDATES: usize = 30_000;
/// Reports in one message, as a management point collects them.
pub(crate) const REPORTS: usize = 64;
/// Queues.
pub(crate) const SHARDS: u16 = 2;

/// Small, fast, seeded (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound as u64)).unwrap_or(0)
    }

    /// True once in `in_how_many`.
    pub(crate) fn once_in(&mut self, in_how_many: usize) -> bool {
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
        let unit = f64::from(u32::try_from(random.next() >> 32).unwrap_or(0)) / 4_294_967_296.0;
        let at = self.sums.partition_point(|sum| *sum < unit * top);
        u32::try_from(at.min(UPDATES - 1)).unwrap_or(0) + 1
    }
}

/// One client: its number is its place in the fleet.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) id: Uuid,
    pub(crate) serial: u64,
    /// What it says: ascending update numbers, each with its state; packed as `number * 4 + state`.
    pub(crate) states: Vec<u32>,
}

pub(crate) const fn cell(number: u32, state: Detection) -> u32 {
    number * 4 + state.id() as u32
}

pub(crate) fn uncell(cell: u32) -> (UpdateNo, Detection) {
    let state = Detection::from_id(u8::try_from(cell % 4).unwrap_or(0));
    (UpdateNo(cell / 4), state.unwrap_or(Detection::Unknown))
}

/// All clients.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) members: Vec<Member>,
}

impl Fleet {
    /// 65 % installed, 30 % required, 5 % unknown.
    pub(crate) fn new(clients: usize, states: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let zipf = Zipf::new();
        let mut numbers = std::collections::HashSet::new();
        let member = |_| {
            let id = Uuid::from_u64_pair(random.next(), random.next());
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
pub(crate) fn cells(members: &[Member]) -> usize {
    members.iter().map(|member| member.states.len()).sum()
}

impl Member {
    pub(crate) fn shard(&self) -> u16 {
        shard_of(ClientId(self.id), SHARDS)
    }

    /// Its first report.
    pub(crate) fn full(&mut self) -> Bytes {
        self.serial += 1;
        let cells: Vec<u32> = self.states.clone();
        self.report(pb::ReportKind::Full, self.serial, &cells)
    }

    /// A report of changes, which are taken over.
    pub(crate) fn delta(&mut self, changes: &[u32]) -> Bytes {
        for change in changes {
            let at = self.states.partition_point(|held| held / 4 < change / 4);
            match self.states.get_mut(at) {
                Some(held) if *held / 4 == change / 4 => *held = *change,
                _ => self.states.insert(at, *change),
            }
        }
        self.serial += 1;
        self.report(pb::ReportKind::Delta, self.serial, changes)
    }

    fn report(&self, kind: pb::ReportKind, serial: u64, cells: &[u32]) -> Bytes {
        let packed = packed::pack(cells.iter().map(|cell| uncell(*cell)));
        let report = pb::Report {
            client_id: Bytes::copy_from_slice(self.id.as_bytes()),
            epoch: 1,
            first_serial: serial,
            last_serial: serial,
            kind: kind.into(),
            priority: pb::Priority::Normal.into(),
            catalog_generation: 1,
            compliance: Some(pb::Compliance {
                update_numbers: packed.update_numbers,
                states: packed.states.into(),
                serial,
                needs: Vec::new(),
            }),
            ..Default::default()
        };
        report.encode_to_vec().into()
    }
}

/// A report with the client that sends it.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) id: Uuid,
    pub(crate) shard: u16,
    pub(crate) report: Bytes,
}

/// Messages as management points make them: the queue's number and the body, in turn.
pub(crate) fn messages(reports: &[Sent]) -> Vec<(u16, Bytes, u32)> {
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
            report: sent.report.clone(),
            client_id: Bytes::copy_from_slice(sent.id.as_bytes()),
            traceparent: String::new(),
            received_at,
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
