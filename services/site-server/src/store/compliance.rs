//! `client_compliance_rows`, `client_compliance_log`, `counter_moves`, `update_leaf_needs`: what
//! clients say of updates, and how many say so.
//!
//! A client's row is large; a small report is a row in the log instead. Readers in SQL use the
//! view `client_compliance`, which puts both together; here it is done by [`load`].

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use muster_compliance::ClientStates;
use muster_domain::UpdateNo;
use muster_domain::states::Detection;
use tokio_postgres::Row;

use super::copy::Copy;
use super::{execute, query};
use crate::app::Error;
use crate::domain::deployment_states::CounterMove;
use crate::domain::settle::{Held, LogRow, Moves};

/// What is held of these clients; a client of which nothing is held is left out. The caller keeps
/// other writers out.
pub(crate) async fn load(
    db: &impl GenericClient,
    clients: &[i32],
) -> Result<BTreeMap<i32, Held>, Error> {
    const ROWS: &str = "
        SELECT client_no, epoch, serial, catalog_generation, installed, required, unknown
        FROM client_compliance_rows WHERE client_no = ANY ($1)";
    const LOG: &str = "
        SELECT client_no, epoch, serial, catalog_generation, update_nos, states
        FROM client_compliance_log WHERE client_no = ANY ($1)
        ORDER BY client_no, epoch, serial";
    if clients.is_empty() {
        return Ok(BTreeMap::new());
    }
    let params: super::Params<'_> = &[&clients];
    let (rows, log) = tokio::try_join!(query(db, ROWS, params), query(db, LOG, params))?;
    Ok(put_together(&rows, &log))
}

/// What is held of the clients after `after`, `limit` of them at most and ascending; to read all.
pub(crate) async fn load_after(
    db: &impl GenericClient,
    after: i32,
    limit: i64,
) -> Result<BTreeMap<i32, Held>, Error> {
    const ROWS: &str = "
        SELECT client_no, epoch, serial, catalog_generation, installed, required, unknown
        FROM client_compliance_rows WHERE client_no > $1 ORDER BY client_no LIMIT $2";
    const LOG: &str = "
        SELECT client_no, epoch, serial, catalog_generation, update_nos, states
        FROM client_compliance_log WHERE client_no > $1 AND client_no <= $2
        ORDER BY client_no, epoch, serial";
    let rows = query(db, ROWS, &[&after, &limit]).await?;
    let Some(last) = rows.last().map(|row| row.get::<_, i32>("client_no")) else {
        return Ok(BTreeMap::new());
    };
    let log = query(db, LOG, &[&after, &last]).await?;
    Ok(put_together(&rows, &log))
}

fn put_together(rows: &[Row], log: &[Row]) -> BTreeMap<i32, Held> {
    let held = |row: &Row| {
        let states = ClientStates::from_columns(
            row.get("installed"),
            row.get("required"),
            row.get("unknown"),
        );
        let held = Held {
            epoch: row.get("epoch"),
            serial: row.get("serial"),
            catalog_generation: row.get("catalog_generation"),
            states,
        };
        (row.get("client_no"), held)
    };
    let mut all: BTreeMap<i32, Held> = rows.iter().map(held).collect();
    for row in log {
        let Some(held) = all.get_mut(&row.get("client_no")) else {
            continue;
        };
        let (numbers, states): (Vec<i32>, Vec<i16>) = (row.get("update_nos"), row.get("states"));
        let changes: Vec<(UpdateNo, Detection)> = numbers
            .iter()
            .zip(&states)
            .filter_map(|(number, state)| {
                let state = Detection::from_id(u8::try_from(*state).ok()?)?;
                Some((UpdateNo(number.unsigned_abs()), state))
            })
            .collect();
        held.states.merge(&changes);
        held.epoch = row.get("epoch");
        held.serial = row.get("serial");
        held.catalog_generation = held.catalog_generation.max(row.get("catalog_generation"));
    }
    all
}

