//! How fast the bitmaps are: `cargo run --release -p muster-compliance --example matrix`.
//!
//! 100,000 clients × 30,000 updates, 300 cells for each client. Prints one JSON line per figure,
//! and ends with a comparison against counting in the rows. Arguments: clients, updates.
#![allow(clippy::print_stdout)] // an example talks to who runs it

use std::hint::black_box;
use std::time::Instant;

use muster_compliance::{
    Answer, Change, ClientStates, ListCompliance, Matrix, RoaringBitmap, UpdateCounts,
};
use muster_domain::UpdateNo;
use muster_domain::states::Detection;

const CELLS: usize = 300;
const LIST: usize = 100;
const LISTS: usize = 1_000;
/// Catalog generations; half of the clients are at the newest, the others anywhere.
const GENERATIONS: i64 = 60;

struct Row {
    client_no: u32,
    generation: i64,
    states: ClientStates,
}

impl Row {
    fn parts(&self) -> (u32, i64, &ClientStates) {
        (self.client_no, self.generation, &self.states)
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|it| it.parse().ok());
    let clients: u32 = arguments.next().unwrap_or(100_000);
    let updates: u32 = arguments.next().unwrap_or(30_000);
    for (case, skew) in [("uniform", 1), ("skewed", 3)] {
        run(case, clients, updates, skew);
    }
}

