//! `muster backlog` and `muster quarantine`: state messages that wait, and those that could not
//! be recorded.

use std::time::Duration;

use clap::{Args, Subcommand};
use muster_proto::state::{GetBacklogRequest, ListQuarantinedRequest, ListQuarantinedResponse};

use crate::client::{Patience, Site, pages};
use crate::failure::Failure;
use crate::output::{Printer, live::Live};

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

/// What can be asked about the quarantine.
#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// List the messages that could not be recorded, newest first
    #[command(after_help = "Example:\n  muster quarantine list --limit 20")]
    List {
        /// At most so many; 0 is all
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
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

/// Shows the quarantine.
pub(crate) async fn run_quarantine(
    command: QuarantineCommand,
    site: &Site,
    printer: &Printer,
) -> Result<(), Failure> {
    let QuarantineCommand::List { limit } = command;
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
