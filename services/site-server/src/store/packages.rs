//! `packages` with their files, and where the files are.

use deadpool_postgres::GenericClient;
use muster_domain::SiteCode;
use muster_domain::ids::PackageId;
use muster_proto::catalog::{ArchiveSuite, FileRef};
use muster_proto::content as pb;
use tokio_postgres::Row;

use super::named::{self, Named, by_name};
use super::{execute, id, large, number, query, query_one, query_opt, time};
use crate::app::Error;
use crate::domain::page::Page;

pub(crate) async fn add(
    db: &impl GenericClient,
    name: &str,
    updates: &[i32],
    update_list_no: Option<i32>,
    all_leaves: bool,
) -> Result<i32, Error> {
    const SQL: &str = "
        INSERT INTO packages (package_id, name, all_leaves, update_list_no)
        VALUES ($1, $2, $3, $4) RETURNING package_no";
    const UPDATES: &str = "
        INSERT INTO package_updates (package_no, update_no) SELECT $1, unnest($2::int4[])";
    let id = PackageId::generate().0;
    let params: super::Params<'_> = &[&id, &name, &all_leaves, &update_list_no];
    let package_no: i32 = query_one(db, SQL, params).await?.get(0);
    execute(db, UPDATES, &[&package_no, &updates]).await?;
    Ok(package_no)
}

/// Derives which files belong to packages: all leaves, or those that some client said it needs.
/// Needs that came since the package was made are followed too. Packages of sites below are for their
/// distribution points, not for ours. Returns how many are new.
pub(crate) async fn derive_files(db: &impl GenericClient) -> Result<u64, Error> {
    const FILES: &str = "
        INSERT INTO content_files (sha256, size, path, archive_uri)
        SELECT DISTINCT ON (l.sha256) l.sha256, l.size, l.path, l.archive_uri
        FROM packages p JOIN package_updates USING (package_no)
        JOIN update_leaves l USING (update_no)
        WHERE (p.all_leaves OR EXISTS (SELECT FROM update_leaf_needs n
               WHERE n.update_no = l.update_no AND n.package = l.package))
          AND (p.owner_site_code IS NULL OR NOT EXISTS (
               SELECT FROM sites s WHERE s.site_code = p.owner_site_code
                 AND s.via_site_code IS NOT NULL))
          AND NOT EXISTS (SELECT FROM content_files f WHERE f.sha256 = l.sha256)
        ON CONFLICT DO NOTHING";
    const MEMBERS: &str = "
        INSERT INTO package_files (package_no, sha256)
        SELECT DISTINCT p.package_no, l.sha256
        FROM packages p JOIN package_updates USING (package_no)
        JOIN update_leaves l USING (update_no)
        WHERE (p.all_leaves OR EXISTS (SELECT FROM update_leaf_needs n
               WHERE n.update_no = l.update_no AND n.package = l.package))
          AND (p.owner_site_code IS NULL OR NOT EXISTS (
               SELECT FROM sites s WHERE s.site_code = p.owner_site_code
                 AND s.via_site_code IS NOT NULL))
        ON CONFLICT DO NOTHING";
    execute(db, FILES, &[]).await?;
    execute(db, MEMBERS, &[]).await
}

/// Updates with leaves that nobody asked for although installs may need them: their names are new,
/// as those of each new kernel are, so that no client has an older one to replace. How many
/// updates, and the name of one such leaf.
pub(crate) async fn new_names(
    db: &impl GenericClient,
    updates: &[i32],
) -> Result<(i64, Option<String>), Error> {
    const SQL: &str = "
        SELECT count(DISTINCT u.update_no), min(l.package)
        FROM updates u JOIN update_leaves l USING (update_no)
        WHERE u.update_no = ANY ($1)
          AND EXISTS (SELECT FROM update_leaf_needs n WHERE n.update_no = u.update_no)
          AND NOT EXISTS (SELECT FROM update_leaf_needs n
                          WHERE n.update_no = u.update_no AND n.package = l.package)
          AND EXISTS (SELECT FROM update_leaves o WHERE o.update_no = ANY (u.supersedes))
          AND NOT EXISTS (SELECT FROM update_leaves o
                          WHERE o.update_no = ANY (u.supersedes) AND o.package = l.package)";
    let row = query_one(db, SQL, &[&updates]).await?;
    Ok((row.get(0), row.get(1)))
}

