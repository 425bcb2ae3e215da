//! Whether anybody answers (semantics.md 2.12: degraded after 12 cycles, failed after 24).

/// Cycles without an answer until a link is degraded, and until it has failed.
const DEGRADED: u32 = 12;
const FAILED: u32 = 24;

/// How a link is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// The peer answers.
    #[default]
    Healthy,
    /// Twelve cycles without an answer.
    Degraded,
    /// Twenty-four cycles without an answer.
    Failed,
}

/// Counts cycles without an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Health {
    missed: u32,
}

impl Health {
    /// A cycle is over: has the peer said anything in it? Returns the new state when it is
    /// another one.
    pub fn cycle(&mut self, heard: bool) -> Option<State> {
        let before = self.state();
        self.missed = if heard {
            0
        } else {
            self.missed.saturating_add(1)
        };
        let now = self.state();
        (now != before).then_some(now)
    }

    /// Cycles without an answer.
    #[must_use]
    pub const fn missed(&self) -> u32 {
        self.missed
    }

    /// How the link is.
    #[must_use]
    pub const fn state(&self) -> State {
        match self.missed {
            0..DEGRADED => State::Healthy,
            DEGRADED..FAILED => State::Degraded,
            FAILED.. => State::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_peer_degrades_the_link_and_then_fails_it_and_one_answer_heals_it() {
        let mut health = Health::default();
        let told: Vec<(u32, State)> = (1..=30)
            .filter_map(|cycle| Some((cycle, health.cycle(false)?)))
            .collect();
        assert_eq!(told, [(12, State::Degraded), (24, State::Failed)]);
        assert_eq!(health.cycle(true), Some(State::Healthy));
        assert_eq!((health.cycle(true), health.missed()), (None, 0));
    }
}
