//! What a distribution point can be asked: one file per use case.

mod above;
mod ensure_content;
mod error;
mod fetch_content;
mod jobs;
mod publish_suites;
mod read_facts;
mod remove_content;

use std::path::Path;
use std::sync::Arc;

use muster_runtime::Tasks;
use muster_runtime::config::TlsConfig;
use tokio_util::sync::CancellationToken;

pub(crate) use above::{Above, Parents};
pub(crate) use ensure_content::ensure_content;
pub(crate) use error::Error;
pub(crate) use fetch_content::{Failure, Upstream, fetch_content};
pub(crate) use jobs::{Jobs, Source, Step};
pub(crate) use publish_suites::publish_suites;
pub(crate) use read_facts::read_facts;
pub(crate) use remove_content::remove_content;

use crate::config::Config;
use crate::store::{self, Content, Manifests};

/// Largest number of files in one request.
pub(crate) const MAX_FILES: usize = 2_000;

/// A distribution point: what it holds, offers and still has to fetch.
#[derive(Debug)]
pub(crate) struct Point {
    pub(crate) config: Config,
    pub(crate) content: Arc<Content>,
    pub(crate) manifests: Manifests,
    pub(crate) jobs: Jobs,
    /// One publication at a time.
    publishing: tokio::sync::Mutex<()>,
    tasks: Tasks,
}

impl Point {
    /// Opens the data folder and learns what is held.
    pub(crate) async fn open(config: Config, tasks: Tasks) -> Result<Self, store::Error> {
        let data_dir: &Path = &config.data_dir;
        let content = Content::open(data_dir).await?;
        let manifests = Manifests::open(data_dir).await?;
        let jobs = Jobs::new(config.fetch.queue, config.fetch.failed_for);
        tracing::info!(
            files = content.digests().len(),
            bytes = content.bytes(),
            paths = manifests.current().paths(),
            suites = manifests.current().suites(),
            "content listed"
        );
        Ok(Self {
            config,
            content,
            manifests,
            jobs,
            publishing: Default::default(),
            tasks,
        })
    }

    /// Cancelled when the process ends.
    pub(crate) fn token(&self) -> CancellationToken {
        self.tasks.token()
    }

    fn tls(&self) -> &TlsConfig {
        &self.config.tls
    }
}
