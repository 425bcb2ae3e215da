//! What of the vendor's side the site may choose (reliability.md D1): among the keyrings that the
//! machine's own administrator trusts, none that could have come with the site; and old indexes
//! only where the machine itself takes them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use muster_apt::sources::{self, SignedBy, Sources};
use muster_domain::error_code;

use super::DpkgRoot;
use crate::Failure;
use crate::provider::{Job, Suite};

/// Where packages and administrators put keyrings of archives (sources.list(5), Signed-By).
const FOLDERS: [&str; 3] = [
    "usr/share/keyrings",
    "etc/apt/keyrings",
    "etc/apt/trusted.gpg.d",
];
/// In a name: keys that were withdrawn.
const WITHDRAWN: &str = "removed-keys";
/// Who must own a keyring.
const ADMINISTRATOR: u32 = 0;

/// The suites of a job as apt may be told of them on this machine.
///
/// # Errors
/// `UNTRUSTED_DEPLOYMENT` or `VENDOR_INDEX_REFUSED`, naming the keyring.
pub(super) async fn vet(root: &DpkgRoot, job: &Job) -> Result<Vec<Suite>, Failure> {
    let own = sources::read_root(&root.root).unwrap_or_else(|error| {
        tracing::warn!(%error, "the machine's own sources cannot be read");
        Sources::default()
    });
    for suite in job.suites.iter().filter(|s| !s.signed_by.is_empty()) {
        keyring(&root.root, &own, &suite.signed_by, ADMINISTRATOR)?;
    }
    let mut suites = job.suites.clone();
    if suites.iter().any(|suite| suite.ignore_valid_until) {
        let everywhere = ignores_valid_until(root).await;
        for suite in suites.iter_mut().filter(|s| s.ignore_valid_until) {
            let here = own
                .sources
                .iter()
                .any(|source| source.suite == suite.suite && !source.check_valid_until);
            suite.ignore_valid_until = everywhere || here;
            if !suite.ignore_valid_until {
                tracing::info!(
                    suite = suite.suite,
                    "the site takes expired indexes, this machine does not"
                );
            }
        }
    }
    Ok(suites)
}

/// Whether a keyring is one of the machine's own.
fn keyring(root: &Path, own: &Sources, name: &str, owner: u32) -> Result<(), Failure> {
    let named = own.sources.iter().any(|source| match &source.signed_by {
        SignedBy::Files(files) => files.iter().any(|file| file == Path::new(name)),
        SignedBy::Default | SignedBy::Fingerprints(_) | SignedBy::Embedded(_) => false,
    });
    if !root.join(name.trim_start_matches('/')).exists() {
        let detail = format!("this machine has no keyring {name}");
        return Err(Failure::new(error_code::VENDOR_INDEX_REFUSED, detail));
    }
    if named {
        return Ok(());
    }
    let refused = |why: &str| {
        let detail = format!("the policy names the keyring {name}, {why}");
        Failure::new(error_code::UNTRUSTED_DEPLOYMENT, detail)
    };
    let file = resolve(root, name).map_err(|error| refused(&error.to_string()))?;
    let folder = FOLDERS
        .iter()
        .any(|folder| file.parent() == Some(Path::new(folder)));
    if !folder {
        return Err(refused("which is not where this machine keeps keyrings"));
    }
    if file.to_string_lossy().contains(WITHDRAWN) {
        return Err(refused("which holds withdrawn keys"));
    }
    let held = fs::metadata(root.join(&file)).map_err(|error| refused(&error.to_string()))?;
    if !held.is_file() || held.uid() != owner || held.mode() & 0o022 != 0 {
        return Err(refused("which others than the administrator can change"));
    }
    Ok(())
}

/// Where a path of the root really leads, without the root. A link out of the root leads nowhere.
fn resolve(root: &Path, name: &str) -> io::Result<PathBuf> {
    let root = root.canonicalize()?;
    let file = root.join(name.trim_start_matches('/')).canonicalize()?;
    let inside = file.strip_prefix(&root);
    inside
        .map(Path::to_path_buf)
        .map_err(|_| io::Error::other("which leads out of this machine"))
}

/// `Acquire::Check-Valid-Until` of the machine's own apt, not of the agent's folder.
async fn ignores_valid_until(root: &DpkgRoot) -> bool {
    let mut command = root.command("apt-config");
    command
        .env_remove("APT_CONFIG")
        .args(["dump", "Acquire::Check-Valid-Until"])
        .kill_on_drop(true);
    let output = tokio::time::timeout(super::LOOK, command.output()).await;
    matches!(output, Ok(Ok(output)) if says_no(&String::from_utf8_lossy(&output.stdout)))
}

