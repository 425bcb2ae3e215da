//! apt's own choice among the versions of a package, and why not another one (pins, phasing,
//! archives that are not automatic).

use std::collections::{BTreeMap, HashMap};

use muster_apt::Version;
use muster_apt::phasing::Verdict;
use muster_apt::preferences::{ArchiveInfo, Available, Excluded, Subject, Why};

use crate::evaluate::{phased, version_of};
use crate::provider::{Machine, Package};
use crate::store::Catalog;

/// Versions that archives have, per package, and which of them apt would choose.
pub(crate) struct Candidates<'a> {
    machine: &'a Machine,
    available: HashMap<&'a str, Vec<Offered<'a>>>,
}

struct Offered<'a> {
    version: Version,
    architecture: &'a str,
    archive: &'a ArchiveInfo,
    phased: Option<u8>,
}

pub(crate) struct Choice {
    /// What apt would have.
    pub(crate) version: String,
    /// Why newer versions were passed over, by version.
    pub(crate) why_not: HashMap<String, String>,
}

impl<'a> Candidates<'a> {
    pub(crate) fn new(
        machine: &'a Machine,
        catalog: &'a Catalog,
        archives: &'a BTreeMap<i64, ArchiveInfo>,
    ) -> Self {
        let mut available: HashMap<&str, Vec<Offered<'_>>> = HashMap::new();
        for cached in &catalog.updates {
            let Some(archive) = archives.get(&cached.suite_no) else {
                continue;
            };
            let suite = catalog.suites.get(&cached.suite_no);
            for leaf in &cached.update.leaves {
                let Ok(version) = version_of(&cached.update, leaf).parse() else {
                    continue;
                };
                let phased = match phased(machine, &cached.update, leaf, suite) {
                    Verdict::HeldBack { percentage, .. } => Some(percentage),
                    Verdict::NotPhased | Verdict::Included => None,
                };
                let architecture = leaf.architecture.as_str();
                available.entry(&leaf.package).or_default().push(Offered {
                    version,
                    architecture,
                    archive,
                    phased,
                });
            }
        }
        Self { machine, available }
    }

    pub(crate) fn of(&self, package: &Package) -> Choice {
        let native = self.machine.architecture.as_str();
        let own = package.architecture == native || package.architecture == "all";
        let offered = self.available.get(package.name.as_str());
        let offered: Vec<&Offered<'_>> = offered
            .into_iter()
            .flatten()
            .filter(|o| match o.architecture {
                "" | "all" => own,
                wanted => package.architecture == wanted || (wanted == native && own),
            })
            .collect();
        let mut why_not = HashMap::new();
        let mut by_version: BTreeMap<&str, (&Version, Vec<&ArchiveInfo>)> = BTreeMap::new();
        for one in offered {
            if let Some(percentage) = one.phased {
                // apt gives such a version a priority below the installed one's.
                why_not.insert(one.version.to_string(), format!("phased {percentage} %"));
                continue;
            }
            by_version
                .entry(one.version.as_str())
                .or_insert_with(|| (&one.version, Vec::new()))
                .1
                .push(one.archive);
        }
        let available: Vec<Available<'_>> = by_version
            .values()
            .map(|(version, archives)| Available { version, archives })
            .collect();
        let installed: Option<Version> = package.version.parse().ok();
        let subject = Subject {
            package: &package.name,
            architecture: &package.architecture,
            source: &package.source,
            native,
        };
        let candidate = self
            .machine
            .pins
            .candidate(subject, installed.as_ref(), &available);
        let chosen = candidate.chosen();
        let version = chosen.map_or_else(
            || package.version.clone(),
            |judged| judged.version.to_string(),
        );
        for judged in &candidate.judged {
            let newer = chosen.is_none_or(|chosen| judged.version > chosen.version);
            if !newer
                || installed
                    .as_ref()
                    .is_some_and(|held| judged.version <= *held)
            {
                continue;
            }
            let priority = judged.priority;
            let reason = match (&judged.why, judged.excluded) {
                (Why::Pinned(place) | Why::ArchivePinned(place), _) => format!(
                    "pinned by {}:{} to {priority}",
                    place.file.display(),
                    place.line
                ),
                (Why::Default, _) if priority < 500 => {
                    format!("its archive is not automatic, priority {priority}")
                }
                (Why::Default | Why::Installed, Some(Excluded::NeverChosen)) => {
                    "never chosen".to_owned()
                }
                (Why::Default | Why::Installed, Some(Excluded::Downgrade) | None) => {
                    match chosen.map(|chosen| &chosen.why) {
                        Some(Why::Pinned(place) | Why::ArchivePinned(place)) => format!(
                            "pinned by {}:{} to {version}",
                            place.file.display(),
                            place.line
                        ),
                        _ => format!("apt prefers {version}"),
                    }
                }
            };
            why_not.insert(judged.version.to_string(), reason);
        }
        Choice { version, why_not }
    }
}
