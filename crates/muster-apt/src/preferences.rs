//! Which version of a package apt would choose, and why (apt_preferences(5)).
//!
//! apt's rules, in the order in which they are applied here:
//!
//! 1. a pin on the package whose condition the version meets gives the version its priority; the first
//!    such stanza wins;
//! 2. otherwise the version has the highest priority of the archives that have it: that of the first
//!    `Package: *` pin which the archive meets, else 500; 1 for `NotAutomatic`; 100 for
//!    `NotAutomatic` with `ButAutomaticUpgrades`; 100 for what is installed;
//! 3. the highest priority wins, and among equals the highest version; a priority below 0 never; a
//!    version below the installed one only from 1000 on.

use std::io;
use std::path::{Path, PathBuf};

use crate::glob::Pattern;
use crate::release::Release;
use crate::sources::{Problem, parts, read};
use crate::stanza::Reader;
use crate::version::Version;

/// `Pin-Priority: never`.
const NEVER: i32 = i16::MIN as i32;

/// The pins of a root, in the order in which apt reads them.
#[derive(Debug, Clone, Default)]
pub struct Preferences {
    pins: Vec<Pin>,
    /// Stanzas that were not understood; apt leaves them out too.
    pub problems: Vec<Problem>,
}

#[derive(Debug, Clone)]
struct Pin {
    names: Vec<Name>,
    condition: Condition,
    priority: i32,
    place: Place,
}

/// Where a pin is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The first line of the stanza, from 1.
    pub line: u64,
}

#[derive(Debug, Clone)]
enum Name {
    /// `*`: every package, so it gives archives their priority.
    All,
    /// A name or pattern, with an architecture after a colon.
    Package {
        pattern: Pattern,
        architecture: Option<String>,
    },
    /// `src:` and a name or pattern.
    Source(Pattern),
}

#[derive(Debug, Clone)]
enum Condition {
    Version(Pattern),
    /// Letter and pattern, all of which must match; `r` stands for suite or codename.
    Release(Vec<(u8, Pattern)>),
    /// `release *`
    AnyRelease,
    /// The archive's host; `None` for `""`, an archive without one.
    Origin(Option<Pattern>),
}

/// What pins may ask about an archive that has a version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveInfo {
    /// `a=`: the release's `Suite`.
    pub suite: Option<String>,
    /// `n=`: its `Codename`.
    pub codename: Option<String>,
    /// `o=`: its `Origin`.
    pub origin: Option<String>,
    /// `l=`: its `Label`.
    pub label: Option<String>,
    /// `v=`: its `Version`.
    pub version: Option<String>,
    /// `c=`: the component.
    pub component: Option<String>,
    /// `b=`: the architecture of the index.
    pub architecture: Option<String>,
    /// `origin`: the host of the archive's address, empty for a local one.
    pub site: String,
    /// `NotAutomatic: yes`.
    pub not_automatic: bool,
    /// `ButAutomaticUpgrades: yes`.
    pub but_automatic_upgrades: bool,
}

impl ArchiveInfo {
    /// From a release; `uri` is the archive's address.
    pub fn new(release: &Release, uri: &str, component: &str, architecture: &str) -> Self {
        let host = uri.split_once("://").map_or("", |(_, rest)| rest);
        let host = host.split('/').next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        Self {
            suite: release.suite.clone(),
            codename: release.codename.clone(),
            origin: release.origin.clone(),
            label: release.label.clone(),
            version: release.version.clone(),
            component: Some(component.to_owned()),
            architecture: Some(architecture.to_owned()),
            site: host.split(':').next().unwrap_or_default().to_owned(),
            not_automatic: release.not_automatic,
            but_automatic_upgrades: release.but_automatic_upgrades,
        }
    }
}

/// The package that is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its name.
    pub package: &'a str,
    /// Its architecture.
    pub architecture: &'a str,
    /// Its source package.
    pub source: &'a str,
    /// The machine's own architecture: a pin without one means this and `all`.
    pub native: &'a str,
}

