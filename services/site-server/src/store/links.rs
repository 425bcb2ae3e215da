//! `links`, `parent_broker`, `link_batches`: our neighbours, and what is under way to and from them.

use std::collections::BTreeMap;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_domain::SiteCode;
use muster_link::{Chain, Inbound, Mark, Outbound};
use tokio_postgres::Row;

use super::{execute, query, query_one, query_opt};
use crate::app::Error;
use crate::domain::link::Neighbour;

/// Both ends of a link, as they were left.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) public_key: Vec<u8>,
    /// The version of the protocol that the peer greeted us in.
    pub(crate) protocol: u32,
    pub(crate) outbound: Outbound,
    pub(crate) inbound: Inbound,
    pub(crate) refusal: Option<String>,
    /// The batches under way, by number.
    pub(crate) under_way: BTreeMap<u64, UnderWay>,
    /// Nothing was ever numbered in this epoch.
    pub(crate) is_new: bool,
}

/// A batch that the peer's database does not have, as far as we know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnderWay {
    /// Keys in it.
    pub(crate) items: u64,
    pub(crate) numbered_at: Timestamp,
}

/// The parent's broker, with secrets.
pub(crate) struct Broker {
    pub(crate) uri: String,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) ca: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// All neighbours, and since when each is one.
pub(crate) async fn joined(db: &impl GenericClient) -> Result<Vec<(Neighbour, Timestamp)>, Error> {
    const SQL: &str = "
        SELECT peer_site_code, is_parent, joined_at FROM links ORDER BY peer_site_code";
    let neighbour = |row: &Row| {
        let neighbour = Neighbour {
            code: code(row, "peer_site_code")?,
            is_parent: row.get("is_parent"),
        };
        Ok((neighbour, row.get("joined_at")))
    };
    query(db, SQL, &[]).await?.iter().map(neighbour).collect()
}

/// All neighbours.
pub(crate) async fn neighbours(db: &impl GenericClient) -> Result<Vec<Neighbour>, Error> {
    let joined = joined(db).await?;
    Ok(joined.into_iter().map(|(neighbour, _)| neighbour).collect())
}

fn code(row: &Row, column: &str) -> Result<SiteCode, Error> {
    let code = row.get::<_, &str>(column).parse();
    code.map_err(|_| Error::Internal("a site code in the database is none"))
}

/// A link with its batches under way; `None` when it is gone.
pub(crate) async fn load(db: &impl GenericClient, peer: SiteCode) -> Result<Option<Link>, Error> {
    const SQL: &str = "
        SELECT public_key, out_epoch, out_acked_seq, out_acked_chain, in_epoch, in_seq, in_chain,
               refusal, peer_protocol
        FROM links WHERE peer_site_code = $1";
    const CHAINS: &str = "
        SELECT seq, items, numbered_at, chain FROM link_batches WHERE peer_site_code = $1 ORDER BY seq";
    let Some(row) = query_opt(db, SQL, &[&peer.as_str()]).await? else {
        return Ok(None);
    };
    let acked = mark(&row, ["out_epoch", "out_acked_seq", "out_acked_chain"])?;
    let batches = query(db, CHAINS, &[&peer.as_str()]).await?;
    let chains: Vec<Chain> = batches
        .iter()
        .map(|row| chain(row, "chain"))
        .collect::<Result<_, _>>()?;
    let under_way = |row: &Row| {
        let items: i32 = row.get("items");
        let under_way = UnderWay {
            items: u64::from(items.unsigned_abs()),
            numbered_at: row.get("numbered_at"),
        };
        (super::large(row, "seq"), under_way)
    };
    Ok(Some(Link {
        under_way: batches.iter().map(under_way).collect(),
        public_key: row.get("public_key"),
        protocol: super::number(&row, "peer_protocol"),
        is_new: acked.seq == 0 && chains.is_empty(),
        outbound: Outbound::new(acked, chains),
        inbound: Inbound::new(mark(&row, ["in_epoch", "in_seq", "in_chain"])?),
        refusal: row.get("refusal"),
    }))
}

fn mark(row: &Row, [epoch, seq, covers]: [&str; 3]) -> Result<Mark, Error> {
    Ok(Mark {
        epoch: super::number(row, epoch),
        seq: super::large(row, seq),
        chain: chain(row, covers)?,
    })
}

