//! `client_moves`, `moved_numbers`: clients that are to be another site's, by the word of the central
//! site.

use std::collections::BTreeMap;

use bytes::Bytes;
use deadpool_postgres::GenericClient;
use muster_domain::{ClientId, SiteCode};
use muster_proto::{client as pb, link};
use prost::Message;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{execute, query, query_opt};
use crate::app::Error;

/// The last move of a client.
#[derive(Debug, Clone)]
pub(crate) struct Move {
    pub(crate) client_id: Uuid,
    pub(crate) definition: link::ClientMoveDefinition,
    /// It was decided here.
    pub(crate) ours: bool,
}

const COLUMNS: &str = "
    SELECT client_id, m.definition, m.owner_site_code IS NULL AS ours FROM client_moves m";

fn found(row: &Row) -> Result<Move, Error> {
    let definition = link::ClientMoveDefinition::decode(row.get::<_, &[u8]>("definition"));
    Ok(Move {
        client_id: row.get("client_id"),
        definition: definition.map_err(|_| Error::Internal("a move is unreadable"))?,
        ours: row.get("ours"),
    })
}

impl Move {
    /// As people see it.
    pub(crate) fn shown(&self) -> pb::ClientMove {
        pb::ClientMove {
            move_no: self.definition.move_no,
            client_id: Bytes::copy_from_slice(self.client_id.as_bytes()),
            to_site_code: self.definition.to_site_code.clone(),
            decided_at: self.definition.decided_at,
            arrived: self.definition.arrived,
        }
    }
}

/// The last moves of these clients, of those that were ever moved.
pub(crate) async fn of(
    db: &impl GenericClient,
    clients: &[Uuid],
) -> Result<BTreeMap<Uuid, Move>, Error> {
    static SQL: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| [COLUMNS, " WHERE client_id = ANY ($1)"].concat());
    if clients.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = query(db, &SQL, &[&clients]).await?;
    let moves = rows
        .iter()
        .map(|row| Ok((row.get("client_id"), found(row)?)));
    moves.collect()
}

/// Where a client of ours is to go, if it is: its move is another one than that by which it came.
pub(crate) async fn ahead(
    db: &impl GenericClient,
    client_id: ClientId,
) -> Result<Option<Move>, Error> {
    const AHEAD: &str = "
        JOIN clients c USING (client_id)
        WHERE client_id = $1 AND m.move_no > c.move_no AND NOT m.arrived";
    static SQL: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| [COLUMNS, AHEAD].concat());
    let row = query_opt(db, &SQL, &[&client_id.0]).await?;
    row.as_ref().map(found).transpose()
}

/// Clients that still count as ours and that another site has by now, `limit` at most.
pub(crate) async fn gone(db: &impl GenericClient, limit: i64) -> Result<Vec<ClientId>, Error> {
    const SQL: &str = "
        SELECT client_id FROM client_moves m JOIN clients c USING (client_id)
        WHERE m.arrived AND m.move_no > c.move_no
          AND c.via_site_code IS NULL AND c.deleted_at IS NULL
        LIMIT $1";
    let rows = query(db, SQL, &[&limit]).await?;
    Ok(rows.iter().map(|row| ClientId(row.get(0))).collect())
}

/// Writes moves down that were decided here, or that the site above told us of.
pub(crate) async fn keep(
    db: &impl GenericClient,
    client_id: Uuid,
    definition: &[u8],
    owner: Option<&str>,
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO client_moves
            (client_id, definition, owner_site_code, move_no, to_site_code, arrived)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (client_id) DO UPDATE SET
            (definition, owner_site_code, move_no, to_site_code, arrived) =
            (excluded.definition, excluded.owner_site_code, excluded.move_no,
             excluded.to_site_code, excluded.arrived)";
    let bad = |what: &str| Error::invalid("INVALID_OBJECT", format!("a move has {what}"));
    let read = link::ClientMoveDefinition::decode(definition);
    let read = read.map_err(|_| bad("an unreadable definition"))?;
    let number = i64::try_from(read.move_no).ok().filter(|it| *it > 0);
    let number = number.ok_or_else(|| bad("no number"))?;
    let to: SiteCode = read.to_site_code.parse()?;
    let params: super::Params<'_> = &[
        &client_id,
        &definition,
        &owner,
        &number,
        &to.as_str(),
        &read.arrived,
    ];
    execute(db, SQL, params).await?;
    Ok(())
}

