//! `deployment_states`, `update_enforcement_states`: what each client last said of each deployment
//! and of its updates. Whatever writes here returns which rows really changed, from what to what:
//! counters and bitmaps follow from that and from nothing else.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_domain::states::{
    DeploymentCompliance, DeploymentEnforcement, DeploymentEvaluation, UpdateEnforcement,
};
use tokio_postgres::Row;
use uuid::Uuid;

use super::query;
use super::states::{Fresh, column, columns};
use crate::app::Error;
use crate::domain::deployment_states::{Moved, OfDeployment, OfUpdate, StateMoves};

/// Writes what is newer than the rows.
pub(super) async fn keep_newest(
    db: &impl GenericClient,
    fresh: &Fresh,
) -> Result<StateMoves, Error> {
    let mut moves = replace(db, fresh).await?;
    let (updates, deployments) =
        tokio::try_join!(keep_updates(db, fresh), keep_deployments(db, fresh))?;
    moves.updates.extend(updates);
    moves.deployments.extend(deployments);
    Ok(moves)
}

/// Removes what a FULL report replaces; what it still says is written afterwards.
async fn replace(db: &impl GenericClient, fresh: &Fresh) -> Result<StateMoves, Error> {
    const DEPLOYMENTS: &str = "
        DELETE FROM deployment_states AS held
        USING unnest($1::int4[], $2::int4[], $3::int8[]) AS r (client_no, epoch, serial)
        WHERE held.client_no = r.client_no
          AND (held.epoch, held.serial) <= (r.epoch, r.serial)
        RETURNING held.client_no, deployment_no, compliance, enforcement, evaluation, error_code";
    const UPDATES: &str = "
        DELETE FROM update_enforcement_states AS held
        USING unnest($1::int4[], $2::int4[], $3::int8[]) AS r (client_no, epoch, serial)
        WHERE held.client_no = r.client_no
          AND (held.epoch, held.serial) <= (r.epoch, r.serial)
        RETURNING held.client_no, deployment_no, update_no, state, error_code";
    let rows = fresh.rows(|client| client.replaced_to.as_ref());
    if rows.is_empty() {
        return Ok(StateMoves::default());
    }
    let (no, epoch, serial) = columns(&rows, |serial| **serial);
    let params: super::Params<'_> = &[&no, &epoch, &serial];
    Ok(StateMoves {
        deployments: gone(
            &query(db, DEPLOYMENTS, params).await?,
            deployment_key,
            of_deployment,
        ),
        updates: gone(&query(db, UPDATES, params).await?, update_key, of_update),
    })
}

/// Removes all that clients said; what that changes.
pub(crate) async fn remove_clients(
    db: &impl GenericClient,
    clients: &[i32],
) -> Result<StateMoves, Error> {
    const DEPLOYMENTS: &str = "
        DELETE FROM deployment_states WHERE client_no = ANY ($1)
        RETURNING client_no, deployment_no, compliance, enforcement, evaluation, error_code";
    const UPDATES: &str = "
        DELETE FROM update_enforcement_states WHERE client_no = ANY ($1)
        RETURNING client_no, deployment_no, update_no, state, error_code";
    let params: super::Params<'_> = &[&clients];
    Ok(StateMoves {
        deployments: gone(
            &query(db, DEPLOYMENTS, params).await?,
            deployment_key,
            of_deployment,
        ),
        updates: gone(&query(db, UPDATES, params).await?, update_key, of_update),
    })
}

/// All that these clients said, as moves from nothing.
pub(crate) async fn of_clients(
    db: &impl GenericClient,
    clients: &[i32],
) -> Result<StateMoves, Error> {
    const DEPLOYMENTS: &str = "
        SELECT client_no, deployment_no, compliance, enforcement, evaluation, error_code
        FROM deployment_states WHERE client_no = ANY ($1)";
    const UPDATES: &str = "
        SELECT client_no, deployment_no, update_no, state, error_code
        FROM update_enforcement_states WHERE client_no = ANY ($1)";
    let deployment = |row: &Row| moved(row, deployment_key(row), None, Some(of_deployment(row)));
    let update = |row: &Row| moved(row, update_key(row), None, Some(of_update(row)));
    let (deployments, updates) = (
        query(db, DEPLOYMENTS, &[&clients]).await?,
        query(db, UPDATES, &[&clients]).await?,
    );
    Ok(StateMoves {
        deployments: deployments.iter().map(deployment).collect(),
        updates: updates.iter().map(update).collect(),
    })
}

