//! What waits between the clients and the site database, and what could not be recorded.

use jiff::Timestamp;
use muster_proto::state::{
    GetBacklogResponse, ListQuarantinedResponse, QuarantinedMessage, QueueBacklog,
};

use super::Answer;
use crate::output::table::Block;
use crate::output::text::{ago, duration, size};

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
                queue.consumers.to_string(),
            ]
        };
        const HEADER: &[&str] = &[
            "QUEUE",
            "WAITING#",
            "OLDEST#",
            "ARRIVING/S#",
            "RECORDED/S#",
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
            "{waiting} waiting, {:.1}/s arriving, {:.1}/s recorded, {} reports in all, {} quarantined",
            sum(|queue| queue.arrival_rate),
            sum(|queue| queue.processing_rate),
            self.reports_recorded,
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
                size(message.body.len() as u64),
                message.reason.clone(),
                message.origin.clone(),
            ]
        };
        const HEADER: &[&str] = &["NO#", "RECEIVED", "SIZE#", "REASON", "ORIGIN"];
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
