//! What clients say of updates, as a batch of a link carries it: columns of all clients instead of
//! a report for each, so that what is alike stands side by side (`docs/decisions/0011`).

use muster_compliance::packed::MAX_UPDATES;
use muster_domain::states::Detection;
use muster_domain::{ClientId, UpdateNo};
use muster_proto::{link as pb, state};
use prost::bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::report::{Part, Refused, Report};

/// Rows of one batch at most, and states in all of them.
pub(crate) const MAX_ROWS: usize = 16_384;
const MAX_STATES: usize = 4_000_000;

/// What one client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// The sender's number for it.
    pub(crate) client_no: u32,
    /// Everything it says, otherwise what changed.
    pub(crate) full: bool,
    pub(crate) epoch: u32,
    /// Up to which the client's reports are in it.
    pub(crate) serial: u64,
    pub(crate) catalog_generation: u64,
    /// Ascending.
    pub(crate) states: Vec<(UpdateNo, Detection)>,
}

impl Row {
    /// About how long it is in a batch before compression.
    pub(crate) fn length(&self) -> usize {
        8 + self.states.len() * 2
    }

    /// As a report of that client.
    pub(crate) fn into_report(self, client_id: Uuid) -> Result<Report, Refused> {
        let epoch = i32::try_from(self.epoch).ok().filter(|epoch| *epoch > 0);
        let serial = i64::try_from(self.serial);
        let generation = i64::try_from(self.catalog_generation);
        let (Some(epoch), Ok(serial), Ok(catalog_generation)) = (epoch, serial, generation) else {
            return Err(invalid("a number is too large"));
        };
        let last = serial.max(1);
        Ok(Report {
            client_id: ClientId(client_id),
            epoch,
            first_serial: 1,
            last_serial: last,
            given_serial: last.unsigned_abs(),
            full: self.full,
            run: None,
            compliance: Part {
                last_serial: last,
                catalog_generation,
                states: self.states,
            },
            needs: Vec::new(),
            enforcements: Vec::new(),
            deployments: Vec::new(),
            scan: None,
            restart: None,
            inventory: None,
            health: None,
            wire: Some(state::Compliance {
                serial: self.serial,
                ..state::Compliance::default()
            }),
        })
    }
}

fn invalid(why: &str) -> Refused {
    Refused::new("INVALID_CLIENT_ROWS", why)
}

/// What both sides compare: they mean the same clients.
pub(crate) fn check<'a>(ids: impl IntoIterator<Item = &'a Uuid>) -> [u8; 8] {
    let mut hash = Sha256::new();
    for id in ids {
        hash.update(id.as_bytes());
    }
    let mut check = [0; 8];
    check.copy_from_slice(&hash.finalize()[..8]);
    check
}

/// Rows as columns; they ascend by the client's number.
pub(crate) fn pack(rows: &[(Uuid, Row)]) -> pb::ClientRows {
    let firsts = rows.iter().filter_map(|(_, row)| row.states.first());
    let base = firsts.map(|(number, _)| number.0).min().unwrap_or(1) - 1;
    let mut columns: [Vec<u8>; 6] = Default::default();
    let [clients, epochs, serials, generations, counts, updates] = &mut columns;
    let (mut client, mut states) = (0, Vec::new());
    for (_, row) in rows {
        debug_assert!(row.client_no > client, "numbers of clients must ascend");
        put(clients, (row.client_no - client).into());
        client = row.client_no;
        put(epochs, u64::from(row.epoch) << 1 | u64::from(row.full));
        put(serials, row.serial);
        put(generations, row.catalog_generation);
        put(counts, row.states.len() as u64);
        let mut before = base;
        for (UpdateNo(number), state) in &row.states {
            put(updates, number.saturating_sub(before).into());
            before = *number;
            states.push(*state);
        }
    }
    let quarter = |four: &[Detection]| {
        let place = |(at, state): (usize, &Detection)| state.id() << (2 * at);
        four.iter().enumerate().map(place).sum::<u8>()
    };
    let [clients, epochs, serials, generations, counts, updates] = columns.map(Bytes::from);
    pb::ClientRows {
        clients,
        check: Bytes::copy_from_slice(&check(rows.iter().map(|(id, _)| id))),
        epochs,
        serials,
        generations,
        counts,
        base,
        updates,
        states: states.chunks(4).map(quarter).collect::<Vec<u8>>().into(),
    }
}

/// The opposite of [`pack`], with bounds.
pub(crate) fn unpack(columns: &pb::ClientRows) -> Result<Vec<Row>, Refused> {
    let short = || invalid("a column is too short");
    let mut clients = Column(&columns.clients);
    let mut epochs = Column(&columns.epochs);
    let mut serials = Column(&columns.serials);
    let mut generations = Column(&columns.generations);
    let mut counts = Column(&columns.counts);
    let mut updates = Column(&columns.updates);
    let (mut rows, mut client, mut at) = (Vec::new(), 0_u32, 0);
    while let Some(step) = clients.next()? {
        if rows.len() == MAX_ROWS {
            return Err(invalid("too many rows"));
        }
        let next = u32::try_from(step).ok().filter(|step| *step > 0);
        let next = next.and_then(|step| client.checked_add(step));
        client = next
            .filter(|next| i32::try_from(*next).is_ok())
            .ok_or_else(|| invalid("numbers of clients do not ascend"))?;
        let epoch = epochs.next()?.ok_or_else(short)?;
        let count = counts.next()?.ok_or_else(short)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > MAX_UPDATES || at + count > MAX_STATES {
            return Err(invalid("too many states"));
        }
        if columns.states.len() < (at + count).div_ceil(4) {
            return Err(short());
        }
        let mut states = Vec::with_capacity(count);
        let mut number = columns.base;
        for at in at..at + count {
            let step = updates.next()?.ok_or_else(short)?;
            let step = u32::try_from(step).ok().filter(|step| *step > 0);
            let next = step.and_then(|step| number.checked_add(step));
            number = next
                .filter(|next| i32::try_from(*next).is_ok())
                .ok_or_else(|| invalid("numbers of updates do not ascend"))?;
            let bits = (columns.states[at / 4] >> (2 * (at % 4))) & 0b11;
            // Two bits always are one of the four states.
            let state = Detection::from_id(bits).unwrap_or(Detection::Unknown);
            states.push((UpdateNo(number), state));
        }
        at += count;
        rows.push(Row {
            client_no: client,
            full: epoch & 1 == 1,
            epoch: u32::try_from(epoch >> 1).map_err(|_| invalid("an epoch is too large"))?,
            serial: serials.next()?.ok_or_else(short)?,
            catalog_generation: generations.next()?.ok_or_else(short)?,
            states,
        });
    }
    let rest = [epochs, serials, generations, counts, updates];
    if rest.iter().any(|column| !column.0.is_empty()) || columns.states.len() != at.div_ceil(4) {
        return Err(invalid("a column is too long"));
    }
    Ok(rows)
}

