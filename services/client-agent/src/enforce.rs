//! Bringing the machine to what is deployed. Each run reads everything afresh: policy, catalog,
//! machine, cache; so a timer, a new policy and a restart after kill -9 take the same path.
//! Every step is saved before it begins.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use muster_domain::states::{Detection, UpdateEnforcement as State};
use muster_domain::{UpdateNo, error_code};
use muster_proto::policy::Policy;
use muster_proto::state::ClientHealth;
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::evaluate::Evaluation;
use crate::plan::{self, Mode, Target};
use crate::policy::{Deployment, Settings, deployments};
use crate::provider::{Approved, Job, Outcome};
use crate::scan::{Trigger, detection_value};
use crate::store::{Kind, Writer};
use crate::topics::{activate, forget_vanished, put_update, summarise};
use crate::{Error, Failure};

/// After so many updates in a row that no distribution point answered for, the others of the run
/// are not asked for: each costs seconds.
const MAX_AWAY_IN_A_ROW: u32 = 3;
/// The longest a run is watched, whatever its updates ask for.
const MAX_RUN: Duration = Duration::from_secs(12 * 3600);

/// What a run of [`Agent::enforce`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Enforced {
    /// Updates that are installed now and were not before.
    pub installed: BTreeSet<UpdateNo>,
    /// Updates that failed, and why.
    pub failed: BTreeMap<UpdateNo, Failure>,
    /// When there will be something to do next: a deployment becomes available, a deadline
    /// passes, a failure may be tried again.
    pub wake_at: Option<Timestamp>,
}

/// What is written down before the package manager is called: updates and their packages.
#[derive(Debug, Serialize, Deserialize)]
struct Intent(BTreeMap<u32, Vec<String>>);

impl Intent {
    fn of(job: &Job) -> Self {
        let packages = |files: &Vec<Approved>| files.iter().map(|f| f.package.clone()).collect();
        Self(
            job.updates
                .iter()
                .map(|(update, files)| (update.0, packages(files)))
                .collect(),
        )
    }
}

/// A change of topic 402.
type Step = (UpdateNo, State, Option<Failure>);

impl Agent {
    /// Does what is to be done now for the deployments of the policy.
    ///
    /// # Errors
    /// [`Error::Busy`] while another process of the agent is at it; else when the database fails.
    /// What fails for an update is in the answer, and reported.
    pub async fn enforce(&self, mode: Mode) -> Result<Enforced, Error> {
        let _lock = self.lock()?;
        self.finish_interrupted().await?;
        let mut done = Enforced::default();
        let Some(policy) = self.policy()? else {
            return Ok(done);
        };
        let all = deployments(&policy);
        let now = self.now();
        let active: Vec<Deployment> = all
            .iter()
            .filter(|d| d.available_at <= now)
            .cloned()
            .collect();
        self.store().write(|w| {
            forget_vanished(w, &all)?;
            activate(w, &active, now)
        })?;
        if !active.is_empty() {
            let settings = Settings::of(Some(&policy));
            let allowed = settings.installs_allowed && !self.options().read_only;
            if let Some(evaluation) = self.evaluate_deployments(&policy, &active).await?
                && allowed
            {
                self.bring_about(&policy, &active, evaluation, mode, &mut done)
                    .await?;
            }
        }
        let wanted = plan::approved(&policy)
            .iter()
            .map(|file| file.sha256)
            .collect();
        self.content().prune(&wanted)?;
        done.wake_at = self.next_time(&all)?;
        Ok(done)
    }

    /// Finds out what became of an installation that was cut short.
    async fn finish_interrupted(&self) -> Result<(), Error> {
        let Some(bytes) = self.store().read(|r| r.open_intent())? else {
            return Ok(());
        };
        tracing::warn!("an installation was interrupted, finding out what is so");
        let intent: Intent = self.read_intent(&bytes)?;
        if let Err(failure) = self.provider().recover().await {
            tracing::error!(%failure, "the package database could not be repaired yet");
            if failure.is_busy() {
                // The package manager outlived us and is still at work.
                return Err(Error::Busy);
            }
            let failed = intent
                .0
                .keys()
                .map(|no| (UpdateNo(*no), failure.clone()))
                .collect();
            self.settle(&intent, &Outcome { failed }, true).await?;
            return Ok(());
        }
        self.settle(&intent, &Outcome::default(), false).await?;
        Ok(())
    }

