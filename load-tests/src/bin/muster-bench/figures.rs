//! What a benchmark says.

use std::time::Duration;

use serde::Serialize;

/// One line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    bench: &'a str,
    case: &'a str,
    metric: &'a str,
    value: f64,
    limit: Option<f64>,
    ratio: Option<f64>,
    target: Option<f64>,
    ok: bool,
}

/// The lines of one run.
#[derive(Debug)]
pub(crate) struct Figures {
    bench: &'static str,
    case: &'static str,
    pub(crate) failed: Vec<String>,
}

impl Figures {
    pub(crate) fn new(bench: &'static str, case: &'static str) -> Self {
        Self {
            bench,
            case,
            failed: Vec::new(),
        }
    }

    /// A figure without a limit.
    pub(crate) fn plain(&self, metric: &str, value: f64) {
        self.print(metric, value, None, None, true);
    }

    /// A ratio to the limit that has to reach the target.
    pub(crate) fn at_least(&mut self, metric: &str, value: f64, limit: f64, target: f64) {
        let ok = value / limit >= target;
        self.judge(metric, value, limit, target, ok);
    }

    /// A ratio to the limit that must not pass the target.
    pub(crate) fn at_most(&mut self, metric: &str, value: f64, limit: f64, target: f64) {
        let ok = value / limit <= target;
        self.judge(metric, value, limit, target, ok);
    }

    /// A number that has to be zero.
    pub(crate) fn zero(&mut self, metric: &str, value: u64) {
        let value = f64::from(u32::try_from(value).unwrap_or(u32::MAX));
        self.print(metric, value, None, Some(0.0), value == 0.0);
        if value != 0.0 {
            self.failed.push(metric.to_owned());
        }
    }

    fn judge(&mut self, metric: &str, value: f64, limit: f64, target: f64, ok: bool) {
        self.print(metric, value, Some(limit), Some(target), ok);
        if !ok {
            self.failed.push(metric.to_owned());
        }
    }

    fn print(&self, metric: &str, value: f64, limit: Option<f64>, target: Option<f64>, ok: bool) {
        let line = Line {
            bench: self.bench,
            case: self.case,
            metric,
            value: round(value),
            limit: limit.map(round),
            ratio: limit.map(|limit| round(value / limit)),
            target,
            ok,
        };
        if let Ok(line) = serde_json::to_string(&line) {
            println!("{line}");
        }
    }

    /// An error that names what missed its target.
    pub(crate) fn end(self) -> anyhow::Result<()> {
        anyhow::ensure!(self.failed.is_empty(), "missed: {}", self.failed.join(", "));
        Ok(())
    }
}

fn round(value: f64) -> f64 {
    let digits = if value.abs() >= 100.0 { 1.0 } else { 1_000.0 };
    (value * digits).round() / digits
}

/// Things per second.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn rate(things: usize, time: Duration) -> f64 {
    things as f64 / time.as_secs_f64()
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// CPU time that this process, its children or any process named has used so far, in seconds.
pub(crate) fn cpu(names: &[&str]) -> f64 {
    let Ok(folder) = std::fs::read_dir("/proc") else {
        return 0.0;
    };
    let ticks: u64 = folder
        .flatten()
        .filter_map(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let (head, tail) = stat.rsplit_once(')')?;
            let name = head.split_once('(')?.1;
            names.contains(&name).then_some(())?;
            let fields: Vec<&str> = tail.split_whitespace().collect();
            let user: u64 = fields.get(11)?.parse().ok()?;
            let system: u64 = fields.get(12)?.parse().ok()?;
            Some(user + system)
        })
        .sum();
    f64::from(u32::try_from(ticks).unwrap_or(u32::MAX)) / 100.0
}

/// The most memory this process has held, in MiB.
pub(crate) fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1_024.0
}
