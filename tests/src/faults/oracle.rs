//! What came of it: the journal of the outside world against what the site holds, row by row.
//!
//! The site says for each client up to which serial it has everything. So a client's row must be
//! exactly the changes up to there, at any moment and whatever goes wrong meanwhile; and in the
//! end that mark must cover everything that was ever acknowledged. States of deployments have a row
//! and a serial each, and wait for nothing: such a row must be what the client said with just that
//! serial, and nothing older than the newest up to the mark.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result};
use muster_domain::states::Detection;
use uuid::Uuid;

use super::journal::{ClientHistory, History, Subject, Word, deployment_number};

/// Jepsen's words for what became of changes: (client, update, serial).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Reports that were sent, repeats included.
    pub attempted: u64,
    /// Of them: acknowledged.
    pub acknowledged: u64,
    /// Acknowledged changes that the site does not say it has.
    pub lost: u64,
    /// Rows that are not what the client had said by the serial that the site names.
    pub wrong: u64,
    /// States or clients that nobody ever reported.
    pub unexpected: u64,
    /// By how much counters differ from a recount of the rows.
    pub duplicated: u64,
    /// Changes that were never acknowledged and are there all the same, which is allowed.
    pub recovered: u64,
}

impl Verdict {
    /// Whether nothing is lost, wrong, unexpected or counted twice.
    #[must_use]
    pub fn passes(&self) -> bool {
        (self.lost, self.wrong, self.unexpected, self.duplicated) == (0, 0, 0, 0)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            attempted,
            acknowledged,
            lost,
            wrong,
            unexpected,
            duplicated,
            recovered,
        } = self;
        write!(
            f,
            "attempted {attempted}, acknowledged {acknowledged}, lost {lost}, wrong {wrong}, \
             unexpected {unexpected}, duplicated {duplicated}, recovered {recovered}"
        )
    }
}

/// What the site holds, read in one snapshot.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// By client.
    pub rows: BTreeMap<Uuid, Row>,
    /// By update: installed, required, unknown, as the counters say.
    pub counters: BTreeMap<u32, [i64; 3]>,
    /// Clients by deployment, topic (300, 301, 302) and state, as the counters say.
    pub deployment_counters: BTreeMap<(u8, u16, u8), i64>,
    /// Reports recorded since the beginning.
    pub reports: i64,
    /// Messages in quarantine.
    pub quarantined: i64,
}

/// One client at the site.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Row {
    /// The epoch the site gave last.
    pub epoch: u32,
    /// Everything up to here is recorded.
    pub contiguous: u64,
    /// Something is missing in between.
    pub gap: bool,
    /// States other than "not required".
    pub states: BTreeMap<u32, u8>,
    /// States of deployments and of their updates, with the serial of each.
    pub words: BTreeMap<Subject, (u64, u16)>,
}

/// Prints a snapshot for [`Snapshot::parse`].
pub const SNAPSHOT: &str = "
    SET search_path = site;
    BEGIN ISOLATION LEVEL REPEATABLE READ;
    SELECT format('R|%s|%s|%s|%s|%s|%s|%s', c.client_id, s.epoch, s.contiguous_serial,
                  (s.gap_since IS NOT NULL)::int, array_to_string(k.installed, ','),
                  array_to_string(k.required, ','), array_to_string(k.unknown, ','))
    FROM clients c JOIN report_streams s USING (client_no)
    LEFT JOIN client_compliance k USING (client_no);
    SELECT format('C|%s|%s|%s|%s', update_no, installed, required, unknown) FROM update_counters;
    SELECT format('D|%s|%s|0|%s|%s', client_id, deployment_id, serial,
                  compliance + 16 * enforcement + 256 * evaluation)
    FROM deployment_states JOIN clients USING (client_no) JOIN deployments USING (deployment_no);
    SELECT format('D|%s|%s|%s|%s|%s', client_id, deployment_id, update_no, serial, state)
    FROM update_enforcement_states JOIN clients USING (client_no)
    JOIN deployments USING (deployment_no);
    SELECT format('N|%s|%s|%s|%s', deployment_id, topic, state, clients)
    FROM deployment_counters JOIN deployments USING (deployment_no);
    SELECT format('T|%s|%s', reports, (SELECT count(*) FROM quarantine)) FROM recorded_totals;
    COMMIT;\n";

