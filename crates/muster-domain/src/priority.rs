//! How urgent a state is on its way to the site, and which states of a deployment are sent at
//! all (semantics.md 2.2). The numbers are on the wire and in SQL.

use crate::states::{
    DeploymentCompliance, DeploymentEnforcement, DeploymentEvaluation, Progress, UpdateEnforcement,
};

/// How urgent a state is; the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Priority {
    /// Something fails: told at once, ahead of everything else.
    Urgent = 0,
    /// Enforcement whose deadline is near or passed, and restarts: ahead of what is routine.
    High = 1,
    /// With the next routine report.
    Normal = 5,
    /// Need not be known soon: with the routine report after next, or with others.
    Low = 10,
}

impl Priority {
    /// Topic 500, and topic 501 whatever it says: an update point that is away fails the scans of all
    /// its clients at once, and nothing may wait behind that.
    pub const SCAN: Self = Self::Normal;
    /// Topic 701 and the inventory summary.
    pub const INVENTORY: Self = Self::Low;

    /// The number on the wire.
    #[must_use]
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// Topic 402. `due`: the deadline is near or passed.
    #[must_use]
    pub const fn of_update(state: UpdateEnforcement, due: bool) -> Self {
        match state {
            UpdateEnforcement::GeneralFailure
            | UpdateEnforcement::FailedToInstall
            | UpdateEnforcement::FailedToDownload => Self::Urgent,
            UpdateEnforcement::PendingRestart
            | UpdateEnforcement::RestartRequiredBeforeInstalling => Self::High,
            UpdateEnforcement::Unknown
            | UpdateEnforcement::Started
            | UpdateEnforcement::WaitingForContent
            | UpdateEnforcement::WaitingForAnotherInstallation
            | UpdateEnforcement::WaitingForMaintenanceWindow
            | UpdateEnforcement::PendingInstallation
            | UpdateEnforcement::Installing
            | UpdateEnforcement::SuccessfullyInstalled
            | UpdateEnforcement::Downloading
            | UpdateEnforcement::Downloaded => Self::when(due),
        }
    }

    /// Topics 301 and 302.
    #[must_use]
    pub fn of_deployment(
        enforcement: DeploymentEnforcement,
        evaluation: DeploymentEvaluation,
        due: bool,
    ) -> Self {
        if evaluation == DeploymentEvaluation::Failed || enforcement.progress() == Progress::Error {
            return Self::Urgent;
        }
        match enforcement {
            DeploymentEnforcement::WaitingForRestart | DeploymentEnforcement::PendingRestart => {
                Self::High
            }
            DeploymentEnforcement::Unknown
            | DeploymentEnforcement::Installing
            | DeploymentEnforcement::WaitingForAnotherInstallation
            | DeploymentEnforcement::SuccessfullyInstalled
            | DeploymentEnforcement::FailedToInstall
            | DeploymentEnforcement::Downloading
            | DeploymentEnforcement::Downloaded
            | DeploymentEnforcement::FailedToDownload
            | DeploymentEnforcement::WaitingForMaintenanceWindow
            | DeploymentEnforcement::WaitingForOrchestration
            | DeploymentEnforcement::WaitingForSupersedingUpdate => Self::when(due),
        }
    }

    /// Whether a restart is pending.
    #[must_use]
    pub const fn of_restart(pending: bool) -> Self {
        Self::when(pending)
    }

    /// Topic 1300: also says that a policy was refused.
    #[must_use]
    pub const fn of_health(healthy: bool) -> Self {
        if healthy { Self::Normal } else { Self::Urgent }
    }

    const fn when(high: bool) -> Self {
        if high { Self::High } else { Self::Normal }
    }
}

/// Which states of a deployment a client sends, the fewest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Verbosity {
    /// None.
    None = 0,
    /// Failures, and how it ended, so that a failure is taken back. Restarts that are pending are
    /// lost ("error only loses pending-restart tracking", semantics.md 2.10).
    Errors = 1,
    /// The same, and restarts that are pending.
    Successes = 5,
    /// Every step.
    All = 10,
}

impl Verbosity {
    /// The verbosity with this number. One that is not known lets everything through.
    #[must_use]
    pub const fn from_id(id: u8) -> Self {
        match id {
            0 => Self::None,
            1 => Self::Errors,
            5 => Self::Successes,
            _ => Self::All,
        }
    }

