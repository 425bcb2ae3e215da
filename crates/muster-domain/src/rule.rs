//! The rule language of the catalog: a small tree over facts of a machine. Evaluation is
//! three-valued (Kleene): a fact that cannot be read is *unknown*, and stays unknown
//! unless the rest of the tree decides without it.

use std::cmp::Ordering;

/// The answer of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    Yes,
    /// It does not hold.
    No,
    /// A fact it depends on could not be read.
    Unknown,
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::Yes } else { Self::No }
    }
}

impl Truth {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
        }
    }

    fn or(self, other: Self) -> Self {
        self.not().and(other.not()).not()
    }

    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
        }
    }
}

/// How a version is compared with the one in the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// installed < wanted
    Less,
    /// installed ≤ wanted
    LessOrEqual,
    /// installed = wanted
    Equal,
    /// installed ≥ wanted
    GreaterOrEqual,
    /// installed > wanted
    Greater,
}

impl Comparison {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Equal => ordering.is_eq(),
            Self::GreaterOrEqual => ordering.is_ge(),
            Self::Greater => ordering.is_gt(),
        }
    }
}

/// A rule of the catalog (`muster.catalog.v1.Rule`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// Always or never.
    Constant(bool),
    /// Every one of them; an empty list holds.
    All(Vec<Rule>),
    /// At least one of them; an empty list does not hold.
    Any(Vec<Rule>),
    /// The opposite.
    Not(Box<Rule>),
    /// A package is installed; `None`: in any architecture.
    PackageInstalled {
        /// Binary package.
        package: String,
        /// dpkg's name of the architecture.
        architecture: Option<String>,
    },
    /// A package is installed in a version that compares so.
    PackageVersion {
        /// Binary package.
        package: String,
        /// dpkg's name of the architecture.
        architecture: Option<String>,
        /// How the installed version compares to `version`.
        comparison: Comparison,
        /// The version compared with.
        version: String,
    },
    /// The machine's own architecture.
    Architecture(String),
    /// os-release ID and, if given, VERSION_ID.
    OsRelease {
        /// ID.
        id: String,
        /// VERSION_ID.
        version_id: Option<String>,
    },
    /// A file exists.
    FileExists(String),
}

/// Rules deeper than this are refused ([`Rule::depth`]): a catalog must not be able to
/// exhaust the stack of every client.
pub const MAX_RULE_DEPTH: usize = 32;

/// What a rule can ask of a machine. `None`: it could not be read.
pub trait Facts {
    /// Version of an installed package; `Some(None)`: surely not installed.
    fn package_version(&self, package: &str, architecture: Option<&str>) -> Option<Option<&str>>;
    /// The machine's architecture.
    fn architecture(&self) -> Option<&str>;
    /// os-release ID and VERSION_ID.
    fn os_release(&self) -> Option<(&str, &str)>;
    /// Whether a file exists.
    fn file_exists(&self, path: &str) -> Option<bool>;
    /// The order of two versions in the packaging system; `None` when one cannot be parsed.
    fn compare_versions(&self, a: &str, b: &str) -> Option<Ordering>;
}

impl Rule {
    /// What the rule says of a machine.
    pub fn evaluate(&self, facts: &impl Facts) -> Truth {
        match self {
            Self::Constant(value) => (*value).into(),
            Self::All(rules) => rules
                .iter()
                .fold(Truth::Yes, |so_far, rule| so_far.and(rule.evaluate(facts))),
            Self::Any(rules) => rules
                .iter()
                .fold(Truth::No, |so_far, rule| so_far.or(rule.evaluate(facts))),
            Self::Not(rule) => rule.evaluate(facts).not(),
            Self::PackageInstalled {
                package,
                architecture,
            } => match facts.package_version(package, architecture.as_deref()) {
                Some(version) => version.is_some().into(),
                None => Truth::Unknown,
            },
            Self::PackageVersion {
                package,
                architecture,
                comparison,
                version,
            } => match facts.package_version(package, architecture.as_deref()) {
                Some(Some(installed)) => match facts.compare_versions(installed, version) {
                    Some(ordering) => comparison.holds(ordering).into(),
                    None => Truth::Unknown,
                },
                Some(None) => Truth::No,
                None => Truth::Unknown,
            },
            Self::Architecture(wanted) => match facts.architecture() {
                Some(own) => (own == wanted).into(),
                None => Truth::Unknown,
            },
            Self::OsRelease { id, version_id } => match facts.os_release() {
                Some((own, version)) => {
                    (own == id && version_id.as_ref().is_none_or(|wanted| wanted == version)).into()
                }
                None => Truth::Unknown,
            },
            Self::FileExists(path) => match facts.file_exists(path) {
                Some(exists) => exists.into(),
                None => Truth::Unknown,
            },
        }
    }