/// `skew` 1 spreads the cells evenly over the updates; 3 gives few updates to almost all clients.
fn run(case: &str, clients: u32, updates: u32, skew: i32) {
    let print = |metric: &str, value: f64| {
        println!(r#"{{"bench":"matrix","case":"{case}","metric":"{metric}","value":{value:.3}}}"#);
    };
    let mut dice = Dice(42);
    let mut rows: Vec<Row> = (1..=clients)
        .map(|client_no| row(&mut dice, client_no, updates, skew))
        .collect();

    let memory = resident_bytes();
    let mut matrix = Matrix::new();
    let (start, cpu) = (Instant::now(), cpu_seconds());
    for update_no in 1..=updates {
        matrix.register_update(UpdateNo(update_no), introduced(update_no, updates));
    }
    for page in rows.chunks(10_000) {
        matrix.load_all(page.iter().map(Row::parts));
    }
    let seconds = start.elapsed().as_secs_f64();
    let cells = clients as usize * CELLS;
    print("load_s", seconds);
    print("load_cpu_s", cpu_seconds() - cpu);
    print("load_cells_per_s", cells as f64 / seconds);
    print("bytes", matrix.bytes() as f64);
    print("bytes_per_cell", matrix.bytes() as f64 / cells as f64);
    print("resident_bytes", resident_bytes() - memory);

    let changes = patch_tuesday(&mut dice, &mut rows, updates);
    let count: usize = changes.iter().map(Vec::len).sum();
    let (start, cpu) = (Instant::now(), cpu_seconds());
    for (row, changes) in rows.iter().zip(&changes) {
        matrix.apply(row.client_no, row.generation, changes);
    }
    let seconds = start.elapsed().as_secs_f64();
    print("apply_changes_per_s", count as f64 / seconds);
    print(
        "apply_changes_per_cpu_s",
        count as f64 / (cpu_seconds() - cpu),
    );

    let third = RoaringBitmap::from_sorted_iter((1..=clients).step_by(3)).unwrap_or_default();
    let recent: Vec<UpdateNo> = (0..LIST as u32).map(|n| UpdateNo(updates - n)).collect();
    for (name, collection) in [("all", None), ("third", Some(&third))] {
        let mut time = |metric: &str, ask: &dyn Fn(&[UpdateNo])| {
            let lists: Vec<Vec<UpdateNo>> =
                (0..LISTS).map(|_| list(&mut dice, updates, skew)).collect();
            let cpu = cpu_seconds();
            let mut micros: Vec<f64> = lists
                .iter()
                .map(|list| {
                    let start = Instant::now();
                    ask(list);
                    start.elapsed().as_secs_f64() * 1e6
                })
                .collect();
            let cpu = (cpu_seconds() - cpu) * 1e6 / LISTS as f64;
            print(&format!("{metric}_{name}_cpu_us_mean"), cpu);
            micros.sort_unstable_by(f64::total_cmp);
            print(&format!("{metric}_{name}_us_p50"), micros[LISTS / 2]);
            print(&format!("{metric}_{name}_us_p99"), micros[LISTS * 99 / 100]);
        };
        let m = &matrix;
        time("list_compliance", &|list| {
            black_box(m.list_compliance(list, collection));
        });
        time("recent_list_compliance", &|_| {
            black_box(m.list_compliance(&recent, collection));
        });
        time("list_counts", &|list| {
            black_box(m.list_counts(list, collection));
        });
        time("counts", &|list| {
            black_box(m.counts(list[0], collection));
        });
        time("fraction_required", &|list| {
            black_box(m.fraction_required(list[0], collection));
        });
        for answer in [Answer::Required, Answer::NotRequired, Answer::NoData] {
            time(&format!("page_{answer:?}").to_lowercase(), &|list| {
                black_box(m.page(list[0], answer, collection, Some(clients / 2), 100));
            });
        }
    }
    let (client_no, generation, states) = rows[clients as usize / 2].parts();
    let start = Instant::now();
    matrix.remove_client(client_no, states);
    print("remove_client_us", start.elapsed().as_secs_f64() * 1e6);
    matrix.load(client_no, generation, states);
    let start = Instant::now();
    matrix.remove_clients(&RoaringBitmap::from_iter([client_no]));
    print("remove_clients_us", start.elapsed().as_secs_f64() * 1e6);
    matrix.load(client_no, generation, states);

    matrix
        .check()
        .expect("counters, bitmaps and generations agree");
    for collection in [None, Some(&third)] {
        for list in [recent.clone(), list(&mut dice, updates, skew)] {
            let start = Instant::now();
            let (overall, counts) = brute_force(&rows, &list, updates, collection);
            print("brute_force_us", start.elapsed().as_secs_f64() * 1e6);
            assert_eq!(matrix.list_compliance(&list, collection), overall);
            assert_eq!(matrix.list_counts(&list, collection), counts);
        }
    }
    println!(r#"{{"bench":"matrix","case":"{case}","metric":"equals_brute_force","value":1}}"#);
}

fn introduced(update_no: u32, updates: u32) -> i64 {
    // The first two thirds came with the first synchronisation.
    let late = update_no.saturating_sub(updates / 3 * 2);
    1 + i64::from(late) * (GENERATIONS - 1) / i64::from(updates - updates / 3 * 2)
}

fn row(dice: &mut Dice, client_no: u32, updates: u32, skew: i32) -> Row {
    let generation = match dice.below(2) {
        0 => GENERATIONS,
        _ => 1 + i64::from(dice.below(GENERATIONS as u32)),
    };
    let mut numbers = std::collections::BTreeSet::new();
    while numbers.len() < CELLS {
        numbers.insert(dice.update(updates, skew));
    }
    let mut sets = [Vec::new(), Vec::new(), Vec::new()];
    for number in numbers {
        let set = match dice.below(100) {
            0..85 => 0,
            85..99 => 1,
            _ => 2,
        };
        sets[set].push(number.cast_signed());
    }
    let [installed, required, unknown] = sets;
    Row {
        client_no,
        generation,
        states: ClientStates::from_columns(installed, required, unknown),
    }
}

/// Each client finds some of the newest updates required, and has installed some that were.
fn patch_tuesday(dice: &mut Dice, rows: &mut [Row], updates: u32) -> Vec<Vec<Change>> {
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        row.generation = row.generation.max(GENERATIONS - i64::from(dice.below(4)));
        let required = row.states.columns().1.to_vec();
        let mut report: std::collections::BTreeMap<UpdateNo, Detection> = required
            .iter()
            .take(10)
            .map(|number| (UpdateNo(number.unsigned_abs()), Detection::Installed))
            .collect();
        for _ in 0..10 {
            let number = UpdateNo(updates - dice.below(40));
            report.insert(number, Detection::Required);
        }
        all.push(row.states.merge(&report.into_iter().collect::<Vec<_>>()));
    }
    all
}

fn list(dice: &mut Dice, updates: u32, skew: i32) -> Vec<UpdateNo> {
    (0..LIST)
        .map(|_| UpdateNo(dice.update(updates, skew)))
        .collect()
}

/// The same answers, by asking every row for every update.
fn brute_force(
    rows: &[Row],
    list: &[UpdateNo],
    updates: u32,
    collection: Option<&RoaringBitmap>,
) -> (ListCompliance, Vec<UpdateCounts>) {
    let mut overall = ListCompliance::default();
    let mut counts = vec![UpdateCounts::default(); list.len()];
    for row in rows {
        if collection.is_some_and(|members| !members.contains(row.client_no)) {
            continue;
        }
        let (mut required, mut unknown, mut no_data) = (false, false, false);
        for (update_no, counts) in list.iter().zip(&mut counts) {
            match row.states.get(*update_no) {
                Detection::Installed => counts.installed += 1,
                Detection::Required => {
                    counts.required += 1;
                    required = true;
                }
                Detection::Unknown => {
                    counts.unknown += 1;
                    unknown = true;
                }
                Detection::NotRequired if row.generation >= introduced(update_no.0, updates) => {
                    counts.not_required += 1;
                }
                Detection::NotRequired => {
                    counts.no_data += 1;
                    no_data = true;
                }
            }
        }
        overall.clients += 1;
        let column = match (required, unknown, no_data) {
            (true, _, _) => &mut overall.non_compliant,
            (false, true, _) => &mut overall.unknown,
            (false, false, true) => &mut overall.no_data,
            (false, false, false) => &mut overall.compliant,
        };
        *column += 1;
    }
    (overall, counts)
}

/// What the process holds in memory, where the system says so; 0 elsewhere.
fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|it| it.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or_default() * 1024.0
}

/// Processor time of this process so far, where the system says so; 0 elsewhere. On a machine
/// with other work this is the figure to compare.
fn cpu_seconds() -> f64 {
    let times = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanoseconds = times
        .split(' ')
        .next()
        .and_then(|it| it.parse::<f64>().ok());
    nanoseconds.unwrap_or_default() / 1e9
}

/// SplitMix64: the same figures every time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u32) -> u32 {
        (((self.next() >> 32) * u64::from(end)) >> 32) as u32
    }

    /// 1 to `updates`.
    fn update(&mut self, updates: u32, skew: i32) -> u32 {
        let part = f64::from(self.below(1 << 24)) / f64::from(1 << 24);
        1 + (part.powi(skew) * f64::from(updates)) as u32
    }
}
