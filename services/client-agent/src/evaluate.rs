//! What this machine needs: the catalog's rules over the machine's packages, and apt's own
//! choice among the versions, so that every difference between the two has a reason.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use muster_apt::phasing::{self, Verdict};
use muster_apt::preferences::ArchiveInfo;
use muster_domain::UpdateNo;
use muster_domain::applicability::{Applicability, LeafVersion};
use muster_domain::rule::Facts;
use muster_domain::states::Detection;
use muster_proto::catalog::{ScanLeaf, ScanSuite, ScanUpdate};
use muster_proto::convert;

use crate::candidates::Candidates;
use crate::provider::{Machine, Package};
use crate::store::Catalog;

/// What an evaluation found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evaluation {
    /// The catalog's generation.
    pub generation: u64,
    /// One answer per update that concerns this machine, in ascending order of numbers.
    pub updates: Vec<Evaluated>,
    /// Packages that apt treats differently than the catalog alone would, one by one.
    pub explained: Vec<Explained>,
}

/// The answer for one update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluated {
    /// Its number.
    pub update_no: UpdateNo,
    /// Readable: `apt/debian/bookworm-security/openssl/3.0.15-1`.
    pub update_id: String,
    /// Topic 500.
    pub detection: Detection,
    /// Installed binary packages that are older than the update.
    pub needs: Vec<Need>,
    /// How long an installation may take, in minutes.
    pub max_run_time_minutes: u32,
}

/// An installed binary package that is older than an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Binary package.
    pub name: String,
    /// Installed architecture.
    pub architecture: String,
    /// Installed version.
    pub installed: String,
    /// The update's version of it.
    pub version: String,
    /// What apt would have: its candidate among all versions; the installed one when nothing
    /// else may be chosen.
    pub candidate: String,
    /// On hold on this machine.
    pub held: bool,
}

impl Need {
    /// Whether apt calls the package upgradable.
    #[must_use]
    pub fn is_upgradable(&self) -> bool {
        muster_apt::version::compare(&self.candidate, &self.installed).is_ok_and(Ordering::is_gt)
    }
}

/// Why apt's answer for a package is not the catalog's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The update it is about.
    pub update_no: UpdateNo,
    /// Binary package.
    pub name: String,
    /// Installed architecture.
    pub architecture: String,
    /// Installed version.
    pub installed: String,
    /// The version that is not chosen, or is held.
    pub version: String,
    /// `held`, `pinned by FILE:LINE to PRIORITY`, `phased 20 %`, …
    pub reason: String,
}

/// Evaluates all updates of the catalog on a machine.
#[must_use]
pub fn evaluate(
    machine: &Machine,
    catalog: &Catalog,
    file_exists: impl Fn(&str) -> Option<bool>,
) -> Evaluation {
    let empty = Vec::new();
    let packages = machine.packages.as_ref().unwrap_or(&empty);
    let facts = MachineFacts {
        machine,
        by_name: by_name(packages),
        file_exists,
    };
    let archives: BTreeMap<i64, ArchiveInfo> = catalog
        .suites
        .iter()
        .map(|(no, suite)| (*no, archive(suite)))
        .collect();
    let candidates = Candidates::new(machine, catalog, &archives);

    let mut evaluation = Evaluation {
        generation: catalog.generation,
        ..Evaluation::default()
    };
    for cached in &catalog.updates {
        let update = &cached.update;
        let suite = catalog.suites.get(&cached.suite_no);
        let update_no = UpdateNo(update.update_no);
        let mut allowed = Vec::with_capacity(update.leaves.len());
        for leaf in &update.leaves {
            match phased(machine, update, leaf, suite) {
                Verdict::NotPhased | Verdict::Included => allowed.push(leaf_version(update, leaf)),
                Verdict::HeldBack { percentage, .. } => {
                    for package in facts.installed(&leaf.package, &leaf.architecture) {
                        if older(package, version_of(update, leaf)) {
                            let version = version_of(update, leaf);
                            let reason = format!("phased {percentage} %");
                            evaluation
                                .explained
                                .push(explained(update_no, package, version, reason));
                        }
                    }
                }
            }
        }
        let detection = detect(update, &allowed, &facts);
        let mut needs = Vec::new();
        for leaf in &allowed {
            for package in facts.installed(leaf.package, leaf.architecture.unwrap_or_default()) {
                if !older(package, leaf.version) {
                    continue;
                }
                let choice = candidates.of(package);
                if package.held {
                    let reason = "held".to_owned();
                    evaluation
                        .explained
                        .push(explained(update_no, package, leaf.version, reason));
                }
                if let Some(reason) = choice.why_not.get(leaf.version) {
                    let reason = reason.clone();
                    evaluation
                        .explained
                        .push(explained(update_no, package, leaf.version, reason));
                }
                needs.push(Need {
                    name: package.name.clone(),
                    architecture: package.architecture.clone(),
                    installed: package.version.clone(),
                    version: leaf.version.to_owned(),
                    candidate: choice.version,
                    held: package.held,
                });
            }
        }
        evaluation.updates.push(Evaluated {
            update_no,
            update_id: update_id(machine, update, suite),
            detection,
            needs,
            max_run_time_minutes: update.max_run_time_minutes,
        });
    }
    evaluation
}

