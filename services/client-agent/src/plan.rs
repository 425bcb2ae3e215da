//! What should happen to which update: pure functions over the policy, the evaluation and the
//! time. `enforce` makes it so.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use muster_domain::states::{DeploymentEnforcement, Detection, UpdateEnforcement};
use muster_domain::{DeploymentId, UpdateNo, error_code};
use muster_proto::policy::{Policy, PolicyUpdate};

use crate::Failure;
use crate::evaluate::{Evaluation, Need};
use crate::policy::Deployment;
use crate::provider::{Approved, Suite};
use crate::store::Attempts;

/// The longest time between two attempts at an update.
const MAX_RETRY: Duration = Duration::from_secs(6 * 3600);
/// How soon the package manager is asked again when somebody else had it.
const BUSY_RETRY: Duration = Duration::from_secs(60);
/// How soon a distribution point that did not answer is asked again: first, and at most.
const AWAY_RETRY: Duration = Duration::from_secs(5);
const MAX_AWAY_RETRY: Duration = Duration::from_secs(60);
/// How long distribution points may be away before that is a failure of the update.
const MAX_AWAY: SignedDuration = SignedDuration::from_mins(10);

/// What one more failure means: whether it is one to report, and when to try again. `jitter` is
/// about 1: thousands of machines that failed together do not come back together.
pub(crate) fn after_failure(
    before: Option<&Attempts>,
    failure: &Failure,
    retry_after: Duration,
    (now, jitter): (Timestamp, f64),
) -> (Attempts, bool) {
    let failures = before.map_or(0, |before| before.failures);
    let doubled =
        |first: Duration, times: u32| first.saturating_mul(2_u32.saturating_pow(times.min(16)));
    let mut after = Attempts {
        failures,
        retry_at: now,
        away_since: None,
        asked: 0,
    };
    let mut final_failure = true;
    let delay = if failure.is_busy() {
        BUSY_RETRY.min(retry_after)
    } else if failure.is_away() {
        // A clock that was set back must not make this endless.
        let since = before.and_then(|before| before.away_since);
        let since = since.map_or(now, |since| since.min(now));
        let asked = before.map_or(0, |before| before.asked);
        (after.away_since, after.asked) = (Some(since), asked.saturating_add(1));
        if now.duration_since(since) < MAX_AWAY {
            final_failure = false;
            doubled(AWAY_RETRY, asked).min(MAX_AWAY_RETRY)
        } else {
            // Given up for the report, not for the machine: it still goes on soon.
            retry_after
        }
    } else {
        after.failures = failures.saturating_add(1);
        doubled(retry_after, failures).min(MAX_RETRY)
    };
    let delay = SignedDuration::try_from(delay.mul_f64(jitter));
    after.retry_at = now + delay.unwrap_or(SignedDuration::from_hours(6));
    (after, final_failure)
}

/// Who wants updates installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The site: downloads what has a deadline, installs what has passed it.
    Due,
    /// A person at the machine: everything that is deployed and available, now.
    User,
}

/// A required update that something is to be done about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The available deployments that name it.
    pub deployments: BTreeSet<DeploymentId>,
    /// Installed packages that are older.
    pub needs: Vec<Need>,
    /// To be installed in this run.
    pub due: bool,
    /// In a run of its own.
    pub exclusive: bool,
    /// How long it may take, in minutes.
    pub max_run_time_minutes: u32,
}