/// Writes clients' rows. `replaced` are those that have one, `unlogged` those whose log is in
/// their new row.
pub(crate) async fn keep_rows(
    tx: &Transaction<'_>,
    rows: &[(i32, Held)],
    replaced: &[i32],
    unlogged: &[i32],
) -> Result<(), Error> {
    const REMOVE: &str = "DELETE FROM client_compliance_rows WHERE client_no = ANY ($1)";
    const UNLOG: &str = "DELETE FROM client_compliance_log WHERE client_no = ANY ($1)";
    const COPY: &str = "
        COPY client_compliance_rows (client_no, epoch, serial, catalog_generation, installed,
                                     required, unknown) FROM STDIN (FORMAT binary)";
    let remove = async |sql, clients: &[i32]| {
        if !clients.is_empty() {
            execute(tx, sql, &[&clients]).await?;
        }
        Ok::<(), Error>(())
    };
    tokio::try_join!(remove(REMOVE, replaced), remove(UNLOG, unlogged))?;
    if rows.is_empty() {
        return Ok(());
    }
    let mut copy = Copy::new();
    for (client_no, held) in rows {
        let (installed, required, unknown) = held.states.columns();
        copy.row(7)
            .int4(*client_no)
            .int4(held.epoch)
            .int8(held.serial)
            .int8(held.catalog_generation)
            .int4s(installed)
            .int4s(required)
            .int4s(unknown);
    }
    copy.send(tx, COPY).await?;
    Ok(())
}

/// Appends to clients' logs.
pub(crate) async fn keep_log(
    tx: &Transaction<'_>,
    rows: &[LogRow],
    now: Timestamp,
) -> Result<(), Error> {
    const COPY: &str = "
        COPY client_compliance_log (client_no, epoch, serial, catalog_generation, recorded_at,
                                    update_nos, states) FROM STDIN (FORMAT binary)";
    if rows.is_empty() {
        return Ok(());
    }
    let mut copy = Copy::new();
    let (mut numbers, mut states) = (Vec::new(), Vec::new());
    for row in rows {
        numbers.clear();
        states.clear();
        for change in &row.changes {
            numbers.push(i32::try_from(change.update_no.0).unwrap_or(i32::MAX));
            states.push(i16::from(change.to.id()));
        }
        copy.row(7)
            .int4(row.client_no)
            .int4(row.epoch)
            .int8(row.serial)
            .int8(row.catalog_generation)
            .timestamp(now)
            .int4s(&numbers)
            .int2s(&states);
    }
    copy.send(tx, COPY).await?;
    Ok(())
}

/// Moves the counters and the totals: one row, which nobody else writes.
pub(crate) async fn move_counters(
    db: &impl GenericClient,
    moves: &Moves,
    deployments: &[CounterMove],
    reports: usize,
    states: usize,
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO counter_moves (reports, states, update_nos, installed, required, unknown,
                                   deployment_nos, deployment_topics, deployment_states,
                                   deployment_clients)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    let moved = moves.rows();
    if moved.is_empty() && deployments.is_empty() && reports == 0 && states == 0 {
        return Ok(());
    }
    let numbers: Vec<i32> = moved.iter().map(|(number, _)| *number).collect();
    let [installed, required, unknown]: [Vec<i32>; 3] =
        [0, 1, 2].map(|at| moved.iter().map(|(_, by)| by[at]).collect());
    let (reports, states) = (count(reports), count(states));
    let deployment: Vec<i32> = deployments.iter().map(|it| it.0).collect();
    let topic: Vec<i16> = deployments.iter().map(|it| it.1).collect();
    let state: Vec<i16> = deployments.iter().map(|it| it.2).collect();
    let clients: Vec<i32> = deployments.iter().map(|it| it.3).collect();
    let params: super::Params<'_> = &[
        &reports,
        &states,
        &numbers,
        &installed,
        &required,
        &unknown,
        &deployment,
        &topic,
        &state,
        &clients,
    ];
    execute(db, SQL, params).await?;
    Ok(())
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Adds what batches moved to the counters, and forgets it. Returns how many batches it was.
pub(crate) async fn sum_up(tx: &Transaction<'_>) -> Result<u64, Error> {
    const SQL: &str = "
        WITH gone AS (DELETE FROM counter_moves RETURNING *),
        totals AS (
            UPDATE recorded_total_rows SET (reports, states) =
                (recorded_total_rows.reports + g.reports, recorded_total_rows.states + g.states)
            FROM (SELECT sum(reports)::bigint AS reports, sum(states)::bigint AS states
                  FROM gone HAVING count(*) > 0) AS g),
        counters AS (
            INSERT INTO update_counter_rows AS held (update_no, installed, required, unknown)
            SELECT c.update_no, sum(c.installed), sum(c.required), sum(c.unknown)
            FROM gone g, unnest(g.update_nos, g.installed, g.required, g.unknown)
                 AS c (update_no, installed, required, unknown)
            GROUP BY 1 ORDER BY 1
            ON CONFLICT (update_no) DO UPDATE SET (installed, required, unknown) =
                (held.installed + excluded.installed, held.required + excluded.required,
                 held.unknown + excluded.unknown)),
        deployment_counters AS (
            INSERT INTO deployment_counter_rows AS held (deployment_no, topic, state, clients)
            SELECT deployment_no, c.topic, c.state, sum(c.clients)
            FROM gone g
            CROSS JOIN LATERAL unnest(g.deployment_nos, g.deployment_topics, g.deployment_states,
                                      g.deployment_clients)
                AS c (deployment_no, topic, state, clients)
            JOIN deployments USING (deployment_no)
            GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
            ON CONFLICT (deployment_no, topic, state) DO UPDATE SET
                clients = held.clients + excluded.clients)
        SELECT count(*) FROM gone";
    let batches: i64 = super::query_one(tx, SQL, &[]).await?.get(0);
    Ok(batches.unsigned_abs())
}

