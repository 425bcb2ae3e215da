//! Every order of loss, duplicate, delay, crash and restore on a direction with two rows: from each
//! state that can be reached, once the faults end, the receiver has what the sender has. The
//! functions explored are the ones that run.

use std::collections::BTreeSet;

use stateright::{Checker, Model, Property};

use crate::{BatchHead, Chain, Inbound, Mark, Outbound, Taken, Verdict};

const KEYS: usize = 2;

type Rows = [u8; KEYS];

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Message {
    Hello(u64),
    Welcome(u64, Mark),
    Batch(BatchHead, Vec<u8>),
    Acknowledge(Mark),
}

/// What a sender's database holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SenderDatabase {
    rows: Rows,
    dirty: BTreeSet<u8>,
    acked: Mark,
    batches: Vec<(BatchHead, Vec<u8>)>,
}

/// What a receiver's database holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ReceiverDatabase {
    rows: Rows,
    mark: Mark,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    sender: SenderDatabase,
    /// Memory of the sender's process.
    outbound: Outbound,
    receiver: ReceiverDatabase,
    sender_backup: Option<SenderDatabase>,
    receiver_backup: Option<ReceiverDatabase>,
    net: BTreeSet<Message>,
    left: Budget,
    nonce: u64,
    without: Without,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Budget {
    changes: u8,
    greetings: u8,
    sender_restores: u8,
    receiver_restores: u8,
    losses: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Change(u8),
    Greet,
    Number,
    Deliver(Message),
    Lose(Message),
    BackUpSender,
    RestoreSender,
    BackUpReceiver,
    RestoreReceiver,
}

/// What is taken away to see that the model finds what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Without {
    Nothing,
    /// Marks say nothing of what they cover.
    Chains,
    /// The answer to a greeting is not compared with what the peer had acknowledged.
    Comparison,
}

struct Direction {
    budget: Budget,
    without: Without,
}

impl World {
    fn new(left: Budget, without: Without) -> Self {
        let outbound = Outbound::first();
        Self {
            sender: SenderDatabase {
                rows: [0; KEYS],
                dirty: BTreeSet::new(),
                acked: outbound.acked(),
                batches: Vec::new(),
            },
            outbound,
            receiver: ReceiverDatabase {
                rows: [0; KEYS],
                mark: Mark::default(),
            },
            sender_backup: None,
            receiver_backup: None,
            net: BTreeSet::new(),
            left,
            nonce: 0,
            without,
        }
    }

    /// The sender's process starts: it knows what its database holds.
    fn start_sender(&mut self) {
        let held = &self.sender.batches;
        let chains = held.iter().map(|(head, body)| head.after.then(body));
        self.outbound = Outbound::new(self.sender.acked, chains);
    }

    fn greet(&mut self) -> Message {
        self.nonce += 1;
        self.outbound.greet(self.nonce);
        Message::Hello(self.nonce)
    }

    fn follow(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Nothing => {}
            Verdict::Forget(to) => self.sender.batches.retain(|(head, _)| head.seq > to),
            Verdict::StartAgain(_) => {
                self.sender.batches.clear();
                self.sender.dirty = (0..KEYS as u8).collect();
            }
        }
        self.sender.acked = self.outbound.acked();
    }

    /// All dirty keys in one batch.
    fn number(&mut self) -> Option<Message> {
        let (rows, dirty) = (&self.sender.rows, &self.sender.dirty);
        if dirty.is_empty() {
            return None;
        }
        let body: Vec<u8> = dirty
            .iter()
            .flat_map(|key| [*key, rows[usize::from(*key)]])
            .collect();
        let head = self.outbound.number(&body)?;
        self.sender.dirty.clear();
        self.sender.batches.push((head, body.clone()));
        Some(Message::Batch(head, body))
    }

    /// What a message does, and the answer to it.
    fn deliver(&mut self, message: Message) -> Option<Message> {
        let message = match self.without {
            Without::Chains => self.agreeable(message),
            Without::Nothing | Without::Comparison => message,
        };
        match message {
            Message::Hello(nonce) => Some(Message::Welcome(nonce, self.receiver.mark)),
            Message::Welcome(nonce, mark) => {
                let verdict = if self.without == Without::Comparison {
                    self.outbound.welcomed(nonce, self.outbound.acked());
                    self.outbound.acknowledged(mark)
                } else {
                    self.outbound.welcomed(nonce, mark)
                };
                self.follow(verdict);
                None
            }
            Message::Acknowledge(mark) => {
                let verdict = self.outbound.acknowledged(mark);
                self.follow(verdict);
                None
            }
            Message::Batch(head, body) => {
                let mut inbound = Inbound::new(self.receiver.mark);
                if let Taken::Next(mark) = inbound.take(&head, &body) {
                    for pair in body.chunks_exact(2) {
                        self.receiver.rows[usize::from(pair[0])] = pair[1];
                    }
                    inbound.applied(mark);
                    self.receiver.mark = inbound.mark();
                }
                Some(Message::Acknowledge(inbound.mark()))
            }
        }
    }

    fn exchange(&mut self, message: Message) {
        let mut next = Some(message);
        while let Some(message) = next {
            next = self.deliver(message);
        }
    }

    /// No faults any more: greet, send what is not acknowledged, number what is dirty.
    fn heal(&mut self) {
        for _ in 0..4 {
            let hello = self.greet();
            self.exchange(hello);
            for (head, body) in self.sender.batches.clone() {
                self.exchange(Message::Batch(head, body));
            }
            while let Some(batch) = self.number() {
                self.exchange(batch);
            }
        }
    }

    fn equal(&self) -> bool {
        self.receiver.rows == self.sender.rows
            && self.sender.dirty.is_empty()
            && self.sender.batches.is_empty()
    }

    /// Equal after the faults, and again when what was still under way arrives late.
    fn heals(&self) -> bool {
        let mut world = self.clone();
        world.heal();
        if !world.equal() {
            return false;
        }
        let late: Vec<Message> = std::mem::take(&mut world.net).into_iter().collect();
        let mut reversed = world.clone();
        late.iter().for_each(|it| world.exchange(it.clone()));
        late.iter()
            .rev()
            .for_each(|it| reversed.exchange(it.clone()));
        world.heal();
        reversed.heal();
        world.equal() && reversed.equal()
    }
}

