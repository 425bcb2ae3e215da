//! What a batch of fresh reports does to what is held of its clients. Pure: what is held comes in,
//! what to write goes out.

use std::collections::BTreeMap;
use std::ops::Deref;

use muster_compliance::{Change, ClientStates, Matrix};
use muster_domain::states::Detection;
use muster_domain::{SiteCode, UpdateNo};

use muster_stream::Taken;

use super::report::{Part, Report, Stream};

/// A client's row is written again, with its log in it, after so many entries in its log; a few
/// more or less by its number, so that a fleet which reports together does not fold together.
const FOLD_AFTER: u32 = 12;
const FOLD_SPREAD: u32 = 8;
/// Counters of updates up to this number are kept in one piece of memory.
const DENSE: usize = 1 << 20;

/// What the site remembers of a client between batches.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) client_no: i32,
    pub(crate) deleted: bool,
    /// It reports to this site itself.
    pub(crate) own: bool,
    /// The child that told us of it, for one that is not our own.
    pub(crate) via: Option<SiteCode>,
    /// It has a row in `client_compliance_rows`.
    pub(crate) has_row: bool,
    /// Entries in its log.
    pub(crate) logged: u32,
    pub(crate) stream: Stream,
}

/// What a client says of all updates, and since which of its reports.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    pub(crate) epoch: i32,
    pub(crate) serial: i64,
    pub(crate) catalog_generation: i64,
    pub(crate) states: ClientStates,
}

/// A row of `client_compliance_log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogRow {
    pub(crate) client_no: i32,
    pub(crate) epoch: i32,
    pub(crate) serial: i64,
    pub(crate) catalog_generation: i64,
    pub(crate) changes: Vec<Change>,
}

/// The fresh reports of one client in a batch, in the order of arrival.
#[derive(Debug)]
pub(crate) struct Work {
    /// With the marks after these reports.
    pub(crate) known: Known,
    pub(crate) reports: Vec<(Report, Taken<Part>)>,
    /// Marks that the log does not hold have changed.
    pub(crate) marks_changed: bool,
    /// It was seen now that the identity lives twice.
    pub(crate) forked: bool,
}

impl Work {
    pub(crate) fn new(known: Known) -> Self {
        Self {
            known,
            reports: Vec::new(),
            marks_changed: false,
            forked: false,
        }
    }

    fn replaces_all(&self) -> bool {
        let full = |(_, taken): &(Report, Taken<Part>)| matches!(taken, Taken::Full(_));
        self.reports.iter().any(full)
    }

    fn moves_on(&self) -> bool {
        let waits = |taken: &Taken<Part>| matches!(taken, Taken::Early);
        self.reports.iter().any(|(_, taken)| !waits(taken))
    }

    /// Makes it write its row: an entry in its log has a serial above those before it.
    pub(crate) fn write_row(&mut self) {
        self.known.logged = self.known.logged.max(FOLD_AFTER + FOLD_SPREAD);
    }

    /// Its row will be written, rather than an entry in its log.
    pub(crate) fn writes_row(&self) -> bool {
        let spread = self.known.client_no.unsigned_abs() % FOLD_SPREAD;
        self.replaces_all() || (self.moves_on() && self.known.logged >= FOLD_AFTER + spread)
    }
}

/// By how much the counters of updates move: installed, required, unknown.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    dense: Vec<[i32; 3]>,
    sparse: BTreeMap<i32, [i32; 3]>,
}

impl Moves {
    /// Adds what really changed on one client.
    pub(crate) fn add(&mut self, changes: &[Change]) {
        for change in changes {
            self.step(change.update_no, change.from, -1);
            self.step(change.update_no, change.to, 1);
        }
    }

    /// Adds all that one client says when it has said nothing before.
    pub(crate) fn add_first(&mut self, listed: &[(UpdateNo, Detection)]) {
        for (update_no, state) in listed {
            self.step(*update_no, *state, 1);
        }
    }

    fn step(&mut self, update_no: UpdateNo, state: Detection, by: i32) {
        let column = match state {
            Detection::Installed => 0,
            Detection::Required => 1,
            Detection::Unknown => 2,
            Detection::NotRequired => return,
        };
        let Ok(number) = i32::try_from(update_no.0) else {
            return;
        };
        let at = update_no.0 as usize;
        let moved = if at < DENSE {
            if at >= self.dense.len() {
                self.dense.resize((at + 1).next_power_of_two(), [0; 3]);
            }
            &mut self.dense[at]
        } else {
            self.sparse.entry(number).or_default()
        };
        moved[column] += by;
    }

    /// Those that move at all, ascending.
    pub(crate) fn rows(&self) -> Vec<(i32, [i32; 3])> {
        let dense = (0..).zip(self.dense.iter().copied());
        let sparse = self.sparse.iter().map(|(number, moved)| (*number, *moved));
        dense
            .chain(sparse)
            .filter(|(_, moved)| *moved != [0; 3])
            .collect()
    }
}

