//! What a scan answers for one update: from its two rules, or from its leaves.

use crate::{
    rule::{Comparison, Facts, Rule, Truth},
    states::Detection,
};

/// The two rules of an update (design.md, "Catalog").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applicability {
    /// Everything of it that concerns the machine is there.
    pub is_installed: Rule,
    /// Something of it is missing and could be installed.
    pub is_installable: Rule,
}

/// A leaf of a bundle as rules need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafVersion<'a> {
    /// Binary package.
    pub package: &'a str,
    /// Its version in the update.
    pub version: &'a str,
    /// dpkg's architecture; `None`: the machine's own, or "all".
    pub architecture: Option<&'a str>,
}

impl Applicability {
    /// The rules of an apt update: required when some installed binary package is older;
    /// installed when at least one is there and none is older.
    pub fn of_leaves(leaves: &[LeafVersion<'_>]) -> Self {
        let compare = |leaf: &LeafVersion<'_>, comparison| Rule::PackageVersion {
            package: leaf.package.to_owned(),
            architecture: leaf.architecture.map(str::to_owned),
            comparison,
            version: leaf.version.to_owned(),
        };
        let older = Rule::Any(
            leaves
                .iter()
                .map(|l| compare(l, Comparison::Less))
                .collect(),
        );
        let current = leaves
            .iter()
            .map(|l| compare(l, Comparison::GreaterOrEqual))
            .collect();
        Self {
            is_installed: Rule::All(vec![Rule::Any(current), Rule::Not(Box::new(older.clone()))]),
            is_installable: older,
        }
    }

    /// The four answers of semantics.md 2.3. "Installed" wins over "installable": rules
    /// that contradict each other must not make a machine install for ever.
    pub fn detect(&self, facts: &impl Facts) -> Detection {
        match (
            self.is_installed.evaluate(facts),
            self.is_installable.evaluate(facts),
        ) {
            (Truth::Yes, _) => Detection::Installed,
            (Truth::No, Truth::Yes) => Detection::Required,
            (Truth::No, Truth::No) => Detection::NotRequired,
            (Truth::Unknown, _) | (Truth::No, Truth::Unknown) => Detection::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use super::*;
    use crate::rule::compare_debian_versions;

    struct Packages(Option<&'static [(&'static str, &'static str)]>);

    impl Facts for Packages {
        fn package_version(&self, package: &str, _: Option<&str>) -> Option<Option<&str>> {
            Some(
                self.0?
                    .iter()
                    .find(|(name, _)| *name == package)
                    .map(|(_, v)| *v),
            )
        }
        fn architecture(&self) -> Option<&str> {
            Some("amd64")
        }
        fn os_release(&self) -> Option<(&str, &str)> {
            Some(("debian", "12"))
        }
        fn file_exists(&self, _: &str) -> Option<bool> {
            None
        }
        fn compare_versions(&self, a: &str, b: &str) -> Option<Ordering> {
            Some(compare_debian_versions(a, b))
        }
    }

    fn detect(packages: Option<&'static [(&'static str, &'static str)]>) -> Detection {
        let leaf = |package| LeafVersion {
            package,
            version: "3.0.15-1",
            architecture: None,
        };
        Applicability::of_leaves(&[leaf("openssl"), leaf("libssl3")]).detect(&Packages(packages))
    }

    #[test]
    fn one_older_leaf_makes_the_bundle_required() {
        assert_eq!(
            detect(Some(&[("openssl", "3.0.15-1"), ("libssl3", "3.0.11-1")])),
            Detection::Required
        );
    }

    #[test]
    fn current_leaves_make_it_installed_and_no_leaf_makes_it_not_required() {
        assert_eq!(
            detect(Some(&[("openssl", "3.0.16-1")])),
            Detection::Installed
        );
        assert_eq!(detect(Some(&[("bash", "5")])), Detection::NotRequired);
    }

    #[test]
    fn an_unreadable_package_list_is_unknown_and_not_no() {
        assert_eq!(detect(None), Detection::Unknown);
    }
}