fn chain(row: &Row, column: &str) -> Result<Chain, Error> {
    let chain = row.get::<_, &[u8]>(column).try_into().map(Chain);
    chain.map_err(|_| Error::Internal("a chain in the database has not 16 bytes"))
}

/// How the parent's broker is reached.
pub(crate) async fn broker(
    db: &impl GenericClient,
    peer: SiteCode,
) -> Result<Option<Broker>, Error> {
    const SQL: &str = "
        SELECT uri, username, password, ca, certificate, key FROM parent_broker
        WHERE peer_site_code = $1";
    let row = query_opt(db, SQL, &[&peer.as_str()]).await?;
    Ok(row.map(|row| Broker {
        uri: row.get("uri"),
        username: row.get("username"),
        password: row.get("password"),
        ca: row.get("ca"),
        certificate: row.get("certificate"),
        key: row.get("key"),
    }))
}

/// What our broker keeps of a child's password; `None`: it joined before that was remembered.
pub(crate) async fn password_hash(
    db: &impl GenericClient,
    child: SiteCode,
) -> Result<Option<String>, Error> {
    const SQL: &str = "
        SELECT broker_password_hash FROM links WHERE peer_site_code = $1 AND NOT is_parent";
    let row = query_opt(db, SQL, &[&child.as_str()]).await?;
    Ok(row.and_then(|row| row.get("broker_password_hash")))
}

/// A batch that was given its number.
#[derive(Debug)]
pub(crate) struct Numbered<'a> {
    pub(crate) mark: Mark,
    /// Encoded and signed.
    pub(crate) message: &'a [u8],
    /// Keys in it.
    pub(crate) items: usize,
}

pub(crate) async fn keep_batch(
    db: &impl GenericClient,
    peer: SiteCode,
    batch: &Numbered<'_>,
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO link_batches (peer_site_code, seq, chain, message, items)
        VALUES ($1, $2, $3, $4, $5)";
    let items = i32::try_from(batch.items).unwrap_or(i32::MAX);
    let params: super::Params<'_> = &[
        &peer.as_str(),
        &batch.mark.seq.cast_signed(),
        &batch.mark.chain.0.as_slice(),
        &batch.message,
        &items,
    ];
    execute(db, SQL, params).await?;
    Ok(())
}

/// The batches after this one, ascending.
pub(crate) async fn batches_after(
    db: &impl GenericClient,
    peer: SiteCode,
    seq: u64,
    limit: i64,
) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    const SQL: &str = "
        SELECT seq, message FROM link_batches WHERE peer_site_code = $1 AND seq > $2
        ORDER BY seq LIMIT $3";
    let rows = query(db, SQL, &[&peer.as_str(), &seq.cast_signed(), &limit]).await?;
    let batch = |row: &Row| (super::large(row, "seq"), row.get("message"));
    Ok(rows.iter().map(batch).collect())
}

/// The peer's database has everything up to the mark: nothing is wrong any more.
pub(crate) async fn forget(
    db: &impl GenericClient,
    peer: SiteCode,
    acked: Mark,
) -> Result<(), Error> {
    const BATCHES: &str = "DELETE FROM link_batches WHERE peer_site_code = $1 AND seq <= $2";
    const MARK: &str = "
        UPDATE links SET (out_epoch, out_acked_seq, out_acked_chain, refusal) = ($2, $3, $4, NULL)
        WHERE peer_site_code = $1";
    let seq = acked.seq.cast_signed();
    let (epoch, chain) = (acked.epoch.cast_signed(), acked.chain.0.as_slice());
    execute(db, BATCHES, &[&peer.as_str(), &seq]).await?;
    execute(db, MARK, &[&peer.as_str(), &epoch, &seq, &chain]).await?;
    Ok(())
}

/// Everything that was numbered counts no more; `acked` is the beginning of the new epoch.
pub(crate) async fn start_again(
    db: &impl GenericClient,
    peer: SiteCode,
    acked: Mark,
) -> Result<(), Error> {
    const BATCHES: &str = "DELETE FROM link_batches WHERE peer_site_code = $1";
    execute(db, BATCHES, &[&peer.as_str()]).await?;
    forget(db, peer, acked).await
}