/// What clients said of deployments, after this client and deployment; to read all.
pub(crate) async fn deployments_after(
    db: &impl GenericClient,
    (client_no, deployment_no): (i32, i32),
    limit: i64,
) -> Result<Vec<(i32, i32, OfDeployment)>, Error> {
    const SQL: &str = "
        SELECT client_no, deployment_no, compliance, enforcement, evaluation, error_code
        FROM deployment_states WHERE (client_no, deployment_no) > ($1, $2)
        ORDER BY client_no, deployment_no LIMIT $3";
    let rows = query(db, SQL, &[&client_no, &deployment_no, &limit]).await?;
    let read = |row: &Row| {
        (
            row.get("client_no"),
            deployment_key(row),
            of_deployment(row),
        )
    };
    Ok(rows.iter().map(read).collect())
}

/// What clients said of updates of deployments, after this one; to read all.
pub(crate) async fn updates_after(
    db: &impl GenericClient,
    (client_no, (deployment_no, update_no)): (i32, (i32, i32)),
    limit: i64,
) -> Result<Vec<(i32, (i32, i32), OfUpdate)>, Error> {
    const SQL: &str = "
        SELECT client_no, deployment_no, update_no, state, error_code
        FROM update_enforcement_states WHERE (client_no, deployment_no, update_no) > ($1, $2, $3)
        ORDER BY client_no, deployment_no, update_no LIMIT $4";
    let params: super::Params<'_> = &[&client_no, &deployment_no, &update_no, &limit];
    let read = |row: &Row| (row.get("client_no"), update_key(row), of_update(row));
    Ok(query(db, SQL, params).await?.iter().map(read).collect())
}

async fn keep_updates(
    db: &impl GenericClient,
    fresh: &Fresh,
) -> Result<Vec<Moved<(i32, i32), OfUpdate>>, Error> {
    // A deployment that was deleted meanwhile has no row to join: its states go with it. What a
    // row said before is read as it was when the statement began.
    const SQL: &str = "
        INSERT INTO update_enforcement_states AS held
            (client_no, deployment_no, update_no, state, error_code, detail, epoch, serial,
             changed_at)
        SELECT fresh.client_no, d.deployment_no, fresh.update_no, fresh.state, fresh.error_code,
               fresh.detail, fresh.epoch, fresh.serial, fresh.changed_at
        FROM unnest($1::int4[], $2::uuid[], $3::int4[], $4::int2[], $5::int4[], $6::text[],
                    $7::int4[], $8::int8[], $9::timestamptz[]) AS fresh
            (client_no, deployment_id, update_no, state, error_code, detail, epoch, serial,
             changed_at)
        JOIN deployments d USING (deployment_id)
        ON CONFLICT (client_no, deployment_no, update_no) DO UPDATE SET
            (state, error_code, detail, epoch, serial, changed_at) =
            (excluded.state, excluded.error_code, excluded.detail, excluded.epoch,
             excluded.serial, excluded.changed_at)
        WHERE (held.epoch, held.serial) < (excluded.epoch, excluded.serial)
        RETURNING client_no, deployment_no, update_no, state, error_code,
            (SELECT ARRAY[b.state::int4, b.error_code] FROM update_enforcement_states b
             WHERE b.client_no = held.client_no AND b.deployment_no = held.deployment_no
               AND b.update_no = held.update_no) AS before";
    let rows = fresh.rows_of(|client| &client.enforcements);
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let (no, epoch, serial) = columns(&rows, |row| row.serial);
    let deployment: Vec<Uuid> = column(&rows, |row| row.deployment_id.0);
    let update_no: Vec<i32> = column(&rows, |row| row.update_no);
    let state: Vec<i16> = column(&rows, |row| row.state.id().into());
    let error_code: Vec<i32> = column(&rows, |row| row.error_code);
    let detail: Vec<&str> = column(&rows, |row| row.detail.as_str());
    let changed_at: Vec<Timestamp> = column(&rows, |row| row.changed_at);
    let params: super::Params<'_> = &[
        &no,
        &deployment,
        &update_no,
        &state,
        &error_code,
        &detail,
        &epoch,
        &serial,
        &changed_at,
    ];
    let kept = query(db, SQL, params).await?;
    let moves = kept.iter().map(|row| {
        let before = row
            .get::<_, Option<Vec<i32>>>("before")
            .map(|before| OfUpdate {
                state: known(
                    before[0],
                    UpdateEnforcement::from_id,
                    UpdateEnforcement::Unknown,
                ),
                error_code: before[1],
            });
        moved(row, update_key(row), before, Some(of_update(row)))
    });
    Ok(moves.collect())
}

