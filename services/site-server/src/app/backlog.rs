//! How many state messages wait, how old they are, and how fast they come and go.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use muster_proto::{convert, state as pb};
use muster_rabbitmq::{Depth, topology};

use super::{Error, Site};
use crate::domain::pace::{Load, report_interval};
use crate::store::{backlog, quarantine, streams};

/// Rates are taken over this time.
const WINDOW: Duration = Duration::from_secs(60);
/// Messages that a queue may hold.
#[allow(clippy::cast_precision_loss)] // exact far beyond this
const MAX_MESSAGES: f64 = topology::MAX_MESSAGES as f64;
/// In seconds.
const YEAR: f64 = 365.0 * 86_400.0;

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

impl Rate {
    /// When a queue of this depth is empty if both rates stay; `None` when it does not shrink, or
    /// takes more than a year.
    fn drain(&self, depth: u32) -> Option<Duration> {
        if depth == 0 {
            return Some(Duration::ZERO);
        }
        let seconds = f64::from(depth) / (self.processing - self.arrival);
        (seconds.is_sign_positive() && seconds < YEAR).then(|| Duration::from_secs_f64(seconds))
    }
}

impl Rates {
    /// Messages of a queue are recorded; the first of them was sent at `sent_at`.
    pub(crate) fn processed(&self, queue: &str, messages: usize, sent_at: Option<SystemTime>) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.entry(queue.to_owned()).or_default();
        seen.processed += u64::try_from(messages).unwrap_or(0);
        seen.last_sent_at = sent_at.or(seen.last_sent_at);
    }

    /// Messages in all queues when they were last looked at.
    pub(crate) fn queued(&self) -> u64 {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = seen.values().filter_map(|seen| seen.samples.back());
        last.map(|sample| u64::from(sample.depth)).sum()
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

/// Looks at all state queues and at the quarantine, and shows them in the metrics.
pub(crate) async fn watch_backlog(site: &Site) -> Result<(), Error> {
    let code = || site.config.site_code.as_str().to_owned();
    let looks = look(site).await;
    let reachable = if looks.is_ok() { 1.0 } else { 0.0 };
    metrics::gauge!("muster_broker_reachable", "site" => code()).set(reachable);
    // What the database knows does not need the broker.
    let db = site.db().await?;
    let quarantined = quarantine::count(&db).await?;
    metrics::gauge!("muster_state_quarantined", "site" => code()).set(to_f64(quarantined));
    let (gaps, resyncs) = streams::open(&db, site.config.resync_after.as_secs_f64()).await?;
    metrics::gauge!("muster_state_gaps_open", "site" => code()).set(to_f64(gaps));
    metrics::gauge!("muster_state_resyncs_open", "site" => code()).set(to_f64(resyncs));
    let looks = looks?;
    pace(site, &looks);
    for (queue, depth, rate) in looks {
        let labels = [("site", code()), ("queue", queue)];
        // A queue that does not shrink is never empty.
        let drain = rate.drain(depth.messages);
        let drain = drain.map_or(f64::INFINITY, |time| time.as_secs_f64());
        metrics::gauge!("muster_state_queue_depth", &labels).set(f64::from(depth.messages));
        metrics::gauge!("muster_state_oldest_age_seconds", &labels)
            .set(rate.oldest_age.as_secs_f64());
        metrics::gauge!("muster_state_arrival_rate", &labels).set(rate.arrival);
        metrics::gauge!("muster_state_processing_rate", &labels).set(rate.processing);
        metrics::gauge!("muster_state_drain_seconds", &labels).set(drain);
    }
    Ok(())
}

/// Says how often clients should report, by what the queues hold.
fn pace(site: &Site, looks: &[(String, Depth, Rate)]) {
    let load = |(_, depth, rate): &(String, Depth, Rate)| Load {
        drain: rate.drain(depth.messages),
        oldest: rate.oldest_age,
        fullness: f64::from(depth.messages) / MAX_MESSAGES,
    };
    let normal = site.config.client_settings.report_interval;
    let longest = site.config.report_interval_max;
    let interval = report_interval(normal, longest, looks.iter().map(load));
    site.directions.set_interval(interval);
    let code = site.config.site_code.as_str().to_owned();
    metrics::gauge!("muster_state_report_interval_seconds", "site" => code)
        .set(interval.as_secs_f64());
}

/// A process that stopped being the active one says nothing more about the site: what it saw last
/// must not stand beside what its successor sees.
pub(crate) fn forget_backlog(site: &Site) {
    let code = || site.config.site_code.as_str().to_owned();
    for gauge in [
        metrics::gauge!("muster_broker_reachable", "site" => code()),
        metrics::gauge!("muster_state_quarantined", "site" => code()),
        metrics::gauge!("muster_state_gaps_open", "site" => code()),
        metrics::gauge!("muster_state_resyncs_open", "site" => code()),
        metrics::gauge!("muster_state_report_interval_seconds", "site" => code()),
    ] {
        gauge.set(0.0);
    }
    let queues = topology::state_queues(site.config.site_code.as_str(), site.config.state_shards);
    for queue in queues {
        let labels = [("site", code()), ("queue", queue)];
        for gauge in [
            metrics::gauge!("muster_state_queue_depth", &labels),
            metrics::gauge!("muster_state_oldest_age_seconds", &labels),
            metrics::gauge!("muster_state_arrival_rate", &labels),
            metrics::gauge!("muster_state_processing_rate", &labels),
            metrics::gauge!("muster_state_drain_seconds", &labels),
        ] {
            gauge.set(0.0);
        }
    }
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
    let looks = look(site).await?;
    let drains = looks
        .iter()
        .map(|(_, depth, rate)| rate.drain(depth.messages));
    let drain_time = drains
        .collect::<Option<Vec<_>>>()
        .and_then(|all| all.into_iter().max());
    let queues = looks
        .into_iter()
        .map(|(queue, depth, rate)| pb::QueueBacklog {
            queue,
            messages: depth.messages.into(),
            oldest_age: Some(convert::to_duration(rate.oldest_age)),
            arrival_rate: rate.arrival,
            processing_rate: rate.processing,
            consumers: depth.consumers,
            drain_time: rate.drain(depth.messages).map(convert::to_duration),
        })
        .collect();
    let db = site.db().await?;
    let (reports_recorded, states_recorded) = backlog::totals(&db).await?;
    let (gaps_open, resyncs_open) =
        streams::open(&db, site.config.resync_after.as_secs_f64()).await?;
    Ok(pb::GetBacklogResponse {
        queues,
        quarantined: quarantine::count(&db).await?,
        reports_recorded,
        states_recorded,
        resyncs_open,
        gaps_open,
        drain_time: drain_time.map(convert::to_duration),
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

    #[test]
    fn the_time_to_drain_is_what_the_rates_say_and_never_when_the_queue_does_not_shrink() {
        let rate = |arrival, processing| Rate {
            arrival,
            processing,
            ..Rate::default()
        };
        assert_eq!(rate(5.0, 15.0).drain(300), Some(Duration::from_secs(30)));
        assert_eq!(rate(5.0, 1.0).drain(0), Some(Duration::ZERO));
        for stuck in [
            rate(15.0, 5.0),
            rate(5.0, 5.0),
            rate(0.0, 0.0),
            rate(0.0, 1e-9),
        ] {
            assert_eq!(stuck.drain(300), None, "{stuck:?}");
        }
    }
}
