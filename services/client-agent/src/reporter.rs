//! Telling the site: what changed since the last acknowledged serial, packed into one report at
//! a time. A report is made from the spool each time it is sent, so a repeat carries everything
//! that is newer too; nothing leaves the spool before the acknowledgement. `pack` makes them,
//! `mark` remembers which serials left.

use std::time::Duration;

use muster_proto::convert;
use muster_proto::state::state_service_client::StateServiceClient;
use muster_proto::state::{Report, ReportStatesRequest};
use muster_runtime::{Role, faults};
use muster_stream::{Heard, Run, heartbeat_due};
use prost::Message;

use crate::agent::Agent;
use crate::pack::{acknowledge, is_silent, pack};
use crate::policy::Settings;
use crate::store::{Kind, meta};
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
        // One wish per call: a site that keeps on wishing must not keep us here.
        let mut heeded = false;
        if self.must_register()? {
            self.registers_first().await?;
        }
        self.beat()?;
        while let Some(packed) = pack(self.store(), self.now())? {
            if self.registers_first().await? {
                // In a new epoch now: the report begins again.
                continue;
            }
            let report = self.stamped(packed.report)?;
            let request = ReportStatesRequest {
                reports: vec![report.encode_to_vec().into()],
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
                        self.store().write(|w| w.want_full())?;
                    }
                    return Err(error);
                }
            };
            faults::point("agent.report.after_ack");
            acknowledge(self.store(), &report)?;
            faults::point("agent.report.acknowledged");
            metrics::counter!("muster_agent_reports_total").increment(1);
            sent.reports += 1;
            sent.next_report_in = answer
                .next_report_in
                .and_then(|d| convert::from_duration("next_report_in", &d).ok());
            let more = !heeded && self.heed(answer.wish.as_ref()).await?;
            heeded |= more;
            if !packed.more && !more {
                break;
            }
        }
        Ok(sent)
    }

    /// Says that the client is there, when it had nothing else to say for long.
    fn beat(&self) -> Result<(), Error> {
        let interval = Settings::of(self.policy()?.as_ref()).heartbeat_interval;
        let now = self.now();
        let sent_at = self.store().read(|r| r.time(meta::SENT_AT))?;
        let due = sent_at.is_some() && heartbeat_due(sent_at, now, interval);
        if due && is_silent(self.store(), now)? {
            let value = now.as_millisecond().to_be_bytes();
            self.store()
                .write(|w| w.put(Kind::Heartbeat, b"", &value, now))?;
        }
        Ok(())
    }

    /// Writes down that a report is about to leave, and into the report which run it is of; on disk
    /// when it returns. The database knows of it before the mark does: a mark that is ahead means
    /// a copy.
    fn stamped(&self, mut report: Report) -> Result<Report, Error> {
        let mut own = self.run();
        let (run, given) = self.store().write(|w| {
            let mut sender = w.sender()?;
            let holder = w.number(meta::RUN)?;
            let run = Run::next(*own, holder, sender.sent, rand::random());
            w.set_number(meta::RUN, run.id)?;
            let given = sender.leaves();
            w.keep_sender(&sender)?;
            Ok((run, given))
        })?;
        *own = Some(run);
        (report.run_id, report.run_began_after) = (run.id, run.began);
        report.run_after = run.after;
        report.given_serial = if given > report.last_serial { given } else { 0 };
        self.note_mark()?;
        Ok(report)
    }

    /// Takes in what the site wants. Says whether something is to be sent for it at once.
    async fn heed(&self, wish: Option<&muster_proto::state::Wish>) -> Result<bool, Error> {
        match self.hear(wish)? {
            Heard::Send => Ok(true),
            Heard::Register => self.registers_first().await,
            // A management point may not know yet what became of it.
            Heard::RenewIdentity => self.renew_if_asked().await,
            Heard::Nothing => Ok(false),
        }
    }

    /// Writes down what the site wants.
    pub(crate) fn hear(&self, wish: Option<&muster_proto::state::Wish>) -> Result<Heard, Error> {
        let wish = match wish.map(convert::from_wish).transpose() {
            Ok(wish) => wish.flatten(),
            Err(error) => {
                tracing::warn!(%error, "a wish makes no sense");
                None
            }
        };
        let Some(wish) = wish else {
            return Ok(Heard::Nothing);
        };
        let heard = self.store().write(|w| {
            let mut sender = w.sender()?;
            let heard = sender.hear(&wish);
            w.keep_sender(&sender)?;
            if heard == Heard::Register {
                w.set_number(meta::MUST_REGISTER, 1)?;
            }
            Ok(heard)
        })?;
        tracing::info!(?wish, ?heard, "the site asks");
        Ok(heard)
    }
}
