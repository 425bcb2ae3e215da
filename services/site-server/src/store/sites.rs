//! `sites`, `dirty_sites`, `links` as people see them, `policy_revision`, `catalog_state`.

use std::collections::BTreeSet;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_domain::SiteCode;
use muster_proto::{convert, link, site as pb};
use prost::Message;
use tokio_postgres::Row;

use super::{execute, large, number, query, query_one, time};
use crate::app::Error;
use crate::domain::link::Neighbour;
use crate::domain::site_tree::Place;

/// Makes this site's row, or renames it when the configuration has another name now.
pub(crate) async fn keep_own(
    db: &impl GenericClient,
    code: SiteCode,
    name: &str,
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO sites (site_code, name) VALUES ($1, $2)
        ON CONFLICT (site_code) DO UPDATE SET name = excluded.name
        WHERE sites.name <> excluded.name";
    execute(db, SQL, &[&code.as_str(), &name]).await?;
    Ok(())
}

/// The codes of a child and of all sites that it told us of.
pub(crate) async fn below(
    db: &impl GenericClient,
    child: SiteCode,
) -> Result<BTreeSet<String>, Error> {
    const SQL: &str = "SELECT site_code FROM sites WHERE via_site_code = $1";
    let rows = query(db, SQL, &[&child.as_str()]).await?;
    let told = rows.iter().map(|row| row.get("site_code"));
    Ok(told.chain([child.to_string()]).collect())
}

/// All sites that are known, by code; ours with what it holds now, others as they said last.
pub(crate) async fn list(db: &impl GenericClient, own: SiteCode) -> Result<Vec<pb::Site>, Error> {
    const SQL: &str = "
        SELECT site_code, name, COALESCE(parent_site_code, '') AS parent, created_at, record
        FROM sites WHERE gone_at IS NULL ORDER BY site_code";
    let counts = counts(db).await?;
    let site = |row: &Row| {
        let shown = pb::Site {
            site_code: row.get("site_code"),
            name: row.get("name"),
            parent_site_code: row.get("parent"),
            created_at: time(row, "created_at"),
            ..Default::default()
        };
        if shown.site_code == own.as_str() {
            return pb::Site {
                clients: counts.clients,
                own_clients: counts.own_clients,
                updates: counts.updates,
                catalog_generation: counts.generation,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                own: true,
                status_at: Some(convert::to_timestamp(Timestamp::now())),
                ..shown
            };
        }
        let record = record(row);
        let status = record.status.unwrap_or_default();
        pb::Site {
            clients: status.clients,
            own_clients: status.own_clients,
            updates: status.updates,
            catalog_generation: status.catalog_generation,
            queued_messages: status.queued_messages,
            quarantined: status.quarantined,
            certificate_ends_at: status.certificate_ends_at,
            links: status.links,
            version: record.version,
            status_at: status.at,
            ..shown
        }
    };
    Ok(query(db, SQL, &[]).await?.iter().map(site).collect())
}

/// What a site said of itself; nothing, when it has not yet.
fn record(row: &Row) -> link::SiteRecord {
    let bytes: Option<&[u8]> = row.get("record");
    link::SiteRecord::decode(bytes.unwrap_or_default()).unwrap_or_default()
}

/// What this site holds.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) clients: u32,
    /// Clients that report to this site itself.
    pub(crate) own_clients: u32,
    pub(crate) updates: u32,
    pub(crate) generation: u64,
    pub(crate) quarantined: u64,
}

pub(crate) async fn counts(db: &impl GenericClient) -> Result<Counts, Error> {
    const SQL: &str = "
        SELECT (SELECT count(*)::int4 FROM clients WHERE deleted_at IS NULL) AS clients,
               (SELECT count(*)::int4 FROM clients
                WHERE deleted_at IS NULL AND owner_site_code IS NULL) AS own_clients,
               (SELECT count(*)::int4 FROM updates) AS updates,
               (SELECT generation FROM catalog_state) AS generation,
               (SELECT count(*) FROM quarantine) AS quarantined";
    let row = query_one(db, SQL, &[]).await?;
    Ok(Counts {
        clients: number(&row, "clients"),
        own_clients: number(&row, "own_clients"),
        updates: number(&row, "updates"),
        generation: large(&row, "generation"),
        quarantined: large(&row, "quarantined"),
    })
}