impl Snapshot {
    /// Reads what [`SNAPSHOT`] printed.
    ///
    /// # Errors
    /// When a line makes no sense.
    pub fn parse(text: &str) -> Result<Self> {
        let mut snapshot = Self::default();
        for line in text.lines().filter(|line| line.contains('|')) {
            let words: Vec<&str> = line.split('|').collect();
            snapshot
                .take(&words)
                .with_context(|| format!("a line of the snapshot: {line}"))?;
        }
        Ok(snapshot)
    }

    fn take(&mut self, words: &[&str]) -> Result<()> {
        match words {
            [
                "R",
                id,
                epoch,
                contiguous,
                gap,
                installed,
                required,
                unknown,
            ] => {
                let mut row = Row {
                    epoch: epoch.parse()?,
                    contiguous: contiguous.parse()?,
                    gap: *gap == "1",
                    ..Row::default()
                };
                for (list, state) in [
                    (installed, Detection::Installed),
                    (required, Detection::Required),
                    (unknown, Detection::Unknown),
                ] {
                    for number in list.split_terminator(',') {
                        row.states.insert(number.parse()?, state.id());
                    }
                }
                self.rows.insert(id.parse()?, row);
            }
            ["C", update_no, installed, required, unknown] => {
                let counts = [installed.parse()?, required.parse()?, unknown.parse()?];
                self.counters.insert(update_no.parse()?, counts);
            }
            ["D", client, deployment, update_no, serial, state] => {
                // Others than those of the load are nobody's business here.
                if let Some(deployment) = deployment_number(deployment.parse()?) {
                    let row = self.rows.get_mut(&client.parse()?);
                    let row = row.context("a state of nobody")?;
                    let of = (deployment, update_no.parse()?);
                    row.words.insert(of, (serial.parse()?, state.parse()?));
                }
            }
            ["N", deployment, topic, state, clients] => {
                if let Some(deployment) = deployment_number(deployment.parse()?) {
                    let counter = (deployment, topic.parse()?, state.parse()?);
                    self.deployment_counters.insert(counter, clients.parse()?);
                }
            }
            ["T", reports, quarantined] => {
                (self.reports, self.quarantined) = (reports.parse()?, quarantined.parse()?);
            }
            _ => anyhow::bail!("of an unknown kind"),
        }
        Ok(())
    }

    /// Clients per update as the rows have them: installed, required, unknown.
    #[must_use]
    pub fn recount(&self) -> BTreeMap<u32, [i64; 3]> {
        let mut counts: BTreeMap<u32, [i64; 3]> = BTreeMap::new();
        for (update_no, state) in self.rows.values().flat_map(|row| &row.states) {
            let at = match Detection::from_id(*state) {
                Some(Detection::Installed) => 0,
                Some(Detection::Required) => 1,
                Some(Detection::Unknown) => 2,
                Some(Detection::NotRequired) | None => continue,
            };
            counts.entry(*update_no).or_default()[at] += 1;
        }
        counts
    }

    /// Clients per deployment, topic and state as the rows have them.
    #[must_use]
    pub fn recount_deployments(&self) -> BTreeMap<(u8, u16, u8), i64> {
        let mut counts = BTreeMap::new();
        for ((deployment, update_no), (_, state)) in self.rows.values().flat_map(|row| &row.words) {
            if *update_no == 0 {
                for (topic, state) in (300..).zip(Word::topics(*state)) {
                    *counts.entry((*deployment, topic, state)).or_default() += 1;
                }
            }
        }
        counts
    }

    /// By how much the counters differ from the recount, all together.
    #[must_use]
    pub fn counters_off(&self) -> u64 {
        let recount = self.recount();
        let all: BTreeSet<&u32> = recount.keys().chain(self.counters.keys()).collect();
        let zero = [0; 3];
        let recounted = self.recount_deployments();
        let counted = &self.deployment_counters;
        let keys: BTreeSet<_> = recounted.keys().chain(counted.keys()).collect();
        let deployments = keys.into_iter().map(|key| {
            let counts = [&recounted, counted].map(|it| it.get(key).copied().unwrap_or(0));
            counts[0].abs_diff(counts[1])
        });
        let updates = all.into_iter().map(|update_no| {
            let counted = self.counters.get(update_no).unwrap_or(&zero);
            let rows = recount.get(update_no).unwrap_or(&zero);
            let off = counted.iter().zip(rows).map(|(a, b)| a.abs_diff(*b));
            off.sum::<u64>()
        });
        updates.chain(deployments).sum()
    }

