//! A throwaway Debian: a folder with the release's base system as it was published, without the
//! security suite, so that security updates are pending. Built by debootstrap from the archive
//! this machine itself uses, so that no host name is written down here.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::packages::{self, Install};

/// Where the release's own suite comes from, read from the sources of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Base address.
    pub uri: String,
    /// The release's suite, such as `bookworm`.
    pub suite: String,
}

impl Archive {
    /// The archive of the release that runs here: the source whose suite is `VERSION_CODENAME`
    /// of os-release.
    ///
    /// # Errors
    /// This is no Debian (or Ubuntu), or it has no such source.
    pub fn of_this_machine() -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release")?;
        let suite = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .map(|it| it.trim_matches('"').to_owned())
            .context("/etc/os-release names no VERSION_CODENAME: is this a Debian machine?")?;
        // apt knows every form of its sources; it prints one line per index it would fetch.
        let output = Command::new("apt-get")
            // Without release info: on a fresh machine none has been fetched yet.
            .args(["indextargets", "--no-release-info"])
            .args(["--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"])
            .output()
            .context("apt-get could not be run")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let uri = text
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?, words.next()?))
            })
            .find(|(release, _)| *release == suite)
            .map(|(_, uri)| uri.trim_end_matches('/').to_owned())
            .with_context(|| format!("apt's sources of this machine have no suite {suite}"))?;
        Ok(Self { uri, suite })
    }
}

/// A root folder that can be managed with `muster-agent --root`.
#[derive(Debug)]
pub struct DebianRoot {
    folder: PathBuf,
}