/// A site as far as rules ask.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) code: String,
    /// The child that told us of it.
    pub(crate) via: Option<String>,
    pub(crate) gone: bool,
}

/// All sites that were ever known; nobody changes them until the transaction ends.
pub(crate) async fn known(db: &impl GenericClient) -> Result<Vec<Known>, Error> {
    const LOCK: &str = "LOCK TABLE sites IN SHARE ROW EXCLUSIVE MODE";
    const SQL: &str = "SELECT site_code, via_site_code, gone_at IS NOT NULL AS gone FROM sites";
    execute(db, LOCK, &[]).await?;
    let known = |row: &Row| Known {
        code: row.get("site_code"),
        via: row.get("via_site_code"),
        gone: row.get("gone"),
    };
    Ok(query(db, SQL, &[]).await?.iter().map(known).collect())
}

/// Where each site hangs that has not left.
pub(crate) async fn places(db: &impl GenericClient) -> Result<Vec<(String, Place)>, Error> {
    const SQL: &str = "
        SELECT site_code, parent_site_code, via_site_code FROM sites WHERE gone_at IS NULL";
    let place = |row: &Row| {
        let place = Place {
            parent: row.get("parent_site_code"),
            via: row.get("via_site_code"),
        };
        (row.get("site_code"), place)
    };
    Ok(query(db, SQL, &[]).await?.iter().map(place).collect())
}

/// Keeps what a site says of itself; `via` is the child that told us, if one did.
pub(crate) async fn keep(
    db: &impl GenericClient,
    record: &link::SiteRecord,
    via: Option<&str>,
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO sites (site_code, name, parent_site_code, created_at, via_site_code, record, gone_at)
        VALUES ($1, $2, NULLIF($3, ''), COALESCE($4, now()), $5, $6, CASE WHEN $7 THEN now() END)
        ON CONFLICT (site_code) DO UPDATE SET
            (name, parent_site_code, created_at, via_site_code, record, gone_at) =
            (excluded.name, excluded.parent_site_code, excluded.created_at, excluded.via_site_code,
             excluded.record, excluded.gone_at)";
    let created_at = record
        .created_at
        .as_ref()
        .map(|at| convert::from_timestamp("created_at", at))
        .transpose()?;
    let params: super::Params<'_> = &[
        &record.site_code,
        &record.name,
        &record.parent_site_code,
        &created_at,
        &via,
        &record.encode_to_vec(),
        &record.gone,
    ];
    execute(db, SQL, params).await?;
    Ok(())
}

/// Says under which site this one hangs.
pub(crate) async fn set_parent(
    db: &impl GenericClient,
    own: SiteCode,
    parent: Option<SiteCode>,
) -> Result<(), Error> {
    const SQL: &str = "UPDATE sites SET parent_site_code = $2 WHERE site_code = $1";
    let parent = parent.as_ref().map(SiteCode::as_str);
    execute(db, SQL, &[&own.as_str(), &parent]).await?;
    Ok(())
}

