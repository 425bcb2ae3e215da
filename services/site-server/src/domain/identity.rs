//! Two machines under one identity, because the disk of one was copied: who keeps it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// What is known of a client in whose name a new key is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// Its reports showed that more than one machine sends them.
    pub(crate) forked: bool,
    /// Since when the certificate that was shown is replaced by another one.
    pub(crate) replaced_at: Option<Timestamp>,
    /// A machine has kept the identity since then.
    pub(crate) kept: bool,
    /// Of the machine that enrolled.
    pub(crate) machine_id_hash: Vec<u8>,
}

/// Who the asking machine is from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The client it was.
    Keeps,
    /// A client of its own.
    Clone,
}

/// Why a machine gets no new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Nothing is in doubt.
    NotAsked,
    /// It comes too late.
    GraceIsOver,
}

impl Doubt {
    /// Decides about a machine that says of itself `machine_id_hash`. The one that enrolled keeps
    /// the identity. Machines that are equal in that, too, cannot be told apart: the first one
    /// keeps it.
    pub(crate) fn settle(
        &self,
        machine_id_hash: &[u8],
        now: Timestamp,
        grace: Duration,
    ) -> Result<Verdict, Refused> {
        match self.replaced_at {
            None if !self.forked => return Err(Refused::NotAsked),
            Some(at) if now.duration_since(at) > signed(grace) => return Err(Refused::GraceIsOver),
            Some(_) | None => {}
        }
        let same = self.machine_id_hash == machine_id_hash;
        Ok(if same && !self.kept {
            Verdict::Keeps
        } else {
            Verdict::Clone
        })
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(3600);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn doubt(forked: bool, replaced: Option<i64>, kept: bool) -> Doubt {
        Doubt {
            forked,
            replaced_at: replaced.map(at),
            kept,
            machine_id_hash: vec![1; 32],
        }
    }

    #[test]
    fn the_machine_that_enrolled_keeps_the_identity_and_every_other_one_is_a_clone() {
        let (original, clone) = ([1; 32], [2; 32]);
        let first = doubt(true, None, false);
        assert_eq!(first.settle(&original, at(9), GRACE), Ok(Verdict::Keeps));
        assert_eq!(first.settle(&clone, at(9), GRACE), Ok(Verdict::Clone));
        // Afterwards the others come with a certificate that was replaced.
        let later = doubt(false, Some(9), true);
        assert_eq!(later.settle(&clone, at(99), GRACE), Ok(Verdict::Clone));
        assert_eq!(
            later.settle(&original, at(99), GRACE),
            Ok(Verdict::Clone),
            "equal, but late"
        );
    }

    #[test]
    fn nothing_is_renewed_that_nobody_doubts_or_after_the_grace() {
        let machine = [1; 32];
        let sure = doubt(false, None, false);
        assert_eq!(sure.settle(&machine, at(9), GRACE), Err(Refused::NotAsked));
        let late = doubt(false, Some(0), true);
        assert_eq!(
            late.settle(&machine, at(3_601), GRACE),
            Err(Refused::GraceIsOver)
        );
        let forked_again = doubt(true, Some(0), true);
        assert_eq!(
            forked_again.settle(&machine, at(3_601), GRACE),
            Err(Refused::GraceIsOver)
        );
    }
}
