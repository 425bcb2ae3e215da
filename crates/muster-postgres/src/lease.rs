//! One active process per site: a lease in the database.
//!
//! The lease is an advisory lock of one session, so it ends with the connection, whatever kills
//! its holder. Losing it takes the old holder a moment to notice; therefore each holder also gets
//! a *fencing number*, higher than all before, and every transaction that must come from the
//! holder calls [`check`]: a holder of yesterday cannot commit.

use deadpool_postgres::GenericClient;
use muster_runtime::Tasks;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

use crate::{Config, Error};

/// The lease of this process. It is given up when it is dropped, when its connection ends, or when
/// the tasks it was acquired with stop; [`Lease::lost`] tells.
#[derive(Debug)]
pub struct Lease {
    name: String,
    fence: i64,
    lost: CancellationToken,
    // The session that holds the lock.
    _client: Client,
}

impl Lease {
    /// Takes the lease, on a connection of its own. `None` while another process holds it: a
    /// standby tries again after a while.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn acquire(
        config: &Config,
        name: &str,
        tasks: &Tasks,
    ) -> Result<Option<Self>, Error> {
        // Several processes may come first at the same time, hence the lock around the table.
        const TABLE: &str = "
            BEGIN;
            SELECT pg_advisory_xact_lock(hashtext('muster lease table'));
            CREATE TABLE IF NOT EXISTS leases (
                name        text        PRIMARY KEY,
                fence       bigint      NOT NULL,  -- +1 with every holder
                acquired_at timestamptz NOT NULL
            );
            COMMIT";
        const LOCK: &str = "SELECT pg_try_advisory_lock(hashtext('muster lease'), hashtext(current_schema() || '.' || $1))";
        const FENCE: &str = "
            INSERT INTO leases AS held (name, fence, acquired_at) VALUES ($1, 1, now())
            ON CONFLICT (name) DO UPDATE SET (fence, acquired_at) = (held.fence + 1, now())
            RETURNING fence";
        let (client, connection) = config.session()?.connect(NoTls).await?;
        let lost = CancellationToken::new();
        let (tell, stop) = (lost.clone().drop_guard(), tasks.token());
        tasks.spawn("lease-connection", async move {
            let _tell = tell;
            tokio::select! {
                result = connection => result,
                () = stop.cancelled() => Ok(()),
            }
        });
        client.batch_execute(TABLE).await?;
        if !client
            .query_one(LOCK, &[&name])
            .await?
            .try_get::<_, bool>(0)?
        {
            return Ok(None);
        }
        let fence = client.query_one(FENCE, &[&name]).await?.try_get(0)?;
        tracing::info!(lease = name, fence, "lease acquired");
        Ok(Some(Self {
            name: name.to_owned(),
            fence,
            lost,
            _client: client,
        }))
    }

    /// Our fencing number.
    #[must_use]
    pub const fn fence(&self) -> i64 {
        self.fence
    }

    /// Name of the lease.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Cancelled when the lease is lost: stop working and end.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }
}

/// Proves inside a transaction that the lease with this fencing number still holds. Until the
/// transaction ends nobody else can take the number after it.
///
/// # Errors
/// [`Error::LeaseLost`] when somebody else took the lease since.
pub async fn check(db: &impl GenericClient, name: &str, fence: i64) -> Result<(), Error> {
    const SQL: &str = "SELECT 1 FROM leases WHERE name = $1 AND fence = $2 FOR SHARE";
    let statement = db.prepare_cached(SQL).await?;
    match db.query_opt(&statement, &[&name, &fence]).await? {
        Some(_) => Ok(()),
        None => Err(Error::LeaseLost {
            name: name.to_owned(),
            fence,
        }),
    }
}
