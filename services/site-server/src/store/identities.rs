//! `denied_certificates`, `identity_renewals`: certificates that count no more, and who got which
//! in the place of one.

use deadpool_postgres::GenericClient;
use muster_proto::client as pb;
use uuid::Uuid;

use super::{execute, query, query_one, query_opt};
use crate::app::Error;
use crate::domain::identity::Doubt;

/// The certificate of a client counts no more: another one takes its place, or the client is
/// deleted, and then those before it were its own as well.
pub(crate) async fn deny(
    db: &impl GenericClient,
    client_no: i32,
    replaced: bool,
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO denied_certificates (fingerprint, client_no, replaced, ends_at)
        SELECT decode(certificate_fingerprint, 'hex'), client_no, $2, certificate_ends_at
        FROM clients WHERE client_no = $1 AND certificate_fingerprint IS NOT NULL ON CONFLICT (fingerprint) DO NOTHING";
    const ALL: &str = "UPDATE denied_certificates SET replaced = false WHERE client_no = $1";
    execute(db, SQL, &[&client_no, &replaced]).await?;
    if !replaced {
        execute(db, ALL, &[&client_no]).await?;
    }
    Ok(())
}

/// Certificates that were denied last and have not expired.
pub(crate) async fn denied(
    db: &impl GenericClient,
    limit: i64,
) -> Result<Vec<pb::DeniedCertificate>, Error> {
    const SQL: &str = "
        SELECT fingerprint, replaced FROM denied_certificates
        WHERE ends_at > now() ORDER BY denied_at DESC, fingerprint LIMIT $1";
    let rows = query(db, SQL, &[&limit]).await?;
    let denied = rows.iter().map(|row| pb::DeniedCertificate {
        fingerprint: row.get::<_, Vec<u8>>("fingerprint").into(),
        replaced: row.get("replaced"),
    });
    Ok(denied.collect())
}

/// What speaks for and against one who shows this certificate of a client. The client's row is
/// kept for this transaction, so that two askers come one by one.
pub(crate) async fn doubt(
    db: &impl GenericClient,
    client_no: i32,
    fingerprint: &[u8],
) -> Result<Doubt, Error> {
    const LOCK: &str = "SELECT FROM clients WHERE client_no = $1 FOR UPDATE";
    const SQL: &str = "
        SELECT s.forked_at IS NOT NULL AS forked, d.denied_at, c.machine_id_hash,
               EXISTS (SELECT FROM identity_renewals r
                       WHERE r.new_client_no = c.client_no AND r.renewed_at >= d.denied_at) AS kept
        FROM clients c JOIN report_stream_rows s USING (client_no)
        LEFT JOIN denied_certificates d
          ON d.client_no = c.client_no AND d.fingerprint = $2
        WHERE c.client_no = $1";
    execute(db, LOCK, &[&client_no]).await?;
    let row = query_one(db, SQL, &[&client_no, &fingerprint]).await?;
    Ok(Doubt {
        forked: row.get("forked"),
        replaced_at: row.get("denied_at"),
        kept: row.get("kept"),
        machine_id_hash: row.get("machine_id_hash"),
    })
}

/// Somebody got a new key.
#[derive(Debug)]
pub(crate) struct Renewal {
    pub(crate) key_hash: Vec<u8>,
    /// In whose name it was asked for, and who it is.
    pub(crate) client_no: i32,
    pub(crate) new_client_no: i32,
    pub(crate) epoch: i32,
    /// DER.
    pub(crate) certificate: Vec<u8>,
    pub(crate) run_id: i64,
}

pub(crate) async fn add_renewal(db: &impl GenericClient, new: &Renewal) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO identity_renewals (key_hash, client_no, new_client_no, epoch, certificate, run_id)
        VALUES ($1, $2, $3, $4, $5, $6)";
    let params: super::Params<'_> = &[
        &new.key_hash,
        &new.client_no,
        &new.new_client_no,
        &new.epoch,
        &new.certificate,
        &new.run_id,
    ];
    execute(db, SQL, params).await?;
    Ok(())
}

/// What was answered for this key.
#[derive(Debug)]
pub(crate) struct Answered {
    /// In whose name it was asked for.
    pub(crate) client_no: i32,
    pub(crate) new_client_id: Uuid,
    pub(crate) new_client_deleted: bool,
    pub(crate) epoch: i32,
    pub(crate) certificate: Vec<u8>,
}

pub(crate) async fn answered(
    db: &impl GenericClient,
    key_hash: &[u8],
) -> Result<Option<Answered>, Error> {
    const SQL: &str = "
        SELECT r.client_no, c.client_id, c.deleted_at IS NOT NULL AS deleted, r.epoch, r.certificate
        FROM identity_renewals r JOIN clients c ON c.client_no = r.new_client_no
        WHERE r.key_hash = $1";
    let row = query_opt(db, SQL, &[&key_hash]).await?;
    Ok(row.map(|row| Answered {
        client_no: row.get("client_no"),
        new_client_id: row.get("client_id"),
        new_client_deleted: row.get("deleted"),
        epoch: row.get("epoch"),
        certificate: row.get("certificate"),
    }))
}

/// A client is a clone of another one and joins its collections, as far as they are ours: who is in
/// those of other sites is up to them. Answers which those are.
pub(crate) async fn separate(
    db: &impl GenericClient,
    from: i32,
    clone: i32,
) -> Result<Vec<i32>, Error> {
    const SQL: &str = "UPDATE clients SET separated_from = $1 WHERE client_no = $2";
    const JOIN: &str = "
        INSERT INTO collection_members (collection_no, client_no)
        SELECT m.collection_no, $2 FROM collection_members m JOIN collections c USING (collection_no)
        WHERE m.client_no = $1 AND c.owner_site_code IS NULL
        RETURNING collection_no";
    execute(db, SQL, &[&from, &clone]).await?;
    let rows = query(db, JOIN, &[&from, &clone]).await?;
    Ok(rows.iter().map(|row| row.get("collection_no")).collect())
}

/// The identity belongs to one machine again.
pub(crate) async fn settle_fork(db: &impl GenericClient, client_no: i32) -> Result<(), Error> {
    const SQL: &str = "UPDATE report_stream_rows SET forked_at = NULL WHERE client_no = $1";
    execute(db, SQL, &[&client_no]).await?;
    Ok(())
}

/// Puts into an answer how the identity of a client came about.
pub(crate) async fn show(
    db: &impl GenericClient,
    client_no: i32,
    answer: &mut pb::GetClientResponse,
) -> Result<(), Error> {
    const SQL: &str = "
        SELECT (SELECT max(renewed_at) FROM identity_renewals r
                WHERE r.new_client_no = c.client_no AND r.client_no = c.client_no) AS renewed_at,
               (SELECT o.client_id FROM clients o WHERE o.client_no = c.separated_from)
                   AS separated_from,
               ARRAY(SELECT o.client_id FROM clients o
                     WHERE o.separated_from = c.client_no AND o.deleted_at IS NULL
                     ORDER BY o.client_no LIMIT 100) AS clones
        FROM clients c WHERE c.client_no = $1";
    let row = query_one(db, SQL, &[&client_no]).await?;
    let bytes = |id: Uuid| bytes::Bytes::copy_from_slice(id.as_bytes());
    answer.identity_renewed_at = super::time(&row, "renewed_at");
    let from: Option<Uuid> = row.get("separated_from");
    answer.separated_from_id = from.map(bytes).unwrap_or_default();
    let clones: Vec<Uuid> = row.get("clones");
    answer.clone_ids = clones.into_iter().map(bytes).collect();
    Ok(())
}
