//! Clients of sites below, as their site told us of them.

use std::collections::BTreeMap;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use uuid::Uuid;

use super::{execute, query};
use crate::app::Error;

/// Who a client of a site below is.
#[derive(Debug, Clone)]
pub(crate) struct Replica {
    pub(crate) client_id: Uuid,
    /// The child's number for it.
    pub(crate) number: i32,
    pub(crate) owner: String,
    pub(crate) host_name: String,
    pub(crate) os_id: String,
    pub(crate) os_version_id: String,
    pub(crate) architecture: String,
    pub(crate) agent_version: String,
    pub(crate) epoch: i32,
    pub(crate) enrolled_at: Timestamp,
    pub(crate) deleted: bool,
    pub(crate) certificate_ends_at: Option<Timestamp>,
    pub(crate) last_report_at: Option<Timestamp>,
    /// Of its certificate, in hexadecimal.
    pub(crate) fingerprint: Option<String>,
    /// The move by which it came to its site.
    pub(crate) move_no: i64,
}

/// How a client came to us.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) client_no: i32,
    /// `None`: it is ours.
    pub(crate) via: Option<String>,
    pub(crate) deleted: bool,
}

/// Those of these clients that we know.
pub(crate) async fn held(
    db: &impl GenericClient,
    ids: &[Uuid],
) -> Result<BTreeMap<Uuid, Held>, Error> {
    const SQL: &str = "
        SELECT client_no, client_id, via_site_code, deleted_at IS NOT NULL AS deleted
        FROM clients WHERE client_id = ANY ($1)";
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = query(db, SQL, &[&ids]).await?;
    let held = rows.iter().map(|row| {
        let held = Held {
            client_no: row.get("client_no"),
            via: row.get("via_site_code"),
            deleted: row.get("deleted"),
        };
        (row.get("client_id"), held)
    });
    Ok(held.collect())
}

