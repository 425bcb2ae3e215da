//! What a benchmark says: one line of JSON per figure.

#![allow(clippy::print_stdout)] // Figures are the product.

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
pub struct Figures {
    bench: &'static str,
    case: &'static str,
    failed: Vec<String>,
}

impl Figures {
    /// Of a benchmark and its size.
    #[must_use]
    pub fn new(bench: &'static str, case: &'static str) -> Self {
        Self {
            bench,
            case,
            failed: Vec::new(),
        }
    }

    /// A figure without a limit.
    pub fn plain(&self, metric: &str, value: f64) {
        self.print(metric, value, None, None, true);
    }

    /// A ratio to the limit that has to reach the target.
    pub fn at_least(&mut self, metric: &str, value: f64, limit: f64, target: f64) {
        let ok = value / limit >= target;
        self.judge(metric, value, limit, target, ok);
    }

    /// A ratio to the limit that must not pass the target.
    pub fn at_most(&mut self, metric: &str, value: f64, limit: f64, target: f64) {
        let ok = value / limit <= target;
        self.judge(metric, value, limit, target, ok);
    }

    /// A figure beside its limit, which is not judged.
    pub fn beside(&self, metric: &str, value: f64, limit: f64) {
        self.print(metric, value, Some(limit), None, true);
    }

    /// A number that has to stay below another.
    pub fn below(&mut self, metric: &str, value: f64, target: f64) {
        let ok = value < target;
        self.print(metric, value, None, Some(target), ok);
        if !ok {
            self.failed.push(metric.to_owned());
        }
    }

    /// A number that has to be zero.
    pub fn zero(&mut self, metric: &str, value: u64) {
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

    /// Ends the run.
    ///
    /// # Errors
    /// Names what missed its target.
    pub fn end(self) -> anyhow::Result<()> {
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
#[must_use]
pub fn rate(things: usize, time: Duration) -> f64 {
    things as f64 / time.as_secs_f64()
}

/// The middle one.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
