//! `clients`, `enrolment_tokens`.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_domain::{ClientId, SiteCode};
use muster_proto::client as pb;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{execute, id, large, number, query, query_one, query_opt, time};
use crate::app::Error;
use crate::domain::page::Page;
use crate::domain::site_tree::Owners;

/// A token as it is found when somebody shows it.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) expires_at: Timestamp,
    /// Who used it, with which key.
    pub(crate) used: Option<(i32, Vec<u8>)>,
}

/// What is known of a machine that enrols.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) host_name: String,
    pub(crate) os_id: String,
    pub(crate) os_version_id: String,
    pub(crate) architecture: String,
    pub(crate) agent_version: String,
    pub(crate) machine_id_hash: Vec<u8>,
}

/// A client as use cases need it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) client_no: i32,
    pub(crate) client_id: ClientId,
    pub(crate) epoch: i32,
    pub(crate) deleted: bool,
    /// It reports to this site itself.
    pub(crate) own: bool,
}

pub(crate) async fn add_tokens(
    db: &impl GenericClient,
    hashes: &[Vec<u8>],
    expires_at: Timestamp,
    collections: &[i32],
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO enrolment_tokens (token_hash, expires_at) SELECT unnest($1::bytea[]), $2";
    const JOIN: &str = "
        INSERT INTO enrolment_token_collections (token_hash, collection_no)
        SELECT t, c FROM unnest($1::bytea[]) AS t CROSS JOIN unnest($2::int4[]) AS c";
    execute(db, SQL, &[&hashes, &expires_at]).await?;
    execute(db, JOIN, &[&hashes, &collections]).await?;
    Ok(())
}

/// Finds a token and keeps it for this transaction, so that two uses of it come one by one.
pub(crate) async fn lock_token(
    db: &impl GenericClient,
    hash: &[u8],
) -> Result<Option<Token>, Error> {
    const SQL: &str = "
        SELECT expires_at, used_key_hash, client_no FROM enrolment_tokens
        WHERE token_hash = $1 FOR UPDATE";
    let row = query_opt(db, SQL, &[&hash]).await?;
    Ok(row.map(|row| {
        let (client, key): (Option<i32>, Option<Vec<u8>>) =
            (row.get("client_no"), row.get("used_key_hash"));
        Token {
            expires_at: row.get("expires_at"),
            used: client.zip(key),
        }
    }))
}

/// Marks a token as used; its client joins the token's collections, whose numbers come back.
pub(crate) async fn use_token(
    db: &impl GenericClient,
    hash: &[u8],
    key_hash: &[u8],
    client_no: i32,
) -> Result<Vec<i32>, Error> {
    const SQL: &str = "
        UPDATE enrolment_tokens SET (used_at, used_key_hash, client_no) = (now(), $2, $3)
        WHERE token_hash = $1";
    const JOIN: &str = "
        INSERT INTO collection_members (collection_no, client_no)
        SELECT collection_no, $2 FROM enrolment_token_collections WHERE token_hash = $1
        RETURNING collection_no";
    execute(db, SQL, &[&hash, &key_hash, &client_no]).await?;
    let joined = query(db, JOIN, &[&hash, &client_no]).await?;
    Ok(joined.iter().map(|row| row.get("collection_no")).collect())
}

/// Adds a client with epoch 1 and an empty stream of reports.
pub(crate) async fn add(
    db: &impl GenericClient,
    client_id: ClientId,
    machine: &Machine,
    fingerprint: &str,
    ends_at: Timestamp,
) -> Result<i32, Error> {
    const SQL: &str = "
        INSERT INTO clients (client_id, host_name, os_id, os_version_id, architecture,
                             agent_version, machine_id_hash, certificate_fingerprint,
                             certificate_ends_at, epoch)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1) RETURNING client_no";
    const STREAM: &str = "INSERT INTO report_stream_rows (client_no, epoch) VALUES ($1, 1)";
    let client_no: i32 = query_one(
        db,
        SQL,
        &[
            &client_id.0,
            &machine.host_name,
            &machine.os_id,
            &machine.os_version_id,
            &machine.architecture,
            &machine.agent_version,
            &machine.machine_id_hash,
            &fingerprint,
            &ends_at,
        ],
    )
    .await?
    .get(0);
    execute(db, STREAM, &[&client_no]).await?;
    Ok(client_no)
}