    /// What was written down before the interruption. When that cannot be read, the database is
    /// damaged: nothing more is installed on its word, and the site hears of it.
    fn read_intent(&self, bytes: &[u8]) -> Result<Intent, Error> {
        serde_json::from_slice(bytes).or_else(|error| {
            tracing::error!(%error, "what was interrupted cannot be read");
            let health = ClientHealth {
                healthy: false,
                problems: vec!["INTENT_UNREADABLE: the agent's database is damaged".into()],
                serial: 0,
            };
            let now = self.now();
            let put = |w: &Writer<'_>| w.put_message(Kind::Health, b"", &health, now);
            if self.store().write(put)? {
                self.urgent().notify_one();
            }
            Err(Error::Saved { what: "intent" })
        })
    }

    /// Downloads and installs.
    async fn bring_about(
        &self,
        policy: &Policy,
        active: &[Deployment],
        evaluation: Evaluation,
        mode: Mode,
        done: &mut Enforced,
    ) -> Result<(), Error> {
        let approved = plan::approved(policy);
        let mut targets = self.targets(policy, active, &evaluation, mode)?;
        let points = self.distribution_points(policy)?;
        self.download(active, &mut targets, &approved, &points, done)
            .await?;
        targets.retain(|_, target| target.due);
        if targets.is_empty() {
            return Ok(());
        }
        // One consolidated scan before the batch (semantics.md 2.4).
        let evaluation = match self.scan(Trigger::BeforeInstallation).await {
            Ok(scanned) => scanned.evaluation,
            Err(error) if error.is_of_the_site() => self.evaluate().await?,
            Err(error) => return Err(error),
        };
        let still: BTreeSet<UpdateNo> = evaluation
            .updates
            .iter()
            .filter(|found| found.detection == Detection::Required)
            .map(|found| found.update_no)
            .collect();
        targets.retain(|update, _| still.contains(update));

        // All in one run with one restart, except those that need a run of their own.
        let (alone, together): (BTreeMap<_, _>, BTreeMap<_, _>) = targets
            .into_iter()
            .partition(|(_, target)| target.exclusive);
        let batches = std::iter::once(together)
            .chain(alone.into_iter().map(|one| BTreeMap::from([one])))
            .filter(|batch| !batch.is_empty());
        for batch in batches {
            self.install(policy, active, &batch, &approved, &points, done)
                .await?;
        }
        Ok(())
    }

    fn targets(
        &self,
        policy: &Policy,
        active: &[Deployment],
        evaluation: &Evaluation,
        mode: Mode,
    ) -> Result<BTreeMap<UpdateNo, Target>, Error> {
        let (waiting, attempts) = self
            .store()
            .read(|r| Ok((r.restart_pending()?, r.attempts()?)))?;
        let now = self.now();
        let mut targets = plan::targets(policy, active, evaluation, &waiting, (mode, now));
        if mode == Mode::Due {
            targets
                .retain(|update, _| attempts.get(update).is_none_or(|held| held.retry_at <= now));
        }
        Ok(targets)
    }

    fn distribution_points(&self, policy: &Policy) -> Result<Vec<String>, Error> {
        if policy.distribution_points.is_empty() {
            return Ok(self.locations()?.distribution_points);
        }
        Ok(policy.distribution_points.clone())
    }