    /// Whether this state of an update (topic 402) is sent.
    #[must_use]
    pub fn lets_update(self, state: UpdateEnforcement) -> bool {
        let ends = state.is_failure()
            || matches!(
                state,
                UpdateEnforcement::SuccessfullyInstalled | UpdateEnforcement::Unknown
            );
        let restarts = matches!(
            state,
            UpdateEnforcement::PendingRestart | UpdateEnforcement::RestartRequiredBeforeInstalling
        );
        self.lets(ends, restarts)
    }

    /// Whether these states of a deployment (topics 300, 301 and 302) are sent.
    #[must_use]
    pub fn lets_deployment(
        self,
        compliance: DeploymentCompliance,
        enforcement: DeploymentEnforcement,
        evaluation: DeploymentEvaluation,
    ) -> bool {
        let failed =
            evaluation == DeploymentEvaluation::Failed || enforcement.progress() == Progress::Error;
        let ends = match enforcement {
            DeploymentEnforcement::SuccessfullyInstalled => true,
            // Nothing to install, or nothing done yet: whether it complies is known or not.
            DeploymentEnforcement::Unknown => compliance != DeploymentCompliance::Unknown,
            DeploymentEnforcement::Installing
            | DeploymentEnforcement::WaitingForRestart
            | DeploymentEnforcement::WaitingForAnotherInstallation
            | DeploymentEnforcement::PendingRestart
            | DeploymentEnforcement::FailedToInstall
            | DeploymentEnforcement::Downloading
            | DeploymentEnforcement::Downloaded
            | DeploymentEnforcement::FailedToDownload
            | DeploymentEnforcement::WaitingForMaintenanceWindow
            | DeploymentEnforcement::WaitingForOrchestration
            | DeploymentEnforcement::WaitingForSupersedingUpdate => false,
        };
        let restarts = matches!(
            enforcement,
            DeploymentEnforcement::PendingRestart | DeploymentEnforcement::WaitingForRestart
        );
        self.lets(failed || ends, restarts)
    }

    const fn lets(self, ends: bool, restarts: bool) -> bool {
        match self {
            Self::None => false,
            Self::Errors => ends,
            Self::Successes => ends || restarts,
            Self::All => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_come_first_and_what_is_due_before_what_is_routine() {
        let update = Priority::of_update;
        assert_eq!(
            update(UpdateEnforcement::FailedToInstall, false),
            Priority::Urgent
        );
        assert_eq!(update(UpdateEnforcement::Downloading, true), Priority::High);
        assert_eq!(
            update(UpdateEnforcement::Downloading, false),
            Priority::Normal
        );
        assert_eq!(
            update(UpdateEnforcement::PendingRestart, false),
            Priority::High
        );
        let evaluation = DeploymentEvaluation::Failed;
        let failed = Priority::of_deployment(DeploymentEnforcement::Unknown, evaluation, false);
        assert_eq!(failed, Priority::Urgent);
        let ids = [
            Priority::Urgent,
            Priority::High,
            Priority::Normal,
            Priority::Low,
        ];
        assert!(ids.is_sorted() && ids.map(Priority::id) == [0, 1, 5, 10]);
    }

    #[test]
    fn a_verbosity_lets_through_what_the_next_smaller_one_does_and_more() {
        let levels = [0, 1, 5, 10].map(Verbosity::from_id);
        for state in UpdateEnforcement::ALL {
            assert!(
                levels.map(|it| it.lets_update(*state)).is_sorted(),
                "{state}"
            );
        }
        for enforcement in DeploymentEnforcement::ALL {
            for evaluation in DeploymentEvaluation::ALL {
                let complies = DeploymentCompliance::NonCompliant;
                let lets = |it: Verbosity| it.lets_deployment(complies, *enforcement, *evaluation);
                assert!(levels.map(lets).is_sorted(), "{enforcement} {evaluation}");
            }
        }
    }

    #[test]
    fn errors_tell_of_failures_and_of_their_end_and_not_of_restarts() {
        let lets = |state| Verbosity::Errors.lets_update(state);
        assert!(lets(UpdateEnforcement::FailedToDownload));
        assert!(
            lets(UpdateEnforcement::SuccessfullyInstalled),
            "takes a failure back"
        );
        assert!(!lets(UpdateEnforcement::PendingRestart));
        assert!(!lets(UpdateEnforcement::Installing));
        assert!(Verbosity::Successes.lets_update(UpdateEnforcement::PendingRestart));
        assert!(!Verbosity::Successes.lets_update(UpdateEnforcement::Installing));
        assert!(!Verbosity::None.lets_update(UpdateEnforcement::FailedToInstall));
        assert_eq!(Verbosity::from_id(7), Verbosity::All, "of a newer site");
    }
}
