//! The states of clients, with the numbers of semantics.md 2.1. The numbers are the same
//! on the wire and in SQL; `muster-proto` has a test that holds both against this file.

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $id:literal, $text:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$vdoc])* #[doc = $text] $variant = $id,)+
        }

        impl $name {
            /// All states, in the order of their ids.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The state's number in its topic.
            pub const fn id(self) -> u8 {
                self as u8
            }

            /// The state with this number, if there is one.
            pub const fn from_id(id: u8) -> Option<Self> {
                match id {
                    $($id => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The state's name as people know it.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.text())
            }
        }
    };
}

states!(
    /// Topic 500: what a scan found for one update on one client.
    Detection {
        /// A fact could not be read, or nothing is known.
        Unknown = 0, "unknown";
        NotRequired = 1, "not required";
        Required = 2, "required";
        Installed = 3, "installed";
    }
);

states!(
    /// Topic 402: how far one update of a deployment is on a client.
    UpdateEnforcement {
        Unknown = 0, "enforcement state unknown";
        Started = 1, "enforcement started";
        WaitingForContent = 2, "waiting for content";
        WaitingForAnotherInstallation = 3, "waiting for another installation";
        WaitingForMaintenanceWindow = 4, "waiting for maintenance window";
        RestartRequiredBeforeInstalling = 5, "restart required before installing";
        GeneralFailure = 6, "general failure";
        PendingInstallation = 7, "pending installation";
        Installing = 8, "installing";
        PendingRestart = 9, "pending system restart";
        SuccessfullyInstalled = 10, "successfully installed";
        FailedToInstall = 11, "failed to install";
        Downloading = 12, "downloading";
        Downloaded = 13, "downloaded";
        FailedToDownload = 14, "failed to download";
    }
);

states!(
    /// Topic 301: how far a deployment is on a client.
    DeploymentEnforcement {
        Unknown = 0, "enforcement state unknown";
        Installing = 1, "installing update(s)";
        WaitingForRestart = 2, "waiting for restart";
        WaitingForAnotherInstallation = 3, "waiting for another installation to complete";
        SuccessfullyInstalled = 4, "successfully installed update(s)";
        PendingRestart = 5, "pending system restart";
        FailedToInstall = 6, "failed to install update(s)";
        Downloading = 7, "downloading update(s)";
        Downloaded = 8, "downloaded update(s)";
        FailedToDownload = 9, "failed to download update(s)";
        WaitingForMaintenanceWindow = 10, "waiting for maintenance window before installing";
        WaitingForOrchestration = 11, "waiting for orchestration";
        WaitingForSupersedingUpdate = 12, "waiting for superseding update";
    }
);

states!(
    /// Topic 302: could the client evaluate a deployment?
    DeploymentEvaluation {
        Unknown = 0, "evaluation state unknown";
        Activated = 1, "evaluation activated";
        Succeeded = 2, "evaluation succeeded";
        Failed = 3, "evaluation failed";
    }
);

states!(
    /// Topic 300: does the client comply with a deployment?
    DeploymentCompliance {
        Unknown = 0, "compliance state unknown";
        Compliant = 1, "compliant";
        NonCompliant = 2, "non-compliant";
        Conflict = 3, "conflict detected";
    }
);

states!(
    /// Topic 501: how the last scan went.
    Scan {
        Unknown = 0, "scan state unknown";
        WaitingForContent = 1, "scan is waiting for content";
        Running = 2, "scan is running";
        Completed = 3, "scan completed";
        PendingRetry = 4, "scan is pending retry";
        Failed = 5, "scan failed";
        CompletedWithErrors = 6, "scan completed with errors";
    }
);

impl UpdateEnforcement {
    /// Nothing more will happen by itself.
    pub const fn is_failure(self) -> bool {
        matches!(
            self,
            Self::GeneralFailure | Self::FailedToInstall | Self::FailedToDownload
        )
    }
}

/// What a deployment's state means for the person who watches it (StatusType, semantics.md 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing left to do.
    Success,
    /// Not there yet.
    InProgress,
    /// The client gave up until something changes.
    Error,
    /// Nothing was said.
    Unknown,
}

impl DeploymentEnforcement {
    /// Which of the four columns of a deployment's status the state counts in.
    pub const fn progress(self) -> Progress {
        match self {
            Self::SuccessfullyInstalled => Progress::Success,
            Self::FailedToInstall | Self::FailedToDownload => Progress::Error,
            Self::Unknown => Progress::Unknown,
            Self::Installing
            | Self::WaitingForRestart
            | Self::WaitingForAnotherInstallation
            | Self::PendingRestart
            | Self::Downloading
            | Self::Downloaded
            | Self::WaitingForMaintenanceWindow
            | Self::WaitingForOrchestration
            | Self::WaitingForSupersedingUpdate => Progress::InProgress,
        }
    }
}

/// The place of a state in its client's history: newest wins, whatever the order of
/// arrival. A higher epoch (a new registration) beats every older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Given by the site at registration.
    pub epoch: u32,
    /// The client's own counter within its epoch.
    pub serial: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_dense_and_round_trip() {
        for (id, state) in UpdateEnforcement::ALL.iter().enumerate() {
            assert_eq!(usize::from(state.id()), id);
            assert_eq!(UpdateEnforcement::from_id(state.id()), Some(*state));
        }
        assert_eq!(UpdateEnforcement::ALL.len(), 15);
        assert_eq!(DeploymentEnforcement::ALL.len(), 13);
        assert_eq!(DeploymentEnforcement::from_id(13), None);
    }

    #[test]
    fn a_new_epoch_beats_any_serial() {
        assert!(
            Stamp {
                epoch: 2,
                serial: 1
            } > Stamp {
                epoch: 1,
                serial: 900
            }
        );
    }
}
