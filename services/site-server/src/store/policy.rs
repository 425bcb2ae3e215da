//! What a client's policy is made of.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_domain::ClientId;
use tokio_postgres::Row;
use uuid::Uuid;

use super::collections::ALL_SYSTEMS;
use super::{execute, query, query_opt};
use crate::app::Error;

/// What one poll needs to know.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) client_no: i32,
    pub(crate) deleted: bool,
    /// Nothing less than everything is of use.
    pub(crate) wants_full: bool,
    /// It is due to be asked for something, or has been and did not answer.
    pub(crate) is_asked: bool,
    /// It is to be another site's.
    pub(crate) is_moved: bool,
    pub(crate) revision: i64,
    /// Ascending.
    pub(crate) deployments: Vec<i32>,
}

/// Who asks, what is deployed to it, and the revision of policy, in one look. What a site below made is
/// for clients below it.
pub(crate) async fn asking(
    db: &impl GenericClient,
    client_id: ClientId,
    now: Timestamp,
) -> Result<Option<Asking>, Error> {
    const SQL: &str = "
        SELECT c.client_no, c.deleted_at IS NOT NULL AS deleted,
               s.wants_full,
               COALESCE(s.ask_tries > 0 OR s.ask_at <= $2, false) AS is_asked,
               EXISTS (SELECT FROM client_moves m
                       WHERE m.client_id = c.client_id AND m.move_no > c.move_no) AS is_moved,
               (SELECT revision FROM policy_revision) AS revision,
               ARRAY(SELECT d.deployment_no FROM deployments d
                     WHERE (d.collection_no = $3
                            OR EXISTS (SELECT FROM collection_members m
                                       WHERE m.collection_no = d.collection_no
                                         AND m.client_no = c.client_no))
                       AND (d.owner_site_code IS NULL OR NOT EXISTS (
                            SELECT FROM sites s WHERE s.site_code = d.owner_site_code
                              AND s.via_site_code IS NOT NULL))
                     ORDER BY d.deployment_no) AS deployments
        FROM clients c JOIN report_streams s USING (client_no)
        WHERE c.client_id = $1 AND c.via_site_code IS NULL";
    let row = query_opt(db, SQL, &[&client_id.0, &now, &ALL_SYSTEMS]).await?;
    Ok(row.map(|row| Asking {
        client_no: row.get("client_no"),
        deleted: row.get("deleted"),
        wants_full: row.get("wants_full"),
        is_asked: row.get("is_asked"),
        is_moved: row.get("is_moved"),
        revision: row.get("revision"),
        deployments: row.get("deployments"),
    }))
}

/// Notes that a client has fetched policy, at most once a minute: a poll must not cost a write.
pub(crate) async fn seen(db: &impl GenericClient, client_no: i32) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE clients SET last_policy_at = now() WHERE client_no = $1
        AND (last_policy_at IS NULL OR last_policy_at < now() - interval '1 minute')";
    execute(db, SQL, &[&client_no]).await?;
    Ok(())
}

#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) available_at: Timestamp,
    pub(crate) deadline_at: Option<Timestamp>,
    pub(crate) suppress_restart: bool,
    /// As on the wire.
    pub(crate) verbosity: i16,
    pub(crate) updates: Vec<i32>,
}

pub(crate) async fn deployments(
    db: &impl GenericClient,
    numbers: &[i32],
) -> Result<Vec<Deployment>, Error> {
    const SQL: &str = "
        SELECT d.deployment_id, d.name, d.available_at, d.deadline_at, d.suppress_restart,
               d.verbosity,
               ARRAY(SELECT u.update_no FROM deployment_updates u
                     WHERE u.deployment_no = d.deployment_no ORDER BY u.update_no) AS updates
        FROM deployments d WHERE d.deployment_no = ANY ($1) ORDER BY d.deployment_no";
    let deployment = |row: &Row| Deployment {
        id: row.get("deployment_id"),
        name: row.get("name"),
        available_at: row.get("available_at"),
        deadline_at: row.get("deadline_at"),
        suppress_restart: row.get("suppress_restart"),
        verbosity: row.get("verbosity"),
        updates: row.get("updates"),
    };
    Ok(query(db, SQL, &[&numbers])
        .await?
        .iter()
        .map(deployment)
        .collect())
}

#[derive(Debug)]
pub(crate) struct Update {
    pub(crate) update_no: i32,
    pub(crate) update_id: String,
    pub(crate) title: String,
    pub(crate) suite: String,
    pub(crate) max_run_time_minutes: i32,
    pub(crate) needs_exclusive_handling: bool,
}

pub(crate) async fn updates(
    db: &impl GenericClient,
    numbers: &[i32],
) -> Result<Vec<Update>, Error> {
    const SQL: &str = "
        SELECT update_no, update_id, title, suite, max_run_time_minutes, needs_exclusive_handling
        FROM updates WHERE update_no = ANY ($1) ORDER BY update_no";
    let update = |row: &Row| Update {
        update_no: row.get("update_no"),
        update_id: row.get("update_id"),
        title: row.get("title"),
        suite: row.get("suite"),
        max_run_time_minutes: row.get("max_run_time_minutes"),
        needs_exclusive_handling: row.get("needs_exclusive_handling"),
    };
    Ok(query(db, SQL, &[&numbers])
        .await?
        .iter()
        .map(update)
        .collect())
}

/// A file that some distribution point offers.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) update_no: i32,
    pub(crate) package: String,
    pub(crate) version: String,
    pub(crate) architecture: String,
    pub(crate) sha256: Vec<u8>,
    pub(crate) size: i64,
    pub(crate) archive_uri: String,
}

pub(crate) async fn files(db: &impl GenericClient, updates: &[i32]) -> Result<Vec<File>, Error> {
    const SQL: &str = "
        SELECT l.update_no, l.package, l.version, l.architecture, l.sha256, l.size, l.archive_uri
        FROM update_leaves l
        WHERE l.update_no = ANY ($1)
          AND EXISTS (SELECT FROM distribution_states s WHERE s.sha256 = l.sha256 AND s.state = 3)
        ORDER BY l.update_no, l.leaf_no";
    let file = |row: &Row| File {
        update_no: row.get("update_no"),
        package: row.get("package"),
        version: row.get("version"),
        architecture: row.get("architecture"),
        sha256: row.get("sha256"),
        size: row.get("size"),
        archive_uri: row.get("archive_uri"),
    };
    Ok(query(db, SQL, &[&updates])
        .await?
        .iter()
        .map(file)
        .collect())
}

/// A suite that some distribution point offers.
#[derive(Debug, Clone)]
pub(crate) struct Suite {
    pub(crate) key: String,
    pub(crate) suite: String,
    pub(crate) components: Vec<String>,
    pub(crate) architectures: Vec<String>,
    pub(crate) signed_by: String,
    pub(crate) ignore_valid_until: bool,
}

pub(crate) async fn suites(db: &impl GenericClient) -> Result<Vec<Suite>, Error> {
    const SQL: &str = "
        SELECT DISTINCT ON (suite_key) suite_key, suite, components, architectures, signed_by,
               ignore_valid_until
        FROM published_suites ORDER BY suite_key, published_at DESC";
    let suite = |row: &Row| Suite {
        key: row.get("suite_key"),
        suite: row.get("suite"),
        components: row.get("components"),
        architectures: row.get("architectures"),
        signed_by: row.get("signed_by"),
        ignore_valid_until: row.get("ignore_valid_until"),
    };
    Ok(query(db, SQL, &[]).await?.iter().map(suite).collect())
}
