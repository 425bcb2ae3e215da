//! What a software update point takes over from the one above: the same updates under the same
//! numbers, and nothing in force that the vendor's signed files do not say.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::archive::SuiteSnapshot;
use super::catalog::{Catalog, Update};
use super::channel::Channel;
use super::collect::Incoming;
use super::diff::SuiteKey;
use super::update::StoredUpdate;

/// What a stream of the catalog begins with.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) generation: u64,
    pub(crate) stamp: Vec<u8>,
    pub(crate) changed_at: Timestamp,
    /// All numbers below are given.
    pub(crate) next_update_no: u32,
    /// Whether everything follows, not only what changed.
    pub(crate) full: bool,
    /// Whether our generation is one of that catalog's.
    pub(crate) known: bool,
    /// With whether all of their files was applied.
    pub(crate) suites: Vec<(SuiteSnapshot, bool)>,
    pub(crate) channels: Vec<Channel>,
}

/// An update as the one above has it.
#[derive(Debug, Clone)]
pub(crate) struct Replica {
    pub(crate) update_no: u32,
    pub(crate) revision: u32,
    pub(crate) generation: u64,
    pub(crate) scan_generation: u64,
    pub(crate) first_generation: u64,
    pub(crate) expired: Option<(u64, Timestamp)>,
    /// Its channel is an index into the head's.
    pub(crate) incoming: Incoming,
    pub(crate) severity: i16,
    pub(crate) cve_ids: Vec<String>,
    pub(crate) supersedes: Vec<u32>,
    pub(crate) superseded_by: Vec<u32>,
    pub(crate) max_run_time_minutes: u32,
    pub(crate) needs_exclusive_handling: bool,
}

/// An update as it is handed on: with the generations in which scans see it.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) update: StoredUpdate,
    pub(crate) channel_no: i32,
    pub(crate) scan_generation: u64,
    pub(crate) first_generation: u64,
    pub(crate) expired_generation: Option<u64>,
}

/// Why nothing is taken over.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Refusal {
    #[error(
        "the parent's catalog is at generation {theirs}, ours at {ours}: it comes from a backup or \
         was made anew, and is followed again when it has passed ours"
    )]
    Older { ours: u64, theirs: u64 },
    #[error(
        "update {update_no} is {ours} here and {theirs} at the parent: a catalog with numbers of its own \
         cannot follow another one; begin with an empty catalog"
    )]
    NumbersDiffer {
        update_no: u32,
        ours: String,
        theirs: String,
    },
    #[error("the parent does not send update {0}")]
    Incomplete(u32),
    #[error("{0} is in force at the parent, and the vendor's signed files do not have it so")]
    NotSigned(String),
}

impl Refusal {
    /// A stable word.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Older { .. } => "PARENT_OLDER",
            Self::NumbersDiffer { .. } => "NUMBERS_DIFFER",
            Self::Incomplete(_) => "PARENT_INCOMPLETE",
            Self::NotSigned(_) => "UPDATE_NOT_SIGNED",
        }
    }
}

/// What is to be written.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) replicas: Vec<Replica>,
    pub(crate) new: usize,
    pub(crate) modified: usize,
    pub(crate) expired: usize,
    /// In force at the parent and no more in the signed files: expired here until the parent looks.
    pub(crate) stale: usize,
}

impl Head {
    fn suite_of(&self, channel: &Channel) -> Option<bool> {
        let same = |(suite, _): &&(SuiteSnapshot, bool)| {
            (&suite.archive_uri, &suite.suite) == (&channel.archive_uri, &channel.suite)
        };
        self.suites.iter().find(same).map(|(_, applied)| *applied)
    }

    fn channel(&self, replica: &Replica) -> &Channel {
        &self.channels[replica.incoming.channel]
    }
}

/// Whether an update is in force as we hold it, and was proven when we took it.
fn is_held(held: &Catalog, head: &Head, replica: &Replica) -> bool {
    let incoming = &replica.incoming;
    held.update(replica.update_no).is_some_and(|update| {
        update.expired_generation.is_none()
            && *update.update_id == incoming.update_id
            && *update.source == incoming.source
            && *update.version == incoming.version
            && update.content == incoming.content(head.channel(replica))
    })
}

