//! What a handshake costs: clients with certificates of their own, each with a new connection, as
//! after a restart of everything. Once connected, they send what the relay sends.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use load_tests::fleet::{Member, cells};
use load_tests::ground::Ground;
use muster_local::Service;
use muster_proto::state::ReportStatesRequest;
use muster_proto::state::state_service_client::StateServiceClient;
use muster_runtime::grpc::{ChannelOptions, channel};

/// Calls under way.
const AT_ONCE: usize = 256;

/// Each of these connects and sends its first report. Returns how many states that was, and how
/// long it took until all were acknowledged.
pub(crate) async fn connect(ground: &Ground, members: &mut [Member]) -> Result<(usize, Duration)> {
    let url = ground.site_ref().grpc(Service::ManagementPoint);
    let ready = members
        .iter_mut()
        .map(|member| Ok((ground.client_tls(member.id)?, member.full())))
        .collect::<Result<Vec<_>>>()?;
    let begin = Instant::now();
    let calls = ready.into_iter().map(|(tls, report)| {
        let channel = channel(&url, &tls, &ChannelOptions::default());
        async move {
            let reports = vec![report];
            StateServiceClient::new(channel?)
                .report_states(ReportStatesRequest { reports })
                .await
                .context("a report was refused")
        }
    });
    let calls = futures::stream::iter(calls).buffer_unordered(AT_ONCE);
    calls.try_collect::<Vec<_>>().await?;
    Ok((cells(members), begin.elapsed()))
}
