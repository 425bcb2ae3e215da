//! Takes reports in, one lane per queue, bounded in calls and in bytes. `tasks::collect_reports`
//! makes messages of what waits here and tells each caller what the broker said.

use std::collections::HashMap;
use std::sync::Arc;

use muster_proto::state::ReportEnvelope;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::Error;
use crate::config::Config;
use crate::domain::report::Lane;

/// Calls that wait in one lane.
const QUEUE: usize = 4_096;

/// Where calls hand their reports over. Who finds it full is told so at once.
#[derive(Debug)]
pub(crate) struct Collector {
    lanes: HashMap<Lane, mpsc::Sender<Handed>>,
    bytes: Arc<Semaphore>,
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
    /// A lane per shard and one for what is urgent.
    pub(crate) fn new(config: &Config) -> (Self, Inboxes) {
        let shards = (0..config.state_shards).map(Lane::Shard);
        let (mut lanes, mut inboxes) = (HashMap::new(), Inboxes::new());
        for lane in shards.chain([Lane::Urgent]) {
            let (sender, receiver) = mpsc::channel(QUEUE);
            lanes.insert(lane, sender);
            inboxes.push((lane, receiver));
        }
        let bytes = Arc::new(Semaphore::new(config.collect.max_bytes as usize));
        (Self { lanes, bytes }, inboxes)
    }

    /// Hands reports over; `Ok` when the broker has confirmed the messages they went out in.
    pub(crate) async fn hand_over(
        &self,
        lane: Lane,
        reports: Vec<ReportEnvelope>,
    ) -> Result<(), Error> {
        let size: usize = reports.iter().map(Message::encoded_len).sum();
        let permits = u32::try_from(size).map_err(|_| full())?;
        let room = Arc::clone(&self.bytes)
            .try_acquire_many_owned(permits)
            .map_err(|_| full())?;
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
        answer.await.unwrap_or(Err(Error::Stopping))
    }
}

fn full() -> Error {
    metrics::counter!("muster_reports_put_off_total").increment(1);
    Error::CollectorFull
}