/// A version that archives have.
#[derive(Debug, Clone, Copy)]
pub struct Available<'a> {
    /// The version.
    pub version: &'a Version,
    /// The archives that have it.
    pub archives: &'a [&'a ArchiveInfo],
}

/// Why a version has its priority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It is installed: 100.
    Installed,
    /// No pin says anything: 500, or 1 and 100 for archives that are not automatic.
    Default,
    /// A pin on the package.
    Pinned(Place),
    /// A `Package: *` pin on an archive that has it.
    ArchivePinned(Place),
}

/// A version with its priority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The version.
    pub version: Version,
    /// Its priority.
    pub priority: i32,
    /// Where the priority comes from.
    pub why: Why,
    /// Why it was passed over, `None` for the candidate and for what merely lost to it.
    pub excluded: Option<Excluded>,
}

/// Why a version cannot be the candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Excluded {
    /// Its priority is 0 or below.
    NeverChosen,
    /// It is older than the installed version and its priority is below 1000.
    Downgrade,
}

/// apt's choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Every version with its priority, newest first.
    pub judged: Vec<Judged>,
    chosen: Option<usize>,
}

impl Candidate {
    /// The version that apt would install; the installed one when nothing beats it; `None` when no
    /// version may be installed.
    pub fn chosen(&self) -> Option<&Judged> {
        self.chosen.and_then(|at| self.judged.get(at))
    }
}

impl Preferences {
    /// Reads `etc/apt/preferences` and `etc/apt/preferences.d` below `root`.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn read_root(root: &Path) -> io::Result<Self> {
        let apt = root.join("etc/apt");
        let mut preferences = Self::default();
        let single = apt.join("preferences");
        if single.is_file() {
            preferences.parse(&read(&single)?, &single);
        }
        for path in parts(&apt.join("preferences.d"), &["pref", ""])? {
            preferences.parse(&read(&path)?, &path);
        }
        Ok(preferences)
    }

    /// Adds the pins of one file.
    pub fn parse(&mut self, text: &str, file: &Path) {
        let mut reader = Reader::new(text.as_bytes()).with_comments();
        loop {
            let (line, result) = match reader.next_stanza() {
                Ok(None) => return,
                Ok(Some(stanza)) => {
                    let field = |name| stanza.get(name);
                    (
                        stanza.line(),
                        pin(field("Package"), field("Pin"), field("Pin-Priority")),
                    )
                }
                Err(error) => (error.line(), Err(error.to_string())),
            };
            let file = file.to_owned();
            match result {
                Ok((names, condition, priority)) => {
                    let place = Place { file, line };
                    self.pins.push(Pin {
                        names,
                        condition,
                        priority,
                        place,
                    });
                }
                Err(reason) => self.problems.push(Problem { file, line, reason }),
            }
        }
    }

    /// How many pins there are.
    pub fn len(&self) -> usize {
        self.pins.len()
    }

    /// Whether there are no pins.
    pub fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    /// apt's choice among the installed version and the available ones.
    pub fn candidate(
        &self,
        subject: Subject<'_>,
        installed: Option<&Version>,
        available: &[Available<'_>],
    ) -> Candidate {
        // The installed version and the same version in an archive are one version.
        let mut versions: Vec<(&Version, bool, &[&ArchiveInfo])> = Vec::new();
        for one in available {
            let is_installed = installed.is_some_and(|v| v.as_str() == one.version.as_str());
            versions.push((one.version, is_installed, one.archives));
        }
        if let Some(version) = installed
            && !versions.iter().any(|(_, is_installed, _)| *is_installed)
        {
            versions.push((version, true, &[]));
        }
        versions.sort_by(|a, b| b.0.cmp(a.0).then(b.1.cmp(&a.1)));
        let mut judged: Vec<Judged> = Vec::with_capacity(versions.len());
        let mut chosen: Option<usize> = None;
        for (version, is_installed, archives) in versions {
            let (priority, why) = self.priority(subject, version, is_installed, archives);
            let downgrade = priority < 1000 && installed.is_some_and(|held| version < held);
            let excluded = match (priority <= 0, downgrade) {
                (true, _) => Some(Excluded::NeverChosen),
                (false, true) => Some(Excluded::Downgrade),
                (false, false) => None,
            };
            let best = chosen
                .and_then(|at: usize| judged.get(at))
                .map_or(0, |j: &Judged| j.priority);
            if excluded.is_none() && priority > best {
                chosen = Some(judged.len());
            }
            judged.push(Judged {
                version: version.clone(),
                priority,
                why,
                excluded,
            });
        }
        Candidate { judged, chosen }
    }

    fn priority(
        &self,
        subject: Subject<'_>,
        version: &Version,
        is_installed: bool,
        archives: &[&ArchiveInfo],
    ) -> (i32, Why) {
        let on_archives: Vec<(i32, Why)> = archives
            .iter()
            .map(|archive| self.archive_priority(archive))
            .collect();
        let pinned = self.pins.iter().find(|pin| {
            pin.names.iter().any(|name| name.is_about(subject))
                && pin.condition.meets_version(version, is_installed, archives)
        });
        if let Some(pin) = pinned {
            // When every archive is never to be used, a pin on the package does not change that.
            let usable = is_installed || on_archives.iter().any(|(priority, _)| *priority != NEVER);
            if pin.priority == NEVER || usable {
                return (pin.priority, Why::Pinned(pin.place.clone()));
            }
        }
        let status = is_installed.then(|| self.status_priority());
        // The first of the highest, so that the answer does not depend on the order of equals.
        on_archives
            .into_iter()
            .chain(status)
            .reduce(|best, next| if next.0 > best.0 { next } else { best })
            .unwrap_or((0, Why::Default))
    }

    fn archive_priority(&self, archive: &ArchiveInfo) -> (i32, Why) {
        for pin in self.general() {
            if pin.condition.meets_archive(archive) {
                return (pin.priority, Why::ArchivePinned(pin.place.clone()));
            }
        }
        let priority = match (archive.not_automatic, archive.but_automatic_upgrades) {
            (true, true) => 100,
            (true, false) => 1,
            (false, _) => 500,
        };
        (priority, Why::Default)
    }

    /// dpkg's status file is an archive with the suite `now` and nothing else.
    fn status_priority(&self) -> (i32, Why) {
        for pin in self.general() {
            if pin.condition.meets_status() {
                return (pin.priority, Why::ArchivePinned(pin.place.clone()));
            }
        }
        (100, Why::Installed)
    }

    fn general(&self) -> impl Iterator<Item = &Pin> {
        self.pins
            .iter()
            .filter(|pin| pin.names.iter().any(|name| matches!(name, Name::All)))
    }
}