async fn keep_deployments(
    db: &impl GenericClient,
    fresh: &Fresh,
) -> Result<Vec<Moved<i32, OfDeployment>>, Error> {
    const SQL: &str = "
        INSERT INTO deployment_states AS held
            (client_no, deployment_no, compliance, enforcement, evaluation, error_code, detail,
             epoch, serial, changed_at)
        SELECT fresh.client_no, d.deployment_no, fresh.compliance, fresh.enforcement,
               fresh.evaluation, fresh.error_code, fresh.detail, fresh.epoch, fresh.serial,
               fresh.changed_at
        FROM unnest($1::int4[], $2::uuid[], $3::int2[], $4::int2[], $5::int2[], $6::int4[],
                    $7::text[], $8::int4[], $9::int8[], $10::timestamptz[]) AS fresh
            (client_no, deployment_id, compliance, enforcement, evaluation, error_code, detail,
             epoch, serial, changed_at)
        JOIN deployments d USING (deployment_id)
        ON CONFLICT (client_no, deployment_no) DO UPDATE SET
            (compliance, enforcement, evaluation, error_code, detail, epoch, serial, changed_at) =
            (excluded.compliance, excluded.enforcement, excluded.evaluation, excluded.error_code,
             excluded.detail, excluded.epoch, excluded.serial, excluded.changed_at)
        WHERE (held.epoch, held.serial) < (excluded.epoch, excluded.serial)
        RETURNING client_no, deployment_no, compliance, enforcement, evaluation, error_code,
            (SELECT ARRAY[b.compliance::int4, b.enforcement, b.evaluation, b.error_code]
             FROM deployment_states b
             WHERE b.client_no = held.client_no
               AND b.deployment_no = held.deployment_no) AS before";
    let rows = fresh.rows_of(|client| &client.deployments);
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let (no, epoch, serial) = columns(&rows, |row| row.serial);
    let deployment: Vec<Uuid> = column(&rows, |row| row.deployment_id.0);
    let compliance: Vec<i16> = column(&rows, |row| row.compliance.id().into());
    let enforcement: Vec<i16> = column(&rows, |row| row.enforcement.id().into());
    let evaluation: Vec<i16> = column(&rows, |row| row.evaluation.id().into());
    let error_code: Vec<i32> = column(&rows, |row| row.error_code);
    let detail: Vec<&str> = column(&rows, |row| row.detail.as_str());
    let changed_at: Vec<Timestamp> = column(&rows, |row| row.changed_at);
    let params: super::Params<'_> = &[
        &no,
        &deployment,
        &compliance,
        &enforcement,
        &evaluation,
        &error_code,
        &detail,
        &epoch,
        &serial,
        &changed_at,
    ];
    let kept = query(db, SQL, params).await?;
    let moves = kept.iter().map(|row| {
        let before = row.get::<_, Option<Vec<i32>>>("before");
        let before = before.map(|it| said(it[0], it[1], it[2], it[3]));
        moved(row, deployment_key(row), before, Some(of_deployment(row)))
    });
    Ok(moves.collect())
}

fn gone<K, S>(rows: &[Row], key: fn(&Row) -> K, said: fn(&Row) -> S) -> Vec<Moved<K, S>> {
    let gone = |row: &Row| moved(row, key(row), Some(said(row)), None);
    rows.iter().map(gone).collect()
}

fn moved<K, S>(row: &Row, key: K, from: Option<S>, to: Option<S>) -> Moved<K, S> {
    Moved {
        client_no: row.get("client_no"),
        key,
        from,
        to,
    }
}

fn deployment_key(row: &Row) -> i32 {
    row.get("deployment_no")
}

fn update_key(row: &Row) -> (i32, i32) {
    (row.get("deployment_no"), row.get("update_no"))
}

fn of_deployment(row: &Row) -> OfDeployment {
    let state = |name| i32::from(row.get::<_, i16>(name));
    let states = (
        state("compliance"),
        state("enforcement"),
        state("evaluation"),
    );
    said(states.0, states.1, states.2, row.get("error_code"))
}

fn said(compliance: i32, enforcement: i32, evaluation: i32, error_code: i32) -> OfDeployment {
    use {DeploymentCompliance as C, DeploymentEnforcement as E, DeploymentEvaluation as V};
    OfDeployment {
        compliance: known(compliance, C::from_id, C::Unknown),
        enforcement: known(enforcement, E::from_id, E::Unknown),
        evaluation: known(evaluation, V::from_id, V::Unknown),
        error_code,
    }
}

fn of_update(row: &Row) -> OfUpdate {
    let state: i16 = row.get("state");
    OfUpdate {
        state: known(
            state.into(),
            UpdateEnforcement::from_id,
            UpdateEnforcement::Unknown,
        ),
        error_code: row.get("error_code"),
    }
}

/// The state with this number; the tables' own checks see to it that there is one.
fn known<S>(id: i32, from_id: impl Fn(u8) -> Option<S>, unknown: S) -> S {
    u8::try_from(id).ok().and_then(from_id).unwrap_or(unknown)
}
