//! How counts moved over time: a line of blocks to see it at a glance, and a table with a bar.

use jiff::Timestamp;
use muster_domain::states::{DeploymentEnforcement, Progress};
use muster_proto::report::{DeploymentPoint, GetTrendResponse, ListPoint, SitePoint};

use super::Answer;
use crate::output::table::Block;
use crate::output::text::minute;

/// Points of the line; of more, only so many are drawn.
const WIDTH: usize = 60;
/// Blocks of a full bar.
const BAR: u32 = 20;
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

impl Answer for GetTrendResponse {
    const MESSAGE: &'static str = "muster.report.v1.GetTrendResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        if !self.update_list.is_empty() {
            return lists(&self.update_list);
        }
        if !self.deployment.is_empty() {
            return deployments(&self.deployment);
        }
        if !self.site.is_empty() {
            return sites(&self.site);
        }
        vec![Block::Line("no snapshot was taken in this time".to_owned())]
    }

    fn names(&self) -> Vec<String> {
        let site = self.site.iter().map(|point| &point.at);
        let lists = self.update_list.iter().map(|point| &point.at);
        let deployments = self.deployment.iter().map(|point| &point.at);
        let all = site.chain(lists).chain(deployments);
        all.map(|at| minute(at.as_ref())).collect()
    }
}

fn lists(points: &[ListPoint]) -> Vec<Block> {
    let row = |point: &ListPoint| {
        vec![
            minute(point.at.as_ref()),
            point.clients.to_string(),
            point.compliant.to_string(),
            point.non_compliant.to_string(),
            point.unknown.to_string(),
            point.no_data.to_string(),
            bar(point.compliant, point.clients),
        ]
    };
    const HEADER: &[&str] = &[
        "AT",
        "CLIENTS#",
        "COMPLIANT#",
        "NON-COMPLIANT#",
        "UNKNOWN#",
        "NO-DATA#",
        "COMPLIANT",
    ];
    let parts = points.iter().map(|it| (it.compliant, it.clients));
    let rows = points.iter().map(row).collect();
    vec![
        line("Compliant", parts),
        Block::Table {
            header: HEADER,
            rows,
        },
    ]
}

fn sites(points: &[SitePoint]) -> Vec<Block> {
    let compliant = |it: &SitePoint| {
        let others = it.non_compliant + it.never_reported;
        it.clients.saturating_sub(others)
    };
    let row = |point: &SitePoint| {
        vec![
            minute(point.at.as_ref()),
            point.clients.to_string(),
            point.non_compliant.to_string(),
            point.never_reported.to_string(),
            point.old_catalog.to_string(),
            point.scan_failed.to_string(),
            point.required.to_string(),
            bar(compliant(point), point.clients),
        ]
    };
    const HEADER: &[&str] = &[
        "AT",
        "CLIENTS#",
        "NON-COMPLIANT#",
        "NEVER-REPORTED#",
        "OLD-CATALOG#",
        "SCAN-FAILED#",
        "REQUIRED#",
        "NOTHING-REQUIRED",
    ];
    let parts = points.iter().map(|it| (compliant(it), it.clients));
    let rows = points.iter().map(row).collect();
    vec![
        line("Nothing required", parts),
        Block::Table {
            header: HEADER,
            rows,
        },
    ]
}

/// Clients of a deployment: success, in progress, error, unknown.
fn progress(point: &DeploymentPoint) -> [u32; 4] {
    let mut counts = [0; 4];
    for count in &point.states {
        let state = u8::try_from(count.state).ok();
        let state = state.and_then(DeploymentEnforcement::from_id);
        let at = match state.map(DeploymentEnforcement::progress) {
            Some(Progress::Success) => 0,
            Some(Progress::InProgress) => 1,
            Some(Progress::Error) => 2,
            Some(Progress::Unknown) | None => 3,
        };
        counts[at] += count.clients;
    }
    counts
}

fn deployments(points: &[DeploymentPoint]) -> Vec<Block> {
    let row = |point: &DeploymentPoint| {
        let counts = progress(point);
        let mut row = vec![minute(point.at.as_ref()), point.clients.to_string()];
        row.extend(counts.map(|count| count.to_string()));
        row.push(bar(counts[0], point.clients));
        row
    };
    const HEADER: &[&str] = &[
        "AT",
        "CLIENTS#",
        "SUCCESS#",
        "IN-PROGRESS#",
        "FAILED#",
        "UNKNOWN#",
        "SUCCESS",
    ];
    let parts = points.iter().map(|it| (progress(it)[0], it.clients));
    let rows = points.iter().map(row).collect();
    vec![
        line("Success", parts),
        Block::Table {
            header: HEADER,
            rows,
        },
    ]
}

/// In percent; of nothing, nothing.
fn percent((part, whole): (u32, u32)) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    100.0 * f64::from(part) / f64::from(whole)
}

/// "Compliant: ▁▃▅█ 12.0% to 88.0%", of the last points.
fn line(label: &'static str, parts: impl Iterator<Item = (u32, u32)>) -> Block {
    let all: Vec<f64> = parts.map(percent).collect();
    let shown = &all[all.len().saturating_sub(WIDTH)..];
    let (first, last) = (
        shown.first().copied().unwrap_or_default(),
        shown.last().copied().unwrap_or_default(),
    );
    let text: String = shown.iter().map(|part| height(*part)).collect();
    let text = format!("{text} {first:.1}% to {last:.1}%");
    Block::Pairs(vec![(label, text)])
}

fn height(percent: f64) -> char {
    let eighths = (1..8_u8)
        .filter(|n| percent >= 12.5 * f64::from(*n))
        .count();
    HEIGHTS[eighths]
}

/// "█████████████·······  65.0%".
fn bar(part: u32, whole: u32) -> String {
    let full = match whole {
        0 => 0,
        _ => u64::from(part) * u64::from(BAR) / u64::from(whole),
    };
    let full = usize::try_from(full).unwrap_or(0).min(BAR as usize);
    let rest = BAR as usize - full;
    let percent = percent((part, whole));
    format!("{}{} {percent:5.1}%", "█".repeat(full), "·".repeat(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_and_lines_are_as_long_as_their_part() {
        assert_eq!(bar(13, 20), "█████████████·······  65.0%");
        assert_eq!(bar(0, 0), "····················   0.0%");
        assert_eq!(bar(7, 7), "████████████████████ 100.0%");
        let heights: String = [0.0, 12.4, 12.5, 50.0, 87.5, 100.0]
            .map(height)
            .iter()
            .collect();
        assert_eq!(heights, "▁▁▂▅██");
        let Block::Pairs(pairs) = line("Success", [(1, 4), (4, 4)].into_iter()) else {
            panic!("a line is a pair");
        };
        assert_eq!(pairs[0].1, "▃█ 25.0% to 100.0%");
    }
}
