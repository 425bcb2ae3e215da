//! `site_trend`, `update_list_trend`, `deployment_trend`: what reports said at the full hour. Each
//! month is a partition, made ahead and dropped as a whole by functions of the migration.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_domain::states::DeploymentEnforcement;
use muster_proto::report as pb;
use tokio_postgres::Row;

use super::{execute, large, number, query, query_one, time};
use crate::app::Error;

/// The site at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SiteNow {
    pub(crate) clients: i32,
    pub(crate) never_reported: i32,
    pub(crate) old_catalog: i32,
    pub(crate) non_compliant: i32,
    pub(crate) installed: i64,
    pub(crate) required: i64,
    pub(crate) unknown: i64,
}

/// An update list at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListNow {
    pub(crate) update_list_no: i32,
    /// All, compliant, non-compliant, unknown, no data.
    pub(crate) clients: [i32; 5],
}

/// Which points are wanted: from, to, and seconds per step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    pub(crate) step: i64,
}

/// Whether the snapshot of this period was taken. All of a snapshot commits together.
pub(crate) async fn is_taken(db: &impl GenericClient, at: Timestamp) -> Result<bool, Error> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM site_trend WHERE at = $1)";
    Ok(query_one(db, SQL, &[&at]).await?.get(0))
}

/// Makes room for the month of this moment and for the next one.
pub(crate) async fn make_partitions(db: &impl GenericClient, at: Timestamp) -> Result<(), Error> {
    const SQL: &str = "
        SELECT make_trend_partitions($1), make_trend_partitions($1 + interval '1 month')";
    query_one(db, SQL, &[&at]).await?;
    Ok(())
}

/// Drops the months that ended before this moment; returns how many partitions that were.
pub(crate) async fn drop_partitions(
    db: &impl GenericClient,
    before: Timestamp,
) -> Result<i32, Error> {
    const SQL: &str = "SELECT drop_trend_partitions($1)";
    Ok(query_one(db, SQL, &[&before]).await?.get(0))
}

/// Keeps the point of the site; the first word of a period stays.
pub(crate) async fn keep_site(
    db: &impl GenericClient,
    at: Timestamp,
    now: &SiteNow,
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO site_trend (at, clients, never_reported, old_catalog, scan_failed,
                                non_compliant, installed, required, unknown)
        SELECT $1, $2, $3, $4, (SELECT count(*)::int4 FROM scan_states WHERE state = 5), $5, $6,
               $7, $8
        ON CONFLICT DO NOTHING";
    let params: super::Params<'_> = &[
        &at,
        &now.clients,
        &now.never_reported,
        &now.old_catalog,
        &now.non_compliant,
        &now.installed,
        &now.required,
        &now.unknown,
    ];
    execute(db, SQL, params).await?;
    Ok(())
}

/// Keeps the points of update lists.
pub(crate) async fn keep_lists(
    db: &impl GenericClient,
    at: Timestamp,
    lists: &[ListNow],
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO update_list_trend (update_list_no, at, clients, compliant, non_compliant,
                                       unknown, no_data)
        SELECT l.update_list_no, $1, l.clients, l.compliant, l.non_compliant, l.unknown, l.no_data
        FROM unnest($2::int4[], $3::int4[], $4::int4[], $5::int4[], $6::int4[], $7::int4[]) AS l
            (update_list_no, clients, compliant, non_compliant, unknown, no_data)
        ON CONFLICT DO NOTHING";
    let numbers: Vec<i32> = lists.iter().map(|list| list.update_list_no).collect();
    let [clients, compliant, non_compliant, unknown, no_data] =
        [0, 1, 2, 3, 4].map(|at| -> Vec<i32> { lists.iter().map(|it| it.clients[at]).collect() });
    let params: super::Params<'_> = &[
        &at,
        &numbers,
        &clients,
        &compliant,
        &non_compliant,
        &unknown,
        &no_data,
    ];
    execute(db, SQL, params).await?;
    Ok(())
}

