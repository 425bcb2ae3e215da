//! What neighbours compare: which keys are in some buckets, and which buckets are to be sent again
//! (`repair_buckets`).

use deadpool_postgres::GenericClient;
use muster_domain::SiteCode;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{execute, query, query_one};
use crate::app::Error;

/// A client by number and id.
pub(crate) type Client = (i32, Uuid);

fn client(row: &Row) -> Client {
    (row.get("client_no"), row.get("client_id"))
}

/// The clients in these buckets that can be told of: all, or those that a child told us of.
pub(crate) async fn clients(
    db: &impl GenericClient,
    via: Option<SiteCode>,
    buckets: &[i32],
) -> Result<Vec<Client>, Error> {
    const SQL: &str = "
        SELECT client_no, client_id FROM clients c
        WHERE link_bucket(client_id) = ANY ($2) AND deleted_at IS NULL
          AND CASE WHEN $1::text IS NULL
                   THEN EXISTS (SELECT FROM report_stream_rows s WHERE s.client_no = c.client_no)
                   ELSE via_site_code = $1 END
        ORDER BY client_no";
    let via = via.as_ref().map(SiteCode::as_str);
    let rows = query(db, SQL, &[&via, &buckets]).await?;
    Ok(rows.iter().map(client).collect())
}

/// Those of them of which the parent is still to hear, `limit` at most.
pub(crate) async fn dirty_clients(
    db: &impl GenericClient,
    buckets: &[i32],
    limit: i64,
) -> Result<Vec<Uuid>, Error> {
    const SQL: &str = "
        SELECT client_id FROM clients
        WHERE client_no IN (SELECT unnest(client_nos) FROM dirty_clients)
          AND link_bucket(client_id) = ANY ($1)
        LIMIT $2";
    let rows = query(db, SQL, &[&buckets, &limit]).await?;
    Ok(rows.iter().map(|row| row.get("client_id")).collect())
}

/// Clients that a child told us of, in a bucket, and that are not among those which it lists.
pub(crate) async fn unlisted_clients(
    db: &impl GenericClient,
    child: SiteCode,
    bucket: i32,
    listed: &[Uuid],
) -> Result<Vec<Uuid>, Error> {
    const SQL: &str = "
        SELECT client_id FROM clients
        WHERE link_bucket(client_id) = $2 AND deleted_at IS NULL AND via_site_code = $1
          AND client_id <> ALL ($3)";
    let rows = query(db, SQL, &[&child.as_str(), &bucket, &listed]).await?;
    Ok(rows.iter().map(|row| row.get("client_id")).collect())
}

/// The neighbour has something else in these buckets.
pub(crate) async fn keep_repairs(
    db: &impl GenericClient,
    peer: SiteCode,
    clients: bool,
    buckets: &[i32],
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO repair_buckets (peer_site_code, clients, bucket)
        SELECT $1, $2, unnest($3::int4[]) ON CONFLICT DO NOTHING";
    execute(db, SQL, &[&peer.as_str(), &clients, &buckets]).await?;
    Ok(())
}

/// Takes buckets that are to be listed, `limit` at most: of clients, or of objects; which.
pub(crate) async fn take_repairs(
    db: &impl GenericClient,
    peer: SiteCode,
    limit: i64,
) -> Result<Vec<(bool, i32)>, Error> {
    const SQL: &str = "
        DELETE FROM repair_buckets r
        USING (SELECT clients, bucket FROM repair_buckets WHERE peer_site_code = $1
               ORDER BY 1, 2 LIMIT $2) AS next
        WHERE r.peer_site_code = $1 AND r.clients = next.clients AND r.bucket = next.bucket
        RETURNING r.clients, r.bucket::int4 AS bucket";
    let rows = query(db, SQL, &[&peer.as_str(), &limit]).await?;
    let bucket = |row: &Row| (row.get("clients"), row.get("bucket"));
    Ok(rows.iter().map(bucket).collect())
}

/// The neighbour may not have applied all that we sent it of objects: deployments that are gone here
/// may be there.
pub(crate) async fn is_unsettled(db: &impl GenericClient, peer: SiteCode) -> Result<bool, Error> {
    const SQL: &str = "
        SELECT EXISTS (SELECT FROM dirty_objects WHERE peer_site_code = $1)
            OR EXISTS (SELECT FROM link_batches WHERE peer_site_code = $1 AND items > 0)";
    Ok(query_one(db, SQL, &[&peer.as_str()]).await?.get(0))
}

/// We had something else than the neighbour in so many buckets.
pub(crate) async fn differed(
    db: &impl GenericClient,
    peer: SiteCode,
    buckets: usize,
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE links SET (differing, differed_at) = (differing + $2, now())
        WHERE peer_site_code = $1";
    let buckets = i64::try_from(buckets).unwrap_or(i64::MAX);
    execute(db, SQL, &[&peer.as_str(), &buckets]).await?;
    Ok(())
}