fn pin(
    package: Option<&str>,
    pin: Option<&str>,
    priority: Option<&str>,
) -> Result<(Vec<Name>, Condition, i32), String> {
    let package = package.ok_or("the stanza has no Package")?;
    let text = pin.ok_or("the stanza has no Pin")?;
    let priority = match priority.ok_or("the stanza has no Pin-Priority")? {
        "never" => NEVER,
        number => i32::from(
            number
                .parse::<i16>()
                .map_err(|_| "Pin-Priority is no number")?,
        ),
    };
    if priority == 0 {
        return Err("Pin-Priority is 0".to_owned());
    }
    let names = package
        .split_ascii_whitespace()
        .map(name)
        .collect::<Result<Vec<_>, _>>()?;
    let condition = condition(text)?;
    if matches!(condition, Condition::Version(_)) && names.iter().any(|n| matches!(n, Name::All)) {
        return Err("a version pin needs the name of a package".to_owned());
    }
    Ok((names, condition, priority))
}

fn name(text: &str) -> Result<Name, String> {
    let pattern =
        |text: &str| Pattern::new(text).ok_or(format!("pattern {text:?} is not understood"));
    if text == "*" {
        return Ok(Name::All);
    }
    if let Some(source) = text.strip_prefix("src:") {
        return pattern(source).map(Name::Source);
    }
    let is_regex = text.starts_with('/') && text.ends_with('/');
    let (name, architecture) = match text.rsplit_once(':') {
        Some((name, architecture)) if !is_regex => (name, Some(architecture.to_owned())),
        _ => (text, None),
    };
    Ok(Name::Package {
        pattern: pattern(name)?,
        architecture,
    })
}

