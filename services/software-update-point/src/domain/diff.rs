//! What a synchronisation changes: the catalog that is held against what the archive has now
//! (semantics.md 2.6).

use std::collections::{HashMap, HashSet};

use muster_apt::Version;

use super::catalog::Catalog;
use super::channel::Channel;
use super::collect::Incoming;
use super::sync::Kind;

/// A suite of an archive: its address and name.
pub(crate) type SuiteKey = (String, String);

/// How far the comparison reaches.
#[derive(Debug)]
pub(crate) struct Scope {
    pub(crate) kind: Kind,
    /// The suites whose indexes were read; the others are as they were.
    pub(crate) read: HashSet<SuiteKey>,
    /// All suites that are followed; updates of others are expired by a full synchronisation.
    pub(crate) followed: HashSet<SuiteKey>,
}

/// What has to be recorded.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) new: Vec<New>,
    /// Updates that changed, or that had expired and came back.
    pub(crate) modified: Vec<(u32, Incoming)>,
    pub(crate) expired: Vec<u32>,
    /// Held updates whose place in the order of versions changed.
    pub(crate) relations: Vec<Relation>,
}

/// An update that was not known.
#[derive(Debug)]
pub(crate) struct New {
    pub(crate) incoming: Incoming,
    pub(crate) relation: Relation,
}

/// The nearest older and newer versions of the same source in the same family of suites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relation {
    pub(crate) update_no: u32,
    pub(crate) supersedes: Vec<u32>,
    pub(crate) superseded_by: Vec<u32>,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.new.is_empty()
            && self.modified.is_empty()
            && self.expired.is_empty()
            && self.relations.is_empty()
    }
}

/// Compares. New updates get the numbers from `next_update_no` on, in the order of their ids.
pub(crate) fn diff(
    held: &Catalog,
    next_update_no: u32,
    channels: &[Channel],
    incoming: Vec<Incoming>,
    scope: &Scope,
) -> Changes {
    let by_id: HashMap<&str, u32> = held
        .updates
        .iter()
        .map(|update| (update.update_id.as_ref(), update.update_no))
        .collect();
    let mut seen: HashSet<u32> = HashSet::with_capacity(by_id.len());
    let mut changes = Changes::default();
    let mut numbers = next_update_no..;
    for update in incoming {
        let Some(&update_no) = by_id.get(update.update_id.as_str()) else {
            let Some(update_no) = numbers.next() else {
                break;
            };
            let relation = Relation {
                update_no,
                supersedes: Vec::new(),
                superseded_by: Vec::new(),
            };
            changes.new.push(New {
                incoming: update,
                relation,
            });
            continue;
        };
        seen.insert(update_no);
        let differs = held.update(update_no).is_some_and(|held| {
            held.expired_generation.is_some()
                || held.content != update.content(&channels[update.channel])
        });
        if scope.kind == Kind::Full && differs {
            changes.modified.push((update_no, update));
        }
    }
    if scope.kind == Kind::Full {
        let gone = held.updates.iter().filter(|update| {
            let channel = held.channel_of(update);
            let suite = (channel.archive_uri.clone(), channel.suite.clone());
            let could_be_seen = scope.read.contains(&suite) || !scope.followed.contains(&suite);
            update.expired_generation.is_none()
                && could_be_seen
                && !seen.contains(&update.update_no)
        });
        changes.expired = gone.map(|update| update.update_no).collect();
    }
    relate(held, channels, &mut changes);
    changes
}

/// A member of a group of versions of one source.
struct Member {
    update_no: u32,
    version: Version,
    /// Index into `changes.new`; `None` for a held one.
    new: Option<usize>,
}

