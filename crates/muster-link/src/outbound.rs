//! The sending end of a direction.

use std::collections::VecDeque;

use crate::{BatchHead, Chain, Mark};

/// Batches under way at most; more stay dirty keys, which coalesce.
pub const WINDOW: usize = 64;

/// What a sender has numbered and what of it the peer's database has, as our database keeps it.
///
/// Nothing is numbered before the peer has answered a greeting of this process: our own database
/// may be an old copy, and the numbers it would give may have been given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outbound {
    epoch: u32,
    acked: Mark,
    /// The chains of the batches after `acked`, ascending.
    unacked: VecDeque<Chain>,
    session: Session,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Session {
    Silent,
    /// Greeted; what the peer had acknowledged by then.
    Greeted {
        nonce: u64,
        acked: Mark,
    },
    Open,
}

/// What a mark of the peer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing new.
    Nothing,
    /// Batches up to this one may be forgotten.
    Forget(u64),
    /// Start again, in one transaction: forget all batches, keep the new epoch, and mark
    /// everything dirty that the peer is to have.
    StartAgain(Reason),
}

/// Why a sender starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The peer has more than we have given: our database is an old copy.
    WeWereRestored,
    /// The peer has less than it acknowledged: its database is an old copy.
    TheyWereRestored,
    /// The same numbers cover other contents: our database is an old copy.
    Forked,
    /// The peer lacks something that it has acknowledged: somebody took it away there.
    TheyLack,
    /// The peer understands more than it did: what it could not read, it did not keep.
    TheyLearned,
}

impl Outbound {
    /// The first life of a direction.
    #[must_use]
    pub fn first() -> Self {
        let acked = Mark {
            epoch: 1,
            ..Mark::default()
        };
        Self::new(acked, [])
    }

    /// From what the database holds: what is acknowledged in the epoch, and the chains of the
    /// batches after it.
    #[must_use]
    pub fn new(acked: Mark, unacked: impl IntoIterator<Item = Chain>) -> Self {
        Self {
            epoch: acked.epoch,
            acked,
            unacked: unacked.into_iter().collect(),
            session: Session::Silent,
        }
    }

    /// Our epoch.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// What the peer's database has, as far as we know.
    #[must_use]
    pub const fn acked(&self) -> Mark {
        self.acked
    }

    /// The number of the next batch.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.acked.seq + self.unacked.len() as u64 + 1
    }

    /// Whether batches may be numbered and sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.session == Session::Open
    }

    /// Whether a batch would get a number: the session is open and the window not full.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.is_open() && self.unacked.len() < WINDOW
    }

    /// Whether batches are under way.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.unacked.is_empty()
    }

    /// Greets the peer, at the start, when it asks for it, and when it has been silent. The
    /// answer to this nonce goes to [`Self::welcomed`]; until then nothing is sent.
    pub fn greet(&mut self, nonce: u64) {
        let acked = self.acked;
        self.session = Session::Greeted { nonce, acked };
    }

    /// The peer's answer to a greeting. After it, unless we start again, everything from
    /// [`Self::acked`] on is sent once more.
    pub fn welcomed(&mut self, nonce: u64, theirs: Mark) -> Verdict {
        let Session::Greeted { nonce: ours, acked } = self.session else {
            return Verdict::Nothing;
        };
        if nonce != ours {
            return Verdict::Nothing;
        }
        self.session = Session::Open;
        // They said more before we asked: since then their database went back.
        let lost = acked.seq > 0 && (theirs.epoch, theirs.seq) < (acked.epoch, acked.seq);
        if lost && acked.epoch == self.epoch {
            return self.start_again(theirs, Reason::TheyWereRestored);
        }
        self.judge(theirs)
    }

    /// A mark that the peer sent by itself: it may be late, and may come twice.
    pub fn acknowledged(&mut self, theirs: Mark) -> Verdict {
        self.judge(theirs)
    }

    /// The peer refuses a batch because it lacks what was sent before. When it has acknowledged
    /// nothing in this epoch, everything is on its way already.
    pub fn lacking(&mut self) -> Verdict {
        if self.acked.seq == 0 {
            return Verdict::Nothing;
        }
        self.start_again(self.acked, Reason::TheyLack)
    }

    /// The peer understands more of what it is sent than it did. When nothing is numbered in this
    /// epoch, everything is yet to come.
    pub fn learned(&mut self) -> Verdict {
        if self.next_seq() == 1 {
            return Verdict::Nothing;
        }
        self.start_again(self.acked, Reason::TheyLearned)
    }

    fn judge(&mut self, theirs: Mark) -> Verdict {
        if theirs.epoch > self.epoch {
            return self.start_again(theirs, Reason::WeWereRestored);
        }
        if theirs.epoch < self.epoch || theirs.seq < self.acked.seq {
            return Verdict::Nothing;
        }
        if theirs.seq >= self.next_seq() {
            return self.start_again(theirs, Reason::WeWereRestored);
        }
        // Within the window, so it fits.
        let further = usize::try_from(theirs.seq - self.acked.seq).unwrap_or(usize::MAX);
        let ours = match further.checked_sub(1) {
            None => Some(self.acked.chain),
            Some(at) => self.unacked.get(at).copied(),
        };
        if ours != Some(theirs.chain) {
            return self.start_again(theirs, Reason::Forked);
        }
        if further == 0 {
            return Verdict::Nothing;
        }
        self.unacked.drain(..further);
        self.acked = theirs;
        Verdict::Forget(theirs.seq)
    }

    fn start_again(&mut self, theirs: Mark, reason: Reason) -> Verdict {
        self.epoch = self.epoch.max(theirs.epoch).saturating_add(1);
        self.acked = Mark {
            epoch: self.epoch,
            ..Mark::default()
        };
        self.unacked.clear();
        Verdict::StartAgain(reason)
    }

    /// Gives the next number to a batch, when the session is open and the window not full. The
    /// caller stores the batch and takes its keys off the dirty ones in the same transaction.
    pub fn number(&mut self, body: &[u8]) -> Option<BatchHead> {
        if !self.has_room() {
            return None;
        }
        let head = BatchHead {
            epoch: self.epoch,
            seq: self.next_seq(),
            after: self.unacked.back().copied().unwrap_or(self.acked.chain),
        };
        self.unacked.push_back(head.after.then(body));
        Some(head)
    }
}