/// Forgets these moves, as far as others decided them.
pub(crate) async fn forget(db: &impl GenericClient, clients: &[Uuid]) -> Result<(), Error> {
    const SQL: &str = "
        DELETE FROM client_moves WHERE client_id = ANY ($1) AND owner_site_code IS NOT NULL";
    if !clients.is_empty() {
        execute(db, SQL, &[&clients]).await?;
    }
    Ok(())
}

/// The definitions of those of these moves that were decided here.
pub(crate) async fn ours(
    db: &impl GenericClient,
    clients: &[Uuid],
) -> Result<Vec<(Uuid, Bytes)>, Error> {
    const SQL: &str = "
        SELECT client_id, definition FROM client_moves
        WHERE client_id = ANY ($1) AND owner_site_code IS NULL";
    let rows = query(db, SQL, &[&clients]).await?;
    let definition = |row: &Row| (row.get(0), row.get::<_, Vec<u8>>(1).into());
    Ok(rows.iter().map(definition).collect())
}

/// Clients come by this child from now on, those that came by another one until now. What the other
/// one calls them stays known.
pub(crate) async fn take_over(
    db: &impl GenericClient,
    child: SiteCode,
    clients: &[Uuid],
) -> Result<(), Error> {
    const NUMBERS: &str = "
        INSERT INTO moved_numbers (via_site_code, via_client_no, client_id)
        SELECT via_site_code, via_client_no, client_id FROM clients
        WHERE client_id = ANY ($1) AND via_client_no IS NOT NULL
        ON CONFLICT (via_site_code, via_client_no) DO UPDATE SET client_id = excluded.client_id";
    const SQL: &str = "
        UPDATE clients SET (via_site_code, via_client_no) = ($2, NULL) WHERE client_id = ANY ($1)";
    execute(db, NUMBERS, &[&clients]).await?;
    execute(db, SQL, &[&clients, &child.as_str()]).await?;
    Ok(())
}

/// A child calls clients so that come by another one by now.
pub(crate) async fn name(
    db: &impl GenericClient,
    child: SiteCode,
    clients: &[(i32, Uuid)],
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO moved_numbers (via_site_code, via_client_no, client_id)
        SELECT $1, * FROM unnest($2::int4[], $3::uuid[])
        ON CONFLICT (via_site_code, via_client_no) DO UPDATE SET client_id = excluded.client_id";
    let (numbers, ids): (Vec<i32>, Vec<Uuid>) = clients.iter().copied().unzip();
    execute(db, SQL, &[&child.as_str(), &numbers, &ids]).await?;
    Ok(())
}

/// A client of ours came by this move.
pub(crate) async fn came_by(
    db: &impl GenericClient,
    client_no: i32,
    move_no: i64,
) -> Result<(), Error> {
    const SQL: &str = "UPDATE clients SET move_no = $2 WHERE client_no = $1";
    execute(db, SQL, &[&client_no, &move_no]).await?;
    Ok(())
}

/// A client that was here before, or below us, is here again.
pub(crate) async fn come_back(db: &impl GenericClient, client_no: i32) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE clients SET (deleted_at, via_site_code, via_client_no, owner_site_code) =
                           (NULL, NULL, NULL, NULL)
        WHERE client_no = $1";
    execute(db, SQL, &[&client_no]).await?;
    Ok(())
}

/// The fingerprint of the certificate that a client's site gave it, in hexadecimal, and that site; `None`
/// is ours.
pub(crate) async fn known_as(
    db: &impl GenericClient,
    client_no: i32,
) -> Result<(Option<String>, Option<String>), Error> {
    const SQL: &str = "
        SELECT certificate_fingerprint, owner_site_code FROM clients WHERE client_no = $1";
    let row = super::query_one(db, SQL, &[&client_no]).await?;
    Ok((row.get(0), row.get(1)))
}