/// Says what each distribution point should have: files of packages wait for their transfer,
/// files of no package wait to be removed. Returns how many that were available are not any more.
pub(crate) async fn want_files(
    db: &impl GenericClient,
    distribution_point: &str,
) -> Result<u64, Error> {
    const WANT: &str = "
        INSERT INTO distribution_states AS held (distribution_point, sha256, state)
        SELECT DISTINCT $1, sha256, 1::int2 FROM package_files
        ON CONFLICT (distribution_point, sha256) DO UPDATE SET (state, changed_at) = (1, now())
        WHERE held.state = 5";
    const REMOVE: &str = "
        WITH gone AS (
            UPDATE distribution_states AS held SET (state, changed_at) = (5, now())
            FROM distribution_states AS before
            WHERE held.distribution_point = $1 AND held.state <> 5
              AND before.distribution_point = $1 AND before.sha256 = held.sha256
              AND NOT EXISTS (SELECT FROM package_files f WHERE f.sha256 = held.sha256)
            RETURNING before.state)
        SELECT count(*) FILTER (WHERE state = 3) AS gone FROM gone";
    execute(db, WANT, &[&distribution_point]).await?;
    let row = query_one(db, REMOVE, &[&distribution_point]).await?;
    Ok(large(&row, "gone"))
}

/// Files that a distribution point has not got yet. A file that failed is tried again after a
/// minute.
pub(crate) async fn missing(
    db: &impl GenericClient,
    distribution_point: &str,
) -> Result<Vec<FileRef>, Error> {
    const SQL: &str = "
        SELECT f.sha256, f.size, f.path, f.archive_uri
        FROM distribution_states s JOIN content_files f USING (sha256)
        WHERE s.distribution_point = $1
          AND (s.state IN (1, 2)
               OR (s.state = 4 AND s.changed_at < now() - interval '1 minute'))
        ORDER BY s.state DESC, f.size LIMIT 20000";
    let rows = query(db, SQL, &[&distribution_point]).await?;
    Ok(rows.iter().map(file_ref).collect())
}

fn file_ref(row: &Row) -> FileRef {
    FileRef {
        sha256: row.get::<_, Vec<u8>>("sha256").into(),
        size: large(row, "size"),
        path: row.get("path"),
        archive_uri: row.get("archive_uri"),
    }
}

/// A page of the files that a distribution point said it has, by hash, above `after`.
pub(crate) async fn available(
    db: &impl GenericClient,
    distribution_point: &str,
    after: &[u8],
    limit: usize,
) -> Result<Vec<FileRef>, Error> {
    const SQL: &str = "
        SELECT f.sha256, f.size, f.path, f.archive_uri
        FROM distribution_states s JOIN content_files f USING (sha256)
        WHERE s.distribution_point = $1 AND s.sha256 > $2 AND s.state = 3
        ORDER BY s.sha256 LIMIT $3";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = query(db, SQL, &[&distribution_point, &after, &limit]).await?;
    Ok(rows.iter().map(file_ref).collect())
}

/// Files that clients can fetch from a distribution point now, or cannot any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) appeared: u64,
    pub(crate) disappeared: u64,
}

