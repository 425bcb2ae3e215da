//! Any history of what can happen to the matrix ends as a naive map of cells says.
//!
//! The caller in here is the site server in small: it holds a row per client with the newest
//! serial, ignores reports that are repeated or overtaken, and passes on the changes of the
//! others. Histories are numbers that are decoded into steps, so that many are made quickly and
//! a failing one shrinks. `MATRIX_HISTORIES` changes how many run.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Clients of three containers of a bitmap, first and last numbers among them.
const CLIENTS: [u32; 6] = [0, 1, 65_535, 65_536, 65_537, u32::MAX];

fn histories(default: u32) -> ProptestConfig {
    let wanted = std::env::var("MATRIX_HISTORIES").ok();
    ProptestConfig {
        cases: wanted.and_then(|it| it.parse().ok()).unwrap_or(default),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// What a client sent, as often as it arrives.
#[derive(Debug, Clone)]
struct Report {
    client_no: u32,
    serial: u64,
    full: bool,
    generation: i64,
    states: Vec<(UpdateNo, Detection)>,
}

struct Row {
    serial: u64,
    generation: i64,
    states: ClientStates,
}

/// Cells that say something, generations and introductions, and nothing clever.
#[derive(Default)]
struct Model {
    clients: BTreeSet<u32>,
    generation: BTreeMap<u32, i64>,
    introduced: BTreeMap<UpdateNo, i64>,
    cells: BTreeMap<(u32, UpdateNo), Detection>,
}

#[derive(Default)]
struct World {
    updates: u32,
    matrix: Matrix,
    model: Model,
    rows: BTreeMap<u32, Row>,
    sent: Vec<Report>,
    serial: u64,
    held_back: Option<usize>,
}

/// A number, taken apart digit by digit.
struct Digits(u64);

impl Digits {
    fn below(&mut self, end: u64) -> u64 {
        let digit = self.0 % end;
        self.0 /= end;
        digit
    }
}

impl World {
    fn new(updates: u32) -> Self {
        Self {
            updates,
            ..Self::default()
        }
    }

    fn step(&mut self, number: u64) {
        let mut digits = Digits(number);
        match digits.below(16) {
            0..8 => {
                let report = self.report(&mut digits);
                self.sent.push(report);
                // One in five waits: it is overtaken, and arrives later or never.
                if digits.below(5) == 0 {
                    self.held_back = Some(self.sent.len() - 1);
                } else {
                    self.arrive(self.sent.len() - 1);
                }
            }
            8 => {
                if let Some(at) = self.held_back.take() {
                    self.arrive(at);
                }
            }
            9 if !self.sent.is_empty() => {
                self.arrive(digits.below(self.sent.len() as u64) as usize);
            }
            10 => self.remove_client(&mut digits),
            11 => self.remove_update(UpdateNo(1 + digits.below(self.updates.into()) as u32)),
            12 => {
                let client_no = client(&mut digits);
                self.matrix.add_client(client_no);
                self.model.clients.insert(client_no);
            }
            13 => self.load_again(client(&mut digits)),
            _ => {
                let update_no = UpdateNo(1 + digits.below(self.updates.into()) as u32);
                let generation = digits.below(5) as i64;
                self.matrix.register_update(update_no, generation);
                self.model.introduced.insert(update_no, generation);
            }
        }
    }

    fn report(&mut self, digits: &mut Digits) -> Report {
        self.serial += 1;
        let client_no = client(digits);
        let full = digits.below(3) == 0;
        let generation = digits.below(5) as i64;
        let mut states = Vec::new();
        for number in 1..=self.updates {
            if let Some(state) = Detection::from_id(digits.below(6) as u8) {
                states.push((UpdateNo(number), state));
            }
        }
        Report {
            client_no,
            serial: self.serial,
            full,
            generation,
            states,
        }
    }

    fn arrive(&mut self, at: usize) {
        let report = self.sent[at].clone();
        let client_no = report.client_no;
        let row = self.rows.entry(client_no).or_insert_with(|| Row {
            serial: 0,
            generation: 0,
            states: ClientStates::default(),
        });
        if report.serial <= row.serial {
            return;
        }
        let changes = if report.full {
            row.generation = report.generation;
            row.states.replace(&report.states)
        } else {
            row.generation = row.generation.max(report.generation);
            row.states.merge(&report.states)
        };
        row.serial = report.serial;
        // What was held before is only a hint, and sometimes wrong.
        let mut told = changes.clone();
        for (change, hint) in told.iter_mut().zip(Detection::ALL.iter().cycle()) {
            if report.serial.is_multiple_of(3) {
                change.from = *hint;
            }
        }
        self.matrix.apply(client_no, row.generation, &told);
        // The same again, as after a batch that was applied and not acknowledged.
        self.matrix.apply(client_no, row.generation, &told);

        self.model.clients.insert(client_no);
        self.model.generation.insert(client_no, row.generation);
        if report.full {
            self.model
                .cells
                .retain(|(client, _), _| *client != client_no);
        }
        for (update_no, state) in report.states {
            let key = (client_no, update_no);
            match state {
                Detection::NotRequired => self.model.cells.remove(&key),
                Detection::Installed | Detection::Required | Detection::Unknown => {
                    self.model.cells.insert(key, state)
                }
            };
        }
    }

    fn remove_client(&mut self, digits: &mut Digits) {
        let client_no = client(digits);
        let row = self.rows.remove(&client_no);
        match row {
            Some(row) if digits.below(2) == 0 => self.matrix.remove_client(client_no, &row.states),
            Some(_) | None => {
                let clients = RoaringBitmap::from_iter([client_no]);
                self.matrix.remove_clients(&clients);
            }
        }
        self.model.clients.remove(&client_no);
        self.model.generation.remove(&client_no);
        self.model
            .cells
            .retain(|(client, _), _| *client != client_no);
    }

    /// An update goes as it must: first from the rows.
    fn remove_update(&mut self, update_no: UpdateNo) {
        for row in self.rows.values_mut() {
            row.states.merge(&[(update_no, Detection::NotRequired)]);
        }
        self.matrix.remove_update(update_no);
        self.model.introduced.remove(&update_no);
        self.model
            .cells
            .retain(|(_, update), _| *update != update_no);
    }

    /// A row is read again while its states are already there.
    fn load_again(&mut self, client_no: u32) {
        if let Some(row) = self.rows.get(&client_no) {
            self.matrix.load(client_no, row.generation, &row.states);
        }
    }

    /// The matrix as a restart builds it.
    fn rebuilt(&self) -> Matrix {
        let mut matrix = Matrix::new();
        for (update_no, generation) in &self.model.introduced {
            matrix.register_update(*update_no, *generation);
        }
        for client_no in &self.model.clients {
            matrix.add_client(*client_no);
        }
        let rows = self.rows.iter();
        matrix.load_all(rows.map(|(client_no, row)| (*client_no, row.generation, &row.states)));
        matrix
    }

    fn compare(&self, collection: Option<&RoaringBitmap>) -> Result<(), TestCaseError> {
        let numbers: Vec<UpdateNo> = (1..=self.updates + 1).map(UpdateNo).collect();
        let counts = self.matrix.list_counts(&numbers, collection);
        prop_assert_eq!(counts.len(), numbers.len());
        for (update_no, counts) in numbers.iter().zip(counts) {
            prop_assert_eq!(counts, self.model.counts(*update_no, collection));
            prop_assert_eq!(counts, self.matrix.counts(*update_no, collection));
            let members = self.model.members(collection).len();
            let part = self.matrix.fraction_required(*update_no, collection);
            let expected = (members > 0).then(|| f64::from(counts.required) / members as f64);
            prop_assert_eq!(part, expected);
            for answer in [
                Answer::Installed,
                Answer::Required,
                Answer::NotRequired,
                Answer::Unknown,
                Answer::NoData,
            ] {
                let mut paged = Vec::new();
                let mut after = None;
                loop {
                    let page = self.matrix.page(*update_no, answer, collection, after, 2);
                    prop_assert!(page.len() <= 2);
                    after = page.last().copied();
                    if after.is_none() {
                        break;
                    }
                    paged.extend(page);
                    prop_assert!(paged.len() <= CLIENTS.len());
                }
                let expected: Vec<u32> = self
                    .model
                    .members(collection)
                    .into_iter()
                    .filter(|client| self.model.answer(*update_no, *client) == answer)
                    .collect();
                prop_assert_eq!(paged, expected);
            }
        }
        // Every list of updates, also the empty one and those with an unknown update.
        for bits in 0_u32..1 << numbers.len().min(5) {
            let chosen: Vec<UpdateNo> = numbers
                .iter()
                .rev()
                .enumerate()
                .filter(|(at, _)| bits >> at & 1 == 1)
                .map(|(_, number)| *number)
                .collect();
            prop_assert_eq!(
                self.matrix.list_compliance(&chosen, collection),
                self.model.list_compliance(&chosen, collection)
            );
            let answers = [
                ListAnswer::Compliant,
                ListAnswer::NonCompliant,
                ListAnswer::Unknown,
                ListAnswer::NoData,
            ];
            let answer = answers[(bits + bits / 4) as usize % answers.len()];
            let found = self.matrix.with_list_answer(&chosen, answer, collection);
            let members = self.model.members(collection).into_iter();
            let expected =
                members.filter(|client| self.model.list_answer(&chosen, *client) == answer);
            prop_assert!(found.iter().eq(expected), "{:?} of {:?}", answer, chosen);
        }
        self.compare_generations(collection)
    }

    fn compare_generations(&self, collection: Option<&RoaringBitmap>) -> Result<(), TestCaseError> {
        let members = self.model.members(collection);
        let has = |wanted: &dyn Fn(Option<i64>) -> bool| -> RoaringBitmap {
            let is = |client: &u32| wanted(self.model.generation.get(client).copied());
            members.iter().copied().filter(is).collect()
        };
        prop_assert_eq!(self.matrix.silent(collection), has(&|it| it.is_none()));
        let mut all = 0;
        for (generation, clients) in self.matrix.generations(collection) {
            prop_assert_eq!(u64::from(clients), has(&|it| it == Some(generation)).len());
            let behind = self.matrix.behind(generation, collection);
            prop_assert_eq!(behind, has(&|it| it.is_some_and(|it| it < generation)));
            let abreast = self.matrix.abreast(generation, collection);
            prop_assert_eq!(abreast, has(&|it| it >= Some(generation)));
            all += clients as usize;
        }
        prop_assert_eq!(all, has(&|it| it.is_some()).len() as usize);
        let cells = |state| self.model.cells.values().filter(|it| **it == state).count();
        let states = [
            Detection::Installed,
            Detection::Required,
            Detection::Unknown,
        ];
        prop_assert_eq!(self.matrix.totals(), states.map(|it| cells(it) as u64));
        let required = |(_, state): &(_, &Detection)| **state == Detection::Required;
        let wanting = self.model.cells.iter().filter(required);
        let wanting: RoaringBitmap = wanting.map(|((client, _), _)| *client).collect();
        prop_assert_eq!(self.matrix.wanting(), wanting);
        Ok(())
    }
}

impl Model {
    fn members(&self, collection: Option<&RoaringBitmap>) -> Vec<u32> {
        let is_member = |client: &u32| collection.is_none_or(|it| it.contains(*client));
        self.clients.iter().copied().filter(is_member).collect()
    }

    fn answer(&self, update_no: UpdateNo, client_no: u32) -> Answer {
        let generation = self.generation.get(&client_no);
        match self.cells.get(&(client_no, update_no)) {
            Some(Detection::Installed) => Answer::Installed,
            Some(Detection::Required) => Answer::Required,
            Some(Detection::Unknown) => Answer::Unknown,
            Some(Detection::NotRequired) | None => match self.introduced.get(&update_no) {
                Some(first) if generation.is_some_and(|it| it >= first) => Answer::NotRequired,
                Some(_) | None => Answer::NoData,
            },
        }
    }

    fn counts(&self, update_no: UpdateNo, collection: Option<&RoaringBitmap>) -> UpdateCounts {
        let mut counts = UpdateCounts::default();
        for client_no in self.members(collection) {
            *match self.answer(update_no, client_no) {
                Answer::Installed => &mut counts.installed,
                Answer::Required => &mut counts.required,
                Answer::NotRequired => &mut counts.not_required,
                Answer::Unknown => &mut counts.unknown,
                Answer::NoData => &mut counts.no_data,
            } += 1;
        }
        counts
    }

    fn list_answer(&self, updates: &[UpdateNo], client_no: u32) -> ListAnswer {
        let says = |wanted| {
            let mut answers = updates.iter().map(|it| self.answer(*it, client_no));
            answers.any(|it| it == wanted)
        };
        if says(Answer::Required) {
            ListAnswer::NonCompliant
        } else if says(Answer::Unknown) {
            ListAnswer::Unknown
        } else if says(Answer::NoData) || !self.generation.contains_key(&client_no) {
            ListAnswer::NoData
        } else {
            ListAnswer::Compliant
        }
    }

    fn list_compliance(
        &self,
        updates: &[UpdateNo],
        collection: Option<&RoaringBitmap>,
    ) -> ListCompliance {
        let mut overall = ListCompliance::default();
        for client_no in self.members(collection) {
            overall.clients += 1;
            *match self.list_answer(updates, client_no) {
                ListAnswer::NonCompliant => &mut overall.non_compliant,
                ListAnswer::Unknown => &mut overall.unknown,
                ListAnswer::NoData => &mut overall.no_data,
                ListAnswer::Compliant => &mut overall.compliant,
            } += 1;
        }
        overall
    }
}

fn client(digits: &mut Digits) -> u32 {
    CLIENTS[digits.below(CLIENTS.len() as u64) as usize]
}

/// Some of the clients, and one that nobody knows.
fn collection(bits: u8) -> RoaringBitmap {
    let members = CLIENTS.into_iter().enumerate();
    let members = members.filter(|(at, _)| bits >> at & 1 == 1);
    members.map(|(_, client)| client).chain([77]).collect()
}

fn run(updates: u32, history: &[u64], bits: u8, every_step: bool) -> Result<(), TestCaseError> {
    let mut world = World::new(updates);
    let members = collection(bits);
    for number in history {
        world.step(*number);
        if every_step {
            prop_assert_eq!(world.matrix.check(), Ok(()));
            world.compare(Some(&members))?;
        }
    }
    prop_assert_eq!(world.matrix.check(), Ok(()));
    world.compare(None)?;
    world.compare(Some(&members))?;
    for client_no in CLIENTS {
        for number in 1..=updates + 1 {
            let known = world.model.clients.contains(&client_no);
            let expected = known.then(|| world.model.answer(UpdateNo(number), client_no));
            prop_assert_eq!(world.matrix.answer(UpdateNo(number), client_no), expected);
        }
    }
    prop_assert_eq!(world.rebuilt(), world.matrix);
    Ok(())
}

proptest! {
    #![proptest_config(histories(100_000))]

    #[test]
    fn a_hundred_thousand_short_histories_end_as_the_naive_model_says(
        history in proptest::collection::vec(any::<u64>(), 1..12),
        bits in any::<u8>(),
    ) {
        run(3, &history, bits, false)?;
    }
}

proptest! {
    #![proptest_config(histories(300))]

    #[test]
    fn long_histories_agree_after_every_step(
        history in proptest::collection::vec(any::<u64>(), 20..80),
        bits in any::<u8>(),
    ) {
        run(12, &history, bits, true)?;
    }
}

#[test]
fn the_check_finds_a_counter_that_is_not_the_length_of_its_bitmap() {
    let mut matrix = Matrix::new();
    matrix.load(7, 1, &ClientStates::from_columns(vec![3], vec![], vec![]));
    assert_eq!(matrix.check(), Ok(()));
    matrix.updates.get_mut(&UpdateNo(3)).unwrap().installed.len = 2;
    assert_eq!(
        matrix.check(),
        Err(Inconsistent::Counter {
            update_no: UpdateNo(3),
            state: Detection::Installed,
            counted: 2,
            held: 1
        })
    );
}

#[test]
fn a_client_with_an_older_catalog_has_no_data_instead_of_not_required() {
    let mut matrix = Matrix::new();
    let update_no = UpdateNo(1);
    matrix.register_update(update_no, 5);
    for client_no in 1..=4 {
        matrix.add_client(client_no);
    }
    matrix.apply(1, 4, &[]);
    matrix.apply(2, 5, &[]);
    let change = |from, to| Change {
        update_no,
        from,
        to,
    };
    let required = [change(Detection::NotRequired, Detection::Required)];
    matrix.apply(3, 4, &required);
    let counts = UpdateCounts {
        required: 1,
        not_required: 1,
        no_data: 2,
        ..UpdateCounts::default()
    };
    assert_eq!(matrix.counts(update_no, None), counts);
    assert_eq!(
        matrix.page(update_no, Answer::NoData, None, None, 10),
        [1, 4]
    );
    // The next scan knows the update, and it does not apply.
    matrix.apply(1, 5, &[]);
    assert_eq!(matrix.answer(update_no, 1), Some(Answer::NotRequired));
    let overall = matrix.list_compliance(&[update_no], None);
    let expected = ListCompliance {
        clients: 4,
        compliant: 2,
        non_compliant: 1,
        unknown: 0,
        no_data: 1,
    };
    assert_eq!(overall, expected);
}

#[test]
fn blocks_of_rows_meet_in_the_bitmaps_in_any_order() {
    // More cells than one block takes, clients descending, so that nothing is appended in order.
    let rows: Vec<(u32, ClientStates)> = (1..=3_000)
        .rev()
        .map(|client_no: u32| {
            let first = (client_no % 5).cast_signed();
            let installed = (1..=750).map(|n| n * 5 + first).collect();
            (
                client_no,
                ClientStates::from_columns(installed, vec![], vec![1 + first]),
            )
        })
        .collect();
    assert!(rows.len() * 751 > Arrivals::FULL);
    let mut matrix = Matrix::new();
    matrix.load_all(
        rows.iter()
            .map(|(client_no, states)| (*client_no, 1, states)),
    );
    assert_eq!(matrix.check(), Ok(()));
    for number in [5, 6, 3_754] {
        let listed = matrix.with_answer(UpdateNo(number), Answer::Installed, None);
        let expected = (1..=3_000).filter(|client| client % 5 == number % 5);
        assert!(listed.iter().eq(expected));
    }
}