/// Whether apt-config's dump switches the check off, in apt's words for it.
fn says_no(dump: &str) -> bool {
    dump.lines()
        .filter_map(|line| line.strip_prefix("Acquire::Check-Valid-Until "))
        .any(|value| {
            let value = value.trim_matches([' ', '"', ';']).to_ascii_lowercase();
            ["0", "no", "false", "without", "off", "disable"].contains(&value.as_str())
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct Machine {
        dir: tempfile::TempDir,
        own: Sources,
    }

    impl Machine {
        fn new() -> Self {
            Self {
                dir: tempfile::tempdir().unwrap(),
                own: Sources::default(),
            }
        }

        fn put(&self, name: &str, mode: u32) -> PathBuf {
            let file = self.dir.path().join(name.trim_start_matches('/'));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "keys").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            file
        }

        fn code(&self, name: &str) -> Option<i32> {
            let owner = fs::metadata(self.dir.path()).unwrap().uid();
            let found = keyring(self.dir.path(), &self.own, name, owner);
            found.err().map(|failure| {
                assert!(failure.detail.contains(name), "{failure}");
                failure.code
            })
        }
    }

    const UNTRUSTED: Option<i32> = Some(error_code::UNTRUSTED_DEPLOYMENT);

    #[test]
    fn a_keyring_where_the_machine_keeps_them_is_accepted() {
        let machine = Machine::new();
        machine.put("/usr/share/keyrings/archive.gpg", 0o644);
        machine.put("/etc/apt/keyrings/deep/archive.gpg", 0o644);
        let keys = machine.dir.path().join("usr/share/keyrings");
        symlink("archive.gpg", keys.join("archive.pgp")).unwrap();
        assert_eq!(machine.code("/usr/share/keyrings/archive.gpg"), None);
        assert_eq!(machine.code("/usr/share/keyrings/archive.pgp"), None);
        assert_eq!(
            machine.code("/etc/apt/keyrings/deep/archive.gpg"),
            UNTRUSTED,
            "directly in the folder"
        );
        assert_eq!(
            machine.code("/usr/share/keyrings/none.gpg"),
            Some(error_code::VENDOR_INDEX_REFUSED)
        );
    }

    #[test]
    fn a_file_that_the_site_could_have_placed_is_no_keyring() {
        let mut machine = Machine::new();
        // The agent's cache is filled with what the site names, in the site's words.
        let cached = format!("/var/lib/muster/agent/cache/{}", "ab".repeat(32));
        let file = machine.put(&cached, 0o600);
        assert_eq!(machine.code(&cached), UNTRUSTED);
        let keys = machine.dir.path().join("usr/share/keyrings");
        fs::create_dir_all(&keys).unwrap();
        symlink(&file, keys.join("link.gpg")).unwrap();
        assert_eq!(machine.code("/usr/share/keyrings/link.gpg"), UNTRUSTED);
        symlink("/etc/hostname", keys.join("out.gpg")).unwrap();
        assert!(machine.code("/usr/share/keyrings/out.gpg").is_some());

        // Unless the administrator says so.
        let line = format!("deb [signed-by={cached}] https://archive.example/debian stable main\n");
        sources::parse_list(&line, Path::new("sources.list"), &mut machine.own);
        assert_eq!(machine.code(&cached), None);
    }

    #[test]
    fn a_keyring_that_others_can_change_or_that_was_withdrawn_is_refused() {
        let machine = Machine::new();
        for (name, mode) in [
            ("/etc/apt/keyrings/group.gpg", 0o664),
            ("/etc/apt/keyrings/world.gpg", 0o646),
            ("/usr/share/keyrings/archive-removed-keys.gpg", 0o644),
        ] {
            machine.put(name, mode);
            assert_eq!(machine.code(name), UNTRUSTED, "{name}");
        }
        machine.put("/etc/apt/keyrings/good.gpg", 0o644);
        let owner = fs::metadata(machine.dir.path()).unwrap().uid();
        let name = "/etc/apt/keyrings/good.gpg";
        assert!(keyring(machine.dir.path(), &machine.own, name, owner + 1).is_err());
    }

    #[test]
    fn expired_indexes_are_taken_only_where_the_machine_takes_them() {
        assert!(says_no("Acquire::Check-Valid-Until \"false\";\n"));
        assert!(says_no("Acquire::Check-Valid-Until \"No\";\n"));
        assert!(!says_no("Acquire::Check-Valid-Until \"true\";\n"));
        assert!(!says_no(""));
    }

    #[tokio::test]
    async fn a_source_of_the_machine_decides_about_its_own_suite() {
        let machine = Machine::new();
        let list = machine.put("/etc/apt/sources.list", 0o644);
        let line = "deb [check-valid-until=no] https://archive.example/debian old main\n";
        fs::write(list, line).unwrap();
        let root = DpkgRoot::new(machine.dir.path(), None);
        let suite = |name: &str| Suite {
            key: "0123456789abcdef".into(),
            suite: name.into(),
            components: vec!["main".into()],
            signed_by: String::new(),
            ignore_valid_until: true,
        };
        let job = Job {
            suites: vec![suite("old"), suite("new")],
            ..Job::of(machine.dir.path())
        };
        let vetted = vet(&root, &job).await.unwrap();
        assert!(vetted[0].ignore_valid_until);
        assert!(!vetted[1].ignore_valid_until);
    }
}
