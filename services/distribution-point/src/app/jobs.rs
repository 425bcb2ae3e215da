//! Files that are wanted and not held yet: bounded, in memory. The site server asks again until
//! everything is there, so nothing of this needs to survive a restart.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::domain::archive::{ArchivePath, ArchiveUri};
use crate::domain::digest::Digest;

/// Where a file comes from, and how long it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) archive: ArchiveUri,
    pub(crate) path: ArchivePath,
    pub(crate) size: u64,
}

/// How far a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Waiting,
    Fetching { bytes: u64 },
    Failed { detail: String, at: Instant },
}

/// A file that is wanted.
#[derive(Debug)]
struct Job {
    source: Source,
    /// Whether the bytes are here already, and it is only to be looked at.
    held: bool,
    step: Step,
}

/// All files that are wanted.
#[derive(Debug)]
pub(crate) struct Jobs {
    jobs: Mutex<Table>,
    /// One permit per entry of the queue.
    ready: Semaphore,
    bound: usize,
    failed_for: Duration,
}

#[derive(Debug, Default)]
struct Table {
    jobs: HashMap<Digest, Job>,
    queue: std::collections::VecDeque<Digest>,
}

impl Jobs {
    pub(crate) fn new(bound: usize, failed_for: Duration) -> Self {
        Self {
            jobs: Mutex::default(),
            ready: Semaphore::new(0),
            bound,
            failed_for,
        }
    }

    /// Wants a file, or says how far it is. A file that failed a while ago is tried again.
    /// `None`: there is no room.
    pub(crate) fn want(&self, digest: Digest, source: &Source) -> Option<Step> {
        self.enter(digest, source, false)
    }

    /// Whether a file is wanted and may still come.
    pub(crate) fn is_coming(&self, digest: &Digest) -> bool {
        let table = self.lock();
        let job = table.jobs.get(digest);
        job.is_some_and(|job| matches!(job.step, Step::Waiting | Step::Fetching { .. }))
    }

    /// Wants a look at a file that is held, in its turn.
    pub(crate) fn look(&self, digest: Digest, source: &Source) -> Option<Step> {
        self.enter(digest, source, true)
    }

    fn enter(&self, digest: Digest, source: &Source, held: bool) -> Option<Step> {
        let mut table = self.lock();
        let known = table.jobs.get(&digest).map(|job| (&job.source, &job.step));
        match known {
            Some((_, step @ (Step::Waiting | Step::Fetching { .. }))) => return Some(step.clone()),
            Some((was, step @ Step::Failed { at, .. }))
                if was == source && at.elapsed() < self.failed_for =>
            {
                return Some(step.clone());
            }
            Some((_, Step::Failed { .. })) => {}
            None if table.jobs.len() >= self.bound => {
                // Old failures that nobody asks about make room.
                table.jobs.retain(|_, job| match &job.step {
                    Step::Failed { at, .. } => at.elapsed() < self.failed_for,
                    Step::Waiting | Step::Fetching { .. } => true,
                });
                if table.jobs.len() >= self.bound {
                    return None;
                }
            }
            None => {}
        }
        table.jobs.insert(
            digest,
            Job {
                source: source.clone(),
                held,
                step: Step::Waiting,
            },
        );
        table.queue.push_back(digest);
        metrics::gauge!("muster_content_wanted").set(table.jobs.len() as f64);
        self.ready.add_permits(1);
        Some(Step::Waiting)
    }

    /// The next file to fetch, when there is one.
    pub(crate) async fn next(&self) -> Option<(Digest, Source)> {
        self.ready.acquire().await.ok()?.forget();
        let mut table = self.lock();
        let digest = table.queue.pop_front()?;
        // Gone from the table: not wanted any more.
        let job = table.jobs.get_mut(&digest)?;
        job.step = Step::Fetching { bytes: 0 };
        Some((digest, job.source.clone()))
    }

    /// Notes how far a file is.
    pub(crate) fn set(&self, digest: &Digest, step: Step) {
        if let Some(job) = self.lock().jobs.get_mut(digest) {
            job.step = step;
        }
    }

    /// Forgets a file: it is held, or not wanted any more. Says whether it was wanted.
    pub(crate) fn remove(&self, digest: &Digest) -> bool {
        let mut table = self.lock();
        let wanted = table.jobs.remove(digest).is_some();
        metrics::gauge!("muster_content_wanted").set(table.jobs.len() as f64);
        wanted
    }

    /// Bytes that the files still to come will take.
    pub(crate) fn bytes_to_come(&self) -> u64 {
        let pending = |job: &&Job| !job.held && !matches!(job.step, Step::Failed { .. });
        self.lock()
            .jobs
            .values()
            .filter(pending)
            .map(|job| job.source.size)
            .sum()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str) -> Source {
        Source {
            archive: ArchiveUri::parse("http://archive.example/debian").unwrap(),
            path: ArchivePath::parse(path).unwrap(),
            size: 10,
        }
    }

    #[tokio::test]
    async fn a_file_is_fetched_once_however_often_it_is_wanted() {
        let jobs = Jobs::new(10, Duration::from_secs(60));
        let digest = Digest::new([1; 32]);
        for _ in 0..3 {
            assert_eq!(jobs.want(digest, &source("a")), Some(Step::Waiting));
        }
        assert_eq!(jobs.next().await, Some((digest, source("a"))));
        assert_eq!(
            jobs.want(digest, &source("a")),
            Some(Step::Fetching { bytes: 0 })
        );
        let waits = tokio::time::timeout(Duration::from_millis(20), jobs.next()).await;
        assert!(waits.is_err(), "nothing else to fetch");
        assert!(jobs.remove(&digest) && !jobs.remove(&digest));
    }

    #[tokio::test]
    async fn a_failure_is_shown_for_a_while_and_then_tried_again() {
        let digest = Digest::new([1; 32]);
        let failed = || Step::Failed {
            detail: "x".to_owned(),
            at: Instant::now(),
        };
        let jobs = Jobs::new(10, Duration::from_secs(60));
        jobs.want(digest, &source("a"));
        jobs.set(&digest, failed());
        assert!(matches!(
            jobs.want(digest, &source("a")),
            Some(Step::Failed { .. })
        ));
        assert_eq!(
            jobs.want(digest, &source("b")),
            Some(Step::Waiting),
            "another source"
        );
        let jobs = Jobs::new(10, Duration::ZERO);
        jobs.want(digest, &source("a"));
        jobs.set(&digest, failed());
        assert_eq!(jobs.want(digest, &source("a")), Some(Step::Waiting));
    }

    #[test]
    fn a_look_at_what_is_held_takes_no_room() {
        let jobs = Jobs::new(10, Duration::from_secs(60));
        let digest = Digest::new([1; 32]);
        assert_eq!(jobs.look(digest, &source("a")), Some(Step::Waiting));
        assert_eq!(jobs.bytes_to_come(), 0);
    }

    #[test]
    fn the_queue_is_bounded() {
        let jobs = Jobs::new(2, Duration::from_secs(60));
        for n in 0..2 {
            assert!(jobs.want(Digest::new([n; 32]), &source("a")).is_some());
        }
        assert_eq!(jobs.want(Digest::new([9; 32]), &source("a")), None);
        assert_eq!(jobs.bytes_to_come(), 20);
    }
}
