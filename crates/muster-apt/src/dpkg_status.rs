//! What is installed: dpkg's own record, `var/lib/dpkg/status` (dpkg-query(1), deb(5)).

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use crate::packages::{
    MultiArch, Reason, Rejected, is_architecture, is_package_name, multi_arch, source, version,
};
use crate::stanza::{self, Reader, Stanza};
use crate::version::Version;

/// One package that dpkg knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its name.
    pub package: String,
    /// `amd64`, `all`, …
    pub architecture: String,
    /// Its version. For a package whose configuration alone is left, the version it had.
    pub version: Version,
    /// The source package it was built from.
    pub source: String,
    /// The source's version.
    pub source_version: Version,
    /// What the administrator wants.
    pub want: Want,
    /// Whether it must be installed again (`reinstreq`).
    pub reinstall_required: bool,
    /// How far dpkg got.
    pub state: State,
    /// Whether several architectures of it can be installed together.
    pub multi_arch: MultiArch,
    /// `Essential: yes`.
    pub essential: bool,
}

/// The first word of `Status`: what the administrator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Want {
    /// Nothing was said.
    Unknown,
    /// It should be installed.
    Install,
    /// It should stay as it is: no update.
    Hold,
    /// It should be removed.
    Deinstall,
    /// It should be removed with its configuration.
    Purge,
}

/// The third word of `Status`: how far dpkg got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing is left of it.
    NotInstalled,
    /// Only its configuration is left.
    ConfigFiles,
    /// Unpacking began and did not end.
    HalfInstalled,
    /// Unpacked, not yet configured.
    Unpacked,
    /// Configuration began and did not end.
    HalfConfigured,
    /// Another package has yet to run a trigger for it.
    TriggersAwaited,
    /// It has yet to run a trigger.
    TriggersPending,
    /// Installed.
    Installed,
}

impl Installed {
    /// Whether apt takes its version for the current one: everything but removed packages.
    pub fn is_present(&self) -> bool {
        !matches!(self.state, State::NotInstalled | State::ConfigFiles)
    }

    /// Whether it works as far as dpkg knows.
    pub fn is_whole(&self) -> bool {
        let whole = matches!(
            self.state,
            State::Installed | State::TriggersAwaited | State::TriggersPending
        );
        whole && !self.reinstall_required
    }

    /// Whether it is held back by the administrator.
    pub fn is_held(&self) -> bool {
        self.want == Want::Hold
    }
}

/// The packages of a root, and what could not be read.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// In the order of the file.
    pub packages: Vec<Installed>,
    /// Stanzas that were not understood: for what they are about, the answer is *unknown*.
    pub rejected: Vec<Rejected>,
}

/// Reads `var/lib/dpkg/status` below `root`.
///
/// # Errors
/// When the file cannot be read: a root without it has no dpkg.
pub fn read_root(root: &Path) -> io::Result<Status> {
    parse(BufReader::with_capacity(
        64 << 10,
        File::open(root.join("var/lib/dpkg/status"))?,
    ))
}

/// Parses a status file.
///
/// # Errors
/// When the reader below fails.
pub fn parse(input: impl BufRead) -> io::Result<Status> {
    let mut reader = Reader::new(input);
    let mut status = Status::default();
    loop {
        match reader.next_stanza() {
            Ok(None) => return Ok(status),
            Ok(Some(stanza)) => match fields(&stanza) {
                Ok(Some(installed)) => status.packages.push(installed),
                Ok(None) => {}
                Err(reason) => {
                    let package = stanza.get("Package").map(|p| p.chars().take(100).collect());
                    status.rejected.push(Rejected {
                        package,
                        line: stanza.line(),
                        reason,
                    });
                }
            },
            Err(stanza::Error::Io { source, .. }) => return Err(source),
            Err(error) => {
                let reason = Reason::Unreadable(error.to_string());
                status.rejected.push(Rejected {
                    package: None,
                    line: error.line(),
                    reason,
                });
            }
        }
    }
}