/// Which clients a child means by these numbers.
pub(crate) async fn numbered(
    db: &impl GenericClient,
    via: &str,
    numbers: &[i32],
) -> Result<Vec<(i32, Uuid)>, Error> {
    const SQL: &str = "
        SELECT via_client_no, client_id FROM clients
        WHERE via_site_code = $1 AND via_client_no = ANY ($2)
        UNION ALL SELECT m.via_client_no, m.client_id FROM moved_numbers m
        WHERE m.via_site_code = $1 AND m.via_client_no = ANY ($2)
          AND NOT EXISTS (SELECT FROM clients c WHERE c.via_site_code = m.via_site_code
                          AND c.via_client_no = m.via_client_no)";
    let rows = query(db, SQL, &[&via, &numbers]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Takes over who clients are; answers their numbers. A stream that is in another epoch starts anew.
pub(crate) async fn keep(
    db: &impl GenericClient,
    via: &str,
    replicas: &[&Replica],
) -> Result<Vec<(Uuid, i32)>, Error> {
    // A child whose database was restored gives numbers again.
    const FREE: &str = "
        UPDATE clients AS held SET via_client_no = NULL
        FROM unnest($2::uuid[], $3::int4[]) AS fresh (client_id, via_client_no)
        WHERE held.via_site_code = $1 AND held.via_client_no = fresh.via_client_no
          AND held.client_id <> fresh.client_id";
    const SQL: &str = "
        INSERT INTO clients AS held
            (via_site_code, client_id, owner_site_code, host_name, os_id, os_version_id,
             architecture, agent_version, epoch, enrolled_at, certificate_ends_at, via_client_no,
             certificate_fingerprint, move_no)
        SELECT $1::text, * FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[],
                                 $7::text[], $8::text[], $9::int4[], $10::timestamptz[],
                                 $11::timestamptz[], $12::int4[], $13::text[], $14::int8[])
        ON CONFLICT (client_id) DO UPDATE SET
            (owner_site_code, host_name, os_id, os_version_id, architecture, agent_version, epoch,
             enrolled_at, certificate_ends_at, via_client_no, certificate_fingerprint, move_no,
             deleted_at) =
            (excluded.owner_site_code, excluded.host_name, excluded.os_id, excluded.os_version_id,
             excluded.architecture, excluded.agent_version, excluded.epoch, excluded.enrolled_at,
             excluded.certificate_ends_at, excluded.via_client_no,
             excluded.certificate_fingerprint, excluded.move_no, NULL)
        WHERE held.via_site_code = excluded.via_site_code
        RETURNING client_id, client_no";
    const STREAMS: &str = "
        INSERT INTO report_stream_rows AS held (client_no, epoch, wants_full, last_report_at)
        SELECT c.client_no, fresh.epoch, false, fresh.last_report_at
        FROM unnest($1::uuid[], $2::int4[], $3::timestamptz[])
             AS fresh (client_id, epoch, last_report_at)
        JOIN clients c USING (client_id)
        WHERE c.via_site_code = $4
        ON CONFLICT (client_no) DO UPDATE SET
            (epoch, has_full, contiguous_serial, highest_serial, early_reports, gap_since,
             wants_full, runs, register_epoch, forked_at, ask_at, ask_tries) =
            (excluded.epoch, false, 0, 0, '{}', NULL, false, '', NULL, NULL, NULL, 0)
        WHERE held.epoch <> excluded.epoch";
    fn column<'a, T>(replicas: &[&'a Replica], of: impl Fn(&'a Replica) -> T) -> Vec<T> {
        replicas.iter().map(|replica| of(replica)).collect()
    }
    if replicas.is_empty() {
        return Ok(Vec::new());
    }
    let ids = column(replicas, |it| it.client_id);
    let owner = column(replicas, |it| it.owner.as_str());
    let host = column(replicas, |it| it.host_name.as_str());
    let os = column(replicas, |it| it.os_id.as_str());
    let version = column(replicas, |it| it.os_version_id.as_str());
    let architecture = column(replicas, |it| it.architecture.as_str());
    let agent = column(replicas, |it| it.agent_version.as_str());
    let epoch = column(replicas, |it| it.epoch);
    let enrolled_at = column(replicas, |it| it.enrolled_at);
    let ends_at = column(replicas, |it| it.certificate_ends_at);
    let number = column(replicas, |it| it.number);
    let fingerprint = column(replicas, |it| it.fingerprint.as_deref());
    let move_no = column(replicas, |it| it.move_no);
    let params: super::Params<'_> = &[
        &via,
        &ids,
        &owner,
        &host,
        &os,
        &version,
        &architecture,
        &agent,
        &epoch,
        &enrolled_at,
        &ends_at,
        &number,
        &fingerprint,
        &move_no,
    ];
    execute(db, FREE, &[&via, &ids, &number]).await?;
    let rows = query(db, SQL, params).await?;
    let reported_at = column(replicas, |it| it.last_report_at);
    execute(db, STREAMS, &[&ids, &epoch, &reported_at, &via]).await?;
    Ok(rows
        .iter()
        .map(|row| (row.get("client_id"), row.get("client_no")))
        .collect())
}

/// When these clients reported last, as their site says.
pub(crate) async fn reported_at(
    db: &impl GenericClient,
    reported: &[(i32, Timestamp)],
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE report_stream_rows AS held SET last_report_at = fresh.at
        FROM unnest($1::int4[], $2::timestamptz[]) AS fresh (client_no, at)
        WHERE held.client_no = fresh.client_no";
    if reported.is_empty() {
        return Ok(());
    }
    let (clients, at): (Vec<i32>, Vec<Timestamp>) = reported.iter().copied().unzip();
    execute(db, SQL, &[&clients, &at]).await?;
    Ok(())
}

/// Removes what clients said of themselves, before everything they say is written anew.
pub(crate) async fn clear(db: &impl GenericClient, clients: &[i32]) -> Result<(), Error> {
    const TABLES: [&str; 4] = [
        "DELETE FROM scan_states WHERE client_no = ANY ($1)",
        "DELETE FROM restart_states WHERE client_no = ANY ($1)",
        "DELETE FROM inventories WHERE client_no = ANY ($1)",
        "DELETE FROM client_health WHERE client_no = ANY ($1)",
    ];
    if clients.is_empty() {
        return Ok(());
    }
    for sql in TABLES {
        execute(db, sql, &[&clients]).await?;
    }
    Ok(())
}
