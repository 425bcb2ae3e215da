//! What waits between the clients and the site database, and what could not be recorded.

use jiff::Timestamp;
use muster_proto::state::{
    DropQuarantinedResponse, GetBacklogResponse, InspectQuarantinedResponse,
    ListQuarantinedResponse, QuarantinedMessage, QueueBacklog, RedriveOutcome,
    RedriveQuarantinedResponse, RedriveResult, Report, ReportKind,
};

use super::Answer;
use crate::output::table::Block;
use crate::output::text::{ago, at, duration, id, size, word};

/// A queue that does not shrink is never empty.
fn drains(time: Option<&prost_types::Duration>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| duration(Some(time)))
}

impl Answer for GetBacklogResponse {
    const MESSAGE: &'static str = "muster.state.v1.GetBacklogResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        let row = |queue: &QueueBacklog| {
            vec![
                queue.queue.clone(),
                queue.messages.to_string(),
                duration(queue.oldest_age.as_ref()),
                format!("{:.1}", queue.arrival_rate),
                format!("{:.1}", queue.processing_rate),
                drains(queue.drain_time.as_ref()),
                queue.consumers.to_string(),
            ]
        };
        const HEADER: &[&str] = &[
            "QUEUE",
            "WAITING#",
            "OLDEST#",
            "ARRIVING/S#",
            "RECORDED/S#",
            "DRAINED-IN#",
            "CONSUMERS#",
        ];
        vec![
            Block::Table {
                header: HEADER,
                rows: self.queues.iter().map(row).collect(),
            },
            Block::Pairs(vec![
                ("Reports recorded", self.reports_recorded.to_string()),
                ("States recorded", self.states_recorded.to_string()),
                ("Drained in", drains(self.drain_time.as_ref())),
                ("Clients with a gap", self.gaps_open.to_string()),
                ("Full reports asked for", self.resyncs_open.to_string()),
                ("Quarantined", self.quarantined.to_string()),
            ]),
        ]
    }

    fn names(&self) -> Vec<String> {
        self.queues
            .iter()
            .map(|queue| queue.queue.clone())
            .collect()
    }

    fn line(&self, _now: Timestamp) -> String {
        let waiting: u64 = self.queues.iter().map(|queue| queue.messages).sum();
        let sum = |rate: fn(&QueueBacklog) -> f64| self.queues.iter().map(rate).sum::<f64>();
        format!(
            "{waiting} waiting, {:.1}/s arriving, {:.1}/s recorded, drained in {}, {} reports in all, \
             {} gaps, {} full reports asked for, {} quarantined",
            sum(|queue| queue.arrival_rate),
            sum(|queue| queue.processing_rate),
            drains(self.drain_time.as_ref()),
            self.reports_recorded,
            self.gaps_open,
            self.resyncs_open,
            self.quarantined
        )
    }
}

impl Answer for ListQuarantinedResponse {
    const MESSAGE: &'static str = "muster.state.v1.ListQuarantinedResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let row = |message: &QuarantinedMessage| {
            vec![
                message.quarantine_no.to_string(),
                ago(message.received_at.as_ref(), now),
                size(message.body_bytes),
                message.attempts.to_string(),
                message.reason.clone(),
                message.origin.clone(),
            ]
        };
        const HEADER: &[&str] = &["NO#", "RECEIVED", "SIZE#", "TRIED#", "REASON", "ORIGIN"];
        vec![Block::Table {
            header: HEADER,
            rows: self.messages.iter().map(row).collect(),
        }]
    }

    fn names(&self) -> Vec<String> {
        self.messages
            .iter()
            .map(|message| message.quarantine_no.to_string())
            .collect()
    }
}

/// Bytes of a message that are shown.
const SHOWN: usize = 256;

