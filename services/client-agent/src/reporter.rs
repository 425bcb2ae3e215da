//! Telling the site: what changed since the last acknowledged serial, packed into one report at
//! a time. A report is made from the spool each time it is sent, so a repeat carries everything
//! that is newer too; nothing leaves the spool before the acknowledgement. `pack` makes them,
//! `mark` remembers which serials left.

use std::time::Duration;

use muster_proto::convert;
use muster_proto::state::state_service_client::StateServiceClient;
use muster_proto::state::{self as pb, ReportStatesRequest};
use muster_runtime::{Role, faults};
use prost::Message;

use crate::agent::Agent;
use crate::pack::{acknowledge, pack};
use crate::store::meta;
use crate::{Error, wire};

/// What was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Acknowledged reports.
    pub reports: u32,
    /// When the management point wants the next routine report.
    pub next_report_in: Option<Duration>,
}

impl Agent {
    /// Sends everything that was not acknowledged yet, one report after the other.
    ///
    /// # Errors
    /// When a report was not acknowledged: it stays in the spool. Repeat with backoff.
    pub async fn send_reports(&self) -> Result<Sent, Error> {
        let mut sent = Sent::default();
        while let Some(packed) = pack(self.store(), self.now())? {
            if self.mark_serials().await? {
                // In a new epoch now: the report begins again.
                continue;
            }
            let request = ReportStatesRequest {
                reports: vec![packed.report.encode_to_vec().into()],
            };
            let points = self.locations()?.management_points;
            faults::point("agent.report.before_send");
            let answer = wire::first(
                self.wire(),
                &points,
                (Role::ManagementPoint, "report not acknowledged"),
                |channel| {
                    let request = request.clone();
                    async move {
                        StateServiceClient::new(channel)
                            .report_states(request)
                            .await
                    }
                },
            )
            .await;
            let answer = match answer {
                Ok(answer) => answer.into_inner(),
                Err(error) => {
                    if self.renewed_after(&error).await? {
                        continue;
                    }
                    if error.code() == Some(tonic::Code::InvalidArgument) {
                        // A delta that can never be accepted must not stop the client for ever.
                        tracing::error!(%error, "report refused, a full one comes next");
                        self.store().write(|w| w.set_number(meta::FULL_WANTED, 1))?;
                    }
                    return Err(error);
                }
            };
            faults::point("agent.report.after_ack");
            acknowledge(self.store(), &packed.report)?;
            faults::point("agent.report.acknowledged");
            metrics::counter!("muster_agent_reports_total").increment(1);
            sent.reports += 1;
            sent.next_report_in = answer
                .next_report_in
                .and_then(|d| convert::from_duration("next_report_in", &d).ok());
            let renew = |wish: pb::Wish| wish.kind() == pb::WishKind::RenewIdentity;
            if answer.wish.is_some_and(renew) {
                self.renew_identity().await?;
                continue;
            }
            if !packed.more {
                break;
            }
        }
        Ok(sent)
    }
}
