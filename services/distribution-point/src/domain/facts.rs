//! What the file of an update says about the update: the newest entry of its changelog.

use muster_apt::changelog::{self, Urgency};
use serde::{Deserialize, Serialize};

use super::archive::ArchivePath;

/// Most ids that are passed on of one file; the newest of them.
const MAX_CVES: usize = 1_000;

/// What a package says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// `CVE-2024-12345`, by year and number.
    pub(crate) cve_ids: Vec<String>,
    /// The word of the changelog, or nothing.
    pub(crate) urgency: String,
}

impl Facts {
    /// What the newest entry of a Debian changelog says.
    pub(crate) fn of_changelog(text: &str) -> Self {
        let mut found = changelog::newest(text);
        let surplus = found.cves.len().saturating_sub(MAX_CVES);
        Self {
            cve_ids: found.cves.split_off(surplus),
            urgency: found.urgency.map_or("", Urgency::word).to_owned(),
        }
    }
}

/// The name of the binary package in the file of this path, when it is a Debian package.
pub(crate) fn package(path: &ArchivePath) -> Option<&str> {
    let path = path.as_str().strip_suffix(".deb")?;
    let file = path.rsplit_once('/').map_or(path, |(_, file)| file);
    let (name, _) = file.split_once('_')?;
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_package_is_in_its_path() {
        let name = |path| package(&ArchivePath::parse(path).unwrap()).map(str::to_owned);
        assert_eq!(
            name("pool/main/o/openssl/libssl3_3.0-1_amd64.deb").unwrap(),
            "libssl3"
        );
        assert_eq!(name("a_1_all.deb").unwrap(), "a");
        for other in ["pool/a_1.tar.xz", "pool/nothing.deb", "InRelease"] {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn the_newest_ids_are_kept_when_there_are_too_many() {
        let ids: String = (0..MAX_CVES + 5)
            .map(|n| format!(" CVE-2024-{:05}", n))
            .collect();
        let facts = Facts::of_changelog(&format!("ab (1) x; urgency=low\n\n  *{ids}\n"));
        assert_eq!(facts.cve_ids.len(), MAX_CVES);
        assert_eq!(facts.cve_ids[0], "CVE-2024-00005");
        assert_eq!(facts.urgency, "low");
    }
}