/// Writes what a distribution point says of files; returns how many appeared and disappeared.
pub(crate) async fn keep_states(
    db: &impl GenericClient,
    distribution_point: &str,
    files: &[pb::FileStatus],
) -> Result<Moved, Error> {
    const SQL: &str = "
        WITH changed AS (
            UPDATE distribution_states AS held SET
                (state, bytes_fetched, detail, changed_at) =
                (fresh.state, fresh.bytes_fetched, fresh.detail,
                 CASE WHEN held.state = fresh.state AND fresh.state <> 4
                      THEN held.changed_at ELSE now() END)
            FROM unnest($2::bytea[], $3::int2[], $4::int8[], $5::text[]) AS fresh
                (sha256, state, bytes_fetched, detail)
            JOIN distribution_states AS before
                ON before.distribution_point = $1 AND before.sha256 = fresh.sha256
            WHERE held.distribution_point = $1 AND held.sha256 = fresh.sha256
              AND held.state <> 5
              AND (held.state, held.bytes_fetched, held.detail) IS DISTINCT FROM
                  (fresh.state, fresh.bytes_fetched, fresh.detail)
            RETURNING before.state AS before, held.state AS after)
        SELECT count(*) FILTER (WHERE after = 3 AND before <> 3) AS appeared,
               count(*) FILTER (WHERE before = 3 AND after <> 3) AS disappeared
        FROM changed";
    let known = |file: &&pb::FileStatus| (1..=4).contains(&file.state);
    let files: Vec<&pb::FileStatus> = files.iter().filter(known).collect();
    let sha256: Vec<&[u8]> = files.iter().map(|f| f.sha256.as_ref()).collect();
    let state: Vec<i16> = files
        .iter()
        .map(|f| i16::try_from(f.state).unwrap_or(1))
        .collect();
    let bytes: Vec<i64> = files
        .iter()
        .map(|f| i64::try_from(f.bytes_fetched).unwrap_or(i64::MAX))
        .collect();
    let detail: Vec<String> = files
        .iter()
        .map(|f| crate::domain::names::cleaned(&f.detail, 1_024))
        .collect();
    let params: super::Params<'_> = &[&distribution_point, &sha256, &state, &bytes, &detail];
    let row = query_one(db, SQL, params).await?;
    Ok(Moved {
        appeared: large(&row, "appeared"),
        disappeared: large(&row, "disappeared"),
    })
}

/// Files that a distribution point should remove.
pub(crate) async fn removable(
    db: &impl GenericClient,
    distribution_point: &str,
) -> Result<Vec<Vec<u8>>, Error> {
    const SQL: &str = "
        SELECT sha256 FROM distribution_states
        WHERE distribution_point = $1 AND state = 5 LIMIT 2000";
    Ok(query(db, SQL, &[&distribution_point])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect())
}

/// Forgets files that a distribution point removed, unless a package wants them again.
pub(crate) async fn forget(
    db: &impl GenericClient,
    distribution_point: &str,
    files: &[Vec<u8>],
) -> Result<(), Error> {
    const STATES: &str = "
        DELETE FROM distribution_states
        WHERE distribution_point = $1 AND sha256 = ANY ($2) AND state = 5";
    const FILES: &str = "
        DELETE FROM content_files f WHERE f.sha256 = ANY ($1)
        AND NOT EXISTS (SELECT FROM package_files p WHERE p.sha256 = f.sha256)
        AND NOT EXISTS (SELECT FROM distribution_states s WHERE s.sha256 = f.sha256)";
    execute(db, STATES, &[&distribution_point, &files]).await?;
    execute(db, FILES, &[&files]).await?;
    Ok(())
}

