//! What people ask: compliance, enforcement, errors, one client. Read straight into the messages.

use std::collections::HashMap;

use deadpool_postgres::GenericClient;
use muster_domain::SiteCode;
use muster_proto::report as pb;
use tokio_postgres::Row;

use super::collections::ALL_SYSTEMS;
use super::{id, number, query, query_opt, time};
use crate::app::Error;

/// What an update is called, for compliance reports.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) update_no: u32,
    pub(crate) update_id: String,
    pub(crate) title: String,
    pub(crate) classification: i32,
}

/// The names of these updates.
pub(crate) async fn named(db: &impl GenericClient, updates: &[i32]) -> Result<Vec<Named>, Error> {
    const SQL: &str = "
        SELECT update_no, update_id, title, classification FROM updates
        WHERE update_no = ANY ($1)";
    let rows = query(db, SQL, &[&updates]).await?;
    Ok(rows.iter().map(Named::from).collect())
}

/// The names of all updates.
pub(crate) async fn all_named(db: &impl GenericClient) -> Result<Vec<Named>, Error> {
    const SQL: &str = "SELECT update_no, update_id, title, classification FROM updates";
    let rows = query(db, SQL, &[]).await?;
    Ok(rows.iter().map(Named::from).collect())
}

impl From<&Row> for Named {
    fn from(row: &Row) -> Self {
        Self {
            update_no: number(row, "update_no"),
            update_id: row.get("update_id"),
            title: row.get("title"),
            classification: row.get::<_, i16>("classification").into(),
        }
    }
}

/// How these clients are shown in a list, by number; who was deleted is left out.
pub(crate) async fn clients(
    db: &impl GenericClient,
    own: SiteCode,
    clients: &[i32],
) -> Result<Vec<(u32, pb::ReportedClient)>, Error> {
    const SQL: &str = "
        SELECT c.client_no, c.client_id, c.host_name, COALESCE(n.state, 0::int2) AS scan_state,
               n.last_scanned_at, s.last_report_at, COALESCE(c.owner_site_code, $2) AS owner
        FROM clients c
        LEFT JOIN scan_states n USING (client_no)
        LEFT JOIN report_streams s USING (client_no)
        WHERE c.client_no = ANY ($1) AND c.deleted_at IS NULL ORDER BY c.client_no";
    let client = |row: &Row| {
        let client = pb::ReportedClient {
            client_id: id(row, "client_id"),
            host_name: row.get("host_name"),
            last_scanned_at: time(row, "last_scanned_at"),
            last_report_at: time(row, "last_report_at"),
            scan_state: row.get::<_, i16>("scan_state").into(),
            catalog_generation: 0,
            site_code: row.get("owner"),
        };
        (number(row, "client_no"), client)
    };
    let rows = query(db, SQL, &[&clients, &own.as_str()]).await?;
    Ok(rows.iter().map(client).collect())
}

/// What these clients said of a deployment, without its updates.
pub(crate) async fn enforcement_clients(
    db: &impl GenericClient,
    deployment_no: i32,
    clients: &[i32],
) -> Result<HashMap<i32, pb::ClientEnforcement>, Error> {
    const SQL: &str = "
        SELECT c.client_no, c.client_id, c.host_name, COALESCE(s.enforcement, 0::int2) AS state,
               COALESCE(s.error_code, 0) AS error_code, COALESCE(s.detail, '') AS detail,
               s.changed_at
        FROM clients c
        LEFT JOIN deployment_states s
          ON s.client_no = c.client_no AND s.deployment_no = $1
        WHERE c.client_no = ANY ($2)";
    let client = |row: &Row| {
        let client = pb::ClientEnforcement {
            client_id: id(row, "client_id"),
            host_name: row.get("host_name"),
            state: row.get::<_, i16>("state").into(),
            error_code: row.get("error_code"),
            detail: row.get("detail"),
            changed_at: time(row, "changed_at"),
            updates: Vec::new(),
        };
        (row.get("client_no"), client)
    };
    let rows = query(db, SQL, &[&deployment_no, &clients]).await?;
    Ok(rows.iter().map(client).collect())
}

/// What these clients said of the updates of a deployment.
pub(crate) async fn enforcement_updates(
    db: &impl GenericClient,
    deployment_no: i32,
    clients: &[i32],
) -> Result<Vec<(i32, pb::UpdateState)>, Error> {
    const SQL: &str = "
        SELECT s.client_no, s.update_no, u.update_id, u.title, s.state, s.error_code, s.detail,
               s.changed_at, concat_ws('/', d.owner_site_code, d.name) AS deployment,
               (CASE WHEN s.update_no = ANY (cc.installed) THEN 3
                     WHEN s.update_no = ANY (cc.required) THEN 2
                     WHEN cc.client_no IS NULL OR s.update_no = ANY (cc.unknown)
                       OR cc.catalog_generation < u.first_generation THEN 0
                     ELSE 1 END)::int2 AS compliance
        FROM update_enforcement_states s
        JOIN deployments d USING (deployment_no)
        JOIN updates u USING (update_no)
        LEFT JOIN client_compliance cc USING (client_no)
        WHERE s.deployment_no = $1 AND s.client_no = ANY ($2)
        ORDER BY s.client_no, u.update_id";
    let state = |row: &Row| (row.get("client_no"), update_state(row));
    Ok(query(db, SQL, &[&deployment_no, &clients])
        .await?
        .iter()
        .map(state)
        .collect())
}