    /// Compares with what clients did.
    #[must_use]
    pub fn judge(&self, history: &History) -> Verdict {
        let mut verdict = Verdict {
            attempted: history.attempts,
            acknowledged: history.acknowledged,
            duplicated: self.counters_off(),
            ..Verdict::default()
        };
        for client in &history.clients {
            let nothing = Row::default();
            let row = self.rows.get(&client.id).unwrap_or(&nothing);
            judge_client(client, row, &mut verdict);
            judge_words(client, row, &mut verdict);
        }
        verdict
    }

    /// Clients of which something acknowledged is not there, or missing in between.
    #[must_use]
    pub fn behind(&self, history: &History) -> usize {
        let behind = |client: &&ClientHistory| {
            self.rows
                .get(&client.id)
                .is_none_or(|row| row.contiguous < client.acknowledged || row.gap)
        };
        history.clients.iter().filter(behind).count()
    }
}

fn judge_client(client: &ClientHistory, row: &Row, verdict: &mut Verdict) {
    let mark = row.contiguous;
    let mut said: BTreeMap<u32, u8> = BTreeMap::new();
    let mut ever: BTreeSet<(u32, u8)> = BTreeSet::new();
    let (mut lost, mut recovered) = (BTreeSet::new(), BTreeSet::new());
    for (serial, change) in &client.changes {
        ever.insert((change.update_no, change.state));
        if *serial <= mark {
            said.insert(change.update_no, change.state);
            if *serial > client.acknowledged {
                recovered.insert(change.update_no);
            }
        } else if *serial <= client.acknowledged {
            lost.insert(change.update_no);
        }
    }
    let not_required = Detection::NotRequired.id();
    said.retain(|_, state| *state != not_required);
    let updates: BTreeSet<u32> = said.keys().chain(row.states.keys()).copied().collect();
    for update_no in updates {
        let held = row.states.get(&update_no);
        if held == said.get(&update_no) {
            continue;
        }
        let known = held.is_none_or(|state| ever.contains(&(update_no, *state)));
        if known {
            verdict.wrong += 1;
        } else {
            verdict.unexpected += 1;
        }
    }
    verdict.lost += lost.len() as u64;
    verdict.recovered += recovered.len() as u64;
}

/// The same for what it said of deployments.
fn judge_words(client: &ClientHistory, row: &Row, verdict: &mut Verdict) {
    let mark = row.contiguous;
    let mut due: BTreeMap<Subject, u64> = BTreeMap::new();
    let (mut lost, mut recovered) = (BTreeSet::new(), BTreeSet::new());
    let held = |of: &Subject| row.words.get(of).map_or(0, |(serial, _)| *serial);
    for (serial, word) in &client.words {
        if *serial <= mark {
            due.insert(word.of, *serial);
        } else if *serial <= client.acknowledged && held(&word.of) < *serial {
            lost.insert(word.of);
        }
        if *serial > client.acknowledged && held(&word.of) == *serial {
            recovered.insert(word.of);
        }
    }
    let all: BTreeSet<&Subject> = due.keys().chain(row.words.keys()).collect();
    for of in all {
        let oldest = due.get(of).copied().unwrap_or(1);
        let Some((serial, state)) = row.words.get(of) else {
            verdict.wrong += 1;
            continue;
        };
        let same = |word: &&Word| word.of == *of && word.state == *state;
        if *serial >= oldest && client.words.get(serial).as_ref().is_some_and(same) {
            continue;
        }
        if client.words.values().any(|word| same(&word)) {
            verdict.wrong += 1;
        } else {
            verdict.unexpected += 1;
        }
    }
    verdict.lost += lost.len() as u64;
    verdict.recovered += recovered.len() as u64;
}

#[cfg(test)]
mod tests {
    use super::super::journal::Change;
    use super::*;

    fn client(acknowledged: u64) -> ClientHistory {
        let changes = [(1, 7, 2), (2, 8, 2), (3, 7, 3), (4, 9, 3)];
        let change = |(serial, update_no, state)| {
            let change = Change {
                serial,
                update_no,
                state,
            };
            (serial, change)
        };
        ClientHistory {
            id: Uuid::from_u128(1),
            changes: changes.into_iter().map(change).collect(),
            words: BTreeMap::new(),
            acknowledged,
            attempted: 4,
        }
    }

