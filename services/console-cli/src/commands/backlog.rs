//! `muster backlog` and `muster quarantine`: state messages that wait, and those that could not
//! be recorded.

use std::time::Duration;

use clap::{Args, Subcommand};
use muster_proto::state::{
    DropQuarantinedRequest, DropQuarantinedResponse, GetBacklogRequest, InspectQuarantinedRequest,
    ListQuarantinedRequest, ListQuarantinedResponse, RedriveOutcome, RedriveQuarantinedRequest,
    RedriveQuarantinedResponse,
};

use crate::client::{Patience, Site, pages};
use crate::failure::{Failure, Kind};
use crate::output::{Printer, confirm, live::Live};

/// Arguments of `muster backlog`.
#[derive(Debug, Args)]
pub(crate) struct BacklogArgs {
    /// Stay and show every change
    #[arg(long)]
    pub(crate) watch: bool,
    /// How often to look
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    every: Duration,
}

/// What can be done with the quarantine.
#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// List the messages that could not be recorded, newest first
    #[command(after_help = "Example:\n  muster quarantine list --limit 20")]
    List {
        /// At most so many; 0 is all
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Show one message, and what its bytes say
    #[command(after_help = "Example:\n  muster quarantine inspect 17 -o json")]
    Inspect {
        /// Its number in the list
        #[arg(value_name = "NO")]
        number: u64,
    },
    /// Try messages again, after what was wrong is put right
    #[command(after_help = "\
Example:
  muster quarantine redrive 17 18
  muster quarantine redrive --reason UNKNOWN_EPOCH")]
    Redrive(Messages),
    /// Remove messages for good, after a question
    #[command(after_help = "Example:\n  muster quarantine drop 17 --yes")]
    Drop {
        #[command(flatten)]
        messages: Messages,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

impl QuarantineCommand {
    /// A question to a person lasts, and so may many messages.
    pub(crate) const fn lasts(&self) -> bool {
        matches!(self, Self::Redrive(_) | Self::Drop { .. })
    }
}

/// Which messages are meant.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Messages {
    /// Their numbers in the list, at most 1,000
    #[arg(value_name = "NO")]
    numbers: Vec<u64>,
    /// All messages with this reason, by its first word
    #[arg(long, value_name = "WORD")]
    reason: Option<String>,
}

/// Shows the backlog once, or again and again.
pub(crate) async fn run(args: BacklogArgs, site: &Site, printer: &Printer) -> Result<(), Failure> {
    if !args.watch {
        let answer = site.backlog().get_backlog(GetBacklogRequest {}).await?;
        return printer.show(&answer.into_inner());
    }
    let mut live = Live::new(printer);
    let mut patience = Patience::new();
    loop {
        match site.backlog().get_backlog(GetBacklogRequest {}).await {
            Ok(answer) => {
                patience.refill();
                live.update(&answer.into_inner())?;
                tokio::time::sleep(args.every.max(Duration::from_millis(100))).await;
            }
            Err(status) => patience.wait(status).await?,
        }
    }
}

/// Shows and empties the quarantine.
pub(crate) async fn run_quarantine(
    command: QuarantineCommand,
    site: &Site,
    printer: &Printer,
) -> Result<(), Failure> {
    match command {
        QuarantineCommand::List { limit } => list(limit, site, printer).await,
        QuarantineCommand::Inspect { number } => {
            let request = InspectQuarantinedRequest {
                quarantine_no: number,
            };
            let answer = site.backlog().inspect_quarantined(request).await?;
            printer.show(&answer.into_inner())
        }
        QuarantineCommand::Redrive(messages) => redrive(messages, site, printer).await,
        QuarantineCommand::Drop { messages, yes } => {
            if !yes {
                confirm(&format!("drop {} for good?", messages.text()))?;
            }
            drop_messages(messages, site, printer).await
        }
    }
}

async fn list(limit: u32, site: &Site, printer: &Printer) -> Result<(), Failure> {
    let messages = pages(limit, async |page_size, page_token| {
        let request = ListQuarantinedRequest {
            page_size,
            page_token,
        };
        let page = site.backlog().list_quarantined(request).await?.into_inner();
        Ok((page.messages, page.next_page_token))
    })
    .await?;
    printer.show(&ListQuarantinedResponse {
        messages,
        ..Default::default()
    })
}

/// The site stops after a while; we ask until it has tried all of them.
async fn redrive(messages: Messages, site: &Site, printer: &Printer) -> Result<(), Failure> {
    let reason = messages.reason.unwrap_or_default();
    let results = pages(0, async |_, page_token| {
        let request = RedriveQuarantinedRequest {
            quarantine_numbers: messages.numbers.clone(),
            reason: reason.clone(),
            page_token,
        };
        let page = site.backlog().redrive_quarantined(request).await?;
        let page = page.into_inner();
        Ok((page.results, page.next_page_token))
    })
    .await?;
    let stay = |outcome: RedriveOutcome| {
        let here = results.iter().filter(|result| result.outcome() == outcome);
        here.count()
    };
    let (refused, gone) = (stay(RedriveOutcome::Refused), stay(RedriveOutcome::Gone));
    let all = results.len();
    printer.show(&RedriveQuarantinedResponse {
        results,
        ..Default::default()
    })?;
    if refused > 0 {
        let text = format!("{refused} of {all} messages are still refused");
        return Err(Failure::new(Kind::Partial, "STILL_REFUSED", text)
            .hint("`muster quarantine inspect NO` shows what a message says"));
    }
    if gone > 0 {
        let text = format!("{gone} of {all} messages are not in quarantine");
        return Err(Failure::new(Kind::NotFound, "UNKNOWN_MESSAGE", text));
    }
    Ok(())
}

async fn drop_messages(messages: Messages, site: &Site, printer: &Printer) -> Result<(), Failure> {
    let wanted = messages.numbers.len() as u64;
    let request = DropQuarantinedRequest {
        quarantine_numbers: messages.numbers,
        reason: messages.reason.unwrap_or_default(),
    };
    let mut dropped = 0;
    loop {
        let answer = site.backlog().drop_quarantined(request.clone()).await?;
        let answer = answer.into_inner();
        dropped += answer.dropped;
        if !answer.more || answer.dropped == 0 {
            break;
        }
    }
    printer.show(&DropQuarantinedResponse {
        dropped,
        more: false,
    })?;
    if dropped < wanted {
        let text = format!(
            "{} of {wanted} messages are not in quarantine",
            wanted - dropped
        );
        return Err(Failure::new(Kind::NotFound, "UNKNOWN_MESSAGE", text));
    }
    Ok(())
}

impl Messages {
    /// For the question.
    fn text(&self) -> String {
        match (&self.reason, self.numbers.as_slice()) {
            (Some(reason), _) => format!("all messages with reason {reason}"),
            (None, [one]) => format!("message {one}"),
            (None, many) => format!("{} messages", many.len()),
        }
    }
}
