//! Which suites to follow: from the configuration, or as the machine's own apt does.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use muster_apt::sources::{self, SignedBy};

use super::Failure;
use super::error::Cause;
use crate::config::{CheckValidUntil, Source, Sources};
use crate::domain::diff::SuiteKey;

/// A suite to follow.
#[derive(Debug, Clone)]
pub(crate) struct Followed {
    pub(crate) uri: String,
    pub(crate) suite: String,
    pub(crate) components: Vec<String>,
    pub(crate) architectures: Vec<String>,
    pub(crate) signed_by: SignedBy,
    pub(crate) check_valid_until: bool,
    /// Left out when its release says NotAutomatic.
    pub(crate) only_automatic: bool,
}

impl Followed {
    pub(crate) fn key(&self) -> SuiteKey {
        (self.uri.clone(), self.suite.clone())
    }

    /// Everything that changes what is read of it: with another one the suite is read anew.
    pub(crate) fn followed_as(&self) -> String {
        let (components, architectures) = (self.components.join(" "), self.architectures.join(" "));
        format!(
            "{components}; {architectures}; automatic only: {}",
            self.only_automatic
        )
    }

    /// The files of `Signed-By`, for clients that follow the same suite.
    pub(crate) fn signed_by_text(&self) -> String {
        match &self.signed_by {
            SignedBy::Default => String::new(),
            SignedBy::Files(paths) => paths
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(","),
            SignedBy::Fingerprints(fingerprints) => fingerprints.join(","),
            SignedBy::Embedded(block) => block.clone(),
        }
    }
}

/// Reads the configuration and, if it says so, the machine's sources. Blocks on files and on
/// `apt-config` and `dpkg`, for milliseconds.
pub(crate) fn plan_sources(source: &Source) -> Result<Vec<Followed>, Failure> {
    let failed = |reason: String| Cause::Sources(reason).at("the configuration");
    let check_valid_until = checks_valid_until(source);
    let mut architectures = source.architectures.clone();
    if architectures.is_empty() {
        architectures.push(machine_architecture());
    }
    let or_default = |own: Vec<String>| {
        if own.is_empty() {
            architectures.clone()
        } else {
            own
        }
    };
    let mut all = Vec::new();
    match &source.sources {
        Sources::List(list) => {
            for listed in list {
                let files: Vec<PathBuf> = listed.signed_by.clone();
                all.push(Followed {
                    uri: listed.uri.trim_end_matches('/').to_owned(),
                    suite: listed.suite.clone(),
                    components: listed.components.clone(),
                    architectures: or_default(listed.architectures.clone()),
                    signed_by: if files.is_empty() {
                        SignedBy::Default
                    } else {
                        SignedBy::Files(files)
                    },
                    check_valid_until,
                    only_automatic: false,
                });
            }
        }
        Sources::Word(_) => {
            let found = sources::read_root(&source.root).map_err(|error| {
                failed(format!("etc/apt of {}: {error}", source.root.display()))
            })?;
            // What apt would not understand either must not silently be missing from the catalog.
            if let Some(problem) = found.problems.first() {
                return Err(failed(problem.to_string()));
            }
            for one in found.sources {
                all.push(Followed {
                    uri: one.uri,
                    suite: one.suite,
                    components: one.components,
                    architectures: or_default(one.architectures),
                    signed_by: one.signed_by,
                    check_valid_until: check_valid_until && one.check_valid_until,
                    only_automatic: true,
                });
            }
        }
    }
    let merged = merge(all);
    if merged.is_empty() {
        return Err(failed("there is no suite to follow".to_owned()));
    }
    for one in &merged {
        let http = ["http://", "https://"]
            .iter()
            .any(|scheme| one.uri.starts_with(scheme));
        if !http {
            return Err(
                Cause::Sources(format!("{} is neither http:// nor https://", one.uri))
                    .at(&one.suite),
            );
        }
        if one.suite.ends_with('/') {
            return Err(Cause::Sources("flat archives are not supported".to_owned()).at(&one.suite));
        }
    }
    Ok(merged)
}

/// Whether an expired release is refused, where a source does not say otherwise.
pub(crate) fn checks_valid_until(source: &Source) -> bool {
    match source.check_valid_until {
        CheckValidUntil::Fixed(check) => check,
        CheckValidUntil::Word(_) => machine_checks_valid_until(&source.root),
    }
}

/// Entries for the same suite become one, with the components of all of them.
fn merge(all: Vec<Followed>) -> Vec<Followed> {
    let mut merged: Vec<Followed> = Vec::new();
    for one in all {
        let Some(held) = merged.iter_mut().find(|held| held.key() == one.key()) else {
            merged.push(one);
            continue;
        };
        let union = |into: &mut Vec<String>, from: Vec<String>| {
            let known: HashSet<String> = into.iter().cloned().collect();
            into.extend(from.into_iter().filter(|name| !known.contains(name)));
        };
        union(&mut held.components, one.components);
        union(&mut held.architectures, one.architectures);
        held.check_valid_until |= one.check_valid_until;
    }
    merged
}

/// `Acquire::Check-Valid-Until` of the machine's apt; true when it cannot be asked.
fn machine_checks_valid_until(root: &Path) -> bool {
    let output = Command::new("apt-config")
        .arg("-o")
        .arg(format!("RootDir={}", root.display()))
        .args(["dump", "--format=%v", "Acquire::Check-Valid-Until"])
        .output();
    let Ok(output) = output else { return true };
    let word = String::from_utf8_lossy(&output.stdout)
        .trim()
        .to_ascii_lowercase();
    !matches!(
        word.as_str(),
        "false" | "no" | "0" | "off" | "disable" | "without"
    )
}

/// The machine's architecture in dpkg's words.
fn machine_architecture() -> String {
    let output = Command::new("dpkg").arg("--print-architecture").output();
    let word = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let known = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "i386",
        other => other,
    };
    word.ok()
        .filter(|word| !word.is_empty())
        .unwrap_or_else(|| known.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_sources_are_followed_once_each() {
        let root = tempfile::tempdir().unwrap();
        let apt = root.path().join("etc/apt");
        std::fs::create_dir_all(&apt).unwrap();
        let list = "deb http://archive.example/d one main\ndeb http://archive.example/d one contrib main\n\
                    deb [check-valid-until=no] http://archive.example/s one-security main\n";
        std::fs::write(apt.join("sources.list"), list).unwrap();
        let text = format!("root = {:?}\narchitectures = [\"amd64\"]", root.path());
        let source: Source = toml::from_str(&text).unwrap();
        let plan = plan_sources(&source).unwrap();
        assert_eq!(plan.len(), 2);
        assert_eq!(
            (
                plan[0].components.join(" "),
                plan[0].architectures.join(" ")
            ),
            ("main contrib".into(), "amd64".into())
        );
        assert!(plan[0].check_valid_until && !plan[1].check_valid_until);

        std::fs::write(apt.join("sources.list"), "deb cdrom:[x] one main\n").unwrap();
        assert_eq!(
            plan_sources(&source).unwrap_err().reason(),
            "SOURCES_UNREADABLE"
        );
        std::fs::write(apt.join("sources.list"), "").unwrap();
        assert_eq!(
            plan_sources(&source).unwrap_err().reason(),
            "SOURCES_UNREADABLE"
        );
    }
}
