//! What is told of clients to the parent site: read straight into the messages, in the transaction
//! that takes their marks off.

use std::collections::BTreeMap;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_proto::{convert, link, state as pb};
use tokio_postgres::Row;

use super::{id, large, number, query, time};
use crate::app::Error;
use crate::domain::changed::Stands;

/// A client and how far its reports are recorded.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) record: link::ClientRecord,
    pub(crate) stands: Stands,
}

/// Who these clients are, ours under this site's code.
pub(crate) async fn describe(
    db: &impl GenericClient,
    own: &str,
    clients: &[i32],
) -> Result<BTreeMap<i32, Told>, Error> {
    const SQL: &str = "
        SELECT c.client_no, c.client_id, COALESCE(c.owner_site_code, $1) AS owner, c.host_name,
               c.os_id, c.os_version_id, c.architecture, c.agent_version, c.epoch, c.enrolled_at,
               c.deleted_at IS NOT NULL AS deleted, c.certificate_ends_at, s.last_report_at,
               COALESCE(decode(c.certificate_fingerprint, 'hex'), '') AS print, c.move_no,
               s.epoch AS stream_epoch, s.has_full, s.contiguous_serial,
               EXISTS (SELECT FROM client_compliance_rows r WHERE r.client_no = c.client_no)
                   AS has_row
        FROM clients c JOIN report_streams s USING (client_no)
        WHERE c.client_no = ANY ($2)";
    if clients.is_empty() {
        return Ok(BTreeMap::new());
    }
    let told = |row: &Row| {
        let record = link::ClientRecord {
            client_id: id(row, "client_id"),
            owner_site_code: row.get("owner"),
            host_name: row.get("host_name"),
            os_id: row.get("os_id"),
            os_version_id: row.get("os_version_id"),
            architecture: row.get("architecture"),
            agent_version: row.get("agent_version"),
            epoch: number(row, "epoch"),
            enrolled_at: time(row, "enrolled_at"),
            deleted: row.get("deleted"),
            certificate_ends_at: time(row, "certificate_ends_at"),
            last_report_at: time(row, "last_report_at"),
            number: number(row, "client_no"),
            certificate_fingerprint: row.get::<_, Vec<u8>>("print").into(),
            move_no: large(row, "move_no"),
        };
        let told = Told {
            record,
            stands: Stands {
                client_id: row.get("client_id"),
                epoch: number(row, "stream_epoch"),
                has_full: row.get("has_full"),
                contiguous: large(row, "contiguous_serial"),
                has_row: row.get("has_row"),
            },
        };
        (row.get("client_no"), told)
    };
    Ok(query(db, SQL, &[&own, &clients])
        .await?
        .iter()
        .map(told)
        .collect())
}

/// States of one kind: whose, of which epoch, what.
pub(crate) type Of<T> = Vec<(i32, u32, T)>;

fn read<T>(rows: &[Row], what: impl Fn(&Row) -> T) -> Of<T> {
    let row = |row: &Row| (row.get("client_no"), number(row, "epoch"), what(row));
    rows.iter().map(row).collect()
}

fn at(row: &Row) -> Option<prost_types::Timestamp> {
    Some(convert::to_timestamp(row.get::<_, Timestamp>("changed_at")))
}

fn state(row: &Row, column: &str) -> i32 {
    row.get::<_, i16>(column).into()
}

/// What clients say of deployments: all of some, and single ones by client and deployment.
pub(crate) async fn deployments(
    db: &impl GenericClient,
    all_of: &[i32],
    keys: &[(i32, i32)],
) -> Result<Of<pb::DeploymentState>, Error> {
    const SQL: &str = "
        SELECT s.client_no, s.epoch, d.deployment_id, s.compliance, s.enforcement, s.evaluation,
               s.error_code, s.detail, s.serial, s.changed_at
        FROM deployment_states s JOIN deployments d USING (deployment_no)
        WHERE s.client_no = ANY ($1)
        UNION ALL
        SELECT s.client_no, s.epoch, d.deployment_id, s.compliance, s.enforcement, s.evaluation,
               s.error_code, s.detail, s.serial, s.changed_at
        FROM unnest($2::int4[], $3::int4[]) AS k (client_no, deployment_no)
        JOIN deployment_states s USING (client_no, deployment_no)
        JOIN deployments d USING (deployment_no)";
    if all_of.is_empty() && keys.is_empty() {
        return Ok(Vec::new());
    }
    let (clients, deployments): (Vec<i32>, Vec<i32>) = keys.iter().copied().unzip();
    let rows = query(db, SQL, &[&all_of, &clients, &deployments]).await?;
    Ok(read(&rows, |row| pb::DeploymentState {
        deployment_id: id(row, "deployment_id"),
        compliance: state(row, "compliance"),
        enforcement: state(row, "enforcement"),
        evaluation: state(row, "evaluation"),
        error_code: row.get("error_code"),
        detail: row.get("detail"),
        serial: large(row, "serial"),
        changed_at: at(row),
    }))
}