pub(crate) async fn set_certificate(
    db: &impl GenericClient,
    client_no: i32,
    fingerprint: &str,
    ends_at: Timestamp,
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE clients SET (certificate_fingerprint, certificate_ends_at) = ($2, $3)
        WHERE client_no = $1";
    execute(db, SQL, &[&client_no, &fingerprint, &ends_at]).await?;
    Ok(())
}

fn known(row: &Row) -> Known {
    Known {
        client_no: row.get("client_no"),
        client_id: ClientId(row.get("client_id")),
        epoch: row.get("epoch"),
        deleted: row.get("deleted"),
        own: row.get("own"),
    }
}

pub(crate) async fn by_no(db: &impl GenericClient, client_no: i32) -> Result<Known, Error> {
    const SQL: &str = "
        SELECT client_no, client_id, epoch, deleted_at IS NOT NULL AS deleted,
               via_site_code IS NULL AS own
        FROM clients WHERE client_no = $1";
    Ok(known(&query_one(db, SQL, &[&client_no]).await?))
}

pub(crate) async fn by_id(
    db: &impl GenericClient,
    client_id: ClientId,
) -> Result<Option<Known>, Error> {
    const SQL: &str = "
        SELECT client_no, client_id, epoch, deleted_at IS NOT NULL AS deleted,
               via_site_code IS NULL AS own
        FROM clients WHERE client_id = $1";
    Ok(query_opt(db, SQL, &[&client_id.0])
        .await?
        .as_ref()
        .map(known))
}

/// The clients that are not deleted and have this id as text, or this host name.
pub(crate) async fn by_name(db: &impl GenericClient, name: &str) -> Result<Vec<Known>, Error> {
    const SQL: &str = "
        SELECT client_no, client_id, epoch, false AS deleted,
               via_site_code IS NULL AS own
        FROM clients
        WHERE deleted_at IS NULL AND (host_name = $1 OR client_id = $2)
        ORDER BY client_no LIMIT 3";
    let id: Option<Uuid> = name.parse().ok();
    Ok(query(db, SQL, &[&name, &id])
        .await?
        .iter()
        .map(known)
        .collect())
}

/// Numbers of all clients that are not deleted.
pub(crate) async fn numbers(db: &impl GenericClient) -> Result<Vec<i32>, Error> {
    const SQL: &str = "SELECT client_no FROM clients WHERE deleted_at IS NULL ORDER BY client_no";
    let rows = query(db, SQL, &[]).await?;
    Ok(rows.iter().map(|row| row.get("client_no")).collect())
}

