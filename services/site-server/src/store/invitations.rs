//! `site_invitations`, and the rows of `links` and `parent_broker` that joining and leaving make.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_domain::SiteCode;

use super::{execute, query_one, query_opt};
use crate::app::Error;

/// Remembers that a token was given; those long past go.
pub(crate) async fn add(
    db: &impl GenericClient,
    hash: &[u8],
    site: SiteCode,
    expires_at: Timestamp,
) -> Result<(), Error> {
    const OLD: &str = "DELETE FROM site_invitations WHERE expires_at < now() - interval '30 days'";
    const SQL: &str = "
        INSERT INTO site_invitations (token_hash, site_code, expires_at) VALUES ($1, $2, $3)";
    execute(db, OLD, &[]).await?;
    execute(db, SQL, &[&hash, &site.as_str(), &expires_at]).await?;
    Ok(())
}

/// A token that was given.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) site_code: String,
    pub(crate) expires_at: Timestamp,
    /// The key of the site that used it.
    pub(crate) used_key: Option<Vec<u8>>,
}

/// The token with this hash; nobody else uses it until the transaction ends.
pub(crate) async fn lock(db: &impl GenericClient, hash: &[u8]) -> Result<Option<Given>, Error> {
    const SQL: &str = "
        SELECT site_code, expires_at, used_key FROM site_invitations WHERE token_hash = $1
        FOR UPDATE";
    let row = query_opt(db, SQL, &[&hash]).await?;
    Ok(row.map(|row| Given {
        site_code: row.get("site_code"),
        expires_at: row.get("expires_at"),
        used_key: row.get("used_key"),
    }))
}

pub(crate) async fn mark_used(
    db: &impl GenericClient,
    hash: &[u8],
    key: &[u8],
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE site_invitations SET (used_at, used_key) = (now(), $2) WHERE token_hash = $1";
    execute(db, SQL, &[&hash, &key]).await?;
    Ok(())
}

/// A site that becomes a neighbour.
#[derive(Debug)]
pub(crate) struct Joining<'a> {
    pub(crate) code: SiteCode,
    pub(crate) name: &'a str,
    pub(crate) is_parent: bool,
    pub(crate) public_key: &'a [u8],
    pub(crate) protocol: u32,
    pub(crate) version: &'a str,
    /// Of a parent: itself and those above it.
    pub(crate) lineage: &'a [String],
    /// Of a child: the certificate that it got.
    pub(crate) fingerprint: Option<&'a str>,
    /// Of a child: what our broker keeps of its password.
    pub(crate) password_hash: Option<&'a str>,
}

/// Makes the link; `false` when it is there, which then has what this call says.
pub(crate) async fn join(db: &impl GenericClient, it: &Joining<'_>) -> Result<bool, Error> {
    const SQL: &str = "
        INSERT INTO links AS held (peer_site_code, peer_name, is_parent, public_key, peer_protocol,
                                   peer_version, lineage, certificate_fingerprint,
                                   broker_password_hash)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        ON CONFLICT (peer_site_code) DO UPDATE SET
            (peer_name, peer_protocol, peer_version, lineage, certificate_fingerprint,
             broker_password_hash) =
            (excluded.peer_name, LEAST(held.peer_protocol, excluded.peer_protocol),
             excluded.peer_version, excluded.lineage,
             excluded.certificate_fingerprint, excluded.broker_password_hash)
        RETURNING xmax = 0 AS made";
    let protocol = i32::try_from(it.protocol).unwrap_or(i32::MAX);
    let params: super::Params<'_> = &[
        &it.code.as_str(),
        &it.name,
        &it.is_parent,
        &it.public_key,
        &protocol,
        &it.version,
        &it.lineage,
        &it.fingerprint,
        &it.password_hash,
    ];
    Ok(query_one(db, SQL, params).await?.get("made"))
}

/// A neighbour as joining and leaving see it.
#[derive(Debug)]
pub(crate) struct Neighbour {
    pub(crate) code: String,
    pub(crate) public_key: Vec<u8>,
    pub(crate) fingerprint: Option<String>,
}

fn neighbour(row: &tokio_postgres::Row) -> Neighbour {
    Neighbour {
        code: row.get("peer_site_code"),
        public_key: row.get("public_key"),
        fingerprint: row.get("certificate_fingerprint"),
    }
}

pub(crate) async fn parent(db: &impl GenericClient) -> Result<Option<Neighbour>, Error> {
    const SQL: &str = "
        SELECT peer_site_code, public_key, certificate_fingerprint FROM links WHERE is_parent";
    let row = query_opt(db, SQL, &[]).await?;
    Ok(row.as_ref().map(neighbour))
}

pub(crate) async fn child(
    db: &impl GenericClient,
    code: SiteCode,
) -> Result<Option<Neighbour>, Error> {
    const SQL: &str = "
        SELECT peer_site_code, public_key, certificate_fingerprint FROM links
        WHERE peer_site_code = $1 AND NOT is_parent";
    let row = query_opt(db, SQL, &[&code.as_str()]).await?;
    Ok(row.as_ref().map(neighbour))
}

/// How the parent is reached, with secrets.
#[derive(Default)]
pub(crate) struct Access {
    pub(crate) address: String,
    pub(crate) broker_uri: String,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) ca: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

pub(crate) async fn keep_access(
    db: &impl GenericClient,
    parent: SiteCode,
    it: &Access,
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO parent_broker
            (peer_site_code, uri, username, password, ca, certificate, key, address)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (peer_site_code) DO UPDATE SET
            (uri, username, password, ca, certificate, key, address) =
            (excluded.uri, excluded.username, excluded.password, excluded.ca,
             excluded.certificate, excluded.key, excluded.address)";
    let params: super::Params<'_> = &[
        &parent.as_str(),
        &it.broker_uri,
        &it.username,
        &it.password,
        &it.ca,
        &it.certificate,
        &it.key,
        &it.address,
    ];
    execute(db, SQL, params).await?;
    Ok(())
}

/// The link to a parent that we had before has another way from now on: it is opened anew.
pub(crate) async fn connect_again(db: &impl GenericClient, parent: SiteCode) -> Result<(), Error> {
    const SQL: &str = "UPDATE links SET joined_at = now() WHERE peer_site_code = $1";
    execute(db, SQL, &[&parent.as_str()]).await?;
    Ok(())
}

/// How the parent is reached: its gRPC address, and what we are known with there.
pub(crate) async fn access(db: &impl GenericClient) -> Result<Option<Access>, Error> {
    const SQL: &str = "SELECT address, ca, certificate, key FROM parent_broker";
    let row = query_opt(db, SQL, &[]).await?;
    Ok(row.map(|row| Access {
        address: row.get("address"),
        ca: row.get("ca"),
        certificate: row.get("certificate"),
        key: row.get("key"),
        ..Access::default()
    }))
}

/// Ends a link; what was under way goes with it.
pub(crate) async fn end(db: &impl GenericClient, peer: &str) -> Result<(), Error> {
    const SQL: &str = "DELETE FROM links WHERE peer_site_code = $1";
    execute(db, SQL, &[&peer]).await?;
    Ok(())
}