    fn judged(acknowledged: u64, contiguous: u64, states: &[(u32, u8)]) -> Verdict {
        let row = Row {
            epoch: 1,
            contiguous,
            gap: false,
            states: states.iter().copied().collect(),
            words: BTreeMap::new(),
        };
        let mut verdict = Verdict::default();
        judge_client(&client(acknowledged), &row, &mut verdict);
        verdict
    }

    #[test]
    fn a_row_is_what_was_said_up_to_its_serial() {
        assert!(judged(3, 3, &[(7, 3), (8, 2)]).passes());
        assert!(judged(0, 0, &[]).passes());
        // Nobody was told that the last one is safe, and it is there.
        let verdict = judged(3, 4, &[(7, 3), (8, 2), (9, 3)]);
        assert!(verdict.passes() && verdict.recovered == 1, "{verdict}");
    }

    #[test]
    fn what_is_missing_old_or_from_nowhere_is_told_apart() {
        assert_eq!(judged(3, 1, &[(7, 2)]).lost, 2);
        assert_eq!(judged(3, 3, &[(7, 2), (8, 2)]).wrong, 1, "an older state");
        assert_eq!(judged(3, 3, &[(7, 3)]).wrong, 1, "a state that is gone");
        assert_eq!(judged(3, 3, &[(7, 3), (8, 2), (5, 3)]).unexpected, 1);
        assert_eq!(judged(3, 3, &[(7, 3), (8, 0)]).unexpected, 1);
    }

    #[test]
    fn a_state_of_a_deployment_is_what_was_said_with_its_serial() {
        let said = [
            (1, (1, 0), 17),
            (2, (1, 5), 8),
            (4, (1, 5), 10),
            (6, (1, 0), 18),
        ];
        let word = |(serial, of, state)| (serial, Word { serial, of, state });
        let client = ClientHistory {
            words: said.into_iter().map(word).collect(),
            acknowledged: 4,
            attempted: 6,
            ..ClientHistory::default()
        };
        let judged = |contiguous, words: &[(Subject, (u64, u16))]| {
            let row = Row {
                contiguous,
                words: words.iter().copied().collect(),
                ..Row::default()
            };
            let mut verdict = Verdict::default();
            judge_words(&client, &row, &mut verdict);
            verdict
        };
        let (whole, update) = (((1, 0), (1, 17)), ((1, 5), (4, 10)));
        assert!(judged(4, &[whole, update]).passes());
        assert!(judged(1, &[whole, update]).passes(), "it waits for nothing");
        let early = judged(4, &[((1, 0), (6, 18)), update]);
        assert!(early.passes() && early.recovered == 1, "{early}");
        assert_eq!(judged(1, &[whole]).lost, 1);
        assert_eq!(judged(4, &[whole]).wrong, 1, "it is not there");
        assert_eq!(judged(4, &[whole, ((1, 5), (2, 8))]).wrong, 1, "older");
        assert_eq!(judged(4, &[whole, ((1, 5), (4, 8))]).wrong, 1, "mixed up");
        assert_eq!(judged(4, &[whole, update, ((2, 5), (4, 8))]).unexpected, 1);
        assert_eq!(judged(4, &[whole, ((1, 5), (4, 11))]).unexpected, 1);
    }

    #[test]
    fn a_counter_of_a_deployment_that_is_off_is_a_duplicate() {
        let (client, deployment) = (Uuid::from_u128(1), super::super::journal::deployment_id(2));
        let text = format!(
            "R|{client}|1|3|0|||\nD|{client}|{deployment}|0|3|{}\nD|{client}|{deployment}|7|2|8\n\
             N|{deployment}|300|2|1\nN|{deployment}|301|12|2\nN|{deployment}|302|1|1\n\
             N|{deployment}|301|0|0\nD|{client}|{client}|0|3|0\nT|3|0",
            2 + 16 * 12 + 256
        );
        let snapshot = Snapshot::parse(&text).unwrap();
        assert_eq!(snapshot.counters_off(), 1);
        assert_eq!(snapshot.rows[&client].words.len(), 2);
    }

    #[test]
    fn a_counter_that_is_off_is_a_duplicate() {
        let text = "R|00000000-0000-0000-0000-000000000001|1|3|0|7||8\nC|7|1|0|0\nC|8|0|0|2\nT|3|0";
        let snapshot = Snapshot::parse(text).unwrap();
        assert_eq!(snapshot.counters_off(), 1);
        assert_eq!((snapshot.reports, snapshot.quarantined), (3, 0));
    }
}