fn update_state(row: &Row) -> pb::UpdateState {
    pb::UpdateState {
        update_no: number(row, "update_no"),
        update_id: row.get("update_id"),
        title: row.get("title"),
        compliance: row.get::<_, i16>("compliance").into(),
        enforcement: row.get::<_, i16>("state").into(),
        error_code: row.get("error_code"),
        detail: row.get("detail"),
        changed_at: time(row, "changed_at"),
        deployment: row.get("deployment"),
        no_data: false,
    }
}

/// All that is known of one client.
pub(crate) async fn client(
    db: &impl GenericClient,
    client_no: i32,
) -> Result<Option<pb::GetClientReportResponse>, Error> {
    const CLIENT: &str = "
        SELECT c.client_id, c.host_name, COALESCE(n.state, 0::int2) AS scan_state,
               n.last_scanned_at, COALESCE(r.pending, false) AS restart_pending,
               COALESCE(cardinality(k.installed), 0) AS installed,
               COALESCE(cardinality(k.required), 0) AS required,
               COALESCE(cardinality(k.unknown), 0) AS unknown
        FROM clients c LEFT JOIN client_compliance k USING (client_no)
        LEFT JOIN scan_states n USING (client_no) LEFT JOIN restart_states r USING (client_no)
        WHERE c.client_no = $1 AND c.deleted_at IS NULL";
    const UPDATES: &str = "
        WITH listed AS (
            SELECT unnest(required) AS update_no, 2::int2 AS compliance FROM client_compliance
            WHERE client_no = $1
            UNION ALL
            SELECT unnest(unknown), 0::int2 FROM client_compliance WHERE client_no = $1)
        SELECT update_no, COALESCE(u.update_id, '') AS update_id, COALESCE(u.title, '') AS title,
               COALESCE(l.compliance,
                   (CASE WHEN update_no = ANY (k.installed) THEN 3
                         WHEN k.catalog_generation >= u.first_generation THEN 1
                         ELSE 0 END)::int2) AS compliance,
               COALESCE(s.state, 0::int2) AS state, COALESCE(s.error_code, 0) AS error_code,
               COALESCE(s.detail, '') AS detail, s.changed_at,
               concat_ws('/', d.owner_site_code, d.name) AS deployment
        FROM listed l
        FULL JOIN (SELECT * FROM update_enforcement_states WHERE client_no = $1) AS s
            USING (update_no)
        LEFT JOIN updates u USING (update_no)
        LEFT JOIN deployments d ON d.deployment_no = s.deployment_no
        LEFT JOIN client_compliance k ON k.client_no = $1
        ORDER BY update_no, deployment LIMIT 10000";
    const DEPLOYMENTS: &str = "
        SELECT concat_ws('/', d.owner_site_code, d.name) AS name,
               COALESCE(s.enforcement, 0::int2) AS enforcement,
               COALESCE(s.evaluation, 0::int2) AS evaluation,
               COALESCE(s.compliance, 0::int2) AS compliance,
               COALESCE(s.error_code, 0) AS error_code, COALESCE(s.detail, '') AS detail,
               s.changed_at
        FROM deployments d
        LEFT JOIN deployment_states s
          ON s.deployment_no = d.deployment_no AND s.client_no = $1
        WHERE d.collection_no = $2 OR s.client_no IS NOT NULL
           OR EXISTS (SELECT FROM collection_members m
                      WHERE m.collection_no = d.collection_no AND m.client_no = $1)
        ORDER BY d.name";
    let Some(row) = query_opt(db, CLIENT, &[&client_no]).await? else {
        return Ok(None);
    };
    let deployment = |row: &Row| pb::ClientDeployment {
        deployment: row.get("name"),
        enforcement: row.get::<_, i16>("enforcement").into(),
        evaluation: row.get::<_, i16>("evaluation").into(),
        compliance: row.get::<_, i16>("compliance").into(),
        error_code: row.get("error_code"),
        detail: row.get("detail"),
        changed_at: time(row, "changed_at"),
    };
    Ok(Some(pb::GetClientReportResponse {
        client_id: id(&row, "client_id"),
        host_name: row.get("host_name"),
        scan_state: row.get::<_, i16>("scan_state").into(),
        last_scanned_at: time(&row, "last_scanned_at"),
        restart_pending: row.get("restart_pending"),
        installed: number(&row, "installed"),
        required: number(&row, "required"),
        unknown: number(&row, "unknown"),
        updates: query(db, UPDATES, &[&client_no])
            .await?
            .iter()
            .map(update_state)
            .collect(),
        deployments: query(db, DEPLOYMENTS, &[&client_no, &ALL_SYSTEMS])
            .await?
            .iter()
            .map(deployment)
            .collect(),
        list_answer: 0,
    }))
}