/// Required updates of available deployments, and what is to be done about each now.
/// [semantics.md 2.7]: the earliest deadline wins; optional ones only by a user.
#[must_use]
pub fn targets(
    policy: &Policy,
    deployments: &[Deployment],
    evaluation: &Evaluation,
    waiting_for_restart: &BTreeSet<UpdateNo>,
    (mode, now): (Mode, Timestamp),
) -> BTreeMap<UpdateNo, Target> {
    let details: BTreeMap<u32, &PolicyUpdate> = policy
        .updates
        .iter()
        .map(|update| (update.update_no, update))
        .collect();
    let mut targets = BTreeMap::new();
    for found in &evaluation.updates {
        if found.detection != Detection::Required || waiting_for_restart.contains(&found.update_no)
        {
            continue;
        }
        let naming = deployments
            .iter()
            .filter(|d| d.available_at <= now && d.updates.contains(&found.update_no));
        let naming: Vec<&Deployment> = naming.collect();
        let deadline = naming.iter().filter_map(|d| d.deadline_at).min();
        let wanted = match mode {
            Mode::User => !naming.is_empty(),
            Mode::Due => deadline.is_some(),
        };
        if !wanted {
            continue;
        }
        let detail = details.get(&found.update_no.0);
        let minutes = detail.map_or(found.max_run_time_minutes, |d| d.max_run_time_minutes);
        targets.insert(
            found.update_no,
            Target {
                deployments: naming.iter().map(|d| d.id).collect(),
                needs: found.needs.clone(),
                due: mode == Mode::User || deadline.is_some_and(|deadline| deadline <= now),
                exclusive: detail.is_some_and(|d| d.needs_exclusive_handling),
                max_run_time_minutes: minutes,
            },
        );
    }
    targets
}

/// Everything that the policy approves.
#[must_use]
pub fn approved(policy: &Policy) -> Vec<Approved> {
    let of = |update: &PolicyUpdate| {
        let update_no = UpdateNo(update.update_no);
        update
            .files
            .iter()
            .filter_map(|file| {
                Some(Approved {
                    package: file.package.clone(),
                    version: file.version.clone(),
                    architecture: file.architecture.clone(),
                    sha256: file.sha256.as_ref().try_into().ok()?,
                    size: file.size,
                    update: update_no,
                })
            })
            .collect::<Vec<_>>()
    };
    policy.updates.iter().flat_map(of).collect()
}

/// The suites of a policy.
#[must_use]
pub fn suites(policy: &Policy) -> Vec<Suite> {
    let of = |suite: &muster_proto::policy::PolicySuite| Suite {
        key: suite.key.clone(),
        suite: suite.suite.clone(),
        components: suite.components.clone(),
        signed_by: suite.signed_by.clone(),
        ignore_valid_until: suite.ignore_valid_until,
    };
    policy.suites.iter().map(of).collect()
}

/// The files for a set of updates that are installed together. Where two of them bring the same
/// package, the newer version serves both.
///
/// # Errors
/// Per update: a package on hold, or one for which the policy names no file.
pub fn files(
    targets: &BTreeMap<UpdateNo, Target>,
    approved: &[Approved],
) -> BTreeMap<UpdateNo, Result<Vec<Approved>, Failure>> {
    let own = |update: UpdateNo, need: &Need| {
        let mut found = approved.iter().filter(|file| {
            file.update == update && serves(file, need) && file.version == need.version
        });
        found.next()
    };
    // Package and architecture → the newest version that any of the updates brings.
    let mut newest: BTreeMap<(&str, &str), &Approved> = BTreeMap::new();
    for (update, target) in targets {
        for need in target.needs.iter().filter(|need| !need.held) {
            let Some(file) = own(*update, need) else {
                continue;
            };
            let slot = newest
                .entry((&need.name, &need.architecture))
                .or_insert(file);
            if newer(&file.version, &slot.version) {
                *slot = file;
            }
        }
    }
    let choose = |(update, target): (&UpdateNo, &Target)| {
        let mut files = Vec::new();
        for need in &target.needs {
            if need.held {
                let detail = format!("{} is on hold at {}", need.name, need.installed);
                return (*update, Err(Failure::new(error_code::PACKAGE_HELD, detail)));
            }
            let best = newest.get(&(need.name.as_str(), need.architecture.as_str()));
            let Some(file) = best.filter(|file| !newer(&need.version, &file.version)) else {
                let detail = format!(
                    "the policy names no file for {} {}",
                    need.name, need.version
                );
                return (
                    *update,
                    Err(Failure::new(error_code::CONTENT_NOT_FOUND, detail)),
                );
            };
            files.push((*file).clone());
        }
        (*update, Ok(files))
    };
    targets.iter().map(choose).collect()
}

