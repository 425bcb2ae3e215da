//! The receiving end of a direction.

use crate::{BatchHead, Mark};

/// How far the batches of one sender are applied, as our database keeps it. A receiver that
/// starts asks its peer to greet ([`crate::Outbound::greet`]): only an answer to a greeting shows that
/// our database went back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Inbound {
    mark: Mark,
}

/// What a batch is to the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Apply it and keep this mark, both in one transaction; then acknowledge the mark.
    Next(Mark),
    /// Applied before, or of an epoch that has ended. Acknowledge the mark again: an
    /// acknowledgement may have been lost.
    Repeat,
    /// Something before it is missing. Acknowledge the mark again: the sender goes back.
    Early,
    /// The sender has had another life: what it numbers does not continue what we applied.
    /// Acknowledge the mark again: the sender sees the difference and starts again.
    Forked,
}

impl Inbound {
    /// From what the database holds.
    #[must_use]
    pub const fn new(mark: Mark) -> Self {
        Self { mark }
    }

    /// How far we are.
    #[must_use]
    pub const fn mark(&self) -> Mark {
        self.mark
    }

    /// Says what a batch is. On [`Taken::Next`] call [`Self::applied`] once the transaction has
    /// committed.
    #[must_use]
    pub fn take(&self, head: &BatchHead, body: &[u8]) -> Taken {
        let held = self.mark;
        let first = Mark {
            epoch: head.epoch,
            ..Mark::default()
        };
        let before = if head.epoch > held.epoch { first } else { held };
        if head.epoch < held.epoch || head.seq <= before.seq {
            return Taken::Repeat;
        }
        if head.seq > before.seq + 1 {
            return Taken::Early;
        }
        if head.after != before.chain {
            return Taken::Forked;
        }
        Taken::Next(head.mark(body))
    }

    /// The transaction that applied the batch has committed.
    pub fn applied(&mut self, mark: Mark) {
        self.mark = mark;
    }
}
