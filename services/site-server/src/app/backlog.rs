//! How many state messages wait, how old they are, and how fast they come and go.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use muster_proto::{convert, state as pb};
use muster_rabbitmq::{Depth, topology};

use super::{Error, Site};
use crate::domain::page::Page;
use crate::store::{backlog, streams};

/// Rates are taken over this time.
const WINDOW: Duration = Duration::from_secs(60);

/// What was seen of each queue lately.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<BTreeMap<String, Seen>>);

#[derive(Debug, Default)]
struct Seen {
    processed: u64,
    /// When the message was sent that was processed last.
    last_sent_at: Option<SystemTime>,
    waiting_since: Option<SystemTime>,
    samples: VecDeque<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    processed: u64,
    depth: u32,
}

/// What the samples of a queue say.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    pub(crate) arrival: f64,
    pub(crate) processing: f64,
    pub(crate) oldest_age: Duration,
}

impl Rates {
    /// Messages of a queue are recorded; the first of them was sent at `sent_at`.
    pub(crate) fn processed(&self, queue: &str, messages: usize, sent_at: Option<SystemTime>) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.entry(queue.to_owned()).or_default();
        seen.processed += u64::try_from(messages).unwrap_or(0);
        seen.last_sent_at = sent_at.or(seen.last_sent_at);
    }

    /// A queue was looked at. What arrived is what was processed plus what the queue grew by. The
    /// head of a queue cannot be read without taking it, so the age of the oldest message is
    /// taken from the one processed last: it waited just before it.
    fn look(&self, queue: &str, depth: u32, at: Instant, now: SystemTime) -> Rate {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.entry(queue.to_owned()).or_default();
        seen.samples.push_back(Sample {
            at,
            processed: seen.processed,
            depth,
        });
        while seen.samples.len() > 2
            && seen
                .samples
                .get(1)
                .is_some_and(|next| at.duration_since(next.at) >= WINDOW)
        {
            seen.samples.pop_front();
        }
        seen.waiting_since = if depth == 0 {
            None
        } else {
            seen.waiting_since.or(Some(now))
        };
        let head = match (seen.waiting_since, seen.last_sent_at) {
            // What was sent before the queue began to fill is gone.
            (Some(since), Some(sent)) => Some(since.max(sent)),
            (since, _) => since,
        };
        let age = head.and_then(|head| now.duration_since(head).ok());
        let oldest_age = age.unwrap_or_default();
        let Some(first) = seen.samples.front() else {
            return Rate::default();
        };
        let seconds = at.duration_since(first.at).as_secs_f64();
        if seconds <= 0.0 {
            return Rate {
                oldest_age,
                ..Rate::default()
            };
        }
        let processed = to_f64(seen.processed.saturating_sub(first.processed));
        let grown = f64::from(depth) - f64::from(first.depth);
        Rate {
            arrival: ((processed + grown) / seconds).max(0.0),
            processing: processed / seconds,
            oldest_age,
        }
    }
}

fn to_f64(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}

/// Looks at all state queues and shows them in the metrics.
pub(crate) async fn watch_backlog(site: &Site) -> Result<(), Error> {
    for (queue, depth, rate) in look(site).await? {
        let label = || queue.clone();
        metrics::gauge!("muster_state_queue_depth", "queue" => label())
            .set(f64::from(depth.messages));
        metrics::gauge!("muster_state_oldest_age_seconds", "queue" => label())
            .set(rate.oldest_age.as_secs_f64());
        metrics::gauge!("muster_state_arrival_rate", "queue" => label()).set(rate.arrival);
        metrics::gauge!("muster_state_processing_rate", "queue" => label()).set(rate.processing);
    }
    let (_, _, quarantined) = backlog::totals(&site.db().await?).await?;
    metrics::gauge!("muster_state_quarantined").set(to_f64(quarantined));
    Ok(())
}

async fn look(site: &Site) -> Result<Vec<(String, Depth, Rate)>, Error> {
    let queues = topology::state_queues(site.config.site_code.as_str(), site.config.state_shards);
    let mut looks = Vec::new();
    for queue in queues {
        let depth = site.monitor.queue_depth(&queue).await?;
        let rate = site
            .rates
            .look(&queue, depth.messages, Instant::now(), SystemTime::now());
        looks.push((queue, depth, rate));
    }
    Ok(looks)
}

/// The backlog for people.
pub(crate) async fn get_backlog(site: &Site) -> Result<pb::GetBacklogResponse, Error> {
    let queues = look(site)
        .await?
        .into_iter()
        .map(|(queue, depth, rate)| pb::QueueBacklog {
            queue,
            messages: depth.messages.into(),
            oldest_age: Some(convert::to_duration(rate.oldest_age)),
            arrival_rate: rate.arrival,
            processing_rate: rate.processing,
            consumers: depth.consumers,
        })
        .collect();
    let db = site.db().await?;
    let (reports_recorded, states_recorded, quarantined) = backlog::totals(&db).await?;
    let resyncs = streams::resyncs_open(&db, site.config.resync_after.as_secs_f64()).await?;
    Ok(pb::GetBacklogResponse {
        queues,
        quarantined,
        reports_recorded,
        states_recorded,
        resyncs_open: resyncs.unsigned_abs(),
    })
}

/// What could not be recorded, newest first.
pub(crate) async fn list_quarantined(
    site: &Site,
    request: &pb::ListQuarantinedRequest,
) -> Result<pb::ListQuarantinedResponse, Error> {
    // Bodies are large; a page of them must fit into one message.
    let page = Page::read(request.page_size.clamp(1, 32), &request.page_token)?;
    let mut messages = backlog::list_quarantined(&site.db().await?, page).await?;
    let next_page_token = page.cut(&mut messages);
    Ok(pb::ListQuarantinedResponse {
        messages,
        next_page_token,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_age_follow_what_was_seen() {
        let rates = Rates::default();
        let (start, now) = (Instant::now(), SystemTime::now());
        assert_eq!(rates.look("q", 0, start, now), Rate::default());
        rates.processed("q", 50, Some(now));
        let second = Duration::from_secs(1);
        let rate = rates.look("q", 20, start + 10 * second, now + 10 * second);
        assert_eq!((rate.arrival, rate.processing), (7.0, 5.0));
        let rate = rates.look("q", 20, start + 15 * second, now + 15 * second);
        assert_eq!(rate.oldest_age, 5 * second);
        // Old samples leave the window.
        for n in 1..30_u32 {
            rates.look("q", 0, start + n * 10 * second, now);
        }
        let rate = rates.look("q", 0, start + 300 * second, now);
        assert_eq!((rate.arrival, rate.processing), (0.0, 0.0));
    }
}