/// The clients of sites below that are not deleted, with the site that each reports to.
pub(crate) async fn owners(db: &impl GenericClient) -> Result<Vec<(i32, String)>, Error> {
    const SQL: &str = "
        SELECT client_no, owner_site_code FROM clients
        WHERE owner_site_code IS NOT NULL AND deleted_at IS NULL";
    let rows = query(db, SQL, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Those of the numbers that are not deleted.
pub(crate) async fn not_deleted(
    db: &impl GenericClient,
    clients: &[i32],
) -> Result<Vec<i32>, Error> {
    const SQL: &str = "
        SELECT client_no FROM clients WHERE deleted_at IS NULL AND client_no = ANY ($1)";
    let rows = query(db, SQL, &[&clients]).await?;
    Ok(rows.iter().map(|row| row.get("client_no")).collect())
}

/// Gives the next epoch and starts the stream of reports anew, of which only the runs of the
/// client's program stay known. Returns the epoch. The client is asked for everything if nothing
/// has come by `ask_at`.
pub(crate) async fn raise_epoch(
    db: &impl GenericClient,
    client_no: i32,
    known_epoch: i32,
    machine: Option<&Machine>,
    (runs, ask_at): (&[u8], Timestamp),
) -> Result<i32, Error> {
    const SQL: &str = "
        UPDATE clients SET epoch = GREATEST(epoch, $2) + 1,
            host_name = COALESCE($3, host_name), os_id = COALESCE($4, os_id),
            os_version_id = COALESCE($5, os_version_id),
            architecture = COALESCE($6, architecture),
            agent_version = COALESCE($7, agent_version)
        WHERE client_no = $1 RETURNING epoch";
    const STREAM: &str = "
        UPDATE report_stream_rows SET (epoch, has_full, contiguous_serial, highest_serial,
                                   early_reports, gap_since, wants_full, register_epoch, runs,
                                   ask_at, ask_tries)
                                = ($2, false, 0, 0, '{}', NULL, true, NULL, $3, $4, 0)
        WHERE client_no = $1";
    let epoch: i32 = query_one(
        db,
        SQL,
        &[
            &client_no,
            &known_epoch,
            &machine.map(|m| &m.host_name),
            &machine.map(|m| &m.os_id),
            &machine.map(|m| &m.os_version_id),
            &machine.map(|m| &m.architecture),
            &machine.map(|m| &m.agent_version),
        ],
    )
    .await?
    .get(0);
    execute(db, STREAM, &[&client_no, &epoch, &runs, &ask_at]).await?;
    Ok(epoch)
}

/// Clients of sites that have left, `limit` at most.
pub(crate) async fn of_gone_sites(
    db: &impl GenericClient,
    limit: i64,
) -> Result<Vec<ClientId>, Error> {
    const SQL: &str = "
        SELECT client_id FROM clients
        WHERE deleted_at IS NULL
          AND owner_site_code IN (SELECT site_code FROM sites WHERE gone_at IS NOT NULL)
        LIMIT $1";
    let rows = query(db, SQL, &[&limit]).await?;
    Ok(rows.iter().map(|row| ClientId(row.get(0))).collect())
}

/// Marks a client as deleted and removes what it said. The caller takes it out of the counters
/// first, and removes what it said of deployments.
pub(crate) async fn delete(db: &impl GenericClient, client_no: i32) -> Result<(), Error> {
    const MARK: &str = "UPDATE clients SET deleted_at = now() WHERE client_no = $1";
    const TABLES: [&str; 7] = [
        "DELETE FROM collection_members WHERE client_no = $1",
        "DELETE FROM client_compliance_rows WHERE client_no = $1",
        "DELETE FROM client_compliance_log WHERE client_no = $1",
        "DELETE FROM scan_states WHERE client_no = $1",
        "DELETE FROM restart_states WHERE client_no = $1",
        "DELETE FROM inventories WHERE client_no = $1",
        "DELETE FROM client_health WHERE client_no = $1",
    ];
    execute(db, MARK, &[&client_no]).await?;
    for sql in TABLES {
        execute(db, sql, &[&client_no]).await?;
    }
    Ok(())
}

const COLUMNS: &str = "
    SELECT c.client_no, c.client_id, c.owner_site_code, c.host_name, c.os_id, c.os_version_id, c.architecture,
           c.agent_version, c.epoch, c.enrolled_at, c.last_policy_at, s.last_report_at,
           COALESCE(k.catalog_generation, 0) AS catalog_generation,
           COALESCE(cardinality(k.installed), 0) AS installed,
           COALESCE(cardinality(k.required), 0) AS required,
           COALESCE(cardinality(k.unknown), 0) AS unknown,
           COALESCE(n.state, 0::int2) AS scan_state, COALESCE(n.detail, '') AS scan_detail,
           n.last_scanned_at, COALESCE(r.pending, false) AS restart_pending,
           COALESCE(r.reason, '') AS restart_reason, COALESCE(i.kernel, '') AS kernel,
           COALESCE(i.installed_packages, 0) AS installed_packages,
           COALESCE(i.free_disk_bytes, 0) AS free_disk_bytes,
           COALESCE(i.memory_bytes, 0) AS memory_bytes, count(*) OVER ()::int4 AS total
    FROM clients c
    JOIN report_streams s USING (client_no)
    LEFT JOIN client_compliance k USING (client_no)
    LEFT JOIN scan_states n USING (client_no)
    LEFT JOIN restart_states r USING (client_no)
    LEFT JOIN inventories i USING (client_no)
    WHERE c.deleted_at IS NULL";

fn client(row: &Row, own: SiteCode) -> pb::Client {
    let owner: Option<String> = row.get("owner_site_code");
    pb::Client {
        site_code: owner.unwrap_or_else(|| own.to_string()),
        client_id: id(row, "client_id"),
        host_name: row.get("host_name"),
        os_id: row.get("os_id"),
        os_version_id: row.get("os_version_id"),
        architecture: row.get("architecture"),
        agent_version: row.get("agent_version"),
        kernel: row.get("kernel"),
        epoch: number(row, "epoch"),
        enrolled_at: time(row, "enrolled_at"),
        last_report_at: time(row, "last_report_at"),
        last_policy_at: time(row, "last_policy_at"),
        catalog_generation: large(row, "catalog_generation"),
        installed: number(row, "installed"),
        required: number(row, "required"),
        unknown: number(row, "unknown"),
        scan_state: u32::try_from(row.get::<_, i16>("scan_state")).unwrap_or(0),
        scan_detail: row.get("scan_detail"),
        last_scanned_at: time(row, "last_scanned_at"),
        restart_pending: row.get("restart_pending"),
        restart_reason: row.get("restart_reason"),
        installed_packages: number(row, "installed_packages"),
        free_disk_bytes: large(row, "free_disk_bytes"),
        memory_bytes: large(row, "memory_bytes"),
    }
}

/// One client with all that is shown of it.
pub(crate) async fn show(
    db: &impl GenericClient,
    own: SiteCode,
    client_no: i32,
) -> Result<pb::Client, Error> {
    const WHERE: &str = " AND c.client_no = $1";
    static SQL: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| [COLUMNS, WHERE].concat());
    Ok(client(&query_one(db, &SQL, &[&client_no]).await?, own))
}

/// Clients by host name; `host_name` is exact, or a prefix when it ends in `*`.
pub(crate) async fn list(
    db: &impl GenericClient,
    host_name: &str,
    collection_no: Option<i32>,
    (own, owners): (SiteCode, &Owners),
    page: Page,
) -> Result<(Vec<pb::Client>, u32), Error> {
    const WHERE: &str = "
        AND ($1 = '' OR c.host_name = $1)
        AND ($2 = '' OR starts_with(c.host_name, $2))
        AND ($3::int4 IS NULL OR EXISTS (SELECT FROM collection_members m
             WHERE m.collection_no = $3 AND m.client_no = c.client_no))
        AND ($6::text[] IS NULL OR c.owner_site_code = ANY ($6))
        ORDER BY c.host_name, c.client_no LIMIT $4 OFFSET $5";
    static SQL: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| [COLUMNS, WHERE].concat());
    let (exact, prefix) = match host_name.strip_suffix('*') {
        Some(prefix) => ("", prefix),
        None => (host_name, ""),
    };
    let params: super::Params<'_> = &[
        &exact,
        &prefix,
        &collection_no,
        &page.probe(),
        &page.offset,
        &owners.codes(),
    ];
    let rows = query(db, &SQL, params).await?;
    let total = rows.first().map_or(0, |row| number(row, "total"));
    Ok((rows.iter().map(|row| client(row, own)).collect(), total))
}

/// Labels of the collections a client is in.
pub(crate) async fn collections(
    db: &impl GenericClient,
    client_no: i32,
) -> Result<Vec<String>, Error> {
    const SQL: &str = "
        SELECT concat_ws('/', owner_site_code, name) FROM collections c
        WHERE built_in OR EXISTS (SELECT FROM collection_members m
              WHERE m.collection_no = c.collection_no AND m.client_no = $1)
        ORDER BY name";
    Ok(query(db, SQL, &[&client_no])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect())
}