/// Keeps the point of a deployment: clients by state of topic 301.
pub(crate) async fn keep_deployment(
    db: &impl GenericClient,
    at: Timestamp,
    deployment_no: i32,
    counts: &[(DeploymentEnforcement, u32)],
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO deployment_trend (deployment_no, at, clients, states, state_clients)
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
    let states: Vec<i16> = counts.iter().map(|(state, _)| state.id().into()).collect();
    let clients: Vec<i32> = counts.iter().map(|(_, it)| it.cast_signed()).collect();
    let all: i32 = clients.iter().sum();
    execute(db, SQL, &[&deployment_no, &at, &all, &states, &clients]).await?;
    Ok(())
}

/// Points of the site, ascending.
pub(crate) async fn site(db: &impl GenericClient, span: Span) -> Result<Vec<pb::SitePoint>, Error> {
    const SQL: &str = "
        SELECT DISTINCT ON (extract(epoch FROM at)::int8 / $3) at, clients, never_reported,
               old_catalog, scan_failed, non_compliant, installed, required, unknown
        FROM site_trend WHERE at >= $1 AND at <= $2
        ORDER BY extract(epoch FROM at)::int8 / $3, at DESC";
    let point = |row: &Row| pb::SitePoint {
        at: time(row, "at"),
        clients: number(row, "clients"),
        never_reported: number(row, "never_reported"),
        old_catalog: number(row, "old_catalog"),
        scan_failed: number(row, "scan_failed"),
        non_compliant: number(row, "non_compliant"),
        installed: large(row, "installed"),
        required: large(row, "required"),
        unknown: large(row, "unknown"),
    };
    let rows = query(db, SQL, &[&span.from, &span.to, &span.step]).await?;
    Ok(rows.iter().map(point).collect())
}

/// Points of an update list, ascending.
pub(crate) async fn list(
    db: &impl GenericClient,
    list_no: i32,
    span: Span,
) -> Result<Vec<pb::ListPoint>, Error> {
    const SQL: &str = "
        SELECT DISTINCT ON (extract(epoch FROM at)::int8 / $3) at, clients, compliant,
               non_compliant, unknown, no_data
        FROM update_list_trend WHERE update_list_no = $4 AND at >= $1 AND at <= $2
        ORDER BY extract(epoch FROM at)::int8 / $3, at DESC";
    let point = |row: &Row| pb::ListPoint {
        at: time(row, "at"),
        clients: number(row, "clients"),
        compliant: number(row, "compliant"),
        non_compliant: number(row, "non_compliant"),
        unknown: number(row, "unknown"),
        no_data: number(row, "no_data"),
    };
    let rows = query(db, SQL, &[&span.from, &span.to, &span.step, &list_no]).await?;
    Ok(rows.iter().map(point).collect())
}

/// Points of a deployment, ascending.
pub(crate) async fn deployment(
    db: &impl GenericClient,
    deployment_no: i32,
    span: Span,
) -> Result<Vec<pb::DeploymentPoint>, Error> {
    const SQL: &str = "
        SELECT DISTINCT ON (extract(epoch FROM at)::int8 / $3) at, clients, states, state_clients
        FROM deployment_trend WHERE deployment_no = $4 AND at >= $1 AND at <= $2
        ORDER BY extract(epoch FROM at)::int8 / $3, at DESC";
    let point = |row: &Row| {
        let (states, clients): (Vec<i16>, Vec<i32>) = (row.get("states"), row.get("state_clients"));
        let count = |(state, clients): (&i16, &i32)| pb::StateCount {
            state: (*state).into(),
            clients: clients.unsigned_abs(),
        };
        pb::DeploymentPoint {
            at: time(row, "at"),
            clients: number(row, "clients"),
            states: states.iter().zip(&clients).map(count).collect(),
        }
    };
    let rows = query(db, SQL, &[&span.from, &span.to, &span.step, &deployment_no]).await?;
    Ok(rows.iter().map(point).collect())
}