/// Whether a distribution point lacks a suite that packages need, or has it from before the
/// newest package, or for longer than a day (signed suites expire).
pub(crate) async fn wants_suites(
    db: &impl GenericClient,
    distribution_point: &str,
) -> Result<Vec<(String, String)>, Error> {
    const SQL: &str = "
        WITH needed AS (
            SELECT DISTINCT u.suite, rtrim(l.archive_uri, '/') AS archive_uri
            FROM package_updates p JOIN updates u USING (update_no)
            JOIN update_leaves l USING (update_no))
        SELECT n.suite, n.archive_uri FROM needed n
        LEFT JOIN published_suites s
          ON s.distribution_point = $1 AND s.suite = n.suite AND s.archive_uri = n.archive_uri
        WHERE s.suite IS NULL OR s.published_at < now() - interval '1 day'
           OR s.published_at < (SELECT max(created_at) FROM packages)";
    let rows = query(db, SQL, &[&distribution_point]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Lets the suites of a distribution point be published again at the next occasion.
pub(crate) async fn doubt_published(
    db: &impl GenericClient,
    distribution_point: &str,
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE published_suites SET published_at = to_timestamp(0) WHERE distribution_point = $1";
    execute(db, SQL, &[&distribution_point]).await?;
    Ok(())
}

/// As [`doubt_published`], of all distribution points.
pub(crate) async fn doubt_all_published(db: &impl GenericClient) -> Result<(), Error> {
    const SQL: &str = "UPDATE published_suites SET published_at = to_timestamp(0)";
    execute(db, SQL, &[]).await?;
    Ok(())
}

/// The snapshot that a distribution point offers of a suite.
pub(crate) async fn published_snapshot(
    db: &impl GenericClient,
    distribution_point: &str,
    key: &str,
) -> Result<Option<Vec<u8>>, Error> {
    const SQL: &str = "
        SELECT snapshot_hash FROM published_suites
        WHERE distribution_point = $1 AND suite_key = $2";
    Ok(query_opt(db, SQL, &[&distribution_point, &key])
        .await?
        .map(|row| row.get(0)))
}

/// Notes that a distribution point offers a suite.
pub(crate) async fn keep_published(
    db: &impl GenericClient,
    distribution_point: &str,
    key: &str,
    suite: &ArchiveSuite,
    snapshot_hash: &[u8],
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO published_suites (distribution_point, suite_key, suite, archive_uri,
                                      components, architectures, signed_by, ignore_valid_until,
                                      snapshot_hash)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        ON CONFLICT (distribution_point, suite_key) DO UPDATE SET
            (suite, archive_uri, components, architectures, signed_by, ignore_valid_until,
             snapshot_hash, published_at) =
            (excluded.suite, excluded.archive_uri, excluded.components, excluded.architectures,
             excluded.signed_by, excluded.ignore_valid_until, excluded.snapshot_hash, now())";
    let archive_uri = suite.archive_uri.trim_end_matches('/');
    let params: super::Params<'_> = &[
        &distribution_point,
        &key,
        &suite.suite,
        &archive_uri,
        &suite.components,
        &suite.architectures,
        &suite.signed_by,
        &suite.ignore_valid_until,
        &snapshot_hash,
    ];
    execute(db, SQL, params).await?;
    Ok(())
}

/// What keeps an update from being deployed.
#[derive(Debug)]
pub(crate) enum Missing {
    /// No package has the update.
    Package { update_no: i32 },
    /// A file that a client needs is on no distribution point.
    File {
        package: String,
        version: String,
        why: String,
    },
}

/// The first thing that is missing of these updates; what only an administrator can mend comes
/// first.
pub(crate) async fn first_missing(
    db: &impl GenericClient,
    updates: &[i32],
) -> Result<Option<Missing>, Error> {
    const SQL: &str = "
        SELECT l.update_no, l.package, l.version,
               NOT EXISTS (SELECT FROM package_updates p WHERE p.update_no = l.update_no)
                   AS unpackaged,
               CASE WHEN NOT EXISTS (SELECT FROM package_files p WHERE p.sha256 = l.sha256)
                    THEN 'it is in no package yet'
                    WHEN NOT EXISTS (SELECT FROM published_suites s JOIN updates u
                         ON u.update_no = l.update_no AND s.suite = u.suite
                         AND s.archive_uri = rtrim(l.archive_uri, '/'))
                    THEN 'its suite is not published yet'
                    ELSE COALESCE((SELECT NULLIF(s.detail, '') FROM distribution_states s
                                   WHERE s.sha256 = l.sha256 LIMIT 1), 'its transfer is under way')
               END AS why
        FROM update_leaves l
        JOIN update_leaf_needs n ON n.update_no = l.update_no AND n.package = l.package
        WHERE l.update_no = ANY ($1)
          AND NOT (EXISTS (SELECT FROM distribution_states s
                           WHERE s.sha256 = l.sha256 AND s.state = 3)
                   AND EXISTS (SELECT FROM published_suites s JOIN updates u
                               ON u.update_no = l.update_no AND s.suite = u.suite
                               AND s.archive_uri = rtrim(l.archive_uri, '/')))
        ORDER BY unpackaged DESC, l.update_no, l.leaf_no LIMIT 1";
    let missing = |row: Row| {
        if row.get("unpackaged") {
            Missing::Package {
                update_no: row.get("update_no"),
            }
        } else {
            Missing::File {
                package: row.get("package"),
                version: row.get("version"),
                why: row.get("why"),
            }
        }
    };
    Ok(query_opt(db, SQL, &[&updates]).await?.map(missing))
}

/// By name, or by id as text.
pub(crate) async fn find(
    db: &impl GenericClient,
    own: SiteCode,
    name: &str,
) -> Result<Option<Named>, Error> {
    const SQL: &str = by_name!("packages", "package_no", "package_id");
    named::find(db, own, SQL, "package", name).await
}

pub(crate) async fn delete(db: &impl GenericClient, package_no: i32) -> Result<(), Error> {
    const SQL: &str = "DELETE FROM packages WHERE package_no = $1";
    execute(db, SQL, &[&package_no]).await?;
    Ok(())
}

/// A file counts as available when one distribution point has it, and as failed when none has
/// and one failed.
const COLUMNS: &str = "
    WITH places AS (
        SELECT sha256, bool_or(state = 3) AS available,
               bool_or(state = 4) AND NOT bool_or(state = 3) AS failed,
               max(detail) FILTER (WHERE state = 4) AS detail
        FROM distribution_states GROUP BY sha256)
    SELECT p.package_no, p.package_id, p.name, p.created_at,
           COALESCE(p.owner_site_code, $1) AS owner,
           (SELECT count(*)::int4 FROM package_updates u WHERE u.package_no = p.package_no)
               AS updates,
           count(f.sha256)::int4 AS files,
           (count(*) FILTER (WHERE l.available))::int4 AS available,
           (count(*) FILTER (WHERE l.failed))::int4 AS failed,
           COALESCE(sum(f.size), 0)::int8 AS bytes,
           COALESCE(min(f.path || ': ' || l.detail) FILTER (WHERE l.failed), '') AS problem
    FROM packages p
    LEFT JOIN package_files m USING (package_no)
    LEFT JOIN content_files f USING (sha256)
    LEFT JOIN places l USING (sha256) ";

fn package(row: &Row) -> pb::Package {
    pb::Package {
        package_id: id(row, "package_id"),
        name: row.get("name"),
        created_at: time(row, "created_at"),
        update_count: number(row, "updates"),
        file_count: number(row, "files"),
        files_available: number(row, "available"),
        files_failed: number(row, "failed"),
        total_bytes: large(row, "bytes"),
        problem: row.get("problem"),
        owner_site_code: row.get("owner"),
    }
}

pub(crate) async fn show(
    db: &impl GenericClient,
    own: SiteCode,
    package_no: i32,
) -> Result<pb::Package, Error> {
    static SQL: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        [COLUMNS, "WHERE p.package_no = $2 GROUP BY p.package_no"].concat()
    });
    let params: super::Params<'_> = &[&own.as_str(), &package_no];
    Ok(package(&query_one(db, &SQL, params).await?))
}