impl Answer for InspectQuarantinedResponse {
    const MESSAGE: &'static str = "muster.state.v1.InspectQuarantinedResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let message = self.message.clone().unwrap_or_default();
        let what = if message.whole_batch {
            "batch of reports"
        } else {
            "report"
        };
        let client = if message.client_id.is_empty() {
            String::new()
        } else {
            id(&message.client_id)
        };
        let mut blocks = vec![Block::Pairs(vec![
            ("Message", message.quarantine_no.to_string()),
            ("Reason", message.reason),
            ("Origin", message.origin),
            ("Client", client),
            ("Received", at(message.received_at.as_ref(), now)),
            ("Tries", message.attempts.to_string()),
            ("Last try", at(message.tried_at.as_ref(), now)),
            ("What it is", what.to_owned()),
            ("Size", size(message.body_bytes)),
            ("Not decoded", self.decode_error.clone()),
        ])];
        if !self.reports.is_empty() {
            const HEADER: &[&str] = &[
                "CLIENT",
                "EPOCH#",
                "FIRST#",
                "LAST#",
                "KIND",
                "CATALOG#",
                "COMPLIANCE#",
                "ENFORCEMENT#",
                "DEPLOYMENTS#",
                "OTHER#",
            ];
            blocks.push(Block::Table {
                header: HEADER,
                rows: self.reports.iter().map(report).collect(),
            });
        }
        blocks.push(Block::Line(format!("Bytes, the first {SHOWN} at most:")));
        blocks.extend(dump(&message.body).map(Block::Line));
        blocks
    }

    fn names(&self) -> Vec<String> {
        let message = self.message.iter();
        message
            .map(|message| message.quarantine_no.to_string())
            .collect()
    }
}

/// What one report carries, by topic.
fn report(report: &Report) -> Vec<String> {
    let others = [
        report.scan.is_some(),
        report.restart.is_some(),
        report.inventory.is_some(),
        report.health.is_some(),
    ];
    let updates = report
        .compliance
        .as_ref()
        .map_or(0, |part| part.update_numbers.len());
    // A kind that does not exist may be why it is here.
    let kind = ReportKind::try_from(report.kind).map_or_else(
        |_| report.kind.to_string(),
        |kind| word(kind.as_str_name(), "REPORT_KIND_"),
    );
    vec![
        id(&report.client_id),
        report.epoch.to_string(),
        report.first_serial.to_string(),
        report.last_serial.to_string(),
        kind,
        report.catalog_generation.to_string(),
        updates.to_string(),
        report.update_enforcements.len().to_string(),
        report.deployments.len().to_string(),
        others.iter().filter(|there| **there).count().to_string(),
    ]
}

/// Offset, hex and text, sixteen bytes to a line.
fn dump(bytes: &[u8]) -> impl Iterator<Item = String> {
    let shown = bytes.get(..SHOWN).unwrap_or(bytes);
    shown.chunks(16).enumerate().map(|(line, bytes)| {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String = bytes
            .iter()
            .map(|byte| {
                if byte.is_ascii_graphic() {
                    char::from(*byte)
                } else {
                    '.'
                }
            })
            .collect();
        format!("{:04x}  {:<47}  {text}", line * 16, hex.join(" "))
    })
}

impl Answer for RedriveQuarantinedResponse {
    const MESSAGE: &'static str = "muster.state.v1.RedriveQuarantinedResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        let row = |result: &RedriveResult| {
            let outcome = RedriveOutcome::try_from(result.outcome).unwrap_or_default();
            vec![
                result.quarantine_no.to_string(),
                word(outcome.as_str_name(), "REDRIVE_OUTCOME_"),
                result.reason.clone(),
            ]
        };
        vec![Block::Table {
            header: &["NO#", "OUTCOME", "REASON"],
            rows: self.results.iter().map(row).collect(),
        }]
    }

    /// Those that stay: what another command would go on with.
    fn names(&self) -> Vec<String> {
        self.results
            .iter()
            .filter(|result| result.outcome() == RedriveOutcome::Refused)
            .map(|result| result.quarantine_no.to_string())
            .collect()
    }
}

impl Answer for DropQuarantinedResponse {
    const MESSAGE: &'static str = "muster.state.v1.DropQuarantinedResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        let plural = if self.dropped == 1 { "" } else { "s" };
        vec![Block::Line(format!(
            "{} message{plural} dropped",
            self.dropped
        ))]
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}