fn detect(
    update: &ScanUpdate,
    allowed: &[LeafVersion<'_>],
    facts: &MachineFacts<'_, impl Fn(&str) -> Option<bool>>,
) -> Detection {
    match (&update.is_installed, &update.is_installable) {
        (Some(installed), Some(installable)) => {
            match (convert::rule(installed), convert::rule(installable)) {
                (Ok(is_installed), Ok(is_installable)) => Applicability {
                    is_installed,
                    is_installable,
                }
                .detect(facts),
                // A rule we cannot read is a fact we cannot know.
                _ => Detection::Unknown,
            }
        }
        _ => Applicability::of_leaves(allowed).detect(facts),
    }
}

pub(crate) fn version_of<'a>(update: &'a ScanUpdate, leaf: &'a ScanLeaf) -> &'a str {
    if leaf.version.is_empty() {
        &update.version
    } else {
        &leaf.version
    }
}

fn leaf_version<'a>(update: &'a ScanUpdate, leaf: &'a ScanLeaf) -> LeafVersion<'a> {
    LeafVersion {
        package: &leaf.package,
        version: version_of(update, leaf),
        architecture: Some(leaf.architecture.as_str()).filter(|a| !a.is_empty()),
    }
}

pub(crate) fn phased(
    machine: &Machine,
    update: &ScanUpdate,
    leaf: &ScanLeaf,
    suite: Option<&ScanSuite>,
) -> Verdict {
    let percentage = match leaf.phased_percentage {
        0 => None,
        percentage => u8::try_from(percentage).ok(),
    };
    phasing::verdict(
        machine.phasing,
        &update.source_package,
        &update.version,
        percentage,
        machine.machine_id.as_deref(),
        suite.map(|suite| suite.suite.as_str()),
    )
}

fn older(package: &Package, than: &str) -> bool {
    muster_apt::version::compare(&package.version, than).is_ok_and(Ordering::is_lt)
}

fn explained(update_no: UpdateNo, package: &Package, version: &str, reason: String) -> Explained {
    Explained {
        update_no,
        name: package.name.clone(),
        architecture: package.architecture.clone(),
        installed: package.version.clone(),
        version: version.to_owned(),
        reason,
    }
}

fn update_id(machine: &Machine, update: &ScanUpdate, suite: Option<&ScanSuite>) -> String {
    let suite = suite.map_or("", |s| {
        if s.codename.is_empty() {
            &s.suite
        } else {
            &s.codename
        }
    });
    format!(
        "apt/{}/{suite}/{}/{}",
        machine.os_id, update.source_package, update.version
    )
}

fn archive(suite: &ScanSuite) -> ArchiveInfo {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    ArchiveInfo {
        suite: text(&suite.suite),
        codename: text(&suite.codename),
        origin: text(&suite.origin),
        label: text(&suite.label),
        version: text(&suite.version),
        component: text(&suite.component),
        architecture: None,
        site: suite.site.clone(),
        not_automatic: suite.not_automatic,
        but_automatic_upgrades: suite.but_automatic_upgrades,
    }
}

fn by_name(packages: &[Package]) -> HashMap<&str, Vec<&Package>> {
    let mut by_name: HashMap<&str, Vec<&Package>> = HashMap::with_capacity(packages.len());
    for package in packages {
        by_name.entry(&package.name).or_default().push(package);
    }
    by_name
}

/// The machine as rules see it.
struct MachineFacts<'a, F> {
    machine: &'a Machine,
    by_name: HashMap<&'a str, Vec<&'a Package>>,
    file_exists: F,
}