impl DebianRoot {
    /// Builds one at `folder`, which must not exist. A pristine copy is kept as
    /// `<cache>/debian-root-<suite>.tar`, so that the next one takes seconds; it is made anew
    /// when it is older than a day, because the archive moves on.
    ///
    /// # Errors
    /// Not root; debootstrap is missing and may not be installed; the archive cannot be reached.
    pub fn build(
        folder: &Path,
        cache: &Path,
        log: &Path,
        install: Install,
        say: &dyn Fn(&str),
    ) -> Result<Self> {
        if !crate::account::is_root() {
            bail!("a Debian root can only be built as root (it holds files of other users)");
        }
        let archive = Archive::of_this_machine()?;
        fs::create_dir_all(cache)?;
        let kept = cache.join(format!("debian-root-{}.tar", archive.suite));
        if !is_fresh(&kept) {
            let debootstrap = packages::ensure_debootstrap(install, say)?;
            say(&format!(
                "building a throwaway Debian ({}) with debootstrap",
                archive.suite
            ));
            let scratch = cache.join(format!(
                "debian-root-{}.{}",
                archive.suite,
                std::process::id()
            ));
            let built = run(
                Command::new(debootstrap)
                    .args(["--variant=minbase", &archive.suite])
                    .arg(&scratch)
                    .arg(&archive.uri),
                log,
            )
            .and_then(|()| prepare(&scratch, &archive))
            .and_then(|()| {
                let part = kept.with_extension("part");
                run(
                    Command::new("tar")
                        .arg("-C")
                        .arg(&scratch)
                        .arg("-cf")
                        .arg(&part)
                        .arg("."),
                    log,
                )?;
                Ok(fs::rename(&part, &kept)?)
            });
            let removed = fs::remove_dir_all(&scratch);
            built?;
            removed?;
        }
        fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        run(
            Command::new("tar")
                .arg("-C")
                .arg(folder)
                .arg("-xpf")
                .arg(&kept),
            log,
        )?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// The root folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Names and versions of what is installed in it, one "name version" a line: what simulated
    /// clients pretend to have.
    ///
    /// # Errors
    /// dpkg-query failed.
    pub fn packages(&self) -> Result<String> {
        let output = Command::new("dpkg-query")
            .arg(format!(
                "--admindir={}",
                self.folder.join("var/lib/dpkg").display()
            ))
            .args(["-W", "-f", "${Package} ${Version}\\n"])
            .output()?;
        if !output.status.success() {
            bail!(
                "dpkg-query: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What `dpkg --audit` says of it; empty when all is well.
    ///
    /// # Errors
    /// dpkg could not be run.
    pub fn audit(&self) -> Result<String> {
        let output = Command::new("chroot")
            .arg(&self.folder)
            .args(["dpkg", "--audit"])
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What apt calls upgradable in it from this machine's own suites, as
    /// `(package, architecture, installed, candidate)`. Asked with lists of its own, so neither
    /// the root's nor the machine's are touched.
    ///
    /// # Errors
    /// apt failed.
    pub fn upgradable(&self, scratch: &Path) -> Result<Vec<Upgradable>> {
        upgradable(Some(&self.folder), scratch)
    }

    /// Removes the folder.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("cannot remove {}", self.folder.display()))
    }
}

/// A line of `apt list --upgradable`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Upgradable {
    /// Binary package.
    pub package: String,
    /// Its architecture.
    pub architecture: String,
    /// The version that is installed.
    pub installed: String,
    /// The version apt would install.
    pub candidate: String,
}

/// What apt calls upgradable on this machine (`None`) or in another root, from this machine's
/// sources, by its own pins. The lists are fetched into `scratch`.
///
/// # Errors
/// apt failed, or prints what this cannot read.
pub fn upgradable(root: Option<&Path>, scratch: &Path) -> Result<Vec<Upgradable>> {
    for folder in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(scratch.join(folder))?;
    }
    let mut options = vec![
        format!("Dir::State::lists={}", scratch.join("lists").display()),
        format!("Dir::Cache={}", scratch.join("cache").display()),
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Languages=none".to_owned(),
    ];
    if let Some(root) = root {
        options.push(format!(
            "Dir::State::status={}",
            root.join("var/lib/dpkg/status").display()
        ));
        options.push(format!(
            "Dir::Etc::preferences={}",
            root.join("etc/apt/preferences").display()
        ));
        options.push(format!(
            "Dir::Etc::preferencesparts={}",
            root.join("etc/apt/preferences.d").display()
        ));
    }
    let flags: Vec<String> = options
        .into_iter()
        .flat_map(|it| ["-o".to_owned(), it])
        .collect();
    let output = Command::new("apt-get")
        .args(&flags)
        .arg("update")
        .output()?;
    if !output.status.success() {
        bail!(
            "apt-get update: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let output = Command::new("apt")
        .args(&flags)
        .args(["list", "--upgradable"])
        .output()?;
    if !output.status.success() {
        bail!(
            "apt list: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let mut found: Vec<Upgradable> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.contains("[upgradable from: "))
        .map(|line| parse_upgradable(line).with_context(|| format!("apt list printed {line:?}")))
        .collect::<Result<_>>()?;
    found.sort();
    Ok(found)
}

/// `apt/oldstable-security 2.6.2 amd64 [upgradable from: 2.6.1]`
fn parse_upgradable(line: &str) -> Option<Upgradable> {
    let (package, rest) = line.split_once('/')?;
    let mut words = rest.split_whitespace().skip(1);
    let (candidate, architecture) = (words.next()?, words.next()?);
    let (_, installed) = line.split_once("[upgradable from: ")?;
    Some(Upgradable {
        package: package.to_owned(),
        architecture: architecture.to_owned(),
        installed: installed.trim_end_matches(']').to_owned(),
        candidate: candidate.to_owned(),
    })
}

/// The root's own sources name only the release, and its packages must not start services.
fn prepare(root: &Path, archive: &Archive) -> Result<()> {
    fs::write(
        root.join("etc/apt/sources.list"),
        format!("deb {} {} main\n", archive.uri, archive.suite),
    )?;
    let policy = root.join("usr/sbin/policy-rc.d");
    fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o755))?;
    for leftover in fs::read_dir(root.join("var/cache/apt/archives"))?.flatten() {
        if leftover.path().extension().is_some_and(|it| it == "deb") {
            fs::remove_file(leftover.path())?;
        }
    }
    Ok(())
}

fn is_fresh(file: &Path) -> bool {
    let age = file
        .metadata()
        .ok()
        .and_then(|it| it.modified().ok()?.elapsed().ok());
    age.is_some_and(|it| it.as_secs() < 24 * 60 * 60)
}

fn run(command: &mut Command, log: &Path) -> Result<()> {
    let out = File::options().create(true).append(true).open(log)?;
    let status = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .status()
        .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!(
            "{}: {status}; see {}",
            command.get_program().to_string_lossy(),
            log.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_apt_list_is_read() {
        let line =
            "tzdata/oldstable-security 2026f-0+deb12u1 all [upgradable from: 2026b-0+deb12u1]";
        assert_eq!(
            parse_upgradable(line),
            Some(Upgradable {
                package: "tzdata".into(),
                architecture: "all".into(),
                installed: "2026b-0+deb12u1".into(),
                candidate: "2026f-0+deb12u1".into(),
            })
        );
        assert_eq!(parse_upgradable("Listing..."), None);
    }
}