/// What clients say of updates of deployments: all of some, and single ones by client, deployment
/// and update.
pub(crate) async fn enforcements(
    db: &impl GenericClient,
    all_of: &[i32],
    keys: &[(i32, (i32, i32))],
) -> Result<Of<pb::UpdateEnforcementState>, Error> {
    const SQL: &str = "
        SELECT s.client_no, s.epoch, d.deployment_id, s.update_no, s.state, s.error_code, s.detail,
               s.serial, s.changed_at
        FROM update_enforcement_states s JOIN deployments d USING (deployment_no)
        WHERE s.client_no = ANY ($1)
        UNION ALL
        SELECT s.client_no, s.epoch, d.deployment_id, s.update_no, s.state, s.error_code, s.detail,
               s.serial, s.changed_at
        FROM unnest($2::int4[], $3::int4[], $4::int4[]) AS k (client_no, deployment_no, update_no)
        JOIN update_enforcement_states s USING (client_no, deployment_no, update_no)
        JOIN deployments d USING (deployment_no)";
    if all_of.is_empty() && keys.is_empty() {
        return Ok(Vec::new());
    }
    let clients: Vec<i32> = keys.iter().map(|key| key.0).collect();
    let deployments: Vec<i32> = keys.iter().map(|key| key.1.0).collect();
    let updates: Vec<i32> = keys.iter().map(|key| key.1.1).collect();
    let rows = query(db, SQL, &[&all_of, &clients, &deployments, &updates]).await?;
    Ok(read(&rows, |row| pb::UpdateEnforcementState {
        deployment_id: id(row, "deployment_id"),
        update_no: number(row, "update_no"),
        state: state(row, "state"),
        error_code: row.get("error_code"),
        detail: row.get("detail"),
        serial: large(row, "serial"),
        changed_at: at(row),
    }))
}

pub(crate) async fn scans(
    db: &impl GenericClient,
    clients: &[i32],
) -> Result<Of<pb::ScanState>, Error> {
    const SQL: &str = "
        SELECT client_no, epoch, state, last_scanned_at, error_code, detail, serial
        FROM scan_states WHERE client_no = ANY ($1)";
    Ok(read(&of(db, SQL, clients).await?, |row| pb::ScanState {
        state: state(row, "state"),
        last_scanned_at: time(row, "last_scanned_at"),
        error_code: row.get("error_code"),
        detail: row.get("detail"),
        serial: large(row, "serial"),
    }))
}

pub(crate) async fn restarts(
    db: &impl GenericClient,
    clients: &[i32],
) -> Result<Of<pb::RestartState>, Error> {
    const SQL: &str = "
        SELECT client_no, epoch, pending, reason, serial FROM restart_states
        WHERE client_no = ANY ($1)";
    Ok(read(&of(db, SQL, clients).await?, |row| pb::RestartState {
        pending: row.get("pending"),
        reason: row.get("reason"),
        serial: large(row, "serial"),
    }))
}

pub(crate) async fn inventories(
    db: &impl GenericClient,
    clients: &[i32],
) -> Result<Of<pb::InventorySummary>, Error> {
    const SQL: &str = "
        SELECT i.client_no, i.epoch, i.kernel, i.installed_packages, i.free_disk_bytes,
               i.memory_bytes, i.serial, c.host_name, c.os_id, c.os_version_id, c.architecture,
               c.agent_version
        FROM inventories i JOIN clients c USING (client_no) WHERE i.client_no = ANY ($1)";
    let rows = of(db, SQL, clients).await?;
    Ok(read(&rows, |row| pb::InventorySummary {
        host_name: row.get("host_name"),
        os_id: row.get("os_id"),
        os_version: row.get("os_version_id"),
        architecture: row.get("architecture"),
        kernel: row.get("kernel"),
        installed_packages: number(row, "installed_packages"),
        free_disk_bytes: large(row, "free_disk_bytes"),
        memory_bytes: large(row, "memory_bytes"),
        agent_version: row.get("agent_version"),
        serial: large(row, "serial"),
    }))
}

pub(crate) async fn health(
    db: &impl GenericClient,
    clients: &[i32],
) -> Result<Of<pb::ClientHealth>, Error> {
    const SQL: &str = "
        SELECT client_no, epoch, healthy, problems, serial FROM client_health
        WHERE client_no = ANY ($1)";
    Ok(read(&of(db, SQL, clients).await?, |row| pb::ClientHealth {
        healthy: row.get("healthy"),
        problems: row.get("problems"),
        serial: large(row, "serial"),
    }))
}

async fn of(db: &impl GenericClient, sql: &str, clients: &[i32]) -> Result<Vec<Row>, Error> {
    if clients.is_empty() {
        return Ok(Vec::new());
    }
    query(db, sql, &[&clients]).await
}
