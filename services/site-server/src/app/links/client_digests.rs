//! Hashes over clients by bucket: over everything that a FULL report to the parent says of each, read
//! from the rows. Numbers that are a site's own are left out, so that both ends of a link get the
//! same.

use std::collections::BTreeMap;

use deadpool_postgres::GenericClient;
use muster_link::Digests;
use muster_proto::link as pb;
use prost::Message;

use super::{Error, Site};
use crate::domain::settle::Held;
use crate::store::compliance;
use crate::store::link_digests::Client;
use crate::store::told_clients::{self, Of, Told};

/// Clients whose rows are in memory at a time.
const AT_ONCE: usize = 200;

/// Over these clients.
pub(super) async fn sum(
    site: &Site,
    db: &impl GenericClient,
    clients: &[Client],
) -> Result<Digests, Error> {
    let mut digests = Digests::default();
    for part in clients.chunks(AT_ONCE) {
        let numbers: Vec<i32> = part.iter().map(|(client_no, _)| *client_no).collect();
        let values = values(site, db, &numbers).await?;
        for (client_no, id) in part {
            if let Some(value) = values.get(client_no) {
                digests.add(id.as_bytes(), value);
            }
        }
    }
    Ok(digests)
}

/// What there is to say of each of these clients.
async fn values(
    site: &Site,
    db: &impl GenericClient,
    clients: &[i32],
) -> Result<BTreeMap<i32, Vec<u8>>, Error> {
    let own = site.config.site_code;
    let told = told_clients::describe(db, own.as_str(), clients).await?;
    let rows = compliance::load(db, clients).await?;
    let mut values: BTreeMap<i32, Vec<u8>> = told
        .iter()
        .map(|(client_no, told)| (*client_no, begin(told, rows.get(client_no))))
        .collect();
    let mut deployments = told_clients::deployments(db, clients, &[]).await?;
    deployments.sort_by(|(_, _, a), (_, _, b)| a.deployment_id.cmp(&b.deployment_id));
    add(&mut values, 2, &deployments);
    let mut updates = told_clients::enforcements(db, clients, &[]).await?;
    updates.sort_by(|(_, _, a), (_, _, b)| {
        (&a.deployment_id, a.update_no).cmp(&(&b.deployment_id, b.update_no))
    });
    add(&mut values, 3, &updates);
    add(&mut values, 4, &told_clients::scans(db, clients).await?);
    add(&mut values, 5, &told_clients::restarts(db, clients).await?);
    add(
        &mut values,
        6,
        &told_clients::inventories(db, clients).await?,
    );
    add(&mut values, 7, &told_clients::health(db, clients).await?);
    Ok(values)
}

/// Who a client is, how far its reports are recorded, and what it says of updates.
fn begin(told: &Told, row: Option<&Held>) -> Vec<u8> {
    let record = pb::ClientRecord {
        // Each site writes down when it heard of the client, and has a number of its own for it.
        last_report_at: None,
        number: 0,
        ..told.record.clone()
    };
    let mut value = record.encode_length_delimited_to_vec();
    let stands = &told.stands;
    value.extend(stands.epoch.to_be_bytes());
    value.push(stands.has_full.into());
    value.extend(stands.contiguous.to_be_bytes());
    // A row that says nothing is as none.
    let row = row.filter(|row| row.catalog_generation > 0 || !row.states.is_empty());
    if let Some(row) = row {
        let epoch = row.epoch.unsigned_abs();
        // Where only the client's mark moved on, the row may have stayed.
        let mark = stands.contiguous * u64::from(epoch == stands.epoch);
        value.push(1);
        value.extend(epoch.to_be_bytes());
        value.extend(row.serial.unsigned_abs().max(mark).to_be_bytes());
        value.extend(row.catalog_generation.to_be_bytes());
        let (installed, required, unknown) = row.states.columns();
        for numbers in [installed, required, unknown] {
            value.extend((numbers.len() as u64).to_be_bytes());
            value.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
        }
    }
    value
}

fn add<T: Message>(values: &mut BTreeMap<i32, Vec<u8>>, kind: u8, said: &Of<T>) {
    for (client_no, epoch, state) in said {
        if let Some(value) = values.get_mut(client_no) {
            value.push(kind);
            value.extend(epoch.to_be_bytes());
            value.extend(state.encode_length_delimited_to_vec());
        }
    }
}