/// Sets the counters to this, the counters of updates and those of deployments; what batches moved
/// is summed up before. Returns how many were something else.
pub(crate) async fn set_counters(
    tx: &Transaction<'_>,
    updates: &[(UpdateNo, [u32; 3])],
    deployments: &[CounterMove],
) -> Result<u64, Error> {
    const UPDATES: &str = "
        WITH truth AS (
            SELECT * FROM unnest($1::int4[], $2::int4[], $3::int4[], $4::int4[])
                AS t (update_no, installed, required, unknown)),
        gone AS (
            DELETE FROM update_counter_rows c
            WHERE NOT EXISTS (SELECT FROM truth t WHERE t.update_no = c.update_no)
              AND (c.installed, c.required, c.unknown) <> (0, 0, 0) RETURNING 1),
        kept AS (
            INSERT INTO update_counter_rows AS held (update_no, installed, required, unknown)
            SELECT update_no, installed, required, unknown FROM truth ORDER BY 1
            ON CONFLICT (update_no) DO UPDATE SET (installed, required, unknown) =
                (excluded.installed, excluded.required, excluded.unknown)
            WHERE (held.installed, held.required, held.unknown) <>
                  (excluded.installed, excluded.required, excluded.unknown) RETURNING 1)
        SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM kept)";
    const DEPLOYMENTS: &str = "
        WITH truth AS (
            SELECT t.* FROM unnest($1::int4[], $2::int2[], $3::int2[], $4::int4[])
                AS t (deployment_no, topic, state, clients) JOIN deployments USING (deployment_no)),
        gone AS (
            DELETE FROM deployment_counter_rows c
            WHERE NOT EXISTS (SELECT FROM truth t WHERE t.deployment_no = c.deployment_no
                              AND t.topic = c.topic AND t.state = c.state)
              AND c.clients <> 0 RETURNING 1),
        kept AS (
            INSERT INTO deployment_counter_rows AS held (deployment_no, topic, state, clients)
            SELECT deployment_no, topic, state, clients FROM truth ORDER BY 1, 2, 3
            ON CONFLICT (deployment_no, topic, state) DO UPDATE SET clients = excluded.clients
            WHERE held.clients <> excluded.clients RETURNING 1)
        SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM kept)";
    let numbers: Vec<i32> = updates.iter().map(|it| it.0.0.cast_signed()).collect();
    let [installed, required, unknown]: [Vec<i32>; 3] =
        [0, 1, 2].map(|at| updates.iter().map(|it| it.1[at].cast_signed()).collect());
    let params: super::Params<'_> = &[&numbers, &installed, &required, &unknown];
    let updates: i64 = super::query_one(tx, UPDATES, params).await?.get(0);
    let deployment: Vec<i32> = deployments.iter().map(|it| it.0).collect();
    let topic: Vec<i16> = deployments.iter().map(|it| it.1).collect();
    let state: Vec<i16> = deployments.iter().map(|it| it.2).collect();
    let clients: Vec<i32> = deployments.iter().map(|it| it.3).collect();
    let params: super::Params<'_> = &[&deployment, &topic, &state, &clients];
    let deployments: i64 = super::query_one(tx, DEPLOYMENTS, params).await?.get(0);
    Ok(updates.unsigned_abs() + deployments.unsigned_abs())
}

