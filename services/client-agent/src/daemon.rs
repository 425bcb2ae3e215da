//! Each thing at its time: polls, scans, deadlines, reports (semantics.md 2.4 and 2.5). Two loops
//! side by side: one does the work, the other reports what changes meanwhile.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use muster_runtime::Backoff;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::agent::Agent;
use crate::pack::can_wait;
use crate::plan::Mode;
use crate::policy::Settings;
use crate::scan::Trigger;
use crate::store::meta;

/// Scan retry, and how often before the next software update point is tried (semantics.md 2.5).
const SCAN_RETRY: Duration = Duration::from_secs(30 * 60);
const SCAN_RETRIES: u32 = 4;
/// The first try at the next software update point.
const NEXT_POINT: Duration = Duration::from_secs(2 * 60);
/// Added to deployment re-evaluation, at most.
const REEVALUATION_JITTER: Duration = Duration::from_secs(2 * 3600);
/// How soon an enforcement that could not run is tried again.
const ENFORCE_RETRY: Duration = Duration::from_secs(60);
/// How often the site is asked where its servers are, and how soon again when it did not say.
const LOCATIONS_INTERVAL: Duration = Duration::from_secs(24 * 3600);
const LOCATIONS_RETRY: Duration = Duration::from_secs(15 * 60);
/// Within this time of the start it is asked first: a fleet that starts at once comes spread out.
const LOCATIONS_JITTER: Duration = Duration::from_secs(60);
/// Failed calls are repeated after this, doubled each time, with full jitter.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LEAST_CAP: Duration = Duration::from_secs(5);
const MOST_CAP: Duration = Duration::from_secs(15 * 60);
/// Connections are closed when nothing is to be done for so long.
const IDLE: Duration = Duration::from_secs(20);
/// The site names the time of the next report within these bounds.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);
const MOST_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// No loop sleeps longer: clocks jump, machines are suspended.
const MAX_SLEEP: Duration = Duration::from_secs(600);
const MIN_SLEEP: Duration = Duration::from_millis(20);

/// Runs the agent until the token is cancelled. An installation in hand goes on by itself and is
/// picked up by the next start.
///
/// # Errors
/// When the site no longer knows this client (`CLIENT_BLOCKED`): it stops, as the policy service
/// demands.
pub async fn run(agent: &Agent, token: CancellationToken) -> Result<(), Error> {
    agent.registration()?;
    tokio::select! {
        () = token.cancelled() => Ok(()),
        ended = work(agent) => ended,
        ended = report(agent) => ended,
    }
}

/// When each thing is next to be done.
#[derive(Debug)]
struct Times {
    poll: Timestamp,
    locations: Timestamp,
    scan: Option<Timestamp>,
    enforce: Option<Timestamp>,
    scan_failures: u32,
}

async fn work(agent: &Agent) -> Result<(), Error> {
    let now = agent.now();
    let mut polls = Backoff::new(FIRST_BACKOFF, LEAST_CAP);
    let start = Settings::of(agent.policy()?.as_ref()).policy_poll_interval;
    let mut times = Times {
        poll: now,
        locations: now + signed(random_below(LOCATIONS_JITTER.min(start))),
        scan: None,
        enforce: None,
        scan_failures: 0,
    };
    if agent.store().read(|r| r.time(meta::LAST_SCAN))?.is_some() {
        // After a restart of the machine or of the agent: what is so now?
        if let Err(error) = agent.scan(Trigger::AfterRestart).await {
            tracing::warn!(%error, "the scan after the start failed");
        }
        times.enforce = Some(now);
    }
    loop {
        let now = agent.now();
        if times.poll <= now {
            poll(agent, &mut times, &mut polls).await?;
        }
        if times.locations <= agent.now() {
            let wait = match agent.refresh_locations().await {
                Ok(()) => LOCATIONS_INTERVAL,
                Err(error) => {
                    tracing::warn!(%error, "working with the servers known so far");
                    LOCATIONS_RETRY
                }
            };
            times.locations = agent.now() + signed(spread(wait));
        }
        let settings = Settings::of(agent.policy()?.as_ref());
        if times.scan.is_none() {
            times.scan = next_scan(agent, &settings)?;
        }
        if times.scan.is_some_and(|at| at <= agent.now()) {
            scheduled_scan(agent, &settings, &mut times).await?;
        }
        if reevaluation_due(agent, &settings)? {
            times.enforce = Some(agent.now());
        }
        // Nothing is enforced before the first scan: a new fleet scans spread out.
        let scanned = agent.store().read(|r| r.time(meta::LAST_SCAN))?.is_some();
        if scanned && times.enforce.is_some_and(|at| at <= agent.now()) {
            times.enforce = enforce(agent, &settings).await?;
        }
        let enforce_at = times.enforce.filter(|_| scanned);
        let next = [
            Some(times.poll),
            Some(times.locations),
            times.scan,
            enforce_at,
        ]
        .into_iter()
        .flatten()
        .min();
        let wait = next.map_or(MAX_SLEEP, |next| until(agent.now(), next));
        if wait > IDLE {
            agent.wire().release();
        }
        tokio::time::sleep(wait.clamp(MIN_SLEEP, MAX_SLEEP)).await;
    }
}

