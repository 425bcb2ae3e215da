//! What processes have used of the machine, as the kernel counts it.

use std::ops::{AddAssign, Sub};

/// Seconds of processor time of each part of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// The site server.
    pub site_server: f64,
    /// The management point.
    pub management_point: f64,
    /// RabbitMQ.
    pub broker: f64,
    /// PostgreSQL with all its processes.
    pub postgres: f64,
    /// This process: simulated clients, limits, checks.
    pub generator: f64,
}

impl Usage {
    /// Each part with its name in figures.
    #[must_use]
    pub const fn parts(&self) -> [(&'static str, f64); 5] {
        [
            ("site_server", self.site_server),
            ("management_point", self.management_point),
            ("broker", self.broker),
            ("postgres", self.postgres),
            ("generator", self.generator),
        ]
    }

    /// All of them.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.parts().iter().map(|(_, seconds)| seconds).sum()
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, from: Self) -> Self {
        Self {
            site_server: self.site_server - from.site_server,
            management_point: self.management_point - from.management_point,
            broker: self.broker - from.broker,
            postgres: self.postgres - from.postgres,
            generator: self.generator - from.generator,
        }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, more: Self) {
        self.site_server += more.site_server;
        self.management_point += more.management_point;
        self.broker += more.broker;
        self.postgres += more.postgres;
        self.generator += more.generator;
    }
}

/// The most memory each part has held, in MiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// The site server.
    pub site_server: f64,
    /// The management point.
    pub management_point: f64,
    /// RabbitMQ.
    pub broker: f64,
    /// This process.
    pub generator: f64,
}

/// What the kernel's counters count in.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds that a process has used.
#[must_use]
pub fn of(pid: u32) -> f64 {
    stat(pid).map_or(0.0, |stat| stat.own)
}

/// Seconds that a process and its children have used, those that have ended included.
#[must_use]
pub fn of_family(pid: u32) -> f64 {
    let Some(parent) = stat(pid) else { return 0.0 };
    let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let children: f64 = folders
        .filter_map(|folder| folder.file_name().to_str()?.parse().ok())
        .filter_map(stat)
        .filter(|child| child.parent == pid)
        .map(|child| child.own)
        .sum();
    parent.own + parent.ended + children
}

struct Stat {
    parent: u32,
    own: f64,
    /// Of children that have ended.
    ended: f64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything.
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let seconds = |at: usize| {
        let ticks: u32 = fields.get(at)?.parse().ok()?;
        Some(f64::from(ticks) / TICKS_PER_SECOND)
    };
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own: seconds(11)? + seconds(12)?,
        ended: seconds(13)? + seconds(14)?,
    })
}

/// The most memory a process has held, in MiB.
#[must_use]
pub fn peak(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1_024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something() {
        let pid = std::process::id();
        assert!(peak(pid) > 1.0);
        assert!(of_family(pid) >= of(pid));
        assert_eq!(of(u32::MAX), 0.0);
    }
}