    /// Brings the files of all targets into the cache; those that fail leave `targets`.
    async fn download(
        &self,
        active: &[Deployment],
        targets: &mut BTreeMap<UpdateNo, Target>,
        approved: &[Approved],
        points: &[String],
        done: &mut Enforced,
    ) -> Result<(), Error> {
        let mut missing = BTreeMap::new();
        let mut steps: Vec<Step> = Vec::new();
        for (update, files) in plan::files(targets, approved) {
            match files {
                Err(failure) => {
                    // A hold stands in the way of installing, a missing file of downloading.
                    let state = match failure.code {
                        error_code::PACKAGE_HELD => State::FailedToInstall,
                        _ => State::FailedToDownload,
                    };
                    targets.remove(&update);
                    steps.push((update, state, Some(failure.clone())));
                    done.failed.insert(update, failure);
                }
                Ok(files) if files.iter().all(|f| self.provider().has(f, self.content())) => {
                    steps.push((update, State::Downloaded, None));
                }
                Ok(files) => {
                    steps.push((update, State::WaitingForContent, None));
                    missing.insert(update, files);
                }
            }
        }
        self.step(active, &steps)?;
        let (mut away, mut last_away) = (0, None);
        for (update, files) in missing {
            let given_up = last_away.clone().filter(|_| away >= MAX_AWAY_IN_A_ROW);
            let result = match given_up {
                Some(failure) => Err(failure),
                None => self.acquire(active, update, &files, points).await?,
            };
            match result {
                Ok(()) => {
                    away = 0;
                    self.store().write(|w| w.clear_away(update))?;
                    self.step(active, &[(update, State::Downloaded, None)])?;
                }
                Err(failure) => {
                    if failure.is_away() {
                        away += 1;
                        last_away = Some(failure.clone());
                    }
                    targets.remove(&update);
                    let step = (update, State::FailedToDownload, Some(failure.clone()));
                    self.step(active, &[step])?;
                    done.failed.insert(update, failure);
                }
            }
        }
        Ok(())
    }

    /// Brings the files of one update into the cache.
    async fn acquire(
        &self,
        active: &[Deployment],
        update: UpdateNo,
        files: &[Approved],
        points: &[String],
    ) -> Result<Result<(), Failure>, Error> {
        self.step(active, &[(update, State::Downloading, None)])?;
        for file in files {
            if let Err(failure) = self.provider().acquire(file, self.content(), points).await {
                return Ok(Err(failure));
            }
        }
        Ok(Ok(()))
    }

    /// One run of the package manager.
    async fn install(
        &self,
        policy: &Policy,
        active: &[Deployment],
        batch: &BTreeMap<UpdateNo, Target>,
        approved: &[Approved],
        points: &[String],
        done: &mut Enforced,
    ) -> Result<(), Error> {
        let files = plan::files(batch, approved);
        let updates: BTreeMap<UpdateNo, Vec<Approved>> = files
            .into_iter()
            .filter_map(|(update, files)| Some((update, files.ok()?)))
            .collect();
        let minutes: u64 = batch
            .values()
            .map(|t| u64::from(t.max_run_time_minutes.max(1)))
            .sum();
        let job = Job {
            updates,
            approved: approved.to_vec(),
            suites: plan::suites(policy),
            distribution_points: points.to_vec(),
            tls: self.wire().tls().clone(),
            log_dir: self.dir().join("logs"),
            max_run_time: Duration::from_secs(60 * minutes).min(MAX_RUN),
        };
        let all = |state: State| -> Vec<Step> {
            job.updates
                .keys()
                .map(|update| (*update, state, None))
                .collect()
        };
        self.step(active, &all(State::PendingInstallation))?;
        let intent = Intent::of(&job);
        let text = serde_json::to_vec(&intent).map_err(|_| Error::Saved { what: "intent" })?;
        self.store().write(|w| w.begin_intent(&text, self.now()))?;
        self.step(active, &all(State::Installing))?;
        tracing::info!(updates = job.updates.len(), "installing");
        let outcome = self.provider().install(&job, self.content()).await;
        let (installed, failed) = self.settle(&intent, &outcome, true).await?;
        tracing::info!(
            installed = installed.len(),
            failed = failed.len(),
            "installation ended"
        );
        done.installed.extend(installed);
        done.failed.extend(failed);
        Ok(())
    }