/// Our database has what the peer sent up to `to`; before, it had it up to `from`. `false`: that is
/// not so, somebody else was here.
pub(crate) async fn applied(
    db: &impl GenericClient,
    peer: SiteCode,
    from: Mark,
    to: Mark,
) -> Result<bool, Error> {
    const SQL: &str = "
        UPDATE links SET (in_epoch, in_seq, in_chain, heard_at) = ($4, $5, $6, now())
        WHERE peer_site_code = $1 AND in_epoch = $2 AND in_seq = $3";
    let params: super::Params<'_> = &[
        &peer.as_str(),
        &from.epoch.cast_signed(),
        &from.seq.cast_signed(),
        &to.epoch.cast_signed(),
        &to.seq.cast_signed(),
        &to.chain.0.as_slice(),
    ];
    Ok(execute(db, SQL, params).await? == 1)
}

/// The peer greeted us.
pub(crate) async fn greeted(
    db: &impl GenericClient,
    peer: SiteCode,
    protocol: u32,
    version: &str,
    lineage: &[String],
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE links SET (peer_protocol, peer_version, lineage) =
            ($2, $3, CASE WHEN is_parent THEN $4::text[] ELSE lineage END)
        WHERE peer_site_code = $1
          AND (peer_protocol <> $2 OR peer_version <> $3 OR (is_parent AND lineage <> $4::text[]))";
    let protocol = i32::try_from(protocol).unwrap_or(i32::MAX);
    execute(db, SQL, &[&peer.as_str(), &protocol, &version, &lineage]).await?;
    Ok(())
}

/// What waits to be put into a batch for a neighbour: how much beside clients, and how old the oldest
/// is, also of those.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) things: u64,
    pub(crate) oldest: Option<Timestamp>,
}

pub(crate) async fn waiting(db: &impl GenericClient, peer: Neighbour) -> Result<Waiting, Error> {
    const SQL: &str = "
        SELECT s.count + o.count AS things,
               LEAST(s.oldest, o.oldest, c.oldest) AS oldest
        FROM (SELECT count(*), min(marked_at) AS oldest FROM dirty_sites
              WHERE peer_site_code = $1) AS s,
             (SELECT count(*), min(marked_at) AS oldest FROM dirty_objects
              WHERE peer_site_code = $1) AS o,
             (SELECT min(marked_at) AS oldest FROM dirty_clients WHERE $2) AS c";
    let row = query_one(db, SQL, &[&peer.code.as_str(), &peer.is_parent]).await?;
    Ok(Waiting {
        things: super::large(&row, "things"),
        oldest: row.get("oldest"),
    })
}

/// The peer said something.
pub(crate) async fn heard(db: &impl GenericClient, peer: SiteCode) -> Result<(), Error> {
    const SQL: &str = "UPDATE links SET heard_at = now() WHERE peer_site_code = $1";
    execute(db, SQL, &[&peer.as_str()]).await?;
    Ok(())
}

/// The link is not refused any more.
pub(crate) async fn accept(db: &impl GenericClient, peer: SiteCode) -> Result<(), Error> {
    const SQL: &str = "UPDATE links SET refusal = NULL WHERE peer_site_code = $1";
    execute(db, SQL, &[&peer.as_str()]).await?;
    Ok(())
}

/// The link is refused, until something shows that it is not any more.
pub(crate) async fn refuse(
    db: &impl GenericClient,
    peer: SiteCode,
    refusal: &str,
) -> Result<(), Error> {
    const SQL: &str = "UPDATE links SET refusal = $2 WHERE peer_site_code = $1";
    execute(db, SQL, &[&peer.as_str(), &refusal]).await?;
    Ok(())
}

/// Codes of this site and of those above it, nearest first.
pub(crate) async fn lineage(db: &impl GenericClient, own: SiteCode) -> Result<Vec<String>, Error> {
    const SQL: &str = "SELECT peer_site_code, lineage FROM links WHERE is_parent";
    let mut codes = vec![own.to_string()];
    if let Some(row) = query_opt(db, SQL, &[]).await? {
        let above: Vec<String> = row.get("lineage");
        let parent: String = row.get("peer_site_code");
        // A parent that has not greeted yet has told us nothing of those above it.
        if above.first() != Some(&parent) {
            codes.push(parent);
        }
        codes.extend(above);
    }
    Ok(codes)
}