/// The suites whose signed files have to be read to prove what is in force.
pub(crate) fn to_prove(held: &Catalog, head: &Head, replicas: &[Replica]) -> HashSet<SuiteKey> {
    let unproven = replicas
        .iter()
        .filter(|replica| replica.expired.is_none() && !is_held(held, head, replica));
    unproven
        .map(|replica| head.channel(replica))
        .map(|channel| (channel.archive_uri.clone(), channel.suite.clone()))
        .collect()
}

/// Compares what the parent sent with what we hold and with what the vendor signed. `signed` are the
/// updates of the suites of [`to_prove`], by id, their channels indexes into the head's.
pub(crate) fn take_over(
    held: &Catalog,
    head: &Head,
    replicas: Vec<Replica>,
    signed: &HashMap<String, Incoming>,
    now: Timestamp,
) -> Result<Taken, Refusal> {
    numbers_agree(held, head, &replicas)?;
    // Generations of the same numbers that are not ours: what differs changed for everybody.
    let foreign = held.generation > 0 && !head.known;
    let mut taken = Taken::default();
    for mut replica in replicas {
        let before = held.update(replica.update_no);
        if replica.expired.is_none() && !is_held(held, head, &replica) {
            match signed.get(&replica.incoming.update_id) {
                Some(proof) if agrees(head, &replica, proof) => {}
                _ if head.suite_of(head.channel(&replica)) == Some(false) => {
                    // Since when it was held so, if it was.
                    let since = before.filter(|it| is_same_content(it, head, &replica));
                    let since = since.and_then(|it| it.expired_generation);
                    replica.expired = Some((since.unwrap_or(head.generation), now));
                    replica.scan_generation = since.unwrap_or(head.generation);
                    taken.stale += 1;
                }
                _ => return Err(Refusal::NotSigned(replica.incoming.update_id)),
            }
        }
        let Some(before) = before else {
            taken.new += 1;
            taken.replicas.push(replica);
            continue;
        };
        if head.full && is_same(before, head, &replica) {
            continue;
        }
        if foreign {
            replica.generation = head.generation;
            replica.scan_generation = head.generation;
        }
        if replica.expired.is_some() && before.expired_generation.is_none() {
            taken.expired += 1;
        } else {
            taken.modified += 1;
        }
        taken.replicas.push(replica);
    }
    if foreign && head.generation <= held.generation && !taken.replicas.is_empty() {
        return Err(Refusal::Older {
            ours: held.generation,
            theirs: head.generation,
        });
    }
    Ok(taken)
}

/// Whether the vendor's files say the same.
fn agrees(head: &Head, replica: &Replica, proof: &Incoming) -> bool {
    let (ours, theirs) = (&head.channels[proof.channel], head.channel(replica));
    (&ours.suite, &proof.source, &proof.version)
        == (
            &theirs.suite,
            &replica.incoming.source,
            &replica.incoming.version,
        )
        && proof.content(ours) == replica.incoming.content(theirs)
}

fn is_same_content(before: &Update, head: &Head, replica: &Replica) -> bool {
    before.content == replica.incoming.content(head.channel(replica))
}

/// Whether nothing of it has to be written.
fn is_same(before: &Update, head: &Head, replica: &Replica) -> bool {
    before.revision == replica.revision
        && before.expired_generation == replica.expired.map(|(generation, _)| generation)
        && is_same_content(before, head, replica)
        && before.max_run_time_minutes == replica.max_run_time_minutes
        && before.supersedes == replica.supersedes
        && before.superseded_by == replica.superseded_by
}