/// A child and all below it are gone; returns them.
pub(crate) async fn mark_gone(
    db: &impl GenericClient,
    child: SiteCode,
) -> Result<Vec<String>, Error> {
    const SQL: &str = "
        UPDATE sites SET gone_at = now() WHERE via_site_code = $1 AND gone_at IS NULL
        RETURNING site_code";
    let rows = query(db, SQL, &[&child.as_str()]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Forgets the sites above this one; returns them.
pub(crate) async fn forget_above(
    db: &impl GenericClient,
    own: SiteCode,
) -> Result<Vec<String>, Error> {
    const SQL: &str = "
        DELETE FROM sites WHERE via_site_code IS NULL AND site_code <> $1 RETURNING site_code";
    let rows = query(db, SQL, &[&own.as_str()]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Codes of the sites below this one, with our own children.
pub(crate) async fn all_below(db: &impl GenericClient) -> Result<Vec<String>, Error> {
    const SQL: &str = "
        SELECT site_code FROM sites WHERE via_site_code IS NOT NULL AND gone_at IS NULL
        ORDER BY site_code";
    Ok(query(db, SQL, &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect())
}

/// Who hears of a site (`s`): the parent of ours and of those below, a child of ours and of those
/// above. $1 is our own code.
const GOES: &str = "(s.site_code = $1 OR l.is_parent = (s.via_site_code IS NOT NULL))";

/// The neighbours are to hear of these sites. The row of a mark that stands already is locked: who
/// takes it just now waits, and sees what we wrote.
pub(crate) async fn mark_dirty(
    db: &impl GenericClient,
    own: SiteCode,
    codes: &[String],
) -> Result<(), Error> {
    let sql = format!(
        "INSERT INTO dirty_sites AS d (peer_site_code, site_code)
         SELECT l.peer_site_code, s.site_code FROM links l CROSS JOIN sites s
         WHERE s.site_code = ANY($2) AND {GOES} ORDER BY 1, 2
         ON CONFLICT (peer_site_code, site_code) DO UPDATE SET marked_at = d.marked_at"
    );
    execute(db, &sql, &[&own.as_str(), &codes]).await?;
    Ok(())
}

/// A neighbour is to hear of all sites that it hears of.
pub(crate) async fn mark_all(db: &impl GenericClient, peer: Neighbour) -> Result<(), Error> {
    // Ours is the only one without a record that no child told us of.
    const SQL: &str = "
        INSERT INTO dirty_sites AS d (peer_site_code, site_code)
        SELECT $1, s.site_code FROM sites s
        WHERE (s.via_site_code IS NULL AND s.record IS NULL)
           OR $2 = (s.via_site_code IS NOT NULL) ORDER BY 2
        ON CONFLICT (peer_site_code, site_code) DO UPDATE SET marked_at = d.marked_at";
    execute(db, SQL, &[&peer.code.as_str(), &peer.is_parent]).await?;
    Ok(())
}

/// Takes marks off.
pub(crate) async fn take_dirty(
    db: &impl GenericClient,
    peer: SiteCode,
    limit: usize,
) -> Result<Vec<String>, Error> {
    const SQL: &str = "
        DELETE FROM dirty_sites WHERE peer_site_code = $1 AND site_code IN (
            SELECT site_code FROM dirty_sites WHERE peer_site_code = $1 ORDER BY site_code LIMIT $2)
        RETURNING site_code";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = query(db, SQL, &[&peer.as_str(), &limit]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// These sites as they travel. What our own row does not hold, the caller adds.
pub(crate) async fn records(
    db: &impl GenericClient,
    codes: &[String],
) -> Result<Vec<link::SiteRecord>, Error> {
    const SQL: &str = "
        SELECT site_code, name, COALESCE(parent_site_code, '') AS parent, created_at, record,
               gone_at IS NOT NULL AS gone
        FROM sites WHERE site_code = ANY($1) ORDER BY site_code";
    let rows = query(db, SQL, &[&codes]).await?;
    let whole = |row: &Row| link::SiteRecord {
        site_code: row.get("site_code"),
        name: row.get("name"),
        parent_site_code: row.get("parent"),
        created_at: time(row, "created_at"),
        gone: row.get("gone"),
        ..record(row)
    };
    Ok(rows.iter().map(whole).collect())
}

/// The links with what their rows say, and what each peer says of its end.
pub(crate) async fn links(
    db: &impl GenericClient,
    own: SiteCode,
) -> Result<Vec<pb::SiteLink>, Error> {
    const SQL: &str = "
        SELECT l.peer_site_code, l.peer_name, l.is_parent, l.joined_at, l.heard_at, l.refusal,
               l.peer_protocol, l.peer_version, l.out_epoch, l.out_acked_seq, l.in_epoch, l.in_seq,
               COALESCE(b.items, 0)
                   + (SELECT count(*) FROM dirty_sites d WHERE d.peer_site_code = l.peer_site_code)
                   + (SELECT count(*) FROM dirty_objects d WHERE d.peer_site_code = l.peer_site_code)
                   AS behind,
               COALESCE(b.last, l.out_acked_seq) AS numbered, s.record,
               COALESCE(extract(epoch FROM now() - LEAST(
                   b.oldest,
                   (SELECT min(marked_at) FROM dirty_sites d
                    WHERE d.peer_site_code = l.peer_site_code),
                   (SELECT min(marked_at) FROM dirty_objects d
                    WHERE d.peer_site_code = l.peer_site_code),
                   (SELECT min(marked_at) FROM dirty_clients WHERE l.is_parent))),
                   0)::float8 AS lag
        FROM links l
        LEFT JOIN sites s ON s.site_code = l.peer_site_code
        LEFT JOIN (SELECT peer_site_code, sum(items)::int8 AS items, max(seq) AS last,
                          min(numbered_at) AS oldest
                   FROM link_batches GROUP BY 1) b USING (peer_site_code)
        ORDER BY l.is_parent DESC, l.peer_site_code";
    let health = |row: &Row| {
        let heard: Option<Timestamp> = row.get("heard_at");
        let silent = heard.map(|at| Timestamp::now().duration_since(at).as_secs());
        match (row.get::<_, Option<&str>>("refusal"), silent) {
            (Some(_), _) => link::LinkHealth::Refused,
            (None, None) => link::LinkHealth::Unspecified,
            (None, Some(seconds)) if seconds <= DEGRADED => link::LinkHealth::Healthy,
            (None, Some(seconds)) if seconds <= FAILED => link::LinkHealth::Degraded,
            (None, Some(_)) => link::LinkHealth::Failed,
        }
    };
    let behind_there = |row: &Row| {
        let status = record(row).status.unwrap_or_default();
        let ours = status.links.iter();
        let mut ours = ours.filter(|it| it.peer_site_code == own.as_str());
        ours.next().map_or(0, |it| it.items_behind)
    };
    let shown = |row: &Row| pb::SiteLink {
        peer_site_code: row.get("peer_site_code"),
        peer_name: row.get("peer_name"),
        parent: row.get("is_parent"),
        health: health(row).into(),
        since: time(row, "joined_at"),
        heard_at: time(row, "heard_at"),
        missed_cycles: 0,
        sending: Some(pb::LinkDirection {
            epoch: number(row, "out_epoch"),
            applied_seq: large(row, "out_acked_seq"),
            numbered_seq: large(row, "numbered"),
            items_behind: large(row, "behind"),
            lag: prost_types::Duration::try_from(std::time::Duration::from_secs_f64(
                row.get::<_, f64>("lag").max(0.0),
            ))
            .ok(),
            ..Default::default()
        }),
        receiving: Some(pb::LinkDirection {
            epoch: number(row, "in_epoch"),
            applied_seq: large(row, "in_seq"),
            numbered_seq: large(row, "in_seq"),
            items_behind: behind_there(row),
            ..Default::default()
        }),
        refusal: row.get::<_, Option<String>>("refusal").unwrap_or_default(),
        peer_protocol: number(row, "peer_protocol"),
        peer_version: row.get("peer_version"),
        problem: String::new(),
    };
    Ok(query(db, SQL, &[]).await?.iter().map(shown).collect())
}

/// After so many seconds of silence a link is called degraded, and failed.
const DEGRADED: i64 = 120;
const FAILED: i64 = 600;

/// Says that clients may see another policy from now on.
pub(crate) async fn raise_policy_revision(db: &impl GenericClient) -> Result<i64, Error> {
    const SQL: &str = "UPDATE policy_revision SET revision = revision + 1 RETURNING revision";
    Ok(query_one(db, SQL, &[]).await?.get(0))
}

/// Raises the revision to at least this: clients refuse a lower one than they have seen.
pub(crate) async fn raise_policy_revision_to(
    db: &impl GenericClient,
    least: i64,
) -> Result<(), Error> {
    const SQL: &str = "UPDATE policy_revision SET revision = $1 WHERE revision < $1";
    execute(db, SQL, &[&least]).await?;
    Ok(())
}

/// The catalog generation that was taken over completely.
pub(crate) async fn catalog_generation(db: &impl GenericClient) -> Result<i64, Error> {
    const SQL: &str = "SELECT generation FROM catalog_state";
    Ok(query_one(db, SQL, &[]).await?.get(0))
}

pub(crate) async fn set_catalog_generation(
    db: &impl GenericClient,
    generation: i64,
) -> Result<(), Error> {
    const SQL: &str = "UPDATE catalog_state SET (generation, changed_at) = ($1, now())";
    execute(db, SQL, &[&generation]).await?;
    Ok(())
}