impl Model for Direction {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.budget, self.without)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let left = world.left;
        if left.changes > 0 {
            actions.extend((0..KEYS as u8).map(Action::Change));
        }
        if left.greetings > 0 {
            actions.push(Action::Greet);
        }
        if !world.sender.dirty.is_empty() {
            actions.push(Action::Number);
        }
        actions.extend(world.net.iter().cloned().map(Action::Deliver));
        if left.losses > 0 {
            actions.extend(world.net.iter().cloned().map(Action::Lose));
        }
        if left.sender_restores > 0 {
            actions.push(match world.sender_backup {
                None => Action::BackUpSender,
                Some(_) => Action::RestoreSender,
            });
        }
        if left.receiver_restores > 0 {
            actions.push(match world.receiver_backup {
                None => Action::BackUpReceiver,
                Some(_) => Action::RestoreReceiver,
            });
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        match action {
            Action::Change(key) => {
                next.left.changes -= 1;
                next.sender.rows[usize::from(key)] += 1;
                next.sender.dirty.insert(key);
            }
            Action::Greet => {
                next.left.greetings -= 1;
                let hello = next.greet();
                next.net.insert(hello);
            }
            Action::Number => {
                let batch = next.number()?;
                next.net.insert(batch);
            }
            // It stays under way: it may come twice, and after whatever else.
            Action::Deliver(message) => {
                let answer = next.deliver(message);
                next.net.extend(answer);
            }
            Action::Lose(message) => {
                next.left.losses -= 1;
                next.net.remove(&message);
            }
            Action::BackUpSender => next.sender_backup = Some(next.sender.clone()),
            Action::RestoreSender => {
                next.left.sender_restores -= 1;
                next.sender = next.sender_backup.clone()?;
                next.start_sender();
            }
            Action::BackUpReceiver => next.receiver_backup = Some(next.receiver),
            Action::RestoreReceiver => {
                next.left.receiver_restores -= 1;
                next.receiver = next.receiver_backup?;
            }
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("heals", |_, world: &World| world.heals())]
    }
}

impl World {
    /// As if no end looked at chains: each message has the one that is expected of it.
    fn agreeable(&self, message: Message) -> Message {
        match message {
            Message::Batch(head, body) if head.seq == self.receiver.mark.seq + 1 => {
                let same = head.epoch == self.receiver.mark.epoch;
                let after = if same {
                    self.receiver.mark.chain
                } else {
                    Chain::START
                };
                Message::Batch(BatchHead { after, ..head }, body)
            }
            Message::Acknowledge(mark) => Message::Acknowledge(self.expected(mark)),
            Message::Welcome(nonce, mark) => Message::Welcome(nonce, self.expected(mark)),
            other @ (Message::Hello(_) | Message::Batch(..)) => other,
        }
    }

    fn expected(&self, mark: Mark) -> Mark {
        let ours = self
            .sender
            .batches
            .iter()
            .find(|(head, _)| head.seq == mark.seq);
        let chain = match ours {
            Some((head, body)) => head.after.then(body),
            None => self.sender.acked.chain,
        };
        Mark { chain, ..mark }
    }
}

fn explore(budget: Budget, without: Without) -> (usize, bool) {
    let direction = Direction { budget, without };
    let checker = direction.checker().threads(2).spawn_bfs().join();
    let found = checker.discovery("heals").is_some();
    (checker.unique_state_count(), found)
}

const SENDER_RESTORED: Budget = Budget {
    changes: 2,
    greetings: 2,
    sender_restores: 1,
    receiver_restores: 0,
    losses: 1,
};
const RECEIVER_RESTORED: Budget = Budget {
    changes: 2,
    greetings: 2,
    sender_restores: 0,
    receiver_restores: 1,
    losses: 1,
};

#[test]
fn a_direction_heals_from_every_order_of_faults() {
    for budget in [SENDER_RESTORED, RECEIVER_RESTORED] {
        let (states, found) = explore(budget, Without::Nothing);
        assert!(states > 1_000, "the model explores next to nothing");
        assert!(!found, "a state that does not heal");
    }
}

#[test]
fn the_model_finds_what_chains_and_greetings_protect_from() {
    assert!(explore(SENDER_RESTORED, Without::Chains).1);
    assert!(explore(RECEIVER_RESTORED, Without::Comparison).1);
}