pub(crate) async fn list(
    db: &impl GenericClient,
    own: SiteCode,
    page: Page,
) -> Result<Vec<pb::Package>, Error> {
    static SQL: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        [
            COLUMNS,
            "GROUP BY p.package_no ORDER BY p.name, owner LIMIT $2 OFFSET $3",
        ]
        .concat()
    });
    let params: super::Params<'_> = &[&own.as_str(), &page.probe(), &page.offset];
    let rows = query(db, &SQL, params).await?;
    Ok(rows.iter().map(package).collect())
}

/// The files of a package, each in the best state that a distribution point says of it.
pub(crate) async fn files(
    db: &impl GenericClient,
    package_no: i32,
) -> Result<Vec<pb::FileStatus>, Error> {
    const SQL: &str = "
        SELECT DISTINCT ON (m.sha256) m.sha256, COALESCE(s.state, 1::int2) AS state,
               COALESCE(s.bytes_fetched, 0) AS bytes, COALESCE(s.detail, '') AS detail
        FROM package_files m LEFT JOIN distribution_states s USING (sha256)
        WHERE m.package_no = $1
        ORDER BY m.sha256, (s.state = 3) DESC NULLS LAST, s.state DESC LIMIT 20000";
    let file = |row: &Row| pb::FileStatus {
        sha256: row.get::<_, Vec<u8>>("sha256").into(),
        state: i32::from(row.get::<_, i16>("state")),
        bytes_fetched: large(row, "bytes"),
        detail: row.get("detail"),
        // What a package says is shown with its update.
        ..Default::default()
    };
    Ok(query(db, SQL, &[&package_no])
        .await?
        .iter()
        .map(file)
        .collect())
}
