//! `deployments` with their updates and how far they are.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_domain::DeploymentId;
use muster_domain::states::{DeploymentCompliance, DeploymentEnforcement, Progress};
use muster_proto::deployment as pb;
use tokio_postgres::Row;
use uuid::Uuid;

use super::collections::ALL_SYSTEMS;
use super::{execute, id, number, query, query_one, query_opt, time};
use crate::app::Error;
use crate::domain::page::Page;

/// A deployment that is to be made.
#[derive(Debug)]
pub(crate) struct New {
    pub(crate) name: String,
    pub(crate) collection_no: i32,
    pub(crate) update_list_no: Option<i32>,
    pub(crate) updates: Vec<i32>,
    pub(crate) available_at: Timestamp,
    pub(crate) deadline_at: Option<Timestamp>,
    pub(crate) suppress_restart: bool,
}

pub(crate) async fn add(db: &impl GenericClient, new: &New) -> Result<i32, Error> {
    const SQL: &str = "
        INSERT INTO deployments (deployment_id, name, collection_no, update_list_no, available_at,
                                 deadline_at, suppress_restart)
        VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING deployment_no";
    const UPDATES: &str = "
        INSERT INTO deployment_updates (deployment_no, update_no) SELECT $1, unnest($2::int4[])";
    let params: super::Params<'_> = &[
        &DeploymentId::generate().0,
        &new.name,
        &new.collection_no,
        &new.update_list_no,
        &new.available_at,
        &new.deadline_at,
        &new.suppress_restart,
    ];
    let deployment_no: i32 = query_one(db, SQL, params).await?.get(0);
    execute(db, UPDATES, &[&deployment_no, &new.updates]).await?;
    Ok(deployment_no)
}

/// Number of a deployment, by name or by id as text.
pub(crate) async fn find(db: &impl GenericClient, name: &str) -> Result<Option<i32>, Error> {
    const SQL: &str = "
        SELECT deployment_no FROM deployments WHERE lower(name) = lower($1) OR deployment_id = $2";
    let id: Option<Uuid> = name.parse().ok();
    Ok(query_opt(db, SQL, &[&name, &id])
        .await?
        .map(|row| row.get(0)))
}

/// Removes a deployment; its states go with it.
pub(crate) async fn delete(db: &impl GenericClient, deployment_no: i32) -> Result<(), Error> {
    const SQL: &str = "DELETE FROM deployments WHERE deployment_no = $1";
    execute(db, SQL, &[&deployment_no]).await?;
    Ok(())
}

/// Most deployments that any client of a collection has.
pub(crate) async fn count_for(db: &impl GenericClient, collection_no: i32) -> Result<i64, Error> {
    const SQL: &str = "
        SELECT count(*) FROM deployments WHERE collection_no = $1 OR collection_no = $2";
    Ok(query_one(db, SQL, &[&collection_no, &ALL_SYSTEMS])
        .await?
        .get(0))
}

const COLUMNS: &str = "
    SELECT d.deployment_no, d.deployment_id, d.name, c.name AS collection,
           COALESCE(l.name, '') AS update_list, d.created_at, d.available_at, d.deadline_at,
           d.suppress_restart,
           ARRAY(SELECT u.update_no FROM deployment_updates u
                 WHERE u.deployment_no = d.deployment_no ORDER BY u.update_no) AS updates
    FROM deployments d
    JOIN collections c USING (collection_no)
    LEFT JOIN update_lists l USING (update_list_no) ";

fn deployment(row: &Row) -> pb::Deployment {
    let updates: Vec<i32> = row.get("updates");
    pb::Deployment {
        deployment_id: id(row, "deployment_id"),
        name: row.get("name"),
        collection: row.get("collection"),
        update_list: row.get("update_list"),
        created_at: time(row, "created_at"),
        available_at: time(row, "available_at"),
        deadline_at: time(row, "deadline_at"),
        update_count: u32::try_from(updates.len()).unwrap_or(u32::MAX),
        suppress_restart: row.get("suppress_restart"),
        update_numbers: updates.iter().map(|number| number.unsigned_abs()).collect(),
    }
}

pub(crate) async fn show(
    db: &impl GenericClient,
    deployment_no: i32,
) -> Result<pb::Deployment, Error> {
    static SQL: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| [COLUMNS, "WHERE d.deployment_no = $1"].concat());
    Ok(deployment(&query_one(db, &SQL, &[&deployment_no]).await?))
}

pub(crate) async fn list(
    db: &impl GenericClient,
    page: Page,
) -> Result<Vec<pb::Deployment>, Error> {
    static SQL: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| [COLUMNS, "ORDER BY d.name LIMIT $1 OFFSET $2"].concat());
    let rows = query(db, &SQL, &[&page.probe(), &page.offset]).await?;
    Ok(rows.iter().map(deployment).collect())
}