fn condition(text: &str) -> Result<Condition, String> {
    let pattern =
        |text: &str| Pattern::new(text).ok_or(format!("pattern {text:?} is not understood"));
    let (kind, data) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    let data = data.trim();
    match kind.to_ascii_lowercase().as_str() {
        "version" => pattern(data).map(Condition::Version),
        "origin" => {
            let host = data.trim_matches('"');
            Ok(Condition::Origin(if host.is_empty() {
                None
            } else {
                Some(pattern(host)?)
            }))
        }
        "release" if data == "*" => Ok(Condition::AnyRelease),
        "release" if !data.contains('=') => {
            let letter = if data.starts_with(|c: char| c.is_ascii_digit()) {
                b'v'
            } else {
                b'r'
            };
            Ok(Condition::Release(vec![(letter, pattern(data)?)]))
        }
        "release" => {
            let mut parts = Vec::new();
            for part in data
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
            {
                let (letter, value) = part.split_once('=').ok_or(format!("{part:?} has no ="))?;
                let value = value.trim().trim_matches('"');
                match letter.trim() {
                    l @ ("a" | "n" | "o" | "l" | "c" | "v" | "b") => {
                        parts.push((l.as_bytes()[0], pattern(value)?));
                    }
                    other => return Err(format!("release has no property {other:?}")),
                }
            }
            Ok(Condition::Release(parts))
        }
        other => Err(format!("pin type {other:?} is not known")),
    }
}

impl Name {
    fn is_about(&self, subject: Subject<'_>) -> bool {
        match self {
            Self::All => false,
            Self::Source(pattern) => pattern.matches(subject.source),
            Self::Package {
                pattern,
                architecture,
            } => {
                let fits = match architecture.as_deref() {
                    None | Some("native") => {
                        [subject.native, "all"].contains(&subject.architecture)
                    }
                    Some("any") => true,
                    Some(architecture) => architecture == subject.architecture,
                };
                fits && pattern.matches(subject.package)
            }
        }
    }
}

impl Condition {
    fn meets_version(
        &self,
        version: &Version,
        is_installed: bool,
        archives: &[&ArchiveInfo],
    ) -> bool {
        match self {
            Self::Version(pattern) => pattern.matches(version.as_str()),
            Self::Release(_) | Self::AnyRelease | Self::Origin(_) => {
                archives.iter().any(|archive| self.meets_archive(archive))
                    || (is_installed && self.meets_status())
            }
        }
    }

    fn meets_archive(&self, archive: &ArchiveInfo) -> bool {
        let matches = |pattern: &Pattern, text: &Option<String>| {
            text.as_deref().is_some_and(|text| pattern.matches(text))
        };
        match self {
            Self::Version(_) => false,
            Self::AnyRelease => true,
            Self::Origin(None) => archive.site.is_empty(),
            Self::Origin(Some(pattern)) => pattern.matches(&archive.site),
            Self::Release(parts) => {
                !parts.is_empty()
                    && parts.iter().all(|(letter, pattern)| match letter {
                        b'a' => matches(pattern, &archive.suite),
                        b'n' => matches(pattern, &archive.codename),
                        b'o' => matches(pattern, &archive.origin),
                        b'l' => matches(pattern, &archive.label),
                        b'c' => matches(pattern, &archive.component),
                        b'v' => matches(pattern, &archive.version),
                        b'b' => matches(pattern, &archive.architecture),
                        _ => {
                            matches(pattern, &archive.suite) || matches(pattern, &archive.codename)
                        }
                    })
            }
        }
    }

    fn meets_status(&self) -> bool {
        match self {
            Self::AnyRelease => true,
            Self::Release(parts) => {
                !parts.is_empty()
                    && parts.iter().all(|(letter, pattern)| {
                        matches!(letter, b'a' | b'r') && pattern.matches("now")
                    })
            }
            Self::Version(_) | Self::Origin(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
