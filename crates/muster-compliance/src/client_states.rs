//! One client's side of the matrix: three sorted sets of update numbers. An update in none
//! of them is "not required" when the client's catalog generation knows it, and "no data"
//! when it does not; that second question is for whoever knows the catalog.

use muster_domain::{UpdateNo, states::Detection};

/// What one client says of all updates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientStates {
    installed: Vec<i32>,
    required: Vec<i32>,
    unknown: Vec<i32>,
}

/// One update changed its state on one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The update.
    pub update_no: UpdateNo,
    /// What was held before.
    pub from: Detection,
    /// What is held now.
    pub to: Detection,
}

/// Takes out of one sorted set what is in another.
fn keep_apart(first: &[i32], then: &mut Vec<i32>) {
    let mut left = first.iter().peekable();
    let shared = then.iter().any(|number| {
        while left.next_if(|held| *held < number).is_some() {}
        left.peek() == Some(&number)
    });
    if shared {
        then.retain(|number| first.binary_search(number).is_err());
    }
}

impl ClientStates {
    /// From the columns of `client_compliance`. Somebody who wrote them by hand may have kept no
    /// order: each update counts once, in the first column that has it.
    pub fn from_columns(
        mut installed: Vec<i32>,
        mut required: Vec<i32>,
        mut unknown: Vec<i32>,
    ) -> Self {
        for set in [&mut installed, &mut required, &mut unknown] {
            if !set.is_sorted_by(|a, b| a < b) || set.first().is_some_and(|first| *first < 1) {
                set.retain(|number| *number > 0);
                set.sort_unstable();
                set.dedup();
            }
        }
        for (first, then) in [(&installed, &mut required), (&installed, &mut unknown)] {
            keep_apart(first, then);
        }
        keep_apart(&required, &mut unknown);
        Self {
            installed,
            required,
            unknown,
        }
    }

    /// The columns of `client_compliance`: installed, required, unknown.
    pub fn columns(&self) -> (&[i32], &[i32], &[i32]) {
        (&self.installed, &self.required, &self.unknown)
    }

    /// Nothing is installed, required or unknown.
    pub fn is_empty(&self) -> bool {
        self.installed.is_empty() && self.required.is_empty() && self.unknown.is_empty()
    }

    /// The state held for an update.
    pub fn get(&self, update_no: UpdateNo) -> Detection {
        let Ok(number) = i32::try_from(update_no.0) else {
            return Detection::NotRequired;
        };
        for (set, state) in [
            (&self.installed, Detection::Installed),
            (&self.required, Detection::Required),
            (&self.unknown, Detection::Unknown),
        ] {
            if set.binary_search(&number).is_ok() {
                return state;
            }
        }
        Detection::NotRequired
    }

    /// Everything that is not "not required", ascending.
    pub fn listed(&self) -> Vec<(UpdateNo, Detection)> {
        let mut all: Vec<(UpdateNo, Detection)> = [
            (&self.installed, Detection::Installed),
            (&self.required, Detection::Required),
            (&self.unknown, Detection::Unknown),
        ]
        .into_iter()
        .flat_map(|(set, state)| set.iter().map(move |n| (UpdateNo(n.unsigned_abs()), state)))
        .collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        all
    }

    /// Takes a FULL report: what it does not list is "not required" from now on. Returns
    /// what really changed, ascending.
    pub fn replace(&mut self, report: &[(UpdateNo, Detection)]) -> Vec<Change> {
        let next = Self::from_report(report);
        let changes = if self.is_empty() {
            // Most FULL reports are a client's first.
            let listed = report
                .iter()
                .filter(|(_, to)| *to != Detection::NotRequired);
            let change = |(update_no, to): &(UpdateNo, Detection)| Change {
                update_no: *update_no,
                from: Detection::NotRequired,
                to: *to,
            };
            listed.map(change).collect()
        } else {
            self.differences(&next)
        };
        *self = next;
        changes
    }

    /// Takes a DELTA report: what it does not list stays. Returns what really changed,
    /// ascending.
    pub fn merge(&mut self, report: &[(UpdateNo, Detection)]) -> Vec<Change> {
        let mut changes = Vec::new();
        for (update_no, to) in report {
            let from = self.get(*update_no);
            if from != *to {
                changes.push(Change {
                    update_no: *update_no,
                    from,
                    to: *to,
                });
            }
        }
        if changes.is_empty() {
            return changes;
        }
        // One pass per set: what leaves is filtered out, what comes is merged in.
        for (set, state) in [
            (&mut self.installed, Detection::Installed),
            (&mut self.required, Detection::Required),
            (&mut self.unknown, Detection::Unknown),
        ] {
            let leaves: Vec<i32> = numbers(&changes, |c| c.from == state);
            let comes: Vec<i32> = numbers(&changes, |c| c.to == state);
            if !leaves.is_empty() {
                set.retain(|n| leaves.binary_search(n).is_err());
            }
            if !comes.is_empty() {
                set.extend(comes);
                set.sort_unstable();
            }
        }
        changes
    }