/// Clients of the deployment's collection by state, and clients × updates by state.
pub(crate) async fn summary(
    db: &impl GenericClient,
    deployment_no: i32,
) -> Result<pb::DeploymentSummary, Error> {
    const CLIENTS: &str = "
        WITH members AS (
            SELECT c.client_no FROM clients c, deployments d
            WHERE d.deployment_no = $1 AND c.deleted_at IS NULL
              AND (d.collection_no = $2 OR EXISTS (SELECT FROM collection_members m
                   WHERE m.collection_no = d.collection_no AND m.client_no = c.client_no)))
        SELECT COALESCE(s.enforcement, 0::int2) AS enforcement,
               COALESCE(s.compliance, 0::int2) AS compliance, count(*)::int4 AS clients
        FROM members LEFT JOIN deployment_states s
          ON s.client_no = members.client_no AND s.deployment_no = $1
        GROUP BY 1, 2 ORDER BY 1, 2";
    const UPDATES: &str = "
        SELECT state, count(*)::int4 AS count FROM update_enforcement_states
        WHERE deployment_no = $1 GROUP BY 1 ORDER BY 1";
    let mut summary = pb::DeploymentSummary::default();
    for row in query(db, CLIENTS, &[&deployment_no, &ALL_SYSTEMS]).await? {
        let clients = number(&row, "clients");
        let enforcement: i16 = row.get("enforcement");
        summary.clients += clients;
        *column(&mut summary, enforcement, row.get("compliance")) += clients;
        match summary.enforcement.last_mut() {
            Some(last) if last.state == i32::from(enforcement) => last.clients += clients,
            _ => summary.enforcement.push(pb::EnforcementCount {
                state: enforcement.into(),
                clients,
            }),
        }
    }
    for row in query(db, UPDATES, &[&deployment_no]).await? {
        let state = row.get::<_, i16>("state").into();
        summary.updates.push(pb::UpdateEnforcementCount {
            state,
            count: number(&row, "count"),
        });
    }
    Ok(summary)
}

/// Which of the four columns a client counts in. A client that needs none of the updates is
/// compliant without ever having installed anything.
fn column(summary: &mut pb::DeploymentSummary, enforcement: i16, compliance: i16) -> &mut u32 {
    let id = |id: i16| u8::try_from(id).unwrap_or(0);
    let enforcement =
        DeploymentEnforcement::from_id(id(enforcement)).unwrap_or(DeploymentEnforcement::Unknown);
    let compliance =
        DeploymentCompliance::from_id(id(compliance)).unwrap_or(DeploymentCompliance::Unknown);
    match (enforcement.progress(), compliance) {
        (Progress::Error, _) => &mut summary.failed,
        (Progress::Success, _) | (_, DeploymentCompliance::Compliant) => &mut summary.compliant,
        (Progress::InProgress, _)
        | (
            Progress::Unknown,
            DeploymentCompliance::NonCompliant | DeploymentCompliance::Conflict,
        ) => &mut summary.in_progress,
        (Progress::Unknown, DeploymentCompliance::Unknown) => &mut summary.unknown,
    }
}

/// The name of a deployment that has updates of this package, if there is one.
pub(crate) async fn using_package_updates(
    db: &impl GenericClient,
    package_no: i32,
) -> Result<Option<String>, Error> {
    const SQL: &str = "
        SELECT d.name FROM deployments d JOIN deployment_updates u USING (deployment_no)
        JOIN package_updates p ON p.update_no = u.update_no
        WHERE p.package_no = $1 LIMIT 1";
    Ok(query_opt(db, SQL, &[&package_no])
        .await?
        .map(|row| row.get(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_states_counts_in_the_column_that_people_expect() {
        let counted = |enforcement, compliance| {
            let mut summary = pb::DeploymentSummary::default();
            *column(&mut summary, enforcement, compliance) += 1;
            (
                summary.compliant,
                summary.in_progress,
                summary.failed,
                summary.unknown,
            )
        };
        assert_eq!(counted(4, 1), (1, 0, 0, 0));
        assert_eq!(counted(0, 1), (1, 0, 0, 0), "nothing of it was required");
        assert_eq!(counted(6, 2), (0, 0, 1, 0));
        assert_eq!(counted(7, 2), (0, 1, 0, 0));
        assert_eq!(counted(0, 2), (0, 1, 0, 0), "waits for its deadline");
        assert_eq!(counted(0, 0), (0, 0, 0, 1));
    }
}
