//! `client_compliance`, `update_counters`, `update_leaf_needs`: the matrix, kept both ways.

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::GenericClient;
use muster_compliance::{Change, ClientStates};
use muster_domain::states::Detection;
use tokio_postgres::Row;

use super::{execute, query};
use crate::app::Error;

/// One client's row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    pub(crate) epoch: i32,
    pub(crate) serial: i64,
    pub(crate) catalog_generation: i64,
    pub(crate) states: ClientStates,
}

/// The rows of these clients; a client without one is left out. The caller has locked their
/// streams.
pub(crate) async fn load(
    db: &impl GenericClient,
    clients: &[i32],
) -> Result<BTreeMap<i32, Held>, Error> {
    const SQL: &str = "
        SELECT client_no, epoch, serial, catalog_generation, installed, required, unknown
        FROM client_compliance WHERE client_no = ANY ($1)";
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
    Ok(query(db, SQL, &[&clients])
        .await?
        .iter()
        .map(held)
        .collect())
}

/// Writes one client's row.
pub(crate) async fn keep(
    db: &impl GenericClient,
    client_no: i32,
    held: &Held,
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO client_compliance (client_no, epoch, serial, catalog_generation, installed,
                                       required, unknown)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (client_no) DO UPDATE SET
            (epoch, serial, catalog_generation, installed, required, unknown, changed_at) =
            (excluded.epoch, excluded.serial, excluded.catalog_generation, excluded.installed,
             excluded.required, excluded.unknown, now())";
    let (installed, required, unknown) = held.states.columns();
    let params: super::Params<'_> = &[
        &client_no,
        &held.epoch,
        &held.serial,
        &held.catalog_generation,
        &installed,
        &required,
        &unknown,
    ];
    execute(db, SQL, params).await?;
    Ok(())
}

/// By how much the counters of updates move: installed, required, unknown.
#[derive(Debug, Default)]
pub(crate) struct Difference(BTreeMap<i32, [i32; 3]>);

impl Difference {
    /// Adds what really changed on one client.
    pub(crate) fn add(&mut self, changes: &[Change]) {
        for change in changes {
            let Ok(number) = i32::try_from(change.update_no.0) else {
                continue;
            };
            let moved = self.0.entry(number).or_default();
            for (state, by) in [(change.from, -1), (change.to, 1)] {
                match state {
                    Detection::Installed => moved[0] += by,
                    Detection::Required => moved[1] += by,
                    Detection::Unknown => moved[2] += by,
                    Detection::NotRequired => {}
                }
            }
        }
        self.0.retain(|_, moved| *moved != [0; 3]);
    }
}

/// Moves the counters, in ascending order of the updates: two transactions never wait for each
/// other.
pub(crate) async fn move_counters(
    db: &impl GenericClient,
    difference: &Difference,
) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO update_counters AS held (update_no, installed, required, unknown)
        SELECT * FROM unnest($1::int4[], $2::int4[], $3::int4[], $4::int4[])
        ON CONFLICT (update_no) DO UPDATE SET (installed, required, unknown) =
            (held.installed + excluded.installed, held.required + excluded.required,
             held.unknown + excluded.unknown)";
    if difference.0.is_empty() {
        return Ok(());
    }
    let numbers: Vec<i32> = difference.0.keys().copied().collect();
    let [installed, required, unknown]: [Vec<i32>; 3] =
        [0, 1, 2].map(|at| difference.0.values().map(|moved| moved[at]).collect());
    execute(db, SQL, &[&numbers, &installed, &required, &unknown]).await?;
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

/// Removes needs that came before their update did and name nothing in it; returns how many.
pub(crate) async fn forget_false_needs(db: &impl GenericClient) -> Result<u64, Error> {
    const SQL: &str = "
        DELETE FROM update_leaf_needs n USING updates u
        WHERE u.update_no = n.update_no AND NOT EXISTS (
            SELECT FROM update_leaves l
            WHERE l.update_no = n.update_no AND l.package = n.package)";
    execute(db, SQL, &[]).await
}
