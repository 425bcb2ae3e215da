//! Switches that only tests can reach: places at which a process ends as in a power cut, and
//! protections that can be taken away, so that a test proves it would notice their absence.
//!
//! Nothing that a production program reads (configuration, environment, arguments) comes here. A
//! program arms itself by calling [`arm`], and `cargo xtask check` refuses that call outside of
//! tests; `docs/decisions/0010-switches-only-tests-can-reach.md` says why they are compiled in.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Every place at which a process can be made to end, in the order of a report's way.
pub const POINTS: [&str; 26] = [
    "agent.spool.before_commit",
    "agent.spool.after_commit",
    "agent.report.before_send",
    "agent.report.after_ack",
    "agent.report.acknowledged",
    "agent.policy.before_apply",
    "agent.policy.applied",
    "mp.before_publish",
    "mp.after_confirm",
    "mp.before_reply",
    "site.record.before_begin",
    "site.record.before_commit",
    "site.record.after_commit",
    "site.record.before_ack",
    "site.record.after_ack",
    "site.counters.before_commit",
    "site.counters.after_commit",
    "site.quarantine.kept",
    "site.resync.asked",
    "link.before_number",
    "link.after_number",
    "link.before_apply",
    "link.after_apply",
    "link.before_ack",
    "dp.content.before_rename",
    "dp.content.renamed",
];

/// A protection that is taken away: the negative controls of reliability.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// N-01: a database that may lose what it acknowledged is not refused.
    VolatileDatabase,
    /// N-02: a message counts as safe when it was sent, not when the broker confirmed it.
    WithoutConfirms,
    /// N-03: a message is acknowledged when it was received, not when it was committed.
    AckBeforeCommit,
    /// N-05: the report that arrives last wins.
    MergeByArrival,
    /// N-05: the report with the latest time of the client's clock wins.
    MergeByClientClock,
    /// N-06: counters move with every delivery instead of every change.
    CountDeliveries,
    /// P-05: sites of a hierarchy do not compare what they hold.
    WithoutDigests,
    /// N-04: of what changed, the parent is told what has a higher number than the last that it was
    /// told, whatever has committed since under a lower one.
    OutboxByNumber,
    /// N-07: the site speaks the version of the links' protocol before this one, and knows nothing of
    /// what clients say of deployments.
    OlderLink,
}

impl Control {
    /// All of them, by the name a test program takes.
    pub const ALL: [(&'static str, Self); 9] = [
        ("volatile-database", Self::VolatileDatabase),
        ("without-confirms", Self::WithoutConfirms),
        ("ack-before-commit", Self::AckBeforeCommit),
        ("merge-by-arrival", Self::MergeByArrival),
        ("merge-by-client-clock", Self::MergeByClientClock),
        ("count-deliveries", Self::CountDeliveries),
        ("without-digests", Self::WithoutDigests),
        ("outbox-by-number", Self::OutboxByNumber),
        ("older-link", Self::OlderLink),
    ];
}

/// What goes wrong in this process.
#[derive(Debug, Default)]
pub struct Plan {
    /// The place at which it ends, if at any.
    pub abort: Option<Abort>,
    /// Protections that are taken away.
    pub controls: Vec<Control>,
}

/// An end as in a power cut: nothing is flushed, nobody is told.
#[derive(Debug)]
pub struct Abort {
    /// One of [`POINTS`].
    pub point: String,
    /// When the place is reached for this time, counted from 1.
    pub nth: u64,
    /// Gets one line on disk before the end: the place, and microseconds since 1970.
    pub journal: PathBuf,
}

static ARMED: AtomicBool = AtomicBool::new(false);
static PLAN: OnceLock<Plan> = OnceLock::new();
static REACHED: AtomicU64 = AtomicU64::new(0);

/// Arms this process, once and for good. For programs and tests that exist to break things.
///
/// # Errors
/// When there is no such place, or the process is armed already.
pub fn arm(plan: Plan) -> Result<(), String> {
    if let Some(abort) = &plan.abort
        && !POINTS.contains(&abort.point.as_str())
    {
        return Err(format!("there is no failpoint {}", abort.point));
    }
    PLAN.set(plan)
        .map_err(|_| "this process is armed already".to_owned())?;
    ARMED.store(true, Ordering::Release);
    Ok(())
}

/// A place at which an armed process may end. Costs one relaxed load when nothing is armed.
#[inline]
pub fn point(name: &'static str) {
    if ARMED.load(Ordering::Relaxed) {
        reached(name);
    }
}

/// Whether a protection is taken away. Costs one relaxed load when nothing is armed.
#[inline]
#[must_use]
pub fn without(control: Control) -> bool {
    ARMED.load(Ordering::Relaxed) && taken_away(control)
}

#[cold]
fn reached(name: &'static str) {
    debug_assert!(POINTS.contains(&name), "{name} is missing in POINTS");
    let Some(abort) = PLAN.get().and_then(|plan| plan.abort.as_ref()) else {
        return;
    };
    if abort.point != name || REACHED.fetch_add(1, Ordering::SeqCst) + 1 != abort.nth {
        return;
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let journal = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&abort.journal);
    if let Ok(mut journal) = journal {
        // A line that is missing makes the test void, so there is nobody to tell.
        let _ = writeln!(journal, "{name} {}", now.as_micros());
        let _ = journal.sync_data();
    }
    std::process::abort();
}

#[cold]
fn taken_away(control: Control) -> bool {
    PLAN.get()
        .is_some_and(|plan| plan.controls.contains(&control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_armed_unless_a_test_program_does_it() {
        point("mp.before_publish");
        for (_, control) in Control::ALL {
            assert!(!without(control));
        }
    }

    // Nothing is armed by it.
    #[allow(clippy::disallowed_methods)]
    #[test]
    fn a_place_that_does_not_exist_is_refused() {
        let abort = Abort {
            point: "mp.nowhere".to_owned(),
            nth: 1,
            journal: PathBuf::from("/nowhere"),
        };
        let refused = arm(Plan {
            abort: Some(abort),
            controls: Vec::new(),
        });
        assert!(refused.unwrap_err().contains("mp.nowhere"));
    }
}