    /// After an installation: an offline scan says what is so. With `conclusive`, an update that
    /// is still required has failed; otherwise (after a crash) it is simply tried again.
    async fn settle(
        &self,
        intent: &Intent,
        outcome: &Outcome,
        conclusive: bool,
    ) -> Result<(BTreeSet<UpdateNo>, BTreeMap<UpdateNo, Failure>), Error> {
        let evaluation = self.scan(Trigger::AfterInstallation).await?.evaluation;
        let found: BTreeMap<UpdateNo, Detection> = evaluation
            .updates
            .iter()
            .map(|u| (u.update_no, u.detection))
            .collect();
        let restart = self.provider().restart();
        let (mut installed, mut failed) = (BTreeSet::new(), BTreeMap::new());
        let mut steps: Vec<Step> = Vec::new();
        let mut waiting = self.store().read(|r| r.restart_pending())?;
        for (no, packages) in &intent.0 {
            let update = UpdateNo(*no);
            if waiting.contains(&update) {
                continue;
            }
            let required = matches!(
                found.get(&update),
                Some(Detection::Required | Detection::Unknown)
            );
            if !required {
                let touched = restart.packages.is_empty()
                    || packages
                        .iter()
                        .any(|package| restart.packages.contains(package));
                let state = if restart.pending && touched {
                    waiting.insert(update);
                    State::PendingRestart
                } else {
                    State::SuccessfullyInstalled
                };
                installed.insert(update);
                steps.push((update, state, None));
                continue;
            }
            if !conclusive {
                continue;
            }
            let failure = outcome.failed.get(&update).cloned().unwrap_or_else(|| {
                Failure::new(error_code::STILL_REQUIRED, "a scan still finds it required")
            });
            let state = if failure.is_busy() {
                State::WaitingForAnotherInstallation
            } else {
                State::FailedToInstall
            };
            steps.push((update, state, Some(failure.clone())));
            failed.insert(update, failure);
        }
        let active = self
            .policy()?
            .map(|policy| deployments(&policy))
            .unwrap_or_default();
        let now = self.now();
        self.store().write(|w| {
            for update in installed.iter().filter(|update| waiting.contains(update)) {
                let value = detection_value(Detection::Required, []);
                w.put(Kind::Detection, &update.0.to_be_bytes(), &value, now)?;
            }
            w.set_restart_pending(&waiting)?;
            self.write_steps(w, &active, &mut steps, now)?;
            w.end_intents(
                &format!("{} installed, {} failed", installed.len(), failed.len()),
                now,
            )
        })?;
        self.tell(&steps);
        Ok((installed, failed))
    }

    /// Saves changes of topic 402 for all deployments that name the updates, and topic 301.
    fn step(&self, active: &[Deployment], steps: &[Step]) -> Result<(), Error> {
        if steps.is_empty() {
            return Ok(());
        }
        let (now, mut steps) = (self.now(), steps.to_vec());
        self.store()
            .write(|w| self.write_steps(w, active, &mut steps, now))?;
        self.tell(&steps);
        Ok(())
    }

    /// A failure that may be over soon leaves its update waiting for content: `steps` says so
    /// afterwards.
    fn write_steps(
        &self,
        w: &Writer<'_>,
        active: &[Deployment],
        steps: &mut [Step],
        now: Timestamp,
    ) -> Result<(), Error> {
        let attempts = w.attempts()?;
        for (update, state, failure) in &mut *steps {
            if let Some(failure) = failure {
                let (attempts, final_failure) = plan::after_failure(
                    attempts.get(update),
                    failure,
                    self.options().retry_after,
                    (now, rand::random_range(0.8..=1.2)),
                );
                w.set_attempts(*update, &attempts)?;
                if !final_failure {
                    *state = State::WaitingForContent;
                }
            } else if matches!(state, State::SuccessfullyInstalled | State::PendingRestart) {
                w.clear_attempt(*update)?;
            }
            for deployment in active.iter().filter(|d| d.updates.contains(update)) {
                put_update(w, deployment.id, *update, *state, failure.as_ref(), now)?;
            }
        }
        let touched = active
            .iter()
            .filter(|d| steps.iter().any(|(update, ..)| d.updates.contains(update)))
            .cloned()
            .collect::<Vec<_>>();
        summarise(w, &touched, now)
    }

    /// Failures and ends are told at once.
    fn tell(&self, steps: &[Step]) {
        let news = |state: &State| {
            state.is_failure()
                || matches!(state, State::SuccessfullyInstalled | State::PendingRestart)
        };
        if steps.iter().any(|(_, state, _)| news(state)) {
            self.urgent().notify_one();
        }
    }

    fn next_time(&self, all: &[Deployment]) -> Result<Option<Timestamp>, Error> {
        let now = self.now();
        let attempts = self.store().read(|r| r.attempts())?;
        let times = all
            .iter()
            .flat_map(|d| [Some(d.available_at), d.deadline_at])
            .flatten()
            .filter(|at| *at > now);
        // One that is due already was left alone in this run for another reason.
        let retries = attempts
            .values()
            .map(|held| held.retry_at.max(now + SignedDuration::from_secs(1)));
        Ok(times.chain(retries).min())
    }
}