/// A number means one update in the whole hierarchy, and none is left out.
fn numbers_agree(held: &Catalog, head: &Head, replicas: &[Replica]) -> Result<(), Refusal> {
    let given = u32::try_from(held.updates.len()).unwrap_or(u32::MAX);
    if head.generation < held.generation || head.next_update_no <= given {
        return Err(Refusal::Older {
            ours: held.generation,
            theirs: head.generation,
        });
    }
    let by_id: HashMap<&str, u32> = held
        .updates
        .iter()
        .map(|update| (update.update_id.as_ref(), update.update_no))
        .collect();
    let mut expected = if head.full { 1 } else { given + 1 };
    for replica in replicas {
        let (update_no, id) = (replica.update_no, replica.incoming.update_id.as_str());
        let ours = held.update(update_no).map(|update| &*update.update_id);
        let elsewhere = by_id.get(id).filter(|held| **held != update_no);
        if ours.is_some_and(|ours| ours != id) || elsewhere.is_some() {
            return Err(Refusal::NumbersDiffer {
                update_no,
                ours: ours.unwrap_or("none").to_owned(),
                theirs: id.to_owned(),
            });
        }
        if head.full || update_no > given {
            if update_no != expected {
                return Err(Refusal::Incomplete(expected));
            }
            expected += 1;
        }
    }
    if expected != head.next_update_no {
        return Err(Refusal::Incomplete(expected));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::collect::Leaf;

    fn channel() -> Channel {
        Channel {
            archive_uri: "http://archive.example/d".into(),
            suite: "one".into(),
            component: "main".into(),
            origin: "Example".into(),
            version: "1".into(),
            ..Channel::default()
        }
    }

    fn incoming(version: &str, size: u64) -> Incoming {
        Incoming {
            update_id: format!("apt/example/one/src/{version}"),
            channel: 0,
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

    fn replica(update_no: u32, version: &str, generation: u64) -> Replica {
        Replica {
            update_no,
            revision: 1,
            generation,
            scan_generation: generation,
            first_generation: generation,
            expired: None,
            incoming: incoming(version, 5),
            severity: 0,
            cve_ids: Vec::new(),
            supersedes: Vec::new(),
            superseded_by: Vec::new(),
            max_run_time_minutes: 60,
            needs_exclusive_handling: false,
        }
    }

    fn head(generation: u64, next_update_no: u32, full: bool) -> Head {
        let suite = SuiteSnapshot {
            archive_uri: channel().archive_uri,
            suite: "one".into(),
            components: vec!["main".into()],
            architectures: vec!["amd64".into()],
            signed_by: String::new(),
            ignore_valid_until: false,
            files: Vec::new(),
        };
        Head {
            generation,
            stamp: vec![1; 16],
            changed_at: Timestamp::UNIX_EPOCH,
            next_update_no,
            full,
            known: true,
            suites: vec![(suite, true)],
            channels: vec![channel()],
        }
    }

    fn signed(versions: &[&str]) -> HashMap<String, Incoming> {
        let all = versions.iter().map(|version| incoming(version, 5));
        all.map(|it| (it.update_id.clone(), it)).collect()
    }

    /// As the store would record it.
    fn record(head: &Head, taken: Taken) -> Catalog {
        let updates = taken.replicas.into_iter().map(|it| Update {
            update_no: it.update_no,
            content: it.incoming.content(&head.channels[0]),
            update_id: it.incoming.update_id.into(),
            revision: it.revision,
            scan_generation: it.scan_generation,
            first_generation: it.first_generation,
            expired_generation: it.expired.map(|(generation, _)| generation),
            channel: 0,
            source: it.incoming.source.into(),
            version: it.incoming.version.into(),
            max_run_time_minutes: it.max_run_time_minutes,
            supersedes: it.supersedes,
            superseded_by: it.superseded_by,
            leaves: Vec::new(),
        });
        let channels = vec![(1, channel())];
        let mut catalog = Catalog::new(
            head.generation,
            Timestamp::UNIX_EPOCH,
            channels,
            updates.collect(),
        );
        catalog.stamp.clone_from(&head.stamp);
        catalog
    }

    fn held() -> Catalog {
        let (head, empty) = (head(1, 3, true), Catalog::default());
        let rows = vec![replica(1, "1", 1), replica(2, "2", 1)];
        let now = Timestamp::UNIX_EPOCH;
        let taken = take_over(&empty, &head, rows, &signed(&["1", "2"]), now).unwrap();
        assert_eq!(taken.new, 2);
        record(&head, taken)
    }

    fn refusal(held: &Catalog, head: &Head, rows: Vec<Replica>, versions: &[&str]) -> &'static str {
        let taken = take_over(held, head, rows, &signed(versions), Timestamp::UNIX_EPOCH);
        taken.map_or_else(|refusal| refusal.reason(), |_| "")
    }

    #[test]
    fn what_is_in_force_must_be_in_the_vendors_files() {
        let held = held();
        let delta = head(2, 4, false);
        let row = || vec![replica(3, "3", 2)];
        assert_eq!(refusal(&held, &delta, row(), &["3"]), "");
        assert_eq!(refusal(&held, &delta, row(), &["2"]), "UPDATE_NOT_SIGNED");
        let mut forged = row();
        forged[0].incoming.leaves[0].sha256 = [6; 32];
        assert_eq!(
            refusal(&held, &delta, forged.clone(), &["3"]),
            "UPDATE_NOT_SIGNED"
        );
        // What no longer counts harms nobody; what was proven before need not be proven again.
        forged[0].expired = Some((2, Timestamp::UNIX_EPOCH));
        assert_eq!(refusal(&held, &delta, forged, &[]), "");
        let mut known = replica(2, "2", 2);
        known.superseded_by = vec![3];
        let rows = vec![known, replica(3, "3", 2)];
        assert_eq!(refusal(&held, &delta, rows, &["3"]), "");
        assert!(to_prove(&held, &delta, &[replica(1, "1", 2)]).is_empty());
        assert_eq!(to_prove(&held, &delta, &row()).len(), 1);
    }

    #[test]
    fn what_a_delta_of_the_parent_left_in_force_is_expired_here() {
        let mut delta = head(2, 4, false);
        delta.suites[0].1 = false;
        let now = Timestamp::UNIX_EPOCH;
        let rows = vec![replica(3, "3", 2)];
        let taken = take_over(&held(), &delta, rows, &signed(&[]), now).unwrap();
        assert_eq!(
            (taken.stale, taken.replicas[0].expired),
            (1, Some((2, now)))
        );
        // Nobody can say so of a suite that is not there.
        delta.suites.clear();
        let rows = vec![replica(3, "3", 2)];
        assert_eq!(refusal(&held(), &delta, rows, &[]), "UPDATE_NOT_SIGNED");
    }

    #[test]
    fn a_number_means_one_update_and_none_is_left_out() {
        let held = held();
        let all = |last: Replica| vec![replica(1, "1", 1), replica(2, "2", 1), last];
        let versions = ["1", "2", "3"];
        let full = head(2, 4, true);
        assert_eq!(
            refusal(&held, &full, all(replica(3, "3", 2)), &versions),
            ""
        );
        let other = vec![replica(1, "2", 1), replica(2, "1", 1), replica(3, "3", 2)];
        assert_eq!(refusal(&held, &full, other, &versions), "NUMBERS_DIFFER");
        let twice = all(replica(3, "2", 2));
        assert_eq!(refusal(&held, &full, twice, &versions), "NUMBERS_DIFFER");
        let hole = all(replica(4, "3", 2));
        assert_eq!(refusal(&held, &full, hole, &versions), "PARENT_INCOMPLETE");
        let few = vec![replica(1, "1", 1), replica(2, "2", 1)];
        assert_eq!(refusal(&held, &full, few, &versions), "PARENT_INCOMPLETE");
        let none = refusal(&held, &head(2, 4, false), Vec::new(), &versions);
        assert_eq!(none, "PARENT_INCOMPLETE");
    }

    #[test]
    fn a_parent_that_went_back_is_followed_when_it_has_passed_us() {
        let held = held();
        assert_eq!(
            refusal(&held, &head(0, 1, true), Vec::new(), &[]),
            "PARENT_OLDER"
        );
        assert_eq!(
            refusal(&held, &head(2, 2, true), vec![replica(1, "1", 1)], &["1"]),
            "PARENT_OLDER"
        );
        // The same numbers in another catalog: what differs counts as changed now.
        let rows = || {
            let mut changed = replica(2, "2", 1);
            changed.revision = 2;
            vec![replica(1, "1", 1), changed]
        };
        let mut other = head(5, 3, true);
        other.known = false;
        let now = Timestamp::UNIX_EPOCH;
        let taken = take_over(&held, &other, rows(), &signed(&["1", "2"]), now).unwrap();
        assert_eq!(taken.replicas.len(), 1);
        assert_eq!(taken.replicas[0].scan_generation, 5);
        other.generation = 1;
        assert_eq!(refusal(&held, &other, rows(), &["1", "2"]), "PARENT_OLDER");
    }
}
