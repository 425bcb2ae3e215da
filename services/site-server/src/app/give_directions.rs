//! What management points are to tell clients, and whom they are to refuse: put together from the
//! database every few seconds, and given to each that polls for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use muster_proto::client as pb;
use muster_proto::convert;
use prost::Message;
use sha2::{Digest, Sha256};

use super::{Error, Site, ask_clients};
use crate::store::identities;
use crate::store::streams::Asked;

/// Wishes, and denied certificates, in one answer at most.
const MOST: i64 = 50_000;
/// Bytes of wishes in one answer at most: those with many ranges are longer.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// What was put together last.
#[derive(Debug, Default)]
pub(crate) struct Directions(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// How often clients should report, by the last look at the queues.
    interval: Option<Duration>,
    given: Arc<pb::GetDirectionsResponse>,
}

impl Directions {
    /// The backlog was looked at.
    pub(crate) fn set_interval(&self, interval: Duration) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.interval = Some(interval);
    }

    fn interval(&self) -> Option<Duration> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.interval
    }
}

/// Looks at what clients are to be asked and which certificates count no more.
pub(crate) async fn gather_directions(site: &Site) -> Result<(), Error> {
    let interval = site.directions.interval();
    let interval = interval.unwrap_or(site.config.client_settings.report_interval);
    let asked = ask_clients::wishes(site, Timestamp::now(), MOST).await?;
    let denied = identities::denied(&site.db().await?, MOST).await?;
    let mut wishes: Vec<pb::ClientWish> = asked.iter().map(wish).collect();
    let mut bytes = 0;
    let fitting = wishes.iter().take_while(|wish| {
        bytes += wish.encoded_len();
        bytes <= MOST_BYTES
    });
    let fitting = fitting.count();
    wishes.truncate(fitting);
    let mut given = pb::GetDirectionsResponse {
        report_interval: Some(convert::to_duration(interval)),
        wishes,
        ..Default::default()
    };
    given.version = version(&given);
    let denied = pb::GetDirectionsResponse {
        denied,
        ..Default::default()
    };
    given.denied_version = version(&denied);
    given.denied = denied.denied;
    let mut held = site
        .directions
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    held.given = Arc::new(given);
    Ok(())
}

fn wish(asked: &Asked) -> pb::ClientWish {
    pb::ClientWish {
        client_id: Bytes::copy_from_slice(asked.client_id.as_bytes()),
        wish: Some(convert::to_wish(&asked.wish)),
        ask: asked.ask.into(),
    }
}

/// Names what an answer says, the same in every process: a standby that takes over does not make
/// everybody fetch it again. Never 0.
fn version(answer: &pb::GetDirectionsResponse) -> u64 {
    let digest = Sha256::digest(answer.encode_to_vec());
    let first: [u8; 8] = std::array::from_fn(|at| digest.get(at).copied().unwrap_or(0));
    u64::from_le_bytes(first).max(1)
}

/// What is new for a management point.
pub(crate) fn get_directions(
    site: &Site,
    request: &pb::GetDirectionsRequest,
) -> Result<pb::GetDirectionsResponse, Error> {
    let given = {
        let held = site
            .directions
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&held.given)
    };
    if given.version == 0 {
        return Err(Error::NotYet);
    }
    let mut answer = pb::GetDirectionsResponse {
        version: given.version,
        report_interval: given.report_interval,
        denied_version: given.denied_version,
        ..Default::default()
    };
    if request.known_version != given.version {
        answer.wishes.clone_from(&given.wishes);
    }
    if request.known_denied_version != given.denied_version {
        answer.denied.clone_from(&given.denied);
    }
    Ok(answer)
}
