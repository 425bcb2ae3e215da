//! Takes reports in, one lane per queue, bounded in calls and in bytes. `tasks::collect_reports`
//! makes messages of what waits here and tells each caller what the broker said.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use muster_proto::state::ReportEnvelope;
use muster_runtime::status::{HasKind, Kind};
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc, oneshot};

use super::Error;
use crate::config::Config;
use crate::domain::pressure::Pressure;
use crate::domain::report::Lane;

/// Calls that wait in one lane.
const QUEUE: usize = 4_096;
/// Calls with anything routine that wait together. The server takes a thousand calls at once: the
/// rest is for what goes ahead, policy and enrolment, so that a flood of reports, or a broker that is
/// slow to confirm them, stops nothing else.
const ROUTINE_CALLS: usize = 650;
/// Calls with something due in them, and nothing routine.
const HIGH_CALLS: usize = 100;
/// Which part of the bytes of all other lanes may wait in each of those ahead of them.
const AHEAD_PART: usize = 8;

/// Where calls hand their reports over. Who finds it full is told so at once.
#[derive(Debug)]
pub(crate) struct Collector {
    lanes: HashMap<Lane, mpsc::Sender<Handed>>,
    routine: Room,
    high: Room,
    urgent: Room,
    routine_calls: Semaphore,
    high_calls: Semaphore,
    pressure: Mutex<Pressure>,
}

/// What may wait.
#[derive(Debug)]
struct Room {
    bytes: Arc<Semaphore>,
    max_bytes: usize,
}

impl Room {
    fn new(max_bytes: usize) -> Self {
        Self {
            bytes: Arc::new(Semaphore::new(max_bytes)),
            max_bytes,
        }
    }

    fn take(&self, size: usize) -> Option<OwnedSemaphorePermit> {
        let size = u32::try_from(size).ok()?;
        Arc::clone(&self.bytes).try_acquire_many_owned(size).ok()
    }

    /// Which part of the bytes is taken, from 0 to 1.
    #[allow(clippy::cast_precision_loss)] // bytes in memory
    fn taken(&self) -> f64 {
        1.0 - self.bytes.available_permits() as f64 / self.max_bytes.max(1) as f64
    }
}

/// The other end of each lane.
pub(crate) type Inboxes = Vec<(Lane, mpsc::Receiver<Handed>)>;

/// Reports of one call.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) reports: Vec<ReportEnvelope>,
    /// Encoded bytes of all of them.
    pub(crate) size: usize,
    pub(crate) caller: Caller,
}

/// Who waits for the answer.
#[derive(Debug)]
pub(crate) struct Caller {
    reply: oneshot::Sender<Result<(), Error>>,
    /// Gives the bytes back when the caller is answered.
    _room: OwnedSemaphorePermit,
}

impl Caller {
    /// Whether nobody waits any more: the reports come again.
    pub(crate) fn has_given_up(&self) -> bool {
        self.reply.is_closed()
    }

    /// Says what came of the message. `Ok` only when the broker has confirmed it.
    pub(crate) fn answer(self, result: Result<(), Error>) {
        // A caller who has gone sends its reports again.
        let _ = self.reply.send(result);
    }
}

impl Collector {
    /// A lane per shard, one for what is due and one for what is urgent.
    pub(crate) fn new(config: &Config) -> (Self, Inboxes) {
        let shards = (0..config.state_shards).map(Lane::Shard);
        let (mut lanes, mut inboxes) = (HashMap::new(), Inboxes::new());
        for lane in shards.chain([Lane::High, Lane::Urgent]) {
            let (sender, receiver) = mpsc::channel(QUEUE);
            lanes.insert(lane, sender);
            inboxes.push((lane, receiver));
        }
        let max_bytes = config.collect.max_bytes as usize;
        let collector = Self {
            lanes,
            routine: Room::new(max_bytes),
            high: Room::new(max_bytes / AHEAD_PART),
            urgent: Room::new(max_bytes / AHEAD_PART),
            routine_calls: Semaphore::new(ROUTINE_CALLS),
            high_calls: Semaphore::new(HIGH_CALLS),
            pressure: Mutex::new(Pressure::new(Instant::now())),
        };
        (collector, inboxes)
    }

    /// Lets a call in by the least of what it brings; what is urgent always comes in.
    ///
    /// # Errors
    /// [`Error::CollectorFull`] when too many wait.
    pub(crate) fn admit(&self, least: Lane) -> Result<Option<SemaphorePermit<'_>>, Error> {
        let full = |_| self.turn_away(1.0, Error::CollectorFull);
        let calls = match least {
            Lane::Urgent => return Ok(None),
            Lane::High => &self.high_calls,
            Lane::Shard(_) => &self.routine_calls,
        };
        calls.try_acquire().map(Some).map_err(full)
    }

    /// Hands reports over; `Ok` when the broker has confirmed the messages they went out in.
    pub(crate) async fn hand_over(
        &self,
        lane: Lane,
        reports: Vec<ReportEnvelope>,
    ) -> Result<(), Error> {
        let size: usize = reports.iter().map(Message::encoded_len).sum();
        let place = match lane {
            Lane::Urgent => &self.urgent,
            Lane::High => &self.high,
            Lane::Shard(_) => &self.routine,
        };
        let full = || self.turn_away(place.taken(), Error::CollectorFull);
        let room = place.take(size).ok_or_else(full)?;
        let (reply, answer) = oneshot::channel();
        let caller = Caller { reply, _room: room };
        let handed = Handed {
            reports,
            size,
            caller,
        };
        let sender = self.lanes.get(&lane).ok_or(Error::Stopping)?;
        sender.try_send(handed).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => full(),
            mpsc::error::TrySendError::Closed(_) => Error::Stopping,
        })?;
        match answer.await.unwrap_or(Err(Error::Stopping)) {
            Ok(()) => {
                self.pressure().served(Instant::now());
                Ok(())
            }
            Err(Error::Broker(error)) if error.kind() == Kind::Exhausted => {
                Err(self.turn_away(1.0, |delay| Error::BrokerFull(delay, error)))
            }
            Err(error) => Err(error),
        }
    }

    fn turn_away(&self, taken: f64, error: impl FnOnce(Duration) -> Error) -> Error {
        metrics::counter!("muster_reports_put_off_total").increment(1);
        let random = rand::random_range(0.0..=1.0);
        error(self.pressure().turn_away(taken, random, Instant::now()))
    }

    fn pressure(&self) -> MutexGuard<'_, Pressure> {
        self.pressure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
