//! A small world: machines with their disks, a broker, a site with its database, and every fault
//! that is to be survived. What the protocol decides is decided by the functions that agent and
//! site server call; here is only what surrounds them.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use muster_stream::{
    DraftKind, Header, Heard, Mark, Marked, Moment, Receiver, Retry, Run, Sender, SerialRange,
    Taken,
};

/// Key 0 needs an order, as compliance does: "not there" (0) is told once and then forgotten. Key 1 has a
/// serial of its own, as states of deployments do. Key 2 is the heartbeat.
pub(crate) const ORDERED: u8 = 0;
pub(crate) const OWN_SERIAL: u8 = 1;
const HEARTBEAT: u8 = 2;

type States = BTreeMap<u8, (u8, u64)>;
/// With (epoch, serial).
type Held = BTreeMap<u8, (u8, (u32, u64))>;

/// A protection taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Without {
    Nothing,
    /// A DELTA report is taken though something before it is missing.
    Gaps,
    /// A change is saved when its report is acknowledged, not before it is sent; nor is the mark.
    SaveBeforeSend,
    /// No mark beside the database, and no runs.
    MarkAndRuns,
    /// No runs.
    Runs,
    /// Reports do not say what they are built on beyond their last serial.
    Given,
    /// Runs do not say which one was before them.
    After,
    /// Ranges are told however old they are.
    FullAt,
    /// A silent client stays silent.
    Heartbeat,
    /// Nobody is asked for anything.
    Wishes,
}

/// How often each thing may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) changes: u8,
    pub(crate) duplicates: u8,
    pub(crate) lost_answers: u8,
    pub(crate) broker_losses: u8,
    pub(crate) crashes: u8,
    pub(crate) database_restores: u8,
    pub(crate) machine_restores: u8,
    /// A newer copy takes the place of the one there is.
    pub(crate) newer_copies: u8,
    pub(crate) clones: u8,
    pub(crate) site_restores: u8,
    pub(crate) asks: u8,
    /// An administrator wants everything.
    pub(crate) demands: u8,
    /// Not a number: the broker keeps the order in which reports came.
    pub(crate) in_order: bool,
}

impl Budget {
    pub(crate) const NONE: Self = Self {
        changes: 0,
        duplicates: 0,
        lost_answers: 0,
        broker_losses: 0,
        crashes: 0,
        database_restores: 0,
        machine_restores: 0,
        newer_copies: 0,
        clones: 0,
        site_restores: 0,
        asks: 0,
        demands: 0,
        in_order: false,
    };
}

/// What a report says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Packet {
    client: u8,
    epoch: u32,
    full: bool,
    range: (u64, u64),
    given: u64,
    /// Its id, where it began, and which one was before it.
    run: (u64, u64, u64),
    states: Vec<(u8, u8, u64)>,
}

/// What survives a crash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Disk {
    sender: Sender,
    states: States,
    must_register: bool,
    run: Option<u64>,
    /// Of the checker: also what has been forgotten because "not there" was said.
    given: States,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Machine {
    client: u8,
    disk: Disk,
    mark: Option<Mark>,
    truth: BTreeMap<u8, u8>,
    run: Option<Run>,
    /// Sent, not answered yet.
    waiting: Option<Packet>,
    /// What a crash finds instead of `disk` when changes are not saved before they are sent.
    saved: Option<Disk>,
    copy: Option<Box<Copied>>,
}

/// A machine's disk, the mark beside its database, and what was true then.
type Copied = (Disk, Option<Mark>, BTreeMap<u8, u8>);

/// What the site keeps of a client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Kept {
    pub(crate) stream: Receiver<Packet>,
    held: Held,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) machines: Vec<Machine>,
    queue: Vec<Packet>,
    pub(crate) site: Vec<Kept>,
    backup: Option<Vec<Kept>>,
    budget: Budget,
    next_run: u64,
    next_value: u8,
    /// Something was copied back without the mark, or lives twice: serials are given twice.
    pub(crate) reused: bool,
    pub(crate) cloned: bool,
    /// A database or a machine was put back, and its reports of before may come in between.
    pub(crate) confused: bool,
    pub(crate) went_back: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Change(usize, u8),
    Vanish(usize),
    Send(usize),
    /// The broker has it and the machine hears so.
    Acknowledge(usize),
    /// The broker has it and the machine does not hear so.
    LoseAnswer(usize),
    /// It never came.
    LoseRequest(usize),
    Deliver(usize),
    /// Delivered and committed, but the broker does not hear so: it comes again.
    DeliverTwice(usize),
    /// The broker loses its disk.
    LoseQueued(usize),
    Crash(usize),
    Copy(usize),
    RestoreDatabase(usize),
    RestoreMachine(usize),
    Clone(usize),
    Backup,
    RestoreSite,
    Ask(u8, usize),
    Demand(u8),
}

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn retry() -> Retry {
    Retry {
        after: Duration::ZERO,
        jitter: Duration::ZERO,
        pauses: vec![Duration::ZERO],
    }
}