    /// The changes that lead from here to `next`, ascending.
    pub fn differences(&self, next: &Self) -> Vec<Change> {
        let (before, after) = (self.listed(), next.listed());
        let (mut b, mut a) = (before.iter().peekable(), after.iter().peekable());
        let mut changes = Vec::new();
        loop {
            let (update_no, from, to) = match (b.peek(), a.peek()) {
                (None, None) => return changes,
                (Some((x, from)), Some((y, to))) if x == y => {
                    let change = (*x, *from, *to);
                    b.next();
                    a.next();
                    change
                }
                (Some((x, from)), later) if later.is_none_or(|(y, _)| x < y) => {
                    let change = (*x, *from, Detection::NotRequired);
                    b.next();
                    change
                }
                (_, Some((y, to))) => {
                    let change = (*y, Detection::NotRequired, *to);
                    a.next();
                    change
                }
                (Some(_), None) => return changes,
            };
            if from != to {
                changes.push(Change {
                    update_no,
                    from,
                    to,
                });
            }
        }
    }

    /// What a client says that has said nothing before; ascending, as in [`Self::replace`].
    pub fn from_report(report: &[(UpdateNo, Detection)]) -> Self {
        let mut states = Self {
            // Most of what is listed is installed.
            installed: Vec::with_capacity(report.len()),
            required: Vec::with_capacity(report.len() / 2),
            unknown: Vec::new(),
        };
        for (number, state) in report {
            let Ok(number) = i32::try_from(number.0) else {
                continue;
            };
            match state {
                Detection::Installed => states.installed.push(number),
                Detection::Required => states.required.push(number),
                Detection::Unknown => states.unknown.push(number),
                Detection::NotRequired => {}
            }
        }
        states
    }
}

fn numbers(changes: &[Change], pick: impl Fn(&Change) -> bool) -> Vec<i32> {
    changes
        .iter()
        .filter(|change| pick(change))
        .filter_map(|change| i32::try_from(change.update_no.0).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Model = BTreeMap<u32, Detection>;

    fn report() -> impl Strategy<Value = Vec<(UpdateNo, Detection)>> {
        proptest::collection::btree_map(1_u32..60, 0_u8..4, 0..30).prop_map(|map| {
            map.into_iter()
                .map(|(n, s)| (UpdateNo(n), Detection::from_id(s).unwrap()))
                .collect()
        })
    }

    fn state(model: &Model, number: u32) -> Detection {
        model
            .get(&number)
            .copied()
            .unwrap_or(Detection::NotRequired)
    }

    proptest! {
        #[test]
        fn any_history_ends_as_the_naive_model_says(history in proptest::collection::vec((any::<bool>(), report()), 1..20)) {
            let mut held = ClientStates::default();
            let mut model = Model::new();
            for (full, report) in history {
                let before = model.clone();
                if full {
                    model.clear();
                }
                model.extend(report.iter().map(|(n, s)| (n.0, *s)));
                let changes = if full { held.replace(&report) } else { held.merge(&report) };
                let expected: Vec<Change> = (1..60)
                    .map(|n| Change { update_no: UpdateNo(n), from: state(&before, n), to: state(&model, n) })
                    .filter(|c| c.from != c.to)
                    .collect();
                prop_assert_eq!(changes, expected);
                for n in 1..60 {
                    prop_assert_eq!(held.get(UpdateNo(n)), state(&model, n));
                }
                let (installed, required, unknown) = held.columns();
                for set in [installed, required, unknown] {
                    prop_assert!(set.windows(2).all(|pair| pair[0] < pair[1]));
                }
            }
        }
    }

    #[test]
    fn columns_that_somebody_wrote_by_hand_name_each_update_once() {
        let held = ClientStates::from_columns(vec![5, 2, 2, -1], vec![7, 5, 0], vec![7, 9, 2]);
        assert_eq!(
            held.columns(),
            (&[2, 5][..], &[7][..], &[9][..]),
            "{held:?}"
        );
        let fine = ClientStates::from_columns(vec![1, 4], vec![2], vec![3, 8]);
        assert_eq!(fine.columns(), (&[1, 4][..], &[2][..], &[3, 8][..]));
    }
}
