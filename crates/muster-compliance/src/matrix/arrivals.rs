//! Rows on their way into the bitmaps. Many together touch each bitmap once, in the order of the
//! updates: looking a bitmap up costs far more than putting a client into it.

use muster_domain::UpdateNo;

use super::cells::STORED;
use crate::ClientStates;

/// Rows of clients that the matrix does not have yet, for [`super::Matrix::welcome`].
#[derive(Debug, Default)]
pub struct Arrivals {
    pub(super) clients: Vec<(u32, i64)>,
    /// For each of [`STORED`].
    cells: [Vec<(UpdateNo, u32)>; STORED.len()],
    sorted: bool,
}

impl Arrivals {
    /// Cells that are enough for a few dozen to meet in each bitmap: 16 MiB.
    pub(super) const FULL: usize = 1 << 21;

    /// Adds a client's row: number, catalog generation, states.
    pub fn add(&mut self, client_no: u32, generation: i64, states: &ClientStates) {
        self.clients.push((client_no, generation));
        self.add_cells(client_no, states);
    }

    pub(super) fn add_cells(&mut self, client_no: u32, states: &ClientStates) {
        self.sorted = false;
        let (installed, required, unknown) = states.columns();
        for (cells, numbers) in self.cells.iter_mut().zip([installed, required, unknown]) {
            let numbers = numbers
                .iter()
                .filter_map(|number| u32::try_from(*number).ok());
            cells.extend(numbers.map(|number| (UpdateNo(number), client_no)));
        }
    }

    /// How many cells there are.
    pub fn cells(&self) -> usize {
        self.cells.iter().map(Vec::len).sum()
    }

    /// There is no row.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Sorts the cells by update. [`super::Matrix::welcome`] does so itself; who locks the matrix
    /// for it does this before.
    pub fn sort(&mut self) {
        if !self.sorted {
            self.cells.iter_mut().for_each(by_update);
            self.sorted = true;
        }
    }

    /// Hands out the clients of each update and state, ascending, and is empty then.
    pub(super) fn empty(&mut self, mut take: impl FnMut(UpdateNo, usize, &[u32])) {
        self.sort();
        let mut clients = Vec::new();
        for (state, cells) in self.cells.iter_mut().enumerate() {
            for of_update in cells.chunk_by(|a, b| a.0 == b.0) {
                clients.clear();
                clients.extend(of_update.iter().map(|(_, client_no)| *client_no));
                if !clients.is_sorted() {
                    clients.sort_unstable();
                }
                take(of_update[0].0, state, &clients);
            }
            cells.clear();
        }
        self.clients.clear();
    }
}

/// Puts cells in the order of their updates, those of one update in the order they came. By
/// counting, as long as the numbers are as dense as a catalog's: several times faster than
/// comparing.
fn by_update(cells: &mut Vec<(UpdateNo, u32)>) {
    let highest = cells.iter().map(|(update_no, _)| update_no.0).max();
    let Some(highest) = highest.and_then(|it| usize::try_from(it).ok()) else {
        return;
    };
    if highest > 4 * cells.len() + 65_536 {
        cells.sort_by_key(|(update_no, _)| *update_no);
        return;
    }
    let mut places = vec![0_usize; highest + 2];
    for (update_no, _) in cells.iter() {
        places[update_no.0 as usize + 1] += 1;
    }
    for at in 1..places.len() {
        places[at] += places[at - 1];
    }
    let mut sorted = vec![(UpdateNo(0), 0); cells.len()];
    for cell in cells.iter() {
        let place = &mut places[cell.0.0 as usize];
        sorted[*place] = *cell;
        *place += 1;
    }
    *cells = sorted;
}

#[cfg(test)]
mod tests {
    use muster_domain::states::Detection;

    use super::super::Matrix;
    use super::*;

    /// What a client says, made up of its number.
    fn row(client_no: u32) -> ClientStates {
        let mut seed = u64::from(client_no) | 1 << 40;
        let mut report = Vec::new();
        for number in 1..400 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let state = Detection::from_id(u8::try_from(seed >> 60).unwrap() % 4);
            // Popular updates come first, so that some bitmaps meet many clients and some few.
            if (seed >> 40) % 400 > u64::from(number) {
                report.push((UpdateNo(number), state.unwrap()));
            }
        }
        ClientStates::from_report(&report)
    }

    #[test]
    fn rows_that_were_gathered_in_any_order_end_as_those_that_were_loaded() {
        let mut loaded = Matrix::new();
        let rows: Vec<(u32, ClientStates)> = (1..3_000).map(|no| (no, row(no))).collect();
        loaded.load_all(rows.iter().map(|(no, row)| (*no, 7, row)));
        let mut gathered = Matrix::new();
        // Two queues, each with clients of its own, take turns; some come once more.
        let queues = [0, 1].map(|queue| rows.iter().filter(move |(no, _)| no % 2 == queue));
        let [even, odd] = queues.map(Iterator::collect::<Vec<_>>);
        for (odd, even) in odd.chunks(170).zip(even.chunks(170)) {
            let mut arrivals = Arrivals::default();
            for (no, row) in odd.iter().chain(even) {
                arrivals.add(*no, 7, row);
            }
            gathered.welcome(arrivals);
        }
        let mut again = Arrivals::default();
        for (no, row) in &rows[100..120] {
            again.add(*no, 7, row);
        }
        assert!(!again.is_empty() && again.cells() > 0);
        again.sort();
        gathered.welcome(again);
        gathered.check().unwrap();
        assert!(gathered == loaded);
    }
}