/// What a batch writes, and what the matrix is told afterwards.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) rows: Vec<(i32, Held)>,
    /// Of `rows`: those that replace one.
    pub(crate) replaced: Vec<i32>,
    /// Of `rows`: those that take the client's log in.
    pub(crate) unlogged: Vec<i32>,
    pub(crate) log: Vec<LogRow>,
    /// Clients of whose updates nothing changed: only their marks moved on.
    pub(crate) marks: Vec<i32>,
    pub(crate) moves: Moves,
    /// Clients whose first row this is: positions in `rows`.
    pub(crate) first: Vec<usize>,
    /// Of other clients: generation and what really changed.
    pub(crate) changed: Vec<(i32, i64, Vec<Change>)>,
}

/// Settles a batch: `held` has the clients that [`Work::writes_row`], as far as they have a row;
/// the matrix says what the others hold: a look at it for each, so that nobody else has to wait for
/// all. Moves the marks in `works` on.
pub(crate) fn settle<M: Deref<Target = Matrix>>(
    works: &mut [Work],
    mut held: BTreeMap<i32, Held>,
    look: impl Fn() -> M,
) -> Settled {
    let mut settled = Settled::default();
    // Neighbours in the tables and in the matrix come one after the other.
    let mut works: Vec<&mut Work> = works.iter_mut().collect();
    works.sort_unstable_by_key(|work| work.known.client_no);
    for work in works {
        if !work.moves_on() {
            continue;
        }
        if work.writes_row() {
            let row = held.remove(&work.known.client_no).unwrap_or_default();
            settled.write_row(work, row);
        } else {
            settled.write_log(work, &look());
        }
    }
    settled
}

impl Settled {
    fn write_row(&mut self, work: &mut Work, mut row: Held) {
        let client_no = work.known.client_no;
        let mut all = Vec::new();
        for (report, taken) in &work.reports {
            let (own, parts) = match taken {
                Taken::Full(parts) => {
                    let listed = &report.compliance.states;
                    if work.known.has_row || !row.states.is_empty() {
                        let changes = row.states.replace(listed);
                        self.moves.add(&changes);
                        if work.known.has_row {
                            all.extend(changes);
                        }
                    } else {
                        // Most FULL reports are a client's first: all of it is new.
                        row.states = ClientStates::from_report(listed);
                        self.moves.add_first(listed);
                    }
                    row.epoch = report.epoch;
                    row.serial = report.compliance.last_serial;
                    row.catalog_generation = report.compliance.catalog_generation;
                    (None, parts)
                }
                Taken::Next(parts) => (Some(&report.compliance), parts),
                Taken::Early | Taken::Stale | Taken::NeverGiven | Taken::Repeat => continue,
            };
            for part in own.into_iter().chain(parts) {
                let changes = row.states.merge(&part.states);
                row.epoch = report.epoch;
                row.serial = part.last_serial;
                row.catalog_generation = row.catalog_generation.max(part.catalog_generation);
                self.moves.add(&changes);
                all.extend(changes);
            }
        }
        if work.known.has_row {
            self.replaced.push(client_no);
            self.changed.push((client_no, row.catalog_generation, all));
        } else {
            self.first.push(self.rows.len());
        }
        if work.known.logged > 0 {
            self.unlogged.push(client_no);
        }
        self.rows.push((client_no, row));
        work.known.has_row = true;
        work.known.logged = 0;
        // The marks that were in the log go where they outlive it.
        work.marks_changed = true;
    }

    /// An entry in the log, unless the reports say nothing new of updates: then only the marks move.
    fn write_log(&mut self, work: &mut Work, matrix: &Matrix) {
        let client_no = work.known.client_no;
        let in_matrix = client_no.unsigned_abs();
        let before = matrix.generation(in_matrix).unwrap_or(0);
        let mut generation = before;
        // The net effect: a state that came and went in one batch is no change.
        let mut net: BTreeMap<UpdateNo, Change> = BTreeMap::new();
        for (report, taken) in &work.reports {
            let Taken::Next(parts) = taken else { continue };
            for part in [&report.compliance].into_iter().chain(parts) {
                generation = generation.max(part.catalog_generation);
                for (update_no, to) in &part.states {
                    let change = net.entry(*update_no).or_insert_with(|| {
                        let from = matrix.held(*update_no, in_matrix);
                        let update_no = *update_no;
                        Change {
                            update_no,
                            from,
                            to: from,
                        }
                    });
                    change.to = *to;
                }
            }
        }
        let changes: Vec<Change> = net
            .into_values()
            .filter(|change| change.from != change.to)
            .collect();
        if changes.is_empty() && generation == before {
            self.marks.push(client_no);
            return;
        }
        self.moves.add(&changes);
        self.changed.push((client_no, generation, changes.clone()));
        self.log.push(LogRow {
            client_no,
            epoch: work.known.stream.epoch.cast_signed(),
            serial: work.known.stream.contiguous.cast_signed(),
            catalog_generation: generation,
            changes,
        });
        work.known.logged += 1;
    }
}