fn serves(file: &Approved, need: &Need) -> bool {
    file.package == need.name
        && (file.architecture == need.architecture
            || file.architecture == "all"
            || need.architecture == "all")
}

fn newer(a: &str, b: &str) -> bool {
    muster_apt::version::compare(a, b).is_ok_and(Ordering::is_gt)
}

/// Topic 301 from topic 402: what is going on comes first, then what went wrong, then what is
/// left to do. `states` are those of updates that are required or were enforced; `Unknown` for
/// a required update that nothing was done about.
#[must_use]
pub fn summary(states: &[UpdateEnforcement]) -> DeploymentEnforcement {
    use DeploymentEnforcement as Deployment;
    use UpdateEnforcement as Update;
    let order = [
        (Update::Installing, Deployment::Installing),
        (Update::Started, Deployment::Installing),
        (Update::Downloading, Deployment::Downloading),
        (Update::WaitingForContent, Deployment::Downloading),
        (
            Update::WaitingForAnotherInstallation,
            Deployment::WaitingForAnotherInstallation,
        ),
        (
            Update::WaitingForMaintenanceWindow,
            Deployment::WaitingForMaintenanceWindow,
        ),
        (
            Update::RestartRequiredBeforeInstalling,
            Deployment::WaitingForRestart,
        ),
        (Update::FailedToInstall, Deployment::FailedToInstall),
        (Update::GeneralFailure, Deployment::FailedToInstall),
        (Update::FailedToDownload, Deployment::FailedToDownload),
        (Update::PendingInstallation, Deployment::Downloaded),
        (Update::Downloaded, Deployment::Downloaded),
        (Update::PendingRestart, Deployment::PendingRestart),
        (Update::Unknown, Deployment::Unknown),
    ];
    let found = order.into_iter().find(|(state, _)| states.contains(state));
    found.map_or(Deployment::SuccessfullyInstalled, |(_, summary)| summary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::Evaluated;

    fn need(name: &str, version: &str) -> Need {
        Need {
            name: name.into(),
            architecture: "amd64".into(),
            installed: "1".into(),
            version: version.into(),
            candidate: version.into(),
            held: false,
        }
    }

    fn file(update: u32, package: &str, version: &str) -> Approved {
        Approved {
            package: package.into(),
            version: version.into(),
            architecture: "amd64".into(),
            sha256: [0; 32],
            size: 1,
            update: UpdateNo(update),
        }
    }

    fn target(needs: Vec<Need>) -> Target {
        Target {
            deployments: BTreeSet::new(),
            needs,
            due: true,
            exclusive: false,
            max_run_time_minutes: 60,
        }
    }

    fn deployment(offset: i64, deadline: Option<i64>) -> Deployment {
        let at = |seconds| Timestamp::from_second(1_000_000 + seconds).unwrap();
        Deployment {
            id: DeploymentId::generate(),
            available_at: at(offset),
            deadline_at: deadline.map(at),
            updates: vec![UpdateNo(1)],
        }
    }

    fn evaluation() -> Evaluation {
        let update = Evaluated {
            update_no: UpdateNo(1),
            update_id: String::new(),
            detection: Detection::Required,
            needs: vec![need("bash", "2")],
            max_run_time_minutes: 60,
        };
        Evaluation {
            generation: 1,
            updates: vec![update],
            explained: Vec::new(),
        }
    }

    fn due(deployments: &[Deployment], mode: Mode) -> Option<bool> {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let found = targets(
            &Policy::default(),
            deployments,
            &evaluation(),
            &BTreeSet::new(),
            (mode, now),
        );
        found.get(&UpdateNo(1)).map(|target| target.due)
    }

    #[test]
    fn an_absent_distribution_point_is_asked_soon_and_becomes_a_failure_after_ten_minutes() {
        let away = Failure::new(error_code::CONTENT_UNREACHABLE, "refused");
        let retry_after = Duration::from_secs(300);
        let start = Timestamp::from_second(1_000_000).unwrap();
        let (mut now, mut held) = (start, None);
        let mut delays = Vec::new();
        loop {
            let (attempts, final_failure) =
                after_failure(held.as_ref(), &away, retry_after, (now, 1.0));
            delays.push(attempts.retry_at.duration_since(now).as_secs());
            (now, held) = (attempts.retry_at, Some(attempts));
            if final_failure {
                break;
            }
        }
        assert_eq!(delays[..5], [5, 10, 20, 40, 60]);
        let last = delays.pop();
        assert_eq!(last, Some(300), "not doubled, whatever came before");
        let waited: i64 = delays.iter().sum();
        assert!((600..=660).contains(&waited), "{waited}");
        assert_eq!(held.unwrap().failures, 0, "the update itself never failed");
    }

    #[test]
    fn the_earliest_deadline_of_available_deployments_decides() {
        assert_eq!(
            due(&[deployment(-10, Some(60))], Mode::Due),
            Some(false),
            "download only"
        );
        assert_eq!(
            due(
                &[deployment(-10, Some(60)), deployment(-10, Some(-1))],
                Mode::Due
            ),
            Some(true)
        );
        assert_eq!(
            due(&[deployment(-10, None)], Mode::Due),
            None,
            "optional: nothing by itself"
        );
        assert_eq!(due(&[deployment(-10, None)], Mode::User), Some(true));
        assert_eq!(
            due(&[deployment(10, Some(10))], Mode::User),
            None,
            "not available yet"
        );
    }

    #[test]
    fn the_newer_version_of_a_package_serves_both_updates() {
        let targets = BTreeMap::from([
            (UpdateNo(1), target(vec![need("bash", "2")])),
            (UpdateNo(2), target(vec![need("bash", "3")])),
        ]);
        let files = files(&targets, &[file(1, "bash", "2"), file(2, "bash", "3")]);
        for update in [1, 2] {
            let chosen = files[&UpdateNo(update)].as_ref().unwrap();
            assert_eq!(chosen[0].version, "3");
        }
    }

    #[test]
    fn a_held_package_and_a_missing_file_fail_their_own_update_only() {
        let mut held = need("zsh", "2");
        held.held = true;
        let targets = BTreeMap::from([
            (UpdateNo(1), target(vec![need("bash", "2")])),
            (UpdateNo(2), target(vec![held])),
            (UpdateNo(3), target(vec![need("dash", "2")])),
        ]);
        let files = files(&targets, &[file(1, "bash", "2"), file(2, "zsh", "2")]);
        assert!(files[&UpdateNo(1)].is_ok());
        assert_eq!(
            files[&UpdateNo(2)].as_ref().unwrap_err().code,
            error_code::PACKAGE_HELD
        );
        assert_eq!(
            files[&UpdateNo(3)].as_ref().unwrap_err().code,
            error_code::CONTENT_NOT_FOUND
        );
    }

    #[test]
    fn a_deployment_says_what_goes_on_before_what_went_wrong() {
        use UpdateEnforcement as U;
        let table = [
            (vec![], DeploymentEnforcement::SuccessfullyInstalled),
            (
                vec![U::SuccessfullyInstalled],
                DeploymentEnforcement::SuccessfullyInstalled,
            ),
            (
                vec![U::SuccessfullyInstalled, U::PendingRestart],
                DeploymentEnforcement::PendingRestart,
            ),
            (
                vec![U::FailedToInstall, U::PendingRestart],
                DeploymentEnforcement::FailedToInstall,
            ),
            (
                vec![U::FailedToInstall, U::Installing],
                DeploymentEnforcement::Installing,
            ),
            (
                vec![U::FailedToDownload, U::Downloaded],
                DeploymentEnforcement::FailedToDownload,
            ),
            (
                vec![U::Unknown, U::SuccessfullyInstalled],
                DeploymentEnforcement::Unknown,
            ),
        ];
        for (states, expected) in table {
            assert_eq!(summary(&states), expected, "{states:?}");
        }
    }
}