fn spend(budget: &mut u8) -> Option<()> {
    *budget = budget.checked_sub(1)?;
    Some(())
}

impl World {
    /// Clients that have enrolled and reported once.
    pub(crate) fn new(clients: u8, budget: Budget) -> Self {
        let mut world = Self {
            machines: Vec::new(),
            queue: Vec::new(),
            site: Vec::new(),
            backup: None,
            budget,
            next_run: 1,
            next_value: 1,
            reused: false,
            cloned: false,
            confused: false,
            went_back: false,
        };
        for client in 0..clients {
            let mut sender = Sender::default();
            sender.registered(1);
            world.machines.push(Machine {
                client,
                disk: Disk {
                    sender,
                    states: States::new(),
                    must_register: false,
                    run: None,
                    given: States::new(),
                },
                mark: None,
                truth: BTreeMap::from([(ORDERED, 0), (OWN_SERIAL, 0)]),
                run: None,
                waiting: None,
                saved: None,
                copy: None,
            });
            world.site.push(Kept {
                stream: Receiver {
                    epoch: 1,
                    wants_full: true,
                    ..Receiver::default()
                },
                held: Held::new(),
            });
            let at = usize::from(client);
            for action in [
                Action::Change(at, ORDERED),
                Action::Send(at),
                Action::Acknowledge(at),
                Action::Deliver(0),
            ] {
                world.budget.changes += u8::from(matches!(action, Action::Change(..)));
                let _ = world.act(action, Without::Nothing);
            }
        }
        world
    }

    pub(crate) fn actions(&self, actions: &mut Vec<Action>) {
        let b = &self.budget;
        for (at, machine) in self.machines.iter().enumerate() {
            if b.changes > 0 {
                actions.extend([
                    Action::Change(at, ORDERED),
                    Action::Vanish(at),
                    Action::Change(at, OWN_SERIAL),
                ]);
            }
            if machine.waiting.is_some() {
                actions.push(Action::Acknowledge(at));
                if b.lost_answers > 0 {
                    actions.extend([Action::LoseAnswer(at), Action::LoseRequest(at)]);
                }
            } else {
                actions.push(Action::Send(at));
            }
            if b.crashes > 0 {
                actions.push(Action::Crash(at));
            }
            if b.database_restores + b.machine_restores + b.clones > 0 {
                actions.push(match (&machine.copy, b.clones) {
                    (None, _) => Action::Copy(at),
                    (Some(_), 1..) => Action::Clone(at),
                    (Some(_), 0) if b.machine_restores > 0 => Action::RestoreMachine(at),
                    (Some(_), 0) => Action::RestoreDatabase(at),
                });
                if machine.copy.is_some() && b.newer_copies > 0 {
                    actions.push(Action::Copy(at));
                }
            }
            if b.asks > 0 {
                actions.push(Action::Ask(machine.client, at));
            }
        }
        let deliverable = if b.in_order { 1 } else { usize::MAX };
        for at in 0..self.queue.len().min(deliverable) {
            if at > 0 && self.queue[at] == self.queue[at - 1] {
                continue;
            }
            actions.push(Action::Deliver(at));
            if b.duplicates > 0 {
                actions.push(Action::DeliverTwice(at));
            }
            if b.broker_losses > 0 {
                actions.push(Action::LoseQueued(at));
            }
        }
        if b.demands > 0 {
            actions.push(Action::Demand(0));
        }
        if b.site_restores > 0 {
            actions.push(match self.backup {
                None => Action::Backup,
                Some(_) => Action::RestoreSite,
            });
        }
    }