    /// How deep the tree is; a leaf has depth 1.
    pub fn depth(&self) -> usize {
        match self {
            Self::All(rules) | Self::Any(rules) => {
                1 + rules.iter().map(Self::depth).max().unwrap_or(0)
            }
            Self::Not(rule) => 1 + rule.depth(),
            Self::Constant(_)
            | Self::PackageInstalled { .. }
            | Self::PackageVersion { .. }
            | Self::Architecture(_)
            | Self::OsRelease { .. }
            | Self::FileExists(_) => 1,
        }
    }
}

/// The order of two Debian versions (deb-version(7)), as `dpkg --compare-versions`.
pub fn compare_debian_versions(a: &str, b: &str) -> Ordering {
    deb_version::compare_versions(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine {
        packages: Option<Vec<(&'static str, &'static str)>>,
    }

    impl Facts for Machine {
        fn package_version(&self, package: &str, _: Option<&str>) -> Option<Option<&str>> {
            let packages = self.packages.as_ref()?;
            Some(
                packages
                    .iter()
                    .find(|(name, _)| *name == package)
                    .map(|(_, version)| *version),
            )
        }
        fn architecture(&self) -> Option<&str> {
            Some("amd64")
        }
        fn os_release(&self) -> Option<(&str, &str)> {
            None
        }
        fn file_exists(&self, _: &str) -> Option<bool> {
            Some(false)
        }
        fn compare_versions(&self, a: &str, b: &str) -> Option<Ordering> {
            Some(compare_debian_versions(a, b))
        }
    }

    fn older(package: &str, version: &str) -> Rule {
        Rule::PackageVersion {
            package: package.into(),
            architecture: None,
            comparison: Comparison::Less,
            version: version.into(),
        }
    }

    #[test]
    fn an_unreadable_fact_is_unknown_unless_the_rest_decides() {
        let machine = Machine { packages: None };
        let rule = older("bash", "5.2");
        assert_eq!(rule.evaluate(&machine), Truth::Unknown);
        assert_eq!(
            Rule::Not(Box::new(rule.clone())).evaluate(&machine),
            Truth::Unknown
        );
        let decided = Rule::All(vec![rule.clone(), Rule::Architecture("arm64".into())]);
        assert_eq!(decided.evaluate(&machine), Truth::No);
        let decided = Rule::Any(vec![rule, Rule::Architecture("amd64".into())]);
        assert_eq!(decided.evaluate(&machine), Truth::Yes);
    }

    #[test]
    fn versions_compare_as_debian_says() {
        let machine = Machine {
            packages: Some(vec![("bash", "5.2~rc1-1")]),
        };
        assert_eq!(older("bash", "5.2-1").evaluate(&machine), Truth::Yes);
        assert_eq!(older("zsh", "5.2-1").evaluate(&machine), Truth::No);
        assert_eq!(compare_debian_versions("1:1.0", "2.0"), Ordering::Greater);
    }

    #[test]
    fn empty_lists_mean_what_logic_says() {
        let machine = Machine {
            packages: Some(vec![]),
        };
        assert_eq!(Rule::All(vec![]).evaluate(&machine), Truth::Yes);
        assert_eq!(Rule::Any(vec![]).evaluate(&machine), Truth::No);
    }
}
