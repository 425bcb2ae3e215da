//! The distribution points of the parent site, which have what was made above: files come from there
//! first, so that the archive is asked once for a whole hierarchy. Our own site server knows where
//! they are and with which certificate they are asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_proto::link::GetUpstreamRequest;
use muster_proto::link::upstream_service_client::UpstreamServiceClient;
use muster_runtime::Role;
use muster_runtime::config::TlsConfig;
use muster_runtime::grpc::{Channel, ChannelOptions, channel};
use muster_runtime::status::{chain, reason};
use muster_runtime::tls::ClientTls;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use tokio::sync::Mutex;

use crate::config;
use crate::domain::digest::Digest;

/// How long an answer of the site server counts.
const KNOWN_FOR: Duration = Duration::from_secs(60);

/// How the parent's distribution points are found.
#[derive(Debug)]
pub(crate) struct Parents {
    site_server: Option<Channel>,
    fetch: config::Fetch,
    known: Mutex<Option<(Instant, Above)>>,
}

/// What is above us.
#[derive(Debug, Clone)]
pub(crate) enum Above {
    /// Nothing: this site is the top one.
    Nobody,
    /// Somebody, and nobody says where.
    Unknown,
    /// These, in the order in which they are asked.
    Points(Arc<Points>),
}

/// Distribution points with what is needed to ask them.
#[derive(Debug)]
pub(crate) struct Points {
    client: Client,
    addresses: Vec<Url>,
}

impl Parents {
    pub(crate) fn new(
        site_server: Option<&str>,
        tls: &TlsConfig,
        fetch: &config::Fetch,
    ) -> Result<Self, muster_runtime::grpc::Error> {
        let options = ChannelOptions {
            server_role: Some(Role::SiteServer),
            ..ChannelOptions::default()
        };
        let site_server = site_server
            .map(|it| channel(it, tls, &options))
            .transpose()?;
        Ok(Self {
            site_server,
            fetch: fetch.clone(),
            known: Mutex::default(),
        })
    }

    /// Who is above us, as far as is known.
    pub(crate) async fn above(&self) -> Above {
        let Some(site_server) = &self.site_server else {
            return Above::Nobody;
        };
        let mut known = self.known.lock().await;
        if let Some((at, above)) = &*known
            && at.elapsed() < KNOWN_FOR
        {
            return above.clone();
        }
        let above = match self.ask(site_server).await {
            Ok(above) => above,
            Err(error) => {
                tracing::warn!(
                    error,
                    "cannot see where the parent's distribution points are"
                );
                // Where they were they probably are.
                known.take().map_or(Above::Unknown, |(_, above)| above)
            }
        };
        *known = Some((Instant::now(), above.clone()));
        above
    }

    async fn ask(&self, site_server: &Channel) -> Result<Above, String> {
        let answer = UpstreamServiceClient::new(site_server.clone())
            .get_upstream(GetUpstreamRequest {})
            .await;
        let upstream = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) if reason(&status).as_deref() == Some("NO_PARENT") => {
                return Ok(Above::Nobody);
            }
            Err(status) => return Err(status.message().to_owned()),
        };
        let tls = ClientTls::from_pem(&upstream.ca, &upstream.certificate, &upstream.key)
            .map_err(|error| chain(&error))?;
        let mut settings = (*tls.current()).clone();
        // reqwest sets the protocols itself.
        settings.alpn_protocols = Vec::new();
        let client = Client::builder()
            .tls_backend_preconfigured(settings)
            .user_agent("muster-distribution-point")
            .https_only(true)
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(self.fetch.connect_timeout)
            .read_timeout(self.fetch.read_timeout)
            .build()
            .map_err(|error| chain(&error))?;
        let points = upstream.roles.unwrap_or_default().distribution_points;
        let addresses: Vec<Url> = points
            .iter()
            .filter_map(|address| Url::parse(address).ok())
            .collect();
        if addresses.is_empty() {
            return Ok(Above::Unknown);
        }
        Ok(Above::Points(Arc::new(Points { client, addresses })))
    }
}

impl Points {
    /// Whom to ask for a file, in turn.
    pub(crate) fn place(&self, digest: Digest, turn: u32) -> Option<(&Client, Url)> {
        let turn = usize::try_from(turn).unwrap_or(0) % self.addresses.len().max(1);
        let address = self.addresses.get(turn)?;
        Some((
            &self.client,
            address.join(&format!("/content/{digest}")).ok()?,
        ))
    }
}
