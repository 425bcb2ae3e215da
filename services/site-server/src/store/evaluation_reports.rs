//! Whether clients could evaluate a deployment. Read straight into the messages.

use deadpool_postgres::GenericClient;
use muster_proto::report as pb;
use tokio_postgres::Row;

use super::collections::ALL_SYSTEMS;
use super::{id, number, query, time};
use crate::app::Error;
use crate::domain::client_page::ClientPage;
use crate::domain::site_tree::Owners;

/// Clients of a deployment's collection by state of topic 302; one that never said is unknown.
pub(crate) async fn counts(
    db: &impl GenericClient,
    deployment_no: i32,
    owners: &Owners,
) -> Result<Vec<pb::EvaluationCount>, Error> {
    const SQL: &str = "
        SELECT COALESCE(s.evaluation, 0::int2) AS state, count(*)::int4 AS clients
        FROM deployments d
        JOIN clients c ON c.deleted_at IS NULL
         AND (d.collection_no = $2 OR EXISTS (SELECT FROM collection_members m
              WHERE m.collection_no = d.collection_no AND m.client_no = c.client_no))
        LEFT JOIN deployment_states s
          ON s.client_no = c.client_no AND s.deployment_no = d.deployment_no
        WHERE d.deployment_no = $1 AND ($3::text[] IS NULL OR c.owner_site_code = ANY ($3))
        GROUP BY 1 ORDER BY 1";
    let count = |row: &Row| pb::EvaluationCount {
        state: row.get::<_, i16>("state").into(),
        clients: number(row, "clients"),
    };
    let params: super::Params<'_> = &[&deployment_no, &ALL_SYSTEMS, &owners.codes()];
    let rows = query(db, SQL, params).await?;
    Ok(rows.iter().map(count).collect())
}

/// The clients behind the counts, with their numbers.
pub(crate) async fn clients(
    db: &impl GenericClient,
    (deployment_no, owners): (i32, &Owners),
    state: Option<i16>,
    page: ClientPage,
) -> Result<Vec<(u32, pb::ClientEvaluation)>, Error> {
    const SQL: &str = "
        SELECT c.client_no, c.client_id, c.host_name, COALESCE(s.evaluation, 0::int2) AS state,
               COALESCE(s.compliance, 0::int2) AS compliance,
               COALESCE(s.error_code, 0) AS error_code, COALESCE(s.detail, '') AS detail,
               s.changed_at
        FROM deployments d
        JOIN clients c ON c.deleted_at IS NULL AND c.client_no > $4
         AND (d.collection_no = $2 OR EXISTS (SELECT FROM collection_members m
              WHERE m.collection_no = d.collection_no AND m.client_no = c.client_no))
        LEFT JOIN deployment_states s
          ON s.client_no = c.client_no AND s.deployment_no = d.deployment_no
        WHERE d.deployment_no = $1
          AND ($3::int2 IS NULL OR COALESCE(s.evaluation, 0::int2) = $3)
          AND ($6::text[] IS NULL OR c.owner_site_code = ANY ($6))
        ORDER BY c.client_no LIMIT $5";
    let client = |row: &Row| {
        let client = pb::ClientEvaluation {
            client_id: id(row, "client_id"),
            host_name: row.get("host_name"),
            state: row.get::<_, i16>("state").into(),
            compliance: row.get::<_, i16>("compliance").into(),
            error_code: row.get("error_code"),
            detail: row.get("detail"),
            changed_at: time(row, "changed_at"),
        };
        (number(row, "client_no"), client)
    };
    let params: super::Params<'_> = &[
        &deployment_no,
        &ALL_SYSTEMS,
        &state,
        &page.after_no(),
        &page.probe_rows(),
        &owners.codes(),
    ];
    Ok(query(db, SQL, params).await?.iter().map(client).collect())
}