/// Orders the versions of every source that has a new one. Expired updates keep their place: what
/// they superseded stays superseded.
fn relate(held: &Catalog, channels: &[Channel], changes: &mut Changes) {
    let families: Vec<String> = channels.iter().map(Channel::family).collect();
    let mut groups: HashMap<(&str, &str), Vec<Member>> = HashMap::new();
    for (at, new) in changes.new.iter().enumerate() {
        let Ok(version) = new.incoming.version.parse() else {
            continue;
        };
        let key = (
            families[new.incoming.channel].as_str(),
            new.incoming.source.as_str(),
        );
        let member = Member {
            update_no: new.relation.update_no,
            version,
            new: Some(at),
        };
        groups.entry(key).or_default().push(member);
    }
    let held_families: Vec<String> = held
        .channels
        .iter()
        .map(|(_, channel)| channel.family())
        .collect();
    for update in &held.updates {
        let key = (
            held_families[update.channel].as_str(),
            update.source.as_ref(),
        );
        if let Some(group) = groups.get_mut(&key)
            && let Ok(version) = update.version.parse()
        {
            group.push(Member {
                update_no: update.update_no,
                version,
                new: None,
            });
        }
    }
    let mut of_new: Vec<(usize, Relation)> = Vec::with_capacity(changes.new.len());
    let mut of_held = Vec::new();
    for group in groups.values_mut() {
        group.sort_by(|a, b| {
            a.version
                .cmp(&b.version)
                .then(a.update_no.cmp(&b.update_no))
        });
        // The same version in two suites is one level: neither supersedes the other.
        let levels: Vec<&[Member]> = group.chunk_by(|a, b| a.version == b.version).collect();
        let numbers = |level: Option<&&[Member]>| -> Vec<u32> {
            level.map_or_else(Vec::new, |level| {
                level.iter().map(|member| member.update_no).collect()
            })
        };
        for (at, level) in levels.iter().enumerate() {
            let supersedes = numbers(at.checked_sub(1).and_then(|below| levels.get(below)));
            let superseded_by = numbers(levels.get(at + 1));
            for member in *level {
                let relation = Relation {
                    update_no: member.update_no,
                    supersedes: supersedes.clone(),
                    superseded_by: superseded_by.clone(),
                };
                match member.new {
                    Some(at) => of_new.push((at, relation)),
                    None => of_held.push(relation),
                }
            }
        }
    }
    of_held.retain(|relation| {
        held.update(relation.update_no).is_some_and(|update| {
            update.supersedes != relation.supersedes
                || update.superseded_by != relation.superseded_by
        })
    });
    of_held.sort_by_key(|relation| relation.update_no);
    for (at, relation) in of_new {
        changes.new[at].relation = relation;
    }
    changes.relations = of_held;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::domain::catalog::Update;
    use crate::domain::collect::Leaf;

    fn channel(suite: &str) -> Channel {
        Channel {
            archive_uri: "http://archive.example/d".into(),
            suite: suite.into(),
            component: "main".into(),
            origin: "Example".into(),
            version: "1".into(),
            ..Channel::default()
        }
    }

    fn incoming(channel: usize, suite: &str, version: &str, size: u64) -> Incoming {
        Incoming {
            update_id: format!("apt/example/{suite}/src/{version}"),
            channel,
            source: "src".into(),
            version: version.into(),
            description: String::new(),
            released_at: Timestamp::UNIX_EPOCH,
            leaves: vec![Leaf {
                package: "bin".into(),
                version: version.into(),
                architecture: "amd64".into(),
                phased_percentage: 100,
                sha256: [0; 32],
                size,
                path: "pool/bin.deb".into(),
            }],
        }
    }

    /// As the store would record it.
    fn record(held: &Catalog, channels: &[Channel], changes: Changes) -> Catalog {
        let generation = held.generation + 1;
        let mut updates = held.updates.clone();
        let index = |channel: usize| channel;
        for (update_no, incoming) in &changes.modified {
            let update = &mut updates[*update_no as usize - 1];
            update.content = incoming.content(&channels[incoming.channel]);
            update.expired_generation = None;
        }
        for update_no in &changes.expired {
            updates[*update_no as usize - 1].expired_generation = Some(generation);
        }
        for relation in &changes.relations {
            let update = &mut updates[relation.update_no as usize - 1];
            update.supersedes = relation.supersedes.clone();
            update.superseded_by = relation.superseded_by.clone();
        }
        for New { incoming, relation } in changes.new {
            updates.push(Update {
                update_no: relation.update_no,
                content: incoming.content(&channels[incoming.channel]),
                update_id: Arc::from(incoming.update_id),
                revision: 1,
                scan_generation: generation,
                first_generation: generation,
                expired_generation: None,
                channel: index(incoming.channel),
                source: Arc::from(incoming.source),
                version: Arc::from(incoming.version),
                max_run_time_minutes: 60,
                supersedes: relation.supersedes,
                superseded_by: relation.superseded_by,
                leaves: Vec::new(),
            });
        }
        let channels = channels
            .iter()
            .cloned()
            .zip(1..)
            .map(|(c, n)| (n, c))
            .collect();
        Catalog::new(generation, Timestamp::UNIX_EPOCH, channels, updates)
    }

    fn scope(kind: Kind, read: &[&str], followed: &[&str]) -> Scope {
        let keys = |suites: &[&str]| {
            suites
                .iter()
                .map(|suite| ("http://archive.example/d".to_owned(), (*suite).to_owned()))
                .collect()
        };
        Scope {
            kind,
            read: keys(read),
            followed: keys(followed),
        }
    }

    #[test]
    fn a_full_synchronisation_finds_new_modified_expired_and_returned_updates() {
        let channels = [channel("one")];
        let full = scope(Kind::Full, &["one"], &["one"]);
        let first = vec![incoming(0, "one", "1", 5), incoming(0, "one", "2", 5)];
        let changes = diff(&Catalog::default(), 1, &channels, first, &full);
        assert_eq!(
            changes
                .new
                .iter()
                .map(|new| new.relation.update_no)
                .collect::<Vec<_>>(),
            [1, 2]
        );
        let held = record(&Catalog::default(), &channels, changes);

        let again = vec![incoming(0, "one", "1", 5), incoming(0, "one", "2", 5)];
        assert!(
            diff(&held, 3, &channels, again, &full).is_empty(),
            "nothing changed"
        );

        let other = vec![incoming(0, "one", "2", 6)];
        let changes = diff(&held, 3, &channels, other, &full);
        assert_eq!(
            (
                changes.new.len(),
                changes.modified.len(),
                &changes.expired[..]
            ),
            (0, 1, &[1][..])
        );
        let held = record(&held, &channels, changes);

        let back = vec![incoming(0, "one", "1", 5), incoming(0, "one", "2", 6)];
        let changes = diff(&held, 3, &channels, back, &full);
        assert_eq!(
            (changes.modified[0].0, changes.expired.len()),
            (1, 0),
            "1 came back"
        );
    }

    #[test]
    fn a_delta_takes_only_what_is_new() {
        let channels = [channel("one")];
        let full = scope(Kind::Full, &["one"], &["one"]);
        let first = vec![incoming(0, "one", "1", 5), incoming(0, "one", "2", 5)];
        let held = record(
            &Catalog::default(),
            &channels,
            diff(&Catalog::default(), 1, &channels, first, &full),
        );
        let delta = scope(Kind::Delta, &["one"], &["one"]);
        let next = vec![incoming(0, "one", "2", 6), incoming(0, "one", "3", 5)];
        let changes = diff(&held, 3, &channels, next, &delta);
        assert_eq!(
            (
                changes.new.len(),
                changes.modified.len(),
                changes.expired.len()
            ),
            (1, 0, 0)
        );
        assert_eq!(changes.relations.len(), 1, "2 is now superseded by 3");
    }

    #[test]
    fn a_suite_that_was_not_read_stays_and_one_that_is_no_longer_followed_expires() {
        let channels = [channel("one"), channel("two")];
        let both = scope(Kind::Full, &["one", "two"], &["one", "two"]);
        let first = vec![incoming(0, "one", "1", 5), incoming(1, "two", "1", 5)];
        let held = record(
            &Catalog::default(),
            &channels,
            diff(&Catalog::default(), 1, &channels, first, &both),
        );
        let unread = scope(Kind::Full, &[], &["one", "two"]);
        assert!(diff(&held, 3, &channels, Vec::new(), &unread).is_empty());
        let dropped = scope(Kind::Full, &[], &["one"]);
        assert_eq!(diff(&held, 3, &channels, Vec::new(), &dropped).expired, [2]);
    }

    #[test]
    fn versions_supersede_their_neighbours_across_the_suites_of_a_family() {
        let channels = [channel("one"), channel("one-security")];
        let full = scope(
            Kind::Full,
            &["one", "one-security"],
            &["one", "one-security"],
        );
        let first = vec![
            incoming(0, "one", "1", 5),
            incoming(0, "one", "3", 5),
            incoming(1, "one-security", "3", 5),
        ];
        let changes = diff(&Catalog::default(), 1, &channels, first, &full);
        let relation = |update_no: u32, supersedes: &[u32], superseded_by: &[u32]| Relation {
            update_no,
            supersedes: supersedes.to_vec(),
            superseded_by: superseded_by.to_vec(),
        };
        let found: Vec<_> = changes.new.iter().map(|new| new.relation.clone()).collect();
        assert_eq!(
            found,
            [
                relation(1, &[], &[2, 3]),
                relation(2, &[1], &[]),
                relation(3, &[1], &[])
            ]
        );
        let held = record(&Catalog::default(), &channels, changes);
        // Version 2 arrives late and goes between them.
        let late = vec![
            incoming(0, "one", "1", 5),
            incoming(0, "one", "2", 5),
            incoming(0, "one", "3", 5),
            incoming(1, "one-security", "3", 5),
        ];
        let changes = diff(&held, 4, &channels, late, &full);
        assert_eq!(changes.new[0].relation, relation(4, &[1], &[2, 3]));
        assert_eq!(
            changes.relations,
            [
                relation(1, &[], &[4]),
                relation(2, &[4], &[]),
                relation(3, &[4], &[])
            ]
        );
    }
}