/// Removes what these clients said of updates; counters are up to the caller.
pub(crate) async fn forget(db: &impl GenericClient, clients: &[i32]) -> Result<(), Error> {
    const TABLES: [&str; 2] = [
        "DELETE FROM client_compliance_rows WHERE client_no = ANY ($1)",
        "DELETE FROM client_compliance_log WHERE client_no = ANY ($1)",
    ];
    if clients.is_empty() {
        return Ok(());
    }
    for sql in TABLES {
        execute(db, sql, &[&clients]).await?;
    }
    Ok(())
}

/// Needs of updates that the catalog does not have yet, at most.
const MAX_EARLY_NEEDS: i64 = 100_000;

/// Remembers which binary packages of updates some client needs: those that the catalog has, and
/// a bounded number of those that it may get ([`forget_false_needs`] looks at them then). Returns
/// which are in the database.
pub(crate) async fn add_needs(
    db: &impl GenericClient,
    needs: &[&(i32, String)],
) -> Result<BTreeSet<(i32, String)>, Error> {
    const SQL: &str = "
        WITH fresh AS (
            SELECT * FROM unnest($1::int4[], $2::text[]) AS fresh (update_no, package)
            WHERE EXISTS (SELECT FROM update_leaves l
                          WHERE l.update_no = fresh.update_no AND l.package = fresh.package)
               OR (NOT EXISTS (SELECT FROM updates u WHERE u.update_no = fresh.update_no)
                   AND (SELECT count(*) FROM update_leaf_needs n WHERE NOT EXISTS (
                            SELECT FROM updates u WHERE u.update_no = n.update_no)) < $3)),
        added AS (
            INSERT INTO update_leaf_needs (update_no, package)
            SELECT update_no, package FROM fresh ORDER BY 1, 2
            ON CONFLICT DO NOTHING RETURNING update_no, package)
        SELECT update_no, package FROM added
        UNION ALL
        SELECT update_no, package FROM update_leaf_needs JOIN fresh USING (update_no, package)";
    if needs.is_empty() {
        return Ok(BTreeSet::new());
    }
    let numbers: Vec<i32> = needs.iter().map(|(number, _)| *number).collect();
    let packages: Vec<&str> = needs.iter().map(|(_, package)| package.as_str()).collect();
    let rows = query(db, SQL, &[&numbers, &packages, &MAX_EARLY_NEEDS]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Needs that the parent was not told of, which it is with this transaction.
pub(crate) async fn tell_needs(
    db: &impl GenericClient,
    limit: i64,
) -> Result<Vec<(i32, String)>, Error> {
    const SQL: &str = "
        WITH next AS (
            SELECT update_no, package FROM update_leaf_needs WHERE NOT told
            ORDER BY update_no, package LIMIT $1 FOR UPDATE SKIP LOCKED)
        UPDATE update_leaf_needs n SET told = true FROM next
        WHERE n.update_no = next.update_no AND n.package = next.package
        RETURNING n.update_no, n.package";
    let rows = query(db, SQL, &[&limit]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The parent is to be told of all of them again.
pub(crate) async fn tell_needs_again(db: &impl GenericClient) -> Result<(), Error> {
    const SQL: &str = "UPDATE update_leaf_needs SET told = false WHERE told";
    execute(db, SQL, &[]).await?;
    Ok(())
}

/// Removes needs that came before their update did and name nothing in it; returns how many.
pub(crate) async fn forget_false_needs(db: &impl GenericClient) -> Result<u64, Error> {
    const SQL: &str = "
        DELETE FROM update_leaf_needs n USING updates u
        WHERE u.update_no = n.update_no AND NOT EXISTS (
            SELECT FROM update_leaves l
            WHERE l.update_no = n.update_no AND l.package = n.package)";
    execute(db, SQL, &[]).await
}