async fn poll(agent: &Agent, times: &mut Times, backoff: &mut Backoff) -> Result<(), Error> {
    let result = agent.poll_policy().await;
    let settings = Settings::of(agent.policy()?.as_ref());
    let interval = settings.policy_poll_interval;
    let wait = match result {
        Ok(polled) => {
            backoff.reset();
            if polled.changed {
                times.enforce = Some(agent.now());
                // The schedule may be another one now.
                times.scan = None;
            }
            spread(
                polled
                    .next_poll_in
                    .map_or(interval, |asked| asked.min(interval)),
            )
        }
        Err(error) if error.reason().as_deref() == Some("CLIENT_BLOCKED") => {
            tracing::error!("the site no longer knows this client, stopping");
            return Err(error);
        }
        Err(Error::PolicyRefused(_)) => spread(interval),
        Err(error) => {
            tracing::warn!(%error, "no policy");
            *backoff = capped(backoff, interval);
            after(backoff, &error)
        }
    };
    times.poll = agent.now() + signed(wait);
    Ok(())
}

/// The first scan within the jitter of the first policy, later ones by schedule plus jitter.
fn next_scan(agent: &Agent, settings: &Settings) -> Result<Option<Timestamp>, Error> {
    agent.store().write(|w| {
        let Some(received) = w.time(meta::POLICY_RECEIVED_AT)? else {
            return Ok(None);
        };
        let jitter = signed(random_below(settings.scan_jitter));
        if let Some(last) = w.time(meta::LAST_SCHEDULED_SCAN)? {
            return Ok(Some(last + signed(settings.scan_interval) + jitter));
        }
        // Drawn once: a restart of the agent must not draw again and again.
        if let Some(due) = w.time(meta::FIRST_SCAN_DUE)? {
            return Ok(Some(due));
        }
        let due = received + jitter;
        w.set_time(meta::FIRST_SCAN_DUE, due)?;
        Ok(Some(due))
    })
}

async fn scheduled_scan(
    agent: &Agent,
    settings: &Settings,
    times: &mut Times,
) -> Result<(), Error> {
    let result = agent.scan(Trigger::Scheduled).await;
    let now = agent.now();
    match result {
        Ok(_) => {
            times.scan_failures = 0;
            times.scan = None;
            times.enforce = Some(now);
            agent
                .store()
                .write(|w| w.set_time(meta::LAST_SCHEDULED_SCAN, now))?;
        }
        Err(error) => {
            tracing::warn!(%error, "the scan failed");
            times.scan_failures += 1;
            // A site that wants to be polled every few seconds does not want to wait half an hour.
            let mut wait = SCAN_RETRY;
            if times.scan_failures > SCAN_RETRIES {
                times.scan_failures = 0;
                wait = NEXT_POINT;
                agent.leave_update_point()?;
            }
            times.scan = Some(now + signed(spread(wait.min(settings.policy_poll_interval))));
        }
    }
    Ok(())
}

