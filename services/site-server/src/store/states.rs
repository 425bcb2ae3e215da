//! The newest state per client and topic. Every statement keeps a value only when its
//! (epoch, serial) is higher than what the row holds (reliability.md D7), so that reports may
//! come twice, late and in any order. Those of deployments are in `deployment_states.rs`.

use std::collections::BTreeMap;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use uuid::Uuid;

use super::{deployment_states, execute};
use crate::app::Error;
use crate::domain::deployment_states::StateMoves;
use crate::domain::report::{
    DeploymentState, Enforcement, Health, Inventory, RestartState, ScanState,
};

/// What one batch says, the newest value of each key only.
#[derive(Debug, Default)]
pub(crate) struct Fresh {
    /// By client.
    pub(crate) clients: BTreeMap<i32, Client>,
}

/// What one client says in one batch, all in one epoch.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) epoch: i32,
    /// Everything up to this serial was replaced by a FULL report.
    pub(crate) replaced_to: Option<i64>,
    pub(crate) enforcements: BTreeMap<(Uuid, i32), Enforcement>,
    pub(crate) deployments: BTreeMap<Uuid, DeploymentState>,
    pub(crate) scan: Option<ScanState>,
    pub(crate) restart: Option<RestartState>,
    pub(crate) inventory: Option<Inventory>,
    pub(crate) health: Option<Health>,
}

impl Fresh {
    pub(super) fn rows<'a, T: 'a>(
        &'a self,
        pick: impl Fn(&'a Client) -> Option<&'a T>,
    ) -> Vec<(i32, i32, &'a T)> {
        let row = |(no, client): (&i32, &'a Client)| Some((*no, client.epoch, pick(client)?));
        self.clients.iter().filter_map(row).collect()
    }

    pub(super) fn rows_of<'a, K: 'a, T: 'a>(
        &'a self,
        pick: impl Fn(&'a Client) -> &'a BTreeMap<K, T>,
    ) -> Vec<(i32, i32, &'a T)> {
        let of_client = |(no, client): (&i32, &'a Client)| {
            let (no, epoch) = (*no, client.epoch);
            let states = pick(client).values();
            states.map(move |state| (no, epoch, state))
        };
        self.clients.iter().flat_map(of_client).collect()
    }
}

/// Writes all of it, without waiting for one table before the next; returns what really changed of deployments.
pub(crate) async fn keep_newest(
    db: &impl GenericClient,
    fresh: &Fresh,
) -> Result<StateMoves, Error> {
    let (moves, (), (), (), ()) = tokio::try_join!(
        deployment_states::keep_newest(db, fresh),
        keep_scans(db, fresh),
        keep_restarts(db, fresh),
        keep_inventories(db, fresh),
        keep_health(db, fresh),
    )?;
    Ok(moves)
}

pub(super) fn columns<'a, T>(
    rows: &[(i32, i32, &'a T)],
    serial: impl Fn(&&'a T) -> i64,
) -> (Vec<i32>, Vec<i32>, Vec<i64>) {
    (
        rows.iter().map(|(no, _, _)| *no).collect(),
        rows.iter().map(|(_, epoch, _)| *epoch).collect(),
        rows.iter().map(|(_, _, row)| serial(row)).collect(),
    )
}

pub(super) fn column<'a, T, C>(rows: &[(i32, i32, &'a T)], pick: impl Fn(&'a T) -> C) -> Vec<C> {
    rows.iter().map(|(_, _, row)| pick(row)).collect()
}

async fn keep_scans(db: &impl GenericClient, fresh: &Fresh) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO scan_states AS held
            (client_no, state, last_scanned_at, error_code, detail, epoch, serial)
        SELECT * FROM unnest($1::int4[], $2::int2[], $3::timestamptz[], $4::int4[], $5::text[],
                             $6::int4[], $7::int8[])
        ON CONFLICT (client_no) DO UPDATE SET
            (state, last_scanned_at, error_code, detail, epoch, serial) =
            (excluded.state, COALESCE(excluded.last_scanned_at, held.last_scanned_at),
             excluded.error_code, excluded.detail, excluded.epoch, excluded.serial)
        WHERE (held.epoch, held.serial) < (excluded.epoch, excluded.serial)";
    let rows = fresh.rows(|client| client.scan.as_ref());
    if rows.is_empty() {
        return Ok(());
    }
    let (no, epoch, serial) = columns(&rows, |row| row.serial);
    let state: Vec<i16> = column(&rows, |row| row.state.id().into());
    let scanned_at: Vec<Option<Timestamp>> = column(&rows, |row| row.last_scanned_at);
    let error_code: Vec<i32> = column(&rows, |row| row.error_code);
    let detail: Vec<&str> = column(&rows, |row| row.detail.as_str());
    let params: super::Params<'_> = &[
        &no,
        &state,
        &scanned_at,
        &error_code,
        &detail,
        &epoch,
        &serial,
    ];
    execute(db, SQL, params).await?;
    Ok(())
}

