//! The part of the catalog that one client's scan needs.

use super::catalog::{Catalog, ScanLeaf, Update};

/// The most package names of a request.
pub(crate) const MAX_PACKAGES: usize = 20_000;

/// A difference of more updates than this is answered by a cold start, which costs less.
pub(crate) const MAX_DIFFERENCE: usize = 3_000;

/// What a client says about itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query<'a> {
    /// The generation it holds; 0 for none.
    pub(crate) base: u64,
    /// Packages about which it wants everything, sorted.
    pub(crate) packages: &'a [String],
    /// Its architecture; empty for all.
    pub(crate) architecture: &'a str,
    pub(crate) os_id: &'a str,
    pub(crate) os_version_id: &'a str,
}

/// What it gets.
#[derive(Debug)]
pub(crate) enum Answer<'a> {
    /// This catalog does not reach back, or not up, to the base.
    UnknownBase,
    /// The difference is too large: start again from 0.
    RestartCold,
    /// Updates, and the numbers that no longer count.
    Slice {
        updates: Vec<Selected<'a>>,
        removed: Vec<u32>,
    },
}

/// An update with those of its leaves that the client is told about.
#[derive(Debug)]
pub(crate) struct Selected<'a> {
    pub(crate) update: &'a Update,
    pub(crate) leaves: Vec<&'a ScanLeaf>,
}

/// The slice of `catalog` for one client.
///
/// A cold start (base 0) gets every update in force with a leaf among the packages, and of its leaves
/// only those. Later answers hold whole updates: all that came or changed since the base, and
/// all that concern the packages, which then are those that were installed since.
pub(crate) fn slice<'a>(catalog: &'a Catalog, query: Query<'_>) -> Answer<'a> {
    if query.base > catalog.generation || catalog.generation == 0 {
        return Answer::UnknownBase;
    }
    let fits = |leaf: &ScanLeaf| {
        query.architecture.is_empty()
            || leaf.architecture.as_ref() == query.architecture
            || leaf.architecture.as_ref() == "all"
    };
    let concerns = |update: &Update| {
        catalog
            .channel_of(update)
            .concerns(query.os_id, query.os_version_id)
    };
    let mut numbers: Vec<u32> = Vec::new();
    let mut removed = Vec::new();
    if query.base > 0 {
        for update in &catalog.updates {
            match update.expired_generation {
                // The client can only hold what it could have been told of.
                Some(expired) if expired > query.base => {
                    if update.first_generation <= query.base && concerns(update) {
                        removed.push(update.update_no);
                    }
                }
                None if update.scan_generation > query.base && concerns(update) => {
                    numbers.push(update.update_no);
                }
                Some(_) | None => {}
            }
        }
        if numbers.len() > MAX_DIFFERENCE {
            return Answer::RestartCold;
        }
    }
    for package in query.packages {
        numbers.extend(catalog.with_package(package));
    }
    numbers.sort_unstable();
    numbers.dedup();
    let cold = query.base == 0;
    let asked = |leaf: &ScanLeaf| {
        !cold
            || query
                .packages
                .binary_search_by(|name| name.as_str().cmp(&leaf.package))
                .is_ok()
    };
    let updates = numbers.into_iter().filter_map(|number| {
        let update = catalog.update(number)?;
        if update.expired_generation.is_some() || !concerns(update) {
            return None;
        }
        let leaves: Vec<&ScanLeaf> = update
            .leaves
            .iter()
            .filter(|leaf| fits(leaf) && asked(leaf))
            .collect();
        (!leaves.is_empty()).then_some(Selected { update, leaves })
    });
    Answer::Slice {
        updates: updates.collect(),
        removed,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::domain::channel::Channel;

    fn update(update_no: u32, scan_generation: u64, packages: &[(&str, &str)]) -> Update {
        let leaf = |(package, architecture): &(&str, &str)| ScanLeaf {
            package: Arc::from(*package),
            version: Arc::from("1"),
            architecture: Arc::from(*architecture),
            phased_percentage: 100,
        };
        Update {
            update_no,
            update_id: Arc::from(format!("u{update_no}")),
            revision: 1,
            scan_generation,
            first_generation: scan_generation,
            expired_generation: None,
            channel: 0,
            source: Arc::from("src"),
            version: Arc::from("1"),
            content: [0; 16],
            max_run_time_minutes: 60,
            supersedes: Vec::new(),
            superseded_by: Vec::new(),
            leaves: packages.iter().map(leaf).collect(),
        }
    }

    fn catalog() -> Catalog {
        let channel = Channel {
            origin: "Debian".into(),
            version: "12".into(),
            ..Channel::default()
        };
        let mut gone = update(3, 1, &[("aa", "amd64")]);
        gone.expired_generation = Some(2);
        let updates = vec![
            update(
                1,
                1,
                &[("aa", "amd64"), ("aa-data", "all"), ("bb", "arm64")],
            ),
            update(2, 2, &[("cc", "amd64")]),
            gone,
            update(4, 3, &[("dd", "amd64"), ("ee", "amd64")]),
        ];
        Catalog::new(3, Timestamp::UNIX_EPOCH, vec![(1, channel)], updates)
    }

    fn ask(base: u64, packages: &[&str], os: &str) -> (Vec<(u32, usize)>, Vec<u32>) {
        let catalog = catalog();
        let packages: Vec<String> = packages.iter().map(|p| (*p).to_owned()).collect();
        let query = Query {
            base,
            packages: &packages,
            architecture: "amd64",
            os_id: os,
            os_version_id: "12",
        };
        match slice(&catalog, query) {
            Answer::Slice { updates, removed } => {
                let found = updates
                    .iter()
                    .map(|s| (s.update.update_no, s.leaves.len()))
                    .collect();
                (found, removed)
            }
            other @ (Answer::UnknownBase | Answer::RestartCold) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_cold_start_gets_what_concerns_its_packages_and_no_more() {
        assert_eq!(
            ask(0, &["aa", "dd"], "debian"),
            (vec![(1, 1), (4, 1)], vec![])
        );
        assert_eq!(ask(0, &["aa", "aa-data"], "debian"), (vec![(1, 2)], vec![]));
        assert_eq!(
            ask(0, &["bb"], "debian"),
            (vec![], vec![]),
            "another architecture"
        );
        assert_eq!(
            ask(0, &["aa"], "ubuntu"),
            (vec![], vec![]),
            "another product"
        );
    }

    #[test]
    fn a_difference_has_whole_updates_and_what_no_longer_counts() {
        assert_eq!(ask(1, &[], "debian"), (vec![(2, 1), (4, 2)], vec![3]));
        assert_eq!(ask(2, &[], "debian"), (vec![(4, 2)], vec![]));
        assert_eq!(ask(3, &[], "debian"), (vec![], vec![]));
        assert_eq!(
            ask(3, &["aa"], "debian"),
            (vec![(1, 2)], vec![]),
            "newly installed"
        );
    }

    #[test]
    fn a_base_of_another_world_is_unknown() {
        let query = Query {
            base: 4,
            packages: &[],
            architecture: "",
            os_id: "",
            os_version_id: "",
        };
        assert!(matches!(slice(&catalog(), query), Answer::UnknownBase));
        let empty = Catalog::default();
        assert!(matches!(
            slice(&empty, Query { base: 0, ..query }),
            Answer::UnknownBase
        ));
    }
}