fn put(column: &mut Vec<u8>, number: u64) {
    prost::encoding::encode_varint(number, column);
}

/// What is left of a column.
struct Column<'a>(&'a [u8]);

impl Column<'_> {
    fn next(&mut self) -> Result<Option<u64>, Refused> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let number = prost::encoding::decode_varint(&mut self.0);
        number.map(Some).map_err(|_| invalid("a number is cut off"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    fn row() -> impl Strategy<Value = Row> {
        let states = btree_map(1_u32..=i32::MAX as u32, 0_u8..4, 0..40);
        let numbers = (any::<bool>(), 1_u32..1 << 31, 0..u64::MAX, 0..u64::MAX);
        (states, numbers).prop_map(|(states, (full, epoch, serial, catalog_generation))| {
            let state = |(number, id)| (UpdateNo(number), Detection::from_id(id).unwrap());
            Row {
                client_no: 0,
                full,
                epoch,
                serial,
                catalog_generation,
                states: states.into_iter().map(state).collect(),
            }
        })
    }

    fn numbered(rows: std::collections::BTreeMap<u32, Row>) -> Vec<(Uuid, Row)> {
        let named = |(client_no, row)| (Uuid::new_v4(), Row { client_no, ..row });
        rows.into_iter().map(named).collect()
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_out_again(rows in btree_map(1_u32..=i32::MAX as u32, row(), 0..20)) {
            let rows = numbered(rows);
            let packed = pack(&rows);
            let ids: Vec<Uuid> = rows.iter().map(|(id, _)| *id).collect();
            prop_assert_eq!(&packed.check[..], &check(&ids)[..]);
            let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
            prop_assert_eq!(unpack(&packed).unwrap(), rows);
        }

        #[test]
        fn columns_that_are_cut_off_or_longer_are_refused(
            rows in btree_map(1_u32..1_000, row(), 1..20),
            (which, longer) in (0_usize..7, any::<bool>()),
        ) {
            let mut packed = pack(&numbered(rows));
            let column = [
                &mut packed.clients,
                &mut packed.epochs,
                &mut packed.serials,
                &mut packed.generations,
                &mut packed.counts,
                &mut packed.updates,
                &mut packed.states,
            ]
            .into_iter()
            .nth(which)
            .unwrap();
            let mut bytes = column.to_vec();
            if longer {
                bytes.push(1);
            } else if bytes.pop().is_none() {
                return Ok(());
            }
            *column = bytes.into();
            prop_assert!(unpack(&packed).is_err());
        }

        #[test]
        fn any_bytes_are_rows_or_refused(
            columns in vec(vec(any::<u8>(), 0..60), 7),
            base in any::<u32>(),
        ) {
            let mut columns = columns.into_iter().map(Bytes::from);
            let mut next = || columns.next().unwrap();
            let packed = pb::ClientRows {
                clients: next(),
                check: Bytes::new(),
                epochs: next(),
                serials: next(),
                generations: next(),
                counts: next(),
                base,
                updates: next(),
                states: next(),
            };
            if let Ok(rows) = unpack(&packed) {
                prop_assert!(rows.len() <= MAX_ROWS);
                for row in rows {
                    let _ = row.into_report(Uuid::nil());
                }
            }
        }
    }

    #[test]
    fn bounds_hold() {
        let many = pb::ClientRows {
            clients: vec![1; MAX_ROWS + 1].into(),
            epochs: vec![2; MAX_ROWS + 1].into(),
            serials: vec![1; MAX_ROWS + 1].into(),
            generations: vec![1; MAX_ROWS + 1].into(),
            counts: vec![0; MAX_ROWS + 1].into(),
            ..pb::ClientRows::default()
        };
        assert_eq!(unpack(&many).unwrap_err().detail, "too many rows");
        let mut counts = Vec::new();
        put(&mut counts, u64::MAX);
        let endless = pb::ClientRows {
            clients: vec![1].into(),
            epochs: vec![2].into(),
            counts: counts.into(),
            ..pb::ClientRows::default()
        };
        assert_eq!(unpack(&endless).unwrap_err().detail, "too many states");
        let zero = pb::ClientRows {
            clients: vec![1, 0].into(),
            epochs: vec![2, 2].into(),
            serials: vec![1, 1].into(),
            generations: vec![1, 1].into(),
            counts: vec![0, 0].into(),
            ..pb::ClientRows::default()
        };
        assert!(unpack(&zero).is_err(), "a client is there twice");
    }
}