/// `None` for a package of which nothing is left: dpkg keeps such entries without a version.
fn fields(stanza: &Stanza<'_>) -> Result<Option<Installed>, Reason> {
    let need = |name: &'static str| stanza.get(name).ok_or(Reason::Missing(name));
    let absurd = |field, value| crate::packages::absurd(field, value, "is not one of dpkg's");
    let package = need("Package")?;
    if !is_package_name(package) {
        return Err(absurd("Package", package));
    }
    let text = need("Status")?;
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [want, flag, state] = words[..] else {
        return Err(absurd("Status", text));
    };
    let want = match want {
        "unknown" => Want::Unknown,
        "install" => Want::Install,
        "hold" => Want::Hold,
        "deinstall" => Want::Deinstall,
        "purge" => Want::Purge,
        _ => return Err(absurd("Status", text)),
    };
    let state = match state {
        "not-installed" => State::NotInstalled,
        "config-files" => State::ConfigFiles,
        "half-installed" => State::HalfInstalled,
        "unpacked" => State::Unpacked,
        "half-configured" => State::HalfConfigured,
        "triggers-awaited" => State::TriggersAwaited,
        "triggers-pending" => State::TriggersPending,
        "installed" => State::Installed,
        _ => return Err(absurd("Status", text)),
    };
    let reinstall_required = match flag {
        "ok" => false,
        "reinstreq" => true,
        _ => return Err(absurd("Status", text)),
    };
    if state == State::NotInstalled {
        return Ok(None);
    }
    let architecture = need("Architecture")?;
    if !is_architecture(architecture) {
        return Err(absurd("Architecture", architecture));
    }
    let version = version("Version", need("Version")?)?;
    let (source, source_version) = source(stanza.get("Source"), package, &version)?;
    Ok(Some(Installed {
        package: package.to_owned(),
        architecture: architecture.to_owned(),
        version,
        source,
        source_version,
        want,
        reinstall_required,
        state,
        multi_arch: multi_arch(stanza.get("Multi-Arch"))?,
        essential: stanza
            .get("Essential")
            .is_some_and(|v| v.eq_ignore_ascii_case("yes")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stanza(package: &str, status: &str, version: &str) -> String {
        format!(
            "Package: {package}\nStatus: {status}\nArchitecture: amd64\nSource: src (1.0)\n{version}\n\n"
        )
    }

    #[test]
    fn states_and_holds_are_read() {
        let text = stanza("aa", "install ok installed", "Version: 1.0-1")
            + &stanza("bb", "hold ok installed", "Version: 1.0-1")
            + &stanza("cc", "deinstall ok config-files", "Version: 1.0-1")
            + &stanza("dd", "install reinstreq half-installed", "Version: 1.0-1")
            + &stanza("ee", "purge ok not-installed", "")
            + &stanza("ff", "install ok installed", "")
            + &stanza("gg", "perhaps ok installed", "Version: 1.0-1");
        let status = parse(text.as_bytes()).unwrap();
        let found: Vec<_> = status
            .packages
            .iter()
            .map(|p| {
                (
                    p.package.as_str(),
                    p.is_present(),
                    p.is_whole(),
                    p.is_held(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("aa", true, true, false),
                ("bb", true, true, true),
                ("cc", false, false, false),
                ("dd", true, false, false),
            ]
        );
        assert_eq!(
            (
                status.packages[0].source.as_str(),
                status.packages[0].source_version.as_str()
            ),
            ("src", "1.0")
        );
        let rejected: Vec<_> = status
            .rejected
            .iter()
            .map(|r| r.package.as_deref())
            .collect();
        assert_eq!(rejected, [Some("ff"), Some("gg")]);
    }

    #[test]
    fn this_machines_status_is_read_whole_and_agrees_with_dpkg_query() {
        let root = Path::new("/");
        let Ok(status) = read_root(root) else { return };
        assert_eq!(status.rejected, []);
        let query = std::process::Command::new("dpkg-query")
            .args(["-W", "-f", "${Package} ${Architecture} ${Version} ${source:Package} ${source:Version} ${db:Status-Status}\n"])
            .output();
        let Ok(query) = query else { return };
        let mut theirs: Vec<String> = String::from_utf8(query.stdout)
            .unwrap()
            .lines()
            .filter(|line| line.ends_with(" installed"))
            .map(str::to_owned)
            .collect();
        let mut ours: Vec<String> = status
            .packages
            .iter()
            .filter(|p| p.state == State::Installed)
            .map(|p| {
                format!(
                    "{} {} {} {} {} installed",
                    p.package, p.architecture, p.version, p.source, p.source_version
                )
            })
            .collect();
        theirs.sort();
        ours.sort();
        assert_eq!(ours, theirs);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(status in "[ -~]{0,40}", version in "[ -~\\n]{0,40}") {
            let _ = parse(stanza("aa", &status, &version).as_bytes());
        }
    }
}