    /// `None` when nothing would change.
    pub(crate) fn act(&mut self, action: Action, without: Without) -> Option<()> {
        match action {
            Action::Change(at, key) => {
                spend(&mut self.budget.changes)?;
                let value = self.next_value;
                self.next_value += 1;
                self.machines[at].set(key, value, without);
            }
            Action::Vanish(at) => {
                spend(&mut self.budget.changes)?;
                if self.machines[at].truth[&ORDERED] == 0 {
                    return None;
                }
                self.machines[at].set(ORDERED, 0, without);
            }
            Action::Send(at) => self.send(at, without)?,
            Action::Acknowledge(at) => self.answer(at, true, true)?,
            Action::LoseAnswer(at) => {
                spend(&mut self.budget.lost_answers)?;
                self.answer(at, true, false)?;
            }
            Action::LoseRequest(at) => {
                spend(&mut self.budget.lost_answers)?;
                self.answer(at, false, false)?;
            }
            Action::Deliver(at) => {
                let packet = self.queue.remove(at);
                self.deliver(&packet, without);
            }
            Action::DeliverTwice(at) => {
                spend(&mut self.budget.duplicates)?;
                let packet = self.queue[at].clone();
                self.deliver(&packet, without);
            }
            Action::LoseQueued(at) => {
                spend(&mut self.budget.broker_losses)?;
                self.queue.remove(at);
            }
            Action::Crash(at) => {
                spend(&mut self.budget.crashes)?;
                self.machines[at].restart();
            }
            Action::Copy(at) => {
                let m = &mut self.machines[at];
                let fresh = Some(Box::new((m.disk.clone(), m.mark.clone(), m.truth.clone())));
                if m.copy.is_some() {
                    spend(&mut self.budget.newer_copies)?;
                }
                m.copy = fresh;
            }
            Action::RestoreDatabase(at) => {
                spend(&mut self.budget.database_restores)?;
                let m = &mut self.machines[at];
                m.disk = m.copy.take()?.0;
                m.restart();
                self.confused = !self.budget.in_order;
            }
            Action::RestoreMachine(at) => {
                spend(&mut self.budget.machine_restores)?;
                let m = &mut self.machines[at];
                (m.disk, m.mark, m.truth) = *m.copy.clone()?;
                if self.budget.machine_restores == 0 {
                    (m.copy, self.budget.newer_copies) = (None, 0);
                }
                m.restart();
                self.reused = true;
                self.confused = !self.budget.in_order;
            }
            Action::Clone(at) => {
                spend(&mut self.budget.clones)?;
                let mut twin = self.machines[at].clone();
                (twin.disk, twin.mark, twin.truth) = *self.machines[at].copy.take()?;
                twin.copy = None;
                twin.restart();
                self.machines.push(twin);
                (self.reused, self.cloned) = (true, true);
            }
            Action::Backup => self.backup = Some(self.site.clone()),
            Action::RestoreSite => {
                spend(&mut self.budget.site_restores)?;
                self.site = self.backup.take()?;
            }
            Action::Demand(client) => {
                spend(&mut self.budget.demands)?;
                self.site[usize::from(client)].stream.demand_full(NOW);
            }
            Action::Ask(client, at) => {
                spend(&mut self.budget.asks)?;
                self.ask(client, &[at], without)?;
            }
        }
        Some(())
    }

    fn send(&mut self, at: usize, without: Without) -> Option<()> {
        let has_mark = without != Without::MarkAndRuns;
        let m = &mut self.machines[at];
        if m.waiting.is_some() {
            return None;
        }
        let own = m.disk.sender.mark(String::new());
        let overtaken = has_mark && own.against(m.mark.as_ref()) == Marked::Overtaken;
        if m.disk.must_register || (overtaken && m.disk.sender.next().is_some()) {
            self.register(at);
            return Some(());
        }
        let draft = m.disk.sender.next()?;
        let run = Run::next(m.run, m.disk.run, m.disk.sender.sent, self.next_run);
        self.next_run += u64::from(m.run != Some(run));
        m.run = Some(run);
        m.disk.run = Some(run.id);
        let given = m.disk.sender.leaves();
        m.mark = Some(m.disk.sender.mark(String::new()));
        if without == Without::SaveBeforeSend {
            m.mark = None;
        }
        let full = draft.kind == DraftKind::Full;
        let states = m.disk.states.iter();
        let states = states
            .filter(|(_, (_, serial))| (draft.range.first..=draft.range.last).contains(serial))
            .filter(|(key, (value, _))| !(full && **key == ORDERED && *value == 0))
            .map(|(key, (value, serial))| (*key, *value, *serial));
        m.waiting = Some(Packet {
            client: m.client,
            epoch: draft.epoch,
            full,
            range: (draft.range.first, draft.range.last),
            given: if without == Without::Given {
                draft.range.last
            } else {
                given
            },
            run: (run.id, run.began, run.after),
            states: states.collect(),
        });
        Some(())
    }

