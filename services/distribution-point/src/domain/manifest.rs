//! What the offered archives consist of: paths to digests, and nothing else. The bytes are in
//! the content store; a digest that is not held there is not found.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::archive::{ArchivePath, ArchiveUri, SuiteKey};
use super::digest::Digest;

/// Everything that is offered under a path. Written to disk as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Files of each archive, under the path of the vendor's index.
    archives: BTreeMap<ArchiveUri, BTreeMap<ArchivePath, Digest>>,
    /// Published suites, by the key that the site chose and the name of the suite.
    suites: BTreeMap<SuiteKey, BTreeMap<ArchivePath, Publication>>,
}

/// A suite as the vendor signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Publication {
    pub(crate) archive: ArchiveUri,
    /// Path below `dists/<suite>/` to digest.
    pub(crate) files: BTreeMap<ArchivePath, Digest>,
    /// Digests of the snapshot before this one: a client that read the old InRelease still finds
    /// its indexes by hash.
    #[serde(default)]
    before: BTreeSet<Digest>,
    /// When these files came, in seconds since 1970: what clients are told as Last-Modified. 0:
    /// not known.
    #[serde(default)]
    published_at: i64,
}

impl Publication {
    pub(crate) fn new(
        archive: ArchiveUri,
        files: BTreeMap<ArchivePath, Digest>,
        published_at: i64,
    ) -> Self {
        Self {
            archive,
            files,
            before: BTreeSet::new(),
            published_at,
        }
    }

    fn digests(&self) -> impl Iterator<Item = Digest> {
        self.files.values().chain(&self.before).copied()
    }
}

/// Where a path led.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) digest: Digest,
    /// Whether the path can never mean other bytes.
    pub(crate) immutable: bool,
    /// When the path got these bytes, in seconds since 1970, for what is not immutable.
    pub(crate) modified_at: Option<i64>,
}

impl Manifest {
    /// The file that `/apt/<key>/<path>` names.
    pub(crate) fn find(&self, key: &SuiteKey, path: &ArchivePath) -> Option<Found> {
        let suites = self.suites.get(key)?;
        let Some(below) = path.as_str().strip_prefix("dists/") else {
            let archives = suites
                .values()
                .filter_map(|suite| self.archives.get(&suite.archive));
            let digest = archives.filter_map(|files| files.get(path)).next()?;
            return Some(Found {
                digest: *digest,
                immutable: true,
                modified_at: None,
            });
        };
        // A suite's name may have slashes, so each is tried as a prefix.
        suites.iter().find_map(|(name, suite)| {
            let file = below.strip_prefix(name.as_str())?.strip_prefix('/')?;
            if let Some(digest) = suite.files.get(&ArchivePath::parse(file)?) {
                return Some(Found {
                    digest: *digest,
                    immutable: false,
                    modified_at: Some(suite.published_at).filter(|at| *at > 0),
                });
            }
            let (_, hash) = file.rsplit_once("by-hash/SHA256/")?;
            let digest = Digest::parse(hash)?;
            suite.digests().any(|held| held == digest).then_some(Found {
                digest,
                immutable: true,
                modified_at: None,
            })
        })
    }

    /// Offers a file of an archive under its path. Says whether that is news.
    pub(crate) fn add_file(
        &mut self,
        uri: &ArchiveUri,
        path: &ArchivePath,
        digest: Digest,
    ) -> bool {
        if self.archives.get(uri).and_then(|files| files.get(path)) == Some(&digest) {
            return false;
        }
        self.archives
            .entry(uri.clone())
            .or_default()
            .insert(path.clone(), digest);
        true
    }

    /// Replaces the snapshot of a suite. Returns what nothing names any more, to be removed.
    pub(crate) fn publish(
        &mut self,
        key: SuiteKey,
        suite: ArchivePath,
        mut publication: Publication,
    ) -> Vec<Digest> {
        let suites = self.suites.entry(key).or_default();
        let Some(old) = suites.get(&suite) else {
            suites.insert(suite, publication);
            return Vec::new();
        };
        if (&old.archive, &old.files) == (&publication.archive, &publication.files) {
            return Vec::new();
        }
        // Two snapshots within one second must not look like one.
        publication.published_at = publication.published_at.max(old.published_at + 1);
        publication.before = old.files.values().copied().collect();
        let dropped: BTreeSet<Digest> = old.before.clone();
        suites.insert(suite, publication);
        dropped
            .into_iter()
            .filter(|digest| !self.names(digest))
            .collect()
    }

    /// Whether a published suite needs this file.
    pub(crate) fn is_published(&self, digest: &Digest) -> bool {
        self.suites
            .values()
            .flat_map(BTreeMap::values)
            .any(|suite| suite.digests().any(|held| held == *digest))
    }

    /// Forgets all paths of these files outside published suites. Says whether there were any.
    pub(crate) fn remove_files(&mut self, digests: &BTreeSet<Digest>) -> bool {
        let before = self.paths();
        for files in self.archives.values_mut() {
            files.retain(|_, digest| !digests.contains(digest));
        }
        self.archives.retain(|_, files| !files.is_empty());
        self.paths() != before
    }

    /// How many paths outside published suites there are.
    pub(crate) fn paths(&self) -> usize {
        self.archives.values().map(BTreeMap::len).sum()
    }

