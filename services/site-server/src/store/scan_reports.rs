//! How the scans of clients went, and what went wrong. Read straight into the messages.

use deadpool_postgres::GenericClient;
use muster_domain::error_code;
use muster_proto::report as pb;
use tokio_postgres::Row;

use super::collections::ALL_SYSTEMS;
use super::{id, number, query, time};
use crate::app::Error;
use crate::domain::client_page::ClientPage;
use crate::domain::site_tree::Owners;

/// Clients of a collection by state of topic 501; one that never said is unknown.
pub(crate) async fn counts(
    db: &impl GenericClient,
    collection_no: i32,
    owners: &Owners,
) -> Result<Vec<pb::ScanCount>, Error> {
    const SQL: &str = "
        SELECT COALESCE(n.state, 0::int2) AS state, count(*)::int4 AS clients
        FROM clients c LEFT JOIN scan_states n USING (client_no)
        WHERE c.deleted_at IS NULL
          AND ($1::int4 = $2::int4 OR EXISTS (SELECT FROM collection_members m
               WHERE m.collection_no = $1 AND m.client_no = c.client_no))
          AND ($3::text[] IS NULL OR c.owner_site_code = ANY ($3))
        GROUP BY 1 ORDER BY 1";
    let count = |row: &Row| pb::ScanCount {
        state: row.get::<_, i16>("state").into(),
        clients: number(row, "clients"),
    };
    let params: super::Params<'_> = &[&collection_no, &ALL_SYSTEMS, &owners.codes()];
    let rows = query(db, SQL, params).await?;
    Ok(rows.iter().map(count).collect())
}

/// Errors of scans, most clients first.
pub(crate) async fn errors(
    db: &impl GenericClient,
    collection_no: i32,
    owners: &Owners,
) -> Result<Vec<pb::ScanErrorCount>, Error> {
    const SQL: &str = "
        SELECT error_code, count(*)::int4 AS clients, max(detail) AS detail FROM scan_states n
        WHERE error_code <> 0
          AND ($1::int4 = $2::int4 OR EXISTS (SELECT FROM collection_members m
               WHERE m.collection_no = $1 AND m.client_no = n.client_no))
          AND ($3::text[] IS NULL OR client_no IN (
               SELECT client_no FROM clients WHERE owner_site_code = ANY ($3)))
        GROUP BY error_code ORDER BY clients DESC, error_code LIMIT 1000";
    let count = |row: &Row| {
        let error_code: i32 = row.get("error_code");
        pb::ScanErrorCount {
            error_code,
            meaning: error_code::meaning(error_code)
                .unwrap_or("not one of ours")
                .to_owned(),
            example_detail: row.get("detail"),
            clients: number(row, "clients"),
        }
    };
    let params: super::Params<'_> = &[&collection_no, &ALL_SYSTEMS, &owners.codes()];
    let rows = query(db, SQL, params).await?;
    Ok(rows.iter().map(count).collect())
}

/// The clients behind the counts, with their numbers.
pub(crate) async fn clients(
    db: &impl GenericClient,
    (collection_no, owners): (i32, &Owners),
    state: Option<i16>,
    error_code: i32,
    page: ClientPage,
) -> Result<Vec<(u32, pb::ClientScan)>, Error> {
    const SQL: &str = "
        SELECT c.client_no, c.client_id, c.host_name, COALESCE(n.state, 0::int2) AS state,
               COALESCE(n.error_code, 0) AS error_code, COALESCE(n.detail, '') AS detail,
               n.last_scanned_at, s.last_report_at
        FROM (SELECT c.client_no FROM clients c LEFT JOIN scan_states n USING (client_no)
              WHERE c.deleted_at IS NULL AND c.client_no > $5
                AND ($1::int4 = $2::int4 OR EXISTS (SELECT FROM collection_members m
                     WHERE m.collection_no = $1 AND m.client_no = c.client_no))
                AND ($3::int2 IS NULL OR COALESCE(n.state, 0::int2) = $3)
                AND ($4 = 0 OR n.error_code = $4)
                AND ($7::text[] IS NULL OR c.owner_site_code = ANY ($7))
              ORDER BY c.client_no LIMIT $6) AS page
        JOIN clients c USING (client_no)
        LEFT JOIN scan_states n USING (client_no)
        LEFT JOIN report_streams s USING (client_no)
        ORDER BY c.client_no";
    let client = |row: &Row| {
        let client = pb::ClientScan {
            client_id: id(row, "client_id"),
            host_name: row.get("host_name"),
            state: row.get::<_, i16>("state").into(),
            error_code: row.get("error_code"),
            detail: row.get("detail"),
            last_scanned_at: time(row, "last_scanned_at"),
            last_report_at: time(row, "last_report_at"),
        };
        (number(row, "client_no"), client)
    };
    let params: super::Params<'_> = &[
        &collection_no,
        &ALL_SYSTEMS,
        &state,
        &error_code,
        &page.after_no(),
        &page.probe_rows(),
        &owners.codes(),
    ];
    Ok(query(db, SQL, params).await?.iter().map(client).collect())
}
