//! One active process per site: a lease in the database.
//!
//! The lease is an advisory lock of one session, so it ends with the connection, whatever kills
//! its holder. A holder that was not killed but stands still (a stopped process, a frozen machine)
//! keeps its connection; so it also says regularly that it lives, and a standby ends the sessions
//! of one that was silent for too long. Losing the lease takes the old holder a moment to notice;
//! therefore each holder also gets a *fencing number*, higher than all before, and every
//! transaction that must come from the holder calls [`check`]: a holder of yesterday cannot commit.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::GenericClient;
use muster_runtime::Tasks;
use tokio_postgres::Client;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Config, Error};

/// The lease of this process. It is given up when it is dropped, when its connection ends, or when
/// the tasks it was acquired with stop; [`Lease::lost`] tells.
#[derive(Debug)]
pub struct Lease {
    name: String,
    fence: i64,
    lost: CancellationToken,
    // The session that holds the lock: it ends with the last of these, the other one of which is
    // in a task that ends with `_drop`.
    _client: Arc<Client>,
    _drop: DropGuard,
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
            -- Apart from the fence, which transactions hold on to while they commit.
            CREATE TABLE IF NOT EXISTS lease_signs (
                name     text        PRIMARY KEY,
                fence    bigint      NOT NULL,
                alive_at timestamptz NOT NULL  -- when the holder last said that it lives
            );
            COMMIT";
        const LOCK: &str = "SELECT pg_try_advisory_lock(hashtext('muster lease'), hashtext(current_schema() || '.' || $1))";
        const FENCE: &str = "
            INSERT INTO leases AS held (name, fence, acquired_at) VALUES ($1, 1, now())
            ON CONFLICT (name) DO UPDATE SET (fence, acquired_at) = (held.fence + 1, now())
            RETURNING fence";
        let (client, connection) = config.open().await?;
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
        let mut free: bool = client.query_one(LOCK, &[&name]).await?.try_get(0)?;
        if !free && end_silent(&client, name, config.lease_timeout).await? {
            free = client.query_one(LOCK, &[&name]).await?.try_get(0)?;
        }
        if !free {
            return Ok(None);
        }
        let fence = client.query_one(FENCE, &[&name]).await?.try_get(0)?;
        say_alive(&client, name, fence).await?;
        tracing::info!(lease = name, fence, "lease acquired");
        let (client, ended) = (Arc::new(client), CancellationToken::new());
        let signs = Signs {
            client: Arc::clone(&client),
            name: name.to_owned(),
            fence,
            every: config.lease_timeout / 3,
            stop: tasks.token(),
            ended: ended.clone(),
        };
        tasks.spawn("lease-signs", signs.give());
        Ok(Some(Self {
            name: name.to_owned(),
            fence,
            lost,
            _client: client,
            _drop: ended.drop_guard(),
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

/// Says regularly that the holder lives.
struct Signs {
    client: Arc<Client>,
    name: String,
    fence: i64,
    every: Duration,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Signs {
    async fn give(self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.every) => {}
                () = self.stop.cancelled() => return,
                () = self.ended.cancelled() => return,
            }
            // The connection's own task tells when it is gone for good.
            if let Err(error) = say_alive(&self.client, &self.name, self.fence).await {
                tracing::warn!(lease = self.name, %error, "cannot say that this process lives");
                if self.client.is_closed() {
                    return;
                }
            }
        }
    }
}

async fn say_alive(client: &Client, name: &str, fence: i64) -> Result<(), tokio_postgres::Error> {
    const SQL: &str = "
        INSERT INTO lease_signs AS held (name, fence, alive_at) VALUES ($1, $2, now())
        ON CONFLICT (name) DO UPDATE SET (fence, alive_at) = (excluded.fence, excluded.alive_at)
        WHERE held.fence <= excluded.fence";
    client.execute(SQL, &[&name, &fence]).await.map(drop)
}

/// Ends the sessions of a holder that was silent for `patience`: the one with the lock, and those
/// that would keep the next holder from taking its fencing number. Returns whether there were any.
async fn end_silent(
    client: &Client,
    name: &str,
    patience: Duration,
) -> Result<bool, tokio_postgres::Error> {
    const SQL: &str = "
        SELECT count(pg_terminate_backend(l.pid, 2000)) FROM pg_locks l
        WHERE l.granted AND l.pid <> pg_backend_pid()
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND EXISTS (SELECT FROM lease_signs WHERE name = $1
                      AND alive_at < now() - make_interval(secs => $2))
          AND (l.locktype = 'advisory'
               AND l.classid::bigint = hashtext('muster lease')::bigint & 4294967295
               AND l.objid::bigint =
                   hashtext(current_schema() || '.' || $1)::bigint & 4294967295
               OR l.locktype = 'relation' AND l.relation = 'leases'::regclass
                  AND l.mode = 'RowShareLock')";
    let row = client
        .query_one(SQL, &[&name, &patience.as_secs_f64()])
        .await?;
    let ended: i64 = row.try_get(0)?;
    if ended > 0 {
        tracing::warn!(
            lease = name,
            ended,
            "the holder was silent for too long, its sessions are ended"
        );
    }
    Ok(ended > 0)
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