    fn answer(&mut self, at: usize, arrived: bool, heard: bool) -> Option<()> {
        let m = &mut self.machines[at];
        let packet = m.waiting.take()?;
        if heard {
            let range = SerialRange {
                first: packet.range.0,
                last: packet.range.1,
            };
            let sender = &mut m.disk.sender;
            if sender.acknowledge(packet.epoch, packet.full, range) {
                if packet.full {
                    m.disk.states.retain(|key, (value, serial)| {
                        *key != ORDERED || *value != 0 || *serial > range.last
                    });
                }
                m.saved = None;
            }
        }
        if arrived {
            self.queue.push(packet);
            if !self.budget.in_order {
                self.queue.sort();
            }
        }
        Some(())
    }

    fn register(&mut self, at: usize) {
        let retry = retry();
        let m = &mut self.machines[at];
        let stream = &mut self.site[usize::from(m.client)].stream;
        let seen = m.mark.as_ref().map_or(0, |mark| mark.epoch);
        let epoch = stream.epoch.max(m.disk.sender.epoch).max(seen) + 1;
        stream.registered(epoch, &moment(&retry));
        m.disk.sender.registered(epoch);
        m.disk.must_register = false;
        m.mark = Some(m.disk.sender.mark(String::new()));
    }

    fn deliver(&mut self, packet: &Packet, without: Without) {
        let retry = retry();
        let kept = &mut self.site[usize::from(packet.client)];
        let no_runs = matches!(without, Without::Runs | Without::MarkAndRuns);
        let header = Header {
            epoch: packet.epoch,
            first: packet.range.0,
            last: packet.range.1,
            given: packet.given,
            full: packet.full,
            run: (!no_runs).then_some(Run {
                id: packet.run.0,
                began: packet.run.1,
                after: if without == Without::After {
                    0
                } else {
                    packet.run.2
                },
            }),
        };
        if without == Without::Gaps && packet.epoch == kept.stream.epoch {
            kept.stream.contiguous = kept.stream.contiguous.max(header.first - 1);
        }
        let judged = kept.stream.judge(&header);
        let before = kept.stream.clone();
        let taken = kept
            .stream
            .take(&header, || Some(packet.clone()), &moment(&retry));
        if let Some(judged) = judged {
            // What the first look says is what a full look would have said.
            assert_eq!((&judged, &kept.stream), (&taken, &before));
        }
        kept.stream.early_changed = false;
        let mut went_back = false;
        let stamp = |serial: u64| (packet.epoch, serial);
        let (ordered, parts) = match &taken {
            Taken::Stale | Taken::NeverGiven | Taken::Repeat => return,
            Taken::Full(parts) => {
                let to = stamp(packet.range.1);
                kept.held
                    .retain(|key, (_, held)| *key != ORDERED && *held > to);
                (true, parts.as_slice())
            }
            Taken::Next(parts) => (true, parts.as_slice()),
            Taken::Early => (false, [].as_slice()),
        };
        let mut newest_wins = |held: &mut Held, states: &[(u8, u8, u64)], ordered: bool| {
            for (key, value, serial) in states {
                let before = held.get(key).map_or((0, 0), |(_, stamp)| *stamp);
                let newer = before < stamp(*serial);
                if *key == ORDERED {
                    if ordered {
                        // Compliance has no serial of its own: what is applied last stands.
                        went_back |= !newer && before != stamp(*serial);
                        held.insert(*key, (*value, stamp(*serial)));
                    }
                } else if newer {
                    held.insert(*key, (*value, stamp(*serial)));
                }
            }
        };
        newest_wins(&mut kept.held, &packet.states, ordered);
        for part in parts {
            newest_wins(&mut kept.held, &part.states, true);
        }
        self.went_back |= went_back;
    }

