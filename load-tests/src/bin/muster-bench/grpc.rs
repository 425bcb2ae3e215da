//! The way in: clients with certificates of their own, a management point in this process.
//!
//! A management point takes a client's reports from that client's certificate only, and the
//! benchmark gets no way around it. A handshake costs more than a report, so a sample of the
//! clients comes this way: once with a new connection each, as in a rollout, and then with many
//! reports over the connections that are open.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use management_point::{Config, ManagementPoint, config};
use muster_proto::state::ReportStatesRequest;
use muster_proto::state::state_service_client::StateServiceClient;
use muster_runtime::Role;
use muster_runtime::config::{AdminConfig, TelemetryConfig, TlsConfig};
use muster_runtime::grpc::{Channel, ChannelOptions, channel};
use muster_runtime::tls::ca::CertificateAuthority;

use crate::fleet::{Member, SHARDS};
use crate::ground::{Ground, tls};

/// Calls under way.
const AT_ONCE: usize = 256;

/// A management point with its clients.
pub(crate) struct Way {
    point: ManagementPoint,
    certificates: Vec<TlsConfig>,
    clients: Vec<StateServiceClient<Channel>>,
}

impl Way {
    /// Starts the management point and makes a certificate for each client.
    pub(crate) async fn new(ground: &Ground, members: &[Member]) -> Result<Self> {
        let folder = ground.folder.path();
        let point = management_point::start(Config {
            site_code: "P01".into(),
            listen: "127.0.0.1:0".parse()?,
            state_shards: SHARDS,
            // Nobody is there: registration and policy play no part.
            site_server: "https://127.0.0.1:9".into(),
            tls: tls(folder, "management-point"),
            telemetry: TelemetryConfig::default(),
            admin: AdminConfig::default(),
            rabbitmq: ground.vhost.config.clone(),
            collect: config::Collect::default(),
            enrol: config::Enrol::default(),
        })
        .await?;
        let authority = CertificateAuthority::load(&folder.join("ca"))?;
        let certificates = members
            .iter()
            .map(|member| {
                let name = member.id.to_string();
                let issued = authority.issue(Role::Client, &name, &[])?;
                issued.write(folder, &name, authority.path())
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            point,
            certificates,
            clients: Vec::new(),
        })
    }

    /// Each client connects and sends one report.
    pub(crate) async fn connect(&mut self, reports: Vec<Bytes>) -> Result<Duration> {
        let url = format!("https://127.0.0.1:{}", self.point.addr().port());
        let begin = Instant::now();
        let calls = self.certificates.iter().zip(reports).map(|(tls, report)| {
            let channel = channel(&url, tls, &ChannelOptions::default());
            async move {
                let mut client = StateServiceClient::new(channel?);
                send(&mut client, report).await?;
                Ok::<_, anyhow::Error>(client)
            }
        });
        // In the order of the clients: what follows is theirs.
        let calls = futures::stream::iter(calls);
        self.clients = calls.buffered(AT_ONCE).try_collect().await?;
        Ok(begin.elapsed())
    }

    /// Sends reports over the connections there are: one list per client, in the order of
    /// `members`, one after the other.
    pub(crate) async fn send(&self, reports: Vec<Vec<Bytes>>) -> Result<Duration> {
        let begin = Instant::now();
        let calls = self.clients.iter().zip(reports).map(|(client, reports)| {
            let mut client = client.clone();
            async move {
                for report in reports {
                    send(&mut client, report).await?;
                }
                Ok::<(), anyhow::Error>(())
            }
        });
        let calls = futures::stream::iter(calls);
        calls
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(begin.elapsed())
    }

    pub(crate) async fn stop(self) {
        self.point.stop().await;
    }
}

async fn send(client: &mut StateServiceClient<Channel>, report: Bytes) -> Result<()> {
    let request = ReportStatesRequest {
        reports: vec![report],
    };
    client
        .report_states(request)
        .await
        .context("a report was refused")?;
    Ok(())
}
