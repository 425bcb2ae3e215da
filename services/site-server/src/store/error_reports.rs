//! What goes wrong with deployments, and on which clients. Read straight into the messages.

use deadpool_postgres::GenericClient;
use muster_domain::error_code;
use muster_proto::report as pb;
use tokio_postgres::Row;

use super::{id, number, query, time};
use crate::app::Error;
use crate::domain::client_page::ClientPage;
use crate::domain::site_tree::Owners;

/// Which errors: those of a deployment, those of an update, those of clients of some sites, what is
/// all of that, or all.
#[derive(Debug, Clone)]
pub(crate) struct Which {
    pub(crate) deployment_no: Option<i32>,
    /// Errors of deployments as a whole are not of an update.
    pub(crate) update_no: Option<i32>,
    pub(crate) owners: Owners,
}

/// Errors, most clients first; counted apart by deployment (1) or by update (2).
pub(crate) async fn ranked(
    db: &impl GenericClient,
    which: &Which,
    apart_by: i16,
) -> Result<Vec<pb::ErrorCount>, Error> {
    const SQL: &str = "
        SELECT r.error_code, r.clients, r.updates, r.detail,
               concat_ws('/', d.owner_site_code, d.name) AS deployment,
               COALESCE(r.update_no, 0) AS update_no, COALESCE(u.title, '') AS title
        FROM (SELECT error_code, CASE WHEN $3::int2 = 1 THEN deployment_no END AS deployment_no,
                     CASE WHEN $3::int2 = 2 THEN update_no END AS update_no,
                     count(DISTINCT client_no)::int4 AS clients,
                     count(DISTINCT update_no)::int4 AS updates, max(detail) AS detail
              FROM (SELECT error_code, client_no, update_no, detail, deployment_no
                    FROM update_enforcement_states WHERE error_code <> 0
                    UNION ALL
                    SELECT error_code, client_no, NULL, detail, deployment_no
                    FROM deployment_states WHERE error_code <> 0) AS states
              WHERE ($1::int4 IS NULL OR deployment_no = $1)
                AND ($2::int4 IS NULL OR update_no = $2)
                AND ($3::int2 <> 2 OR update_no IS NOT NULL)
                AND ($4::text[] IS NULL OR client_no IN (
                     SELECT client_no FROM clients WHERE owner_site_code = ANY ($4)))
              GROUP BY 1, 2, 3
              ORDER BY clients DESC, updates DESC, 1, 2, 3 LIMIT 1000) AS r
        LEFT JOIN deployments d USING (deployment_no)
        LEFT JOIN updates u USING (update_no)
        ORDER BY r.clients DESC, r.updates DESC, r.error_code, d.name, r.update_no";
    let count = |row: &Row| {
        let error_code: i32 = row.get("error_code");
        pb::ErrorCount {
            error_code,
            meaning: error_code::meaning(error_code)
                .unwrap_or("not one of ours")
                .to_owned(),
            example_detail: row.get("detail"),
            clients: number(row, "clients"),
            updates: number(row, "updates"),
            deployment: row.get("deployment"),
            update_no: number(row, "update_no"),
            title: row.get("title"),
        }
    };
    let params: super::Params<'_> = &[
        &which.deployment_no,
        &which.update_no,
        &apart_by,
        &which.owners.codes(),
    ];
    Ok(query(db, SQL, params).await?.iter().map(count).collect())
}

/// The clients behind an error, with their numbers.
pub(crate) async fn clients(
    db: &impl GenericClient,
    error_code: i32,
    which: &Which,
    page: ClientPage,
) -> Result<Vec<(u32, pb::ClientError)>, Error> {
    const SQL: &str = "
        SELECT c.client_no, c.client_id, c.host_name, p.updates, p.detail, p.changed_at
        FROM (SELECT client_no, count(DISTINCT update_no)::int4 AS updates,
                     (array_agg(detail ORDER BY changed_at DESC, update_no, detail))[1] AS detail,
                     max(changed_at) AS changed_at
              FROM (SELECT client_no, update_no, detail, changed_at, deployment_no
                    FROM update_enforcement_states
                    WHERE error_code <> 0 AND error_code = $1 AND client_no > $4
                    UNION ALL
                    SELECT client_no, NULL, detail, changed_at, deployment_no
                    FROM deployment_states
                    WHERE error_code <> 0 AND error_code = $1 AND client_no > $4) AS states
              WHERE ($2::int4 IS NULL OR deployment_no = $2)
                AND ($3::int4 IS NULL OR update_no = $3)
                AND ($6::text[] IS NULL OR client_no IN (
                     SELECT client_no FROM clients WHERE owner_site_code = ANY ($6)))
              GROUP BY client_no ORDER BY client_no LIMIT $5) AS p
        JOIN clients c USING (client_no) ORDER BY c.client_no";
    let client = |row: &Row| {
        let client = pb::ClientError {
            client_id: id(row, "client_id"),
            host_name: row.get("host_name"),
            updates: number(row, "updates"),
            detail: row.get("detail"),
            changed_at: time(row, "changed_at"),
        };
        (number(row, "client_no"), client)
    };
    let params: super::Params<'_> = &[
        &error_code,
        &which.deployment_no,
        &which.update_no,
        &page.after_no(),
        &page.probe_rows(),
        &which.owners.codes(),
    ];
    Ok(query(db, SQL, params).await?.iter().map(client).collect())
}
