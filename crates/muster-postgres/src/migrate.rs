//! Bringing a schema up to date, by one process at a time.

use std::pin::pin;

use refinery::{Report, Runner};
use tokio_postgres::Client;

use crate::{Config, Error};

/// Runs the migrations that the schema of `config` lacks, and makes the schema when it is not
/// there. Several processes may call this at once: one works, the others wait for it.
///
/// It uses a connection of its own, which ends afterwards: refinery takes no lock itself
/// (libraries.md 2.3), and the lock belongs to the session.
///
/// # Errors
/// When the server cannot be reached or a migration fails; each migration is one transaction, so
/// the earlier ones stay.
pub async fn migrate(config: &Config, runner: Runner) -> Result<Report, Error> {
    let (mut client, connection) = config.open().await?;
    let work = pin!(run(&mut client, &runner));
    tokio::select! {
        done = work => done,
        ended = connection => {
            ended?;
            Err(Error::Closed)
        }
    }
}

async fn run(client: &mut Client, runner: &Runner) -> Result<Report, Error> {
    // Waits as long as the other process needs: it is working.
    const LOCK: &str = "
        SET lock_timeout = 0;
        SELECT pg_advisory_lock(hashtext('muster migrate'), hashtext(current_setting('search_path')))";
    const SCHEMA: &str = "
        DO $$
        BEGIN
            IF to_regnamespace(current_setting('search_path')) IS NULL THEN
                EXECUTE format('CREATE SCHEMA %I', current_setting('search_path'));
            END IF;
        END $$";
    client.batch_execute(LOCK).await?;
    client.batch_execute(SCHEMA).await?;
    let report = runner.run_async(client).await.map_err(Box::new)?;
    for migration in report.applied_migrations() {
        tracing::info!(migration = %migration, "migration applied");
    }
    Ok(report)
}