async fn keep_restarts(db: &impl GenericClient, fresh: &Fresh) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO restart_states AS held (client_no, pending, reason, epoch, serial)
        SELECT * FROM unnest($1::int4[], $2::boolean[], $3::text[], $4::int4[], $5::int8[])
        ON CONFLICT (client_no) DO UPDATE SET (pending, reason, epoch, serial) =
            (excluded.pending, excluded.reason, excluded.epoch, excluded.serial)
        WHERE (held.epoch, held.serial) < (excluded.epoch, excluded.serial)";
    let rows = fresh.rows(|client| client.restart.as_ref());
    if rows.is_empty() {
        return Ok(());
    }
    let (no, epoch, serial) = columns(&rows, |row| row.serial);
    let pending: Vec<bool> = column(&rows, |row| row.pending);
    let reason: Vec<&str> = column(&rows, |row| row.reason.as_str());
    execute(db, SQL, &[&no, &pending, &reason, &epoch, &serial]).await?;
    Ok(())
}

async fn keep_inventories(db: &impl GenericClient, fresh: &Fresh) -> Result<(), Error> {
    const SQL: &str = "
        WITH kept AS (
            INSERT INTO inventories AS held
                (client_no, kernel, installed_packages, free_disk_bytes, memory_bytes, epoch,
                 serial)
            SELECT * FROM unnest($1::int4[], $2::text[], $3::int4[], $4::int8[], $5::int8[],
                                 $6::int4[], $7::int8[])
            ON CONFLICT (client_no) DO UPDATE SET
                (kernel, installed_packages, free_disk_bytes, memory_bytes, epoch, serial) =
                (excluded.kernel, excluded.installed_packages, excluded.free_disk_bytes,
                 excluded.memory_bytes, excluded.epoch, excluded.serial)
            WHERE (held.epoch, held.serial) < (excluded.epoch, excluded.serial)
            RETURNING client_no)
        UPDATE clients AS c SET (host_name, os_id, os_version_id, architecture, agent_version) =
            (f.host_name, f.os_id, f.os_version_id, f.architecture, f.agent_version)
        FROM unnest($1::int4[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[]) AS f
            (client_no, host_name, os_id, os_version_id, architecture, agent_version)
        JOIN kept USING (client_no)
        WHERE c.client_no = f.client_no
          AND (c.host_name, c.os_id, c.os_version_id, c.architecture, c.agent_version) <>
              (f.host_name, f.os_id, f.os_version_id, f.architecture, f.agent_version)";
    let rows = fresh.rows(|client| client.inventory.as_ref());
    if rows.is_empty() {
        return Ok(());
    }
    let (no, epoch, serial) = columns(&rows, |row| row.serial);
    let kernel: Vec<&str> = column(&rows, |row| row.kernel.as_str());
    let packages: Vec<i32> = column(&rows, |row| row.installed_packages);
    let disk: Vec<i64> = column(&rows, |row| row.free_disk_bytes);
    let memory: Vec<i64> = column(&rows, |row| row.memory_bytes);
    let host: Vec<&str> = column(&rows, |row| row.host_name.as_str());
    let os: Vec<&str> = column(&rows, |row| row.os_id.as_str());
    let os_version: Vec<&str> = column(&rows, |row| row.os_version.as_str());
    let architecture: Vec<&str> = column(&rows, |row| row.architecture.as_str());
    let agent: Vec<&str> = column(&rows, |row| row.agent_version.as_str());
    let params: super::Params<'_> = &[
        &no,
        &kernel,
        &packages,
        &disk,
        &memory,
        &epoch,
        &serial,
        &host,
        &os,
        &os_version,
        &architecture,
        &agent,
    ];
    execute(db, SQL, params).await?;
    Ok(())
}

async fn keep_health(db: &impl GenericClient, fresh: &Fresh) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO client_health AS held (client_no, healthy, problems, epoch, serial)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (client_no) DO UPDATE SET (healthy, problems, epoch, serial) =
            (excluded.healthy, excluded.problems, excluded.epoch, excluded.serial)
        WHERE (held.epoch, held.serial) < (excluded.epoch, excluded.serial)";
    for (client_no, epoch, health) in fresh.rows(|client| client.health.as_ref()) {
        let params: super::Params<'_> = &[
            &client_no,
            &health.healthy,
            &health.problems,
            &epoch,
            &health.serial,
        ];
        execute(db, SQL, params).await?;
    }
    Ok(())
}