fn reevaluation_due(agent: &Agent, settings: &Settings) -> Result<bool, Error> {
    let now = agent.now();
    agent.store().write(|w| {
        let due = w.time(meta::LAST_REEVALUATION)?;
        if due.is_some_and(|due| due > now) {
            return Ok(false);
        }
        let jitter = random_below(REEVALUATION_JITTER.min(settings.reevaluation_interval / 10));
        w.set_time(
            meta::LAST_REEVALUATION,
            now + signed(settings.reevaluation_interval) + signed(jitter),
        )?;
        Ok(due.is_some())
    })
}

async fn enforce(agent: &Agent, settings: &Settings) -> Result<Option<Timestamp>, Error> {
    let retry = ENFORCE_RETRY.min(settings.policy_poll_interval.max(Duration::from_secs(1)));
    match agent.enforce(Mode::Due).await {
        Ok(done) => {
            if !done.installed.is_empty() || !done.failed.is_empty() {
                tracing::info!(
                    installed = done.installed.len(),
                    failed = done.failed.len(),
                    "enforced"
                );
            }
            Ok(done.wake_at)
        }
        // The next process would see the same: a test's crash, a database that is gone.
        Err(error @ (Error::Crashed | Error::Database(_))) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "deployments could not be enforced");
            Ok(Some(agent.now() + signed(spread(retry))))
        }
    }
}

/// Sends what changed: at the interval, and soon after something urgent. While the site does not
/// take reports, only the backoff decides.
async fn report(agent: &Agent) -> Result<(), Error> {
    let mut backoff = Backoff::new(FIRST_BACKOFF, LEAST_CAP);
    let interval = || -> Result<Duration, Error> {
        Ok(Settings::of(agent.policy()?.as_ref()).report_interval)
    };
    let mut wait = random_below(interval()?.min(LEAST_CAP));
    let (mut failing, mut put_off) = (false, false);
    // What the site asked for last; under load it is longer than the policy's interval.
    let mut asked = None;
    loop {
        let mut routine = true;
        if failing {
            tokio::time::sleep(wait).await;
        } else {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = agent.urgent().notified() => {
                    routine = false;
                    tokio::time::sleep(agent.options().gather).await;
                }
            }
        }
        let usual = interval()?;
        // What need not be known soon is left out once, and goes with the next report.
        if routine && !failing && !put_off && can_wait(agent.store(), agent.now())? {
            put_off = true;
            wait = spread(asked.unwrap_or(usual));
            continue;
        }
        put_off = false;
        match agent.send_reports().await {
            Ok(sent) => {
                backoff.reset();
                failing = false;
                asked = sent.next_report_in.or(asked);
                let next = asked.unwrap_or(usual).clamp(LEAST_INTERVAL, MOST_INTERVAL);
                wait = spread(next);
            }
            Err(error @ Error::Crashed) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "reports stay in the spool");
                backoff = capped(&backoff, usual);
                wait = after(&mut backoff, &error);
                failing = true;
            }
        }
        if wait > IDLE {
            agent.wire().release();
        }
    }
}

/// The same failures with a cap that fits the interval of what failed.
fn capped(backoff: &Backoff, interval: Duration) -> Backoff {
    let mut fresh = Backoff::new(FIRST_BACKOFF, interval.clamp(LEAST_CAP, MOST_CAP));
    for _ in 0..backoff.failures() {
        fresh.next_delay();
    }
    fresh
}

fn after(backoff: &mut Backoff, error: &Error) -> Duration {
    match error.status() {
        Some(status) => backoff.after(status),
        None => backoff.next_delay(),
    }
}

/// A tenth more or less, so that a fleet does not stay in step.
fn spread(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.9..=1.1))
}

fn random_below(most: Duration) -> Duration {
    most.mul_f64(rand::random_range(0.0..=1.0))
}

fn signed(duration: Duration) -> SignedDuration {
    // A year at most: no schedule is longer, and times must stay within the calendar.
    const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);
    SignedDuration::try_from(duration.min(YEAR)).unwrap_or(SignedDuration::ZERO)
}

fn until(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or(Duration::ZERO)
}