    /// How many suites are published.
    pub(crate) fn suites(&self) -> usize {
        self.suites.values().map(BTreeMap::len).sum()
    }

    fn names(&self, digest: &Digest) -> bool {
        let file = |held: &Digest| held == digest;
        self.archives.values().flat_map(BTreeMap::values).any(file) || self.is_published(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::new([n; 32])
    }

    fn path(text: &str) -> ArchivePath {
        ArchivePath::parse(text).unwrap()
    }

    fn key() -> SuiteKey {
        SuiteKey::parse("0123456789abcdef").unwrap()
    }

    fn uri() -> ArchiveUri {
        ArchiveUri::parse("http://archive.example/debian").unwrap()
    }

    fn snapshot(n: u8) -> Publication {
        let files = [("InRelease", n), ("main/binary-amd64/Packages.xz", n + 1)];
        Publication::new(
            uri(),
            files.map(|(name, n)| (path(name), digest(n))).into(),
            n.into(),
        )
    }

    fn find(manifest: &Manifest, text: &str) -> Option<Digest> {
        manifest.find(&key(), &path(text)).map(|found| found.digest)
    }

    #[test]
    fn a_suite_is_found_by_path_and_by_hash_and_pool_files_by_path() {
        let mut manifest = Manifest::default();
        assert!(
            manifest
                .publish(key(), path("bookworm/updates"), snapshot(1))
                .is_empty()
        );
        assert!(manifest.add_file(&uri(), &path("pool/a.deb"), digest(9)));
        assert!(!manifest.add_file(&uri(), &path("pool/a.deb"), digest(9)));
        assert_eq!(
            find(&manifest, "dists/bookworm/updates/InRelease"),
            Some(digest(1))
        );
        let by_hash = format!(
            "dists/bookworm/updates/main/binary-amd64/by-hash/SHA256/{}",
            digest(2)
        );
        assert_eq!(find(&manifest, &by_hash), Some(digest(2)));
        assert_eq!(find(&manifest, "pool/a.deb"), Some(digest(9)));
        for absent in [
            "dists/bookworm/InRelease",
            "dists/InRelease",
            "pool/b.deb",
            "InRelease",
        ] {
            assert_eq!(find(&manifest, absent), None, "{absent}");
        }
        let foreign = format!("dists/bookworm/updates/main/by-hash/SHA256/{}", digest(9));
        assert_eq!(find(&manifest, &foreign), None);
        let other = SuiteKey::parse("1123456789abcdef").unwrap();
        assert_eq!(manifest.find(&other, &path("pool/a.deb")), None);
    }

    #[test]
    fn a_new_snapshot_replaces_all_paths_and_the_last_one_stays_by_hash() {
        let mut manifest = Manifest::default();
        let suite = || path("bookworm");
        manifest.publish(key(), suite(), snapshot(1));
        assert!(manifest.publish(key(), suite(), snapshot(1)).is_empty());
        assert!(manifest.publish(key(), suite(), snapshot(11)).is_empty());
        assert_eq!(
            find(&manifest, "dists/bookworm/InRelease"),
            Some(digest(11))
        );
        let old = format!(
            "dists/bookworm/main/binary-amd64/by-hash/SHA256/{}",
            digest(2)
        );
        assert_eq!(find(&manifest, &old), Some(digest(2)));
        assert_eq!(
            manifest.publish(key(), suite(), snapshot(21)),
            vec![digest(1), digest(2)],
            "the snapshot before the last one is dropped"
        );
        assert_eq!(find(&manifest, &old), None);
    }

    #[test]
    fn a_path_is_as_old_as_its_snapshot_and_two_snapshots_never_look_like_one() {
        let mut manifest = Manifest::default();
        let at = |manifest: &Manifest| {
            let found = manifest.find(&key(), &path("dists/bookworm/InRelease"));
            found.unwrap().modified_at.unwrap()
        };
        manifest.publish(key(), path("bookworm"), snapshot(11));
        assert_eq!(at(&manifest), 11);
        let mut same = snapshot(11);
        same.published_at = 99;
        manifest.publish(key(), path("bookworm"), same);
        assert_eq!(at(&manifest), 11, "the same files keep their time");
        manifest.publish(key(), path("bookworm"), snapshot(5));
        assert_eq!(at(&manifest), 12, "even when our clock went back");
    }

    #[test]
    fn what_is_published_is_known_and_what_is_removed_is_forgotten() {
        let mut manifest = Manifest::default();
        manifest.publish(key(), path("bookworm"), snapshot(1));
        manifest.add_file(&uri(), &path("pool/a.deb"), digest(9));
        assert!(manifest.is_published(&digest(2)) && !manifest.is_published(&digest(9)));
        assert!(manifest.remove_files(&BTreeSet::from([digest(9)])));
        assert!(!manifest.remove_files(&BTreeSet::from([digest(9)])));
        assert_eq!(find(&manifest, "pool/a.deb"), None);
    }

    #[test]
    fn it_reads_as_it_was_written_and_not_with_a_path_that_leads_out() {
        let mut manifest = Manifest::default();
        manifest.publish(key(), path("bookworm"), snapshot(1));
        manifest.add_file(&uri(), &path("pool/a.deb"), digest(9));
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
        let altered = text.replace("pool/a.deb", "../a.deb");
        assert!(serde_json::from_str::<Manifest>(&altered).is_err());
    }
}
