//! What simulated machines have installed: a seeded choice of packages, most of them current and
//! a few older, so that every machine needs something else.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// Packages of one machine.
const PACKAGES: usize = 300;
/// How many of them are older than their newest version, of 100.
const OLDER: u32 = 5;

/// Without a list: enough for a machine to be one.
const BUILT_IN: &[(&str, &str)] = &[
    ("apt", "2.6.1"),
    ("base-files", "12.4+deb12u5"),
    ("bash", "5.2.15-2+b2"),
    ("bind9-host", "1:9.18.24-1"),
    ("coreutils", "9.1-1"),
    ("curl", "7.88.1-10+deb12u5"),
    ("dpkg", "1.21.22"),
    ("git", "1:2.39.2-1.1"),
    ("gnupg", "2.2.40-1.1"),
    ("libc6", "2.36-9+deb12u4"),
    ("libssl3", "3.0.11-1~deb12u2"),
    ("openssh-server", "1:9.2p1-2+deb12u2"),
    ("openssl", "3.0.11-1~deb12u2"),
    ("perl-base", "5.36.0-7+deb12u1"),
    ("python3", "3.11.2-1+b1"),
    ("sudo", "1.9.13p3-1+deb12u1"),
    ("systemd", "252.22-1~deb12u1"),
    ("tar", "1.34+dfsg-1.2"),
    ("tzdata", "2024a-0+deb12u1"),
    ("vim-common", "2:9.0.1378-2"),
];

/// The packages that machines choose from, by name, with their versions in ascending order.
#[derive(Debug, Clone)]
pub struct Packages(Vec<(String, Vec<String>)>);

impl Packages {
    /// The built-in list.
    #[must_use]
    pub fn built_in() -> Self {
        let of = |(name, version): &(&str, &str)| ((*name).into(), vec![(*version).into()]);
        Self(BUILT_IN.iter().map(of).collect())
    }

    /// Reads lines `name version`; a name may come with several versions.
    ///
    /// # Errors
    /// When the file cannot be read or a line has another form.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let mut packages: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (at, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace();
            let Some(name) = words.next() else { continue };
            let Some(version) = words.next() else {
                bail!("{}:{}: no version for {name}", file.display(), at + 1);
            };
            packages
                .entry(name.to_owned())
                .or_default()
                .push(version.to_owned());
        }
        if packages.is_empty() {
            bail!("{} names no package", file.display());
        }
        for versions in packages.values_mut() {
            versions.sort_by(|a, b| muster_domain::rule::compare_debian_versions(a, b));
            versions.dedup();
        }
        Ok(Self(packages.into_iter().collect()))
    }

    /// What machine `number` of a fleet has.
    #[must_use]
    pub fn of_machine(&self, seed: u64, number: u32) -> Vec<(String, String)> {
        let mut random = StdRng::seed_from_u64(seed.rotate_left(32) ^ u64::from(number));
        let chosen: Vec<_> = self.0.sample(&mut random, PACKAGES).cloned().collect();
        let pick = |(name, versions): (String, Vec<String>)| {
            let newest = versions.last().cloned().unwrap_or_default();
            let version = if random.random_range(0..100) >= OLDER {
                newest
            } else if versions.len() > 1 {
                let older = random.random_range(0..versions.len() - 1);
                versions.get(older).cloned().unwrap_or(newest)
            } else {
                older_than(&newest)
            };
            (name, version)
        };
        chosen.into_iter().map(pick).collect()
    }
}

/// A version just below this one.
fn older_than(version: &str) -> String {
    format!("{version}~")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_the_same_each_time_and_unlike_its_neighbour() {
        let names = (0..1_000).map(|n| (format!("package{n}"), vec!["1.0-1".to_owned()]));
        let packages = Packages(names.collect());
        let first = packages.of_machine(7, 1);
        assert_eq!(first.len(), PACKAGES);
        assert_eq!(first, packages.of_machine(7, 1));
        assert_ne!(first, packages.of_machine(7, 2));
        let older = first
            .iter()
            .filter(|(_, version)| version == "1.0-1~")
            .count();
        assert!((1..60).contains(&older), "{older} of {PACKAGES} are older");
    }

    #[test]
    fn an_older_version_is_older() {
        let older = older_than("3.0.15-1~deb12u1");
        let order = muster_domain::rule::compare_debian_versions(&older, "3.0.15-1~deb12u1");
        assert!(order.is_lt());
    }

    #[test]
    fn a_list_with_several_versions_keeps_them_in_order() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "bash 5.2\nbash 5.10\n\nzsh 5\n").unwrap();
        let packages = Packages::read(file.path()).unwrap();
        assert_eq!(packages.0[0].1, ["5.2", "5.10"]);
        std::fs::write(file.path(), "bash\n").unwrap();
        assert!(
            Packages::read(file.path())
                .unwrap_err()
                .to_string()
                .contains(":1:")
        );
    }
}
