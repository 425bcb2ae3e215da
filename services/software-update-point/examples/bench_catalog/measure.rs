//! Processor time, memory, and how results are told.

use std::time::Instant;

/// How results are told.
pub(crate) struct Report {
    pub(crate) json: bool,
}

/// One result.
pub(crate) struct Line {
    pub(crate) bench: &'static str,
    pub(crate) case: &'static str,
    pub(crate) metric: &'static str,
    pub(crate) value: f64,
    /// What it is compared with.
    pub(crate) limit: f64,
    /// The most that value / limit may be.
    pub(crate) target: f64,
}

impl Report {
    /// Tells a result; returns whether it is good.
    pub(crate) fn line(&self, line: &Line) -> bool {
        let Line {
            bench,
            case,
            metric,
            value,
            limit,
            target,
        } = line;
        let ratio = value / limit;
        let ok = ratio <= *target;
        if self.json {
            println!(
                "{{\"bench\":\"{bench}\",\"case\":\"{case}\",\"metric\":\"{metric}\",\"value\":{value:.4},\
                 \"limit\":{limit:.4},\"ratio\":{ratio:.4},\"target\":{target:.4},\"ok\":{ok}}}"
            );
        } else {
            let mark = if ok { "ok  " } else { "MISS" };
            println!(
                "{mark} {bench} {case:<14} {metric:<22} {value:>14.3} of {limit:>14.3}: {ratio:.4} (target {target})"
            );
        }
        ok
    }
}

/// Processor seconds of this process.
pub(crate) fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

/// The most memory this process had, in MiB, since [`reset_peak`].
pub(crate) fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<f64>()
        .unwrap()
        / 1024.0
}

pub(crate) fn reset_peak() {
    // Not every kernel lets us; then the peak is that of the whole run.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Seconds of wall and processor time.
pub(crate) struct Spent {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
}

pub(crate) struct Watch(Instant, f64);

impl Watch {
    pub(crate) fn start() -> Self {
        Self(Instant::now(), cpu_seconds())
    }

    pub(crate) fn stop(&self) -> Spent {
        Spent {
            wall: self.0.elapsed().as_secs_f64(),
            cpu: cpu_seconds() - self.1,
        }
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