impl<'a, F> MachineFacts<'a, F> {
    /// Installed packages that a leaf is about. Without an architecture: the machine's own, or "all".
    fn installed<'s>(
        &'s self,
        name: &str,
        architecture: &'s str,
    ) -> impl Iterator<Item = &'a Package> + 's {
        let native = self.machine.architecture.as_str();
        self.by_name
            .get(name)
            .into_iter()
            .flatten()
            .copied()
            .filter(move |package| {
                let own = package.architecture == native || package.architecture == "all";
                match architecture {
                    "" | "all" => own,
                    // A package may have been architecture-independent before.
                    wanted => package.architecture == wanted || (wanted == native && own),
                }
            })
    }
}

impl<F: Fn(&str) -> Option<bool>> Facts for MachineFacts<'_, F> {
    fn package_version(&self, package: &str, architecture: Option<&str>) -> Option<Option<&str>> {
        if self.machine.packages.is_err() {
            return None;
        }
        if let Some(found) = self
            .installed(package, architecture.unwrap_or_default())
            .next()
        {
            return Some(Some(&found.version));
        }
        // A broken entry may be an older version: not a "no".
        if self.machine.unreadable.iter().any(|name| name == package) {
            return None;
        }
        Some(None)
    }

    fn architecture(&self) -> Option<&str> {
        Some(self.machine.architecture.as_str()).filter(|a| !a.is_empty())
    }

    fn os_release(&self) -> Option<(&str, &str)> {
        let machine = self.machine;
        (!machine.os_id.is_empty()).then_some((&machine.os_id, &machine.os_version_id))
    }

    fn file_exists(&self, path: &str) -> Option<bool> {
        (self.file_exists)(path)
    }

    fn compare_versions(&self, a: &str, b: &str) -> Option<Ordering> {
        muster_apt::version::compare(a, b).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::provider::Pins;
    use crate::store::CachedUpdate;

    fn package(name: &str, version: &str) -> Package {
        Package {
            name: name.into(),
            architecture: "amd64".into(),
            version: version.into(),
            source: name.into(),
            held: false,
        }
    }

    fn machine(packages: Vec<Package>) -> Machine {
        Machine {
            os_id: "debian".into(),
            os_version_id: "12".into(),
            architecture: "amd64".into(),
            machine_id: Some("0123456789abcdef0123456789abcdef".into()),
            packages: Ok(packages),
            ..Machine::default()
        }
    }

    fn update(no: u32, source: &str, version: &str, leaves: &[&str]) -> CachedUpdate {
        let leaf = |name: &&str| ScanLeaf {
            package: (*name).into(),
            ..Default::default()
        };
        let update = ScanUpdate {
            update_no: no,
            source_package: source.into(),
            version: version.into(),
            leaves: leaves.iter().map(leaf).collect(),
            ..Default::default()
        };
        CachedUpdate {
            update,
            suite_no: 1,
        }
    }

    fn catalog(updates: Vec<CachedUpdate>) -> Catalog {
        let suite = ScanSuite {
            origin: "Debian".into(),
            codename: "bookworm-security".into(),
            suite: "stable".into(),
            ..Default::default()
        };
        Catalog {
            generation: 1,
            suites: BTreeMap::from([(1, suite)]),
            updates,
        }
    }

    fn run(machine: &Machine, catalog: &Catalog) -> Evaluation {
        evaluate(machine, catalog, |_| None)
    }

    #[test]
    fn an_older_binary_makes_its_update_required_and_names_itself() {
        let machine = machine(vec![package("libssl3", "3.0.11-1"), package("bash", "5")]);
        let catalog = catalog(vec![update(
            7,
            "openssl",
            "3.0.15-1",
            &["openssl", "libssl3"],
        )]);
        let evaluation = run(&machine, &catalog);
        let found = &evaluation.updates[0];
        assert_eq!(found.detection, Detection::Required);
        assert_eq!(
            found.update_id,
            "apt/debian/bookworm-security/openssl/3.0.15-1"
        );
        assert_eq!(found.needs.len(), 1, "only what is installed");
        assert_eq!(found.needs[0].candidate, "3.0.15-1");
        assert!(evaluation.explained.is_empty());
    }

    #[test]
    fn a_superseded_update_is_evaluated_like_others_and_names_the_highest_candidate() {
        let machine = machine(vec![package("bash", "5.0")]);
        let catalog = catalog(vec![
            update(1, "bash", "5.1", &["bash"]),
            update(2, "bash", "5.2", &["bash"]),
        ]);
        let evaluation = run(&machine, &catalog);
        assert!(
            evaluation
                .updates
                .iter()
                .all(|u| u.detection == Detection::Required)
        );
        assert!(
            evaluation
                .updates
                .iter()
                .all(|u| u.needs[0].candidate == "5.2")
        );
    }

    #[test]
    fn a_held_package_stays_required_and_is_explained() {
        let mut bash = package("bash", "5.0");
        bash.held = true;
        let evaluation = run(
            &machine(vec![bash]),
            &catalog(vec![update(1, "bash", "5.1", &["bash"])]),
        );
        assert_eq!(evaluation.updates[0].detection, Detection::Required);
        assert!(
            evaluation.updates[0].needs[0].is_upgradable(),
            "apt lists it too"
        );
        assert_eq!(evaluation.explained[0].reason, "held");
    }

    #[test]
    fn a_pin_leaves_the_update_required_and_says_which_pin_keeps_apt_from_it() {
        let mut machine = machine(vec![package("bash", "5.0")]);
        let mut pins = Pins::default();
        pins.parse(
            "Package: bash\nPin: version 5.1\nPin-Priority: -1\n",
            Path::new("/etc/apt/preferences.d/no-bash"),
        );
        machine.pins = pins;
        let evaluation = run(
            &machine,
            &catalog(vec![update(1, "bash", "5.1", &["bash"])]),
        );
        assert_eq!(evaluation.updates[0].detection, Detection::Required);
        assert!(!evaluation.updates[0].needs[0].is_upgradable());
        assert_eq!(
            evaluation.explained[0].reason,
            "pinned by /etc/apt/preferences.d/no-bash:1 to -1"
        );
    }

    #[test]
    fn a_phased_update_that_is_not_ours_yet_is_not_required_and_explained() {
        let mut machine = machine(vec![package("bash", "5.0")]);
        machine.phasing = phasing::Policy::Never;
        let mut phased = update(1, "bash", "5.1", &["bash"]);
        phased.update.leaves[0].phased_percentage = 20;
        let evaluation = run(&machine, &catalog(vec![phased]));
        assert_eq!(evaluation.updates[0].detection, Detection::NotRequired);
        assert_eq!(evaluation.explained[0].reason, "phased 20 %");
    }

    #[test]
    fn an_unreadable_package_database_is_unknown_and_not_compliant() {
        let mut machine = machine(Vec::new());
        machine.packages = Err("no such file".into());
        let evaluation = run(
            &machine,
            &catalog(vec![update(1, "bash", "5.1", &["bash"])]),
        );
        assert_eq!(evaluation.updates[0].detection, Detection::Unknown);
    }

    #[test]
    fn one_unreadable_entry_makes_only_its_own_updates_unknown() {
        let mut machine = machine(vec![package("zsh", "5.9")]);
        machine.unreadable = vec!["bash".into()];
        let catalog = catalog(vec![
            update(1, "bash", "5.1", &["bash"]),
            update(2, "zsh", "5.9", &["zsh"]),
        ]);
        let evaluation = run(&machine, &catalog);
        assert_eq!(evaluation.updates[0].detection, Detection::Unknown);
        assert_eq!(evaluation.updates[1].detection, Detection::Installed);
    }
}