    /// Asks a client; these machines hear it.
    fn ask(&mut self, client: u8, machines: &[usize], without: Without) -> Option<()> {
        let retry = retry();
        if without == Without::Wishes {
            return None;
        }
        let wish = self.site[usize::from(client)].stream.ask(&moment(&retry))?;
        for at in machines {
            let disk = &mut self.machines[*at].disk;
            if without == Without::FullAt {
                disk.sender.full_at = 0;
            }
            disk.must_register |= disk.sender.hear(&wish) == Heard::Register;
        }
        Some(())
    }

    /// The faults are over: everything that is sent arrives, everybody is asked, in turn. Whether the
    /// site then holds what is so.
    pub(crate) fn heals(&self, without: Without) -> Result<(), String> {
        let mut world = self.clone();
        for round in 0..8 {
            for client in 0..world.site.len() {
                let client = u8::try_from(client).unwrap_or(0);
                let machines = world.machines_of(client);
                world.ask(client, &machines, without);
            }
            for at in 0..world.machines.len() {
                world.answer(at, true, true);
                if without != Without::Heartbeat && round < 5 {
                    world.machines[at].beat();
                }
                while world.send(at, without).is_some() {
                    world.answer(at, true, true);
                }
            }
            while !world.queue.is_empty() {
                let packet = world.queue.remove(0);
                world.deliver(&packet, without);
            }
        }
        for (client, kept) in world.site.iter().enumerate() {
            let machines = world.machines_of(u8::try_from(client).unwrap_or(0));
            if machines.len() > 1 {
                if kept.stream.forked_at.is_none() {
                    return Err(format!("client {client} lives twice and nobody sees it"));
                }
                continue;
            }
            if kept.stream.forked_at.is_some() {
                // It is taken for two, gets another identity, and tells that one everything.
                continue;
            }
            for at in machines {
                let m = &world.machines[at];
                for (key, value) in &m.truth {
                    let held = kept.held.get(key).map_or(0, |(value, _)| *value);
                    if held != *value {
                        let end = format!("{:?}", kept.stream);
                        return Err(format!("key {key} is {value}, held is {held}: {end}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn machines_of(&self, client: u8) -> Vec<usize> {
        let machines = self.machines.iter().enumerate();
        machines
            .filter(|(_, machine)| machine.client == client)
            .map(|(at, _)| at)
            .collect()
    }

    /// What the site says it has recorded without a gap is all there.
    pub(crate) fn recorded_is_complete(&self) -> bool {
        self.machines.iter().all(|machine| {
            let kept = &self.site[usize::from(machine.client)];
            let same = kept.stream.epoch == machine.disk.sender.epoch && kept.stream.has_full;
            // Of a copy: it registers before it sends.
            let own = machine.disk.sender.mark(String::new());
            let overtaken = own.against(machine.mark.as_ref()) == Marked::Overtaken;
            !same
                || overtaken
                || machine.disk.given.iter().all(|(key, (value, serial))| {
                    let held = kept.held.get(key).map_or(0, |(value, _)| *value);
                    *serial > kept.stream.contiguous || *key == HEARTBEAT || held == *value
                })
        })
    }
}

impl Machine {
    fn set(&mut self, key: u8, value: u8, without: Without) {
        if without == Without::SaveBeforeSend && self.saved.is_none() {
            self.saved = Some(self.disk.clone());
        }
        self.truth.insert(key, value);
        self.put(key, value);
    }

    fn put(&mut self, key: u8, value: u8) {
        let serial = self.disk.sender.give();
        self.disk.states.insert(key, (value, serial));
        self.disk.given.insert(key, (value, serial));
    }

    fn beat(&mut self) {
        let serial = self.disk.sender.last;
        self.put(HEARTBEAT, u8::try_from(serial).unwrap_or(u8::MAX));
    }

    /// The program starts again and looks at what is so.
    fn restart(&mut self) {
        if let Some(saved) = self.saved.take() {
            self.disk = saved;
        }
        (self.run, self.waiting) = (None, None);
        for (key, value) in self.truth.clone() {
            if self.disk.states.get(&key).map_or(0, |(value, _)| *value) != value {
                self.put(key, value);
            }
        }
    }
}

fn moment(retry: &Retry) -> Moment<'_> {
    Moment {
        now: NOW,
        retry,
        random: 0,
    }
}
