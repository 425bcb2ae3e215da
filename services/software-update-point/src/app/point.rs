//! A running software update point: its connections, the catalog in force, the synchronisation that runs.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use muster_postgres::Pool;
use muster_runtime::Tasks;
use tokio::sync::{Notify, watch};

use super::Error;
use crate::config::{Fetch, Source};
use crate::domain::catalog::Catalog;
use crate::domain::schedule::Rule;
use crate::domain::sync::Sync;
use crate::store;
use crate::store::artifacts::Artifacts;
use crate::store::parent::Parent;
use crate::store::upstream::Upstream;

/// What all use cases share.
#[derive(Debug)]
pub(crate) struct Point {
    pub(crate) pool: Pool,
    pub(crate) artifacts: Artifacts,
    pub(crate) upstream: Upstream,
    /// The software update point above, for a source of that kind.
    pub(crate) parent: Option<Parent>,
    pub(crate) source: Source,
    pub(crate) fetch: Fetch,
    pub(crate) schedule: Rule,
    pub(crate) tasks: Tasks,
    /// Wakes the schedule when something changed.
    pub(crate) nudge: Arc<Notify>,
    /// The newest synchronisation of this process, as it goes.
    pub(crate) progress: watch::Sender<Option<Sync>>,
    /// Held while one is started, so that there is one at a time.
    pub(crate) starting: tokio::sync::Mutex<()>,
    catalog: RwLock<Arc<Catalog>>,
    /// Held while a generation is loaded, so that it is loaded once.
    loading: tokio::sync::Mutex<()>,
}

impl Point {
    pub(crate) fn new(
        pool: Pool,
        data_dir: &Path,
        parent: Option<Parent>,
        source: Source,
        fetch: Fetch,
        schedule: Rule,
        tasks: Tasks,
    ) -> Result<Self, Error> {
        let folder = |source| Error::File {
            what: "the folder of signed files",
            source,
        };
        let upstream = Upstream::new(fetch.connect_timeout, fetch.read_timeout)
            .map_err(|error| Error::Invalid(error.to_string()))?;
        Ok(Self {
            pool,
            artifacts: Artifacts::open(data_dir).map_err(folder)?,
            upstream,
            parent,
            source,
            fetch,
            schedule,
            tasks,
            nudge: Arc::new(Notify::new()),
            progress: watch::Sender::new(None),
            starting: tokio::sync::Mutex::new(()),
            catalog: RwLock::new(Arc::new(Catalog::default())),
            loading: tokio::sync::Mutex::new(()),
        })
    }

    /// The catalog in force. It stays whole for as long as it is held.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over the generation that the database has, if it is another one. Returns whether it was.
    pub(crate) async fn refresh(&self) -> Result<bool, Error> {
        let _once = self.loading.lock().await;
        let mut db = self
            .pool
            .get()
            .await
            .map_err(muster_postgres::Error::from)?;
        // What was repaired keeps its generation, not its time.
        let (generation, changed_at) = store::catalog::generation(&db).await?;
        let held = self.catalog();
        if (generation, changed_at) == (held.generation, held.changed_at) {
            return Ok(false);
        }
        drop(held);
        let tx = db
            .build_transaction()
            .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let catalog = store::catalog::load(&tx).await?;
        tx.commit().await?;
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        {
            metrics::gauge!("muster_sup_updates").set(catalog.in_force() as f64);
            metrics::gauge!("muster_sup_generation").set(catalog.generation as f64);
        }
        tracing::info!(
            generation = catalog.generation,
            updates = catalog.updates.len(),
            "catalog in force"
        );
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
        Ok(true)
    }
}
