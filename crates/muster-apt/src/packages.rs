//! A `Packages` index as binary packages. A stanza that is wrong is a [`Rejected`] with its package,
//! line and reason; the others still count.

use std::io::{self, BufRead};

use crate::release::{is_plain_path, sha256};
use crate::stanza::{self, Stanza};
use crate::version::Version;

/// The largest package taken, in bytes: 8 GiB.
pub const MAX_SIZE: u64 = 8 << 30;

/// What an index says about one binary package: the fields that Muster uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinaryPackage {
    /// Its name.
    pub package: String,
    /// Its version.
    pub version: Version,
    /// `amd64`, `all`, …
    pub architecture: String,
    /// The source package it was built from; its own name unless written otherwise.
    pub source: String,
    /// The source's version; its own unless written otherwise (they differ after a binary rebuild).
    pub source_version: Version,
    /// The section, such as `libs`.
    pub section: Option<String>,
    /// The priority, such as `important`.
    pub priority: Option<String>,
    /// Where the file is, below the archive's root.
    pub filename: String,
    /// The file's size in bytes.
    pub size: u64,
    /// The file's SHA-256.
    pub sha256: [u8; 32],
    /// The first line of the description.
    pub description: String,
    /// Whether several architectures of it can be installed together.
    pub multi_arch: MultiArch,
    /// `Phased-Update-Percentage`, 0 to 100; see [`crate::phasing`].
    pub phased_percentage: Option<u8>,
    /// `Essential: yes`: the system does not work without it.
    pub essential: bool,
    /// `Protected: yes` or `Important: yes`: not to be removed lightly.
    pub important: bool,
}

/// The `Multi-Arch` field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum MultiArch {
    /// One architecture at a time.
    #[default]
    No,
    /// One for each architecture.
    Same,
    /// Serves other architectures.
    Foreign,
    /// Serves those who ask for it.
    Allowed,
}

/// A stanza that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {}: {reason}", package.as_deref().unwrap_or("a stanza"))]
pub struct Rejected {
    /// The package it is about, when that could be read.
    pub package: Option<String>,
    /// The line of the index, from 1.
    pub line: u64,
    /// The rule that it breaks.
    pub reason: Reason,
}

/// Why a stanza was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// A field that must be there is missing or empty.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// A field's value breaks the rule of that field.
    #[error("{field} {value:?} {rule}")]
    Absurd {
        /// The field.
        field: &'static str,
        /// At most 100 characters of its value.
        value: String,
        /// The rule.
        rule: &'static str,
    },
    /// The stanza itself cannot be read, such as a line of a megabyte.
    #[error("{0}")]
    Unreadable(String),
}

/// Reads the packages of an index one by one.
#[derive(Debug)]
pub struct Reader<R> {
    stanzas: stanza::Reader<R>,
}

impl<R: BufRead> Reader<R> {
    /// Over the decompressed text of an index, see [`crate::index::open`].
    pub fn new(input: R) -> Self {
        Self {
            stanzas: stanza::Reader::new(input),
        }
    }

    /// The next stanza as a package, or why it is none; `None` at the end.
    ///
    /// # Errors
    /// When the input below failed: then nothing of this index may be used.
    pub fn next_package(&mut self) -> io::Result<Option<Result<BinaryPackage, Rejected>>> {
        match self.stanzas.next_stanza() {
            Ok(None) => Ok(None),
            Ok(Some(stanza)) => Ok(Some(from_stanza(&stanza))),
            Err(stanza::Error::Io { source, .. }) => Err(source),
            Err(error) => {
                let reason = Reason::Unreadable(error.to_string());
                Ok(Some(Err(Rejected {
                    package: None,
                    line: error.line(),
                    reason,
                })))
            }
        }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = io::Result<Result<BinaryPackage, Rejected>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_package().transpose()
    }
}

/// Takes a stanza for a package.
///
/// # Errors
/// When a field is missing or breaks its rule.
pub fn from_stanza(stanza: &Stanza<'_>) -> Result<BinaryPackage, Rejected> {
    fields(stanza).map_err(|reason| Rejected {
        package: stanza.get("Package").map(shorten),
        line: stanza.line(),
        reason,
    })
}

fn fields(stanza: &Stanza<'_>) -> Result<BinaryPackage, Reason> {
    let need = |name: &'static str| stanza.get(name).ok_or(Reason::Missing(name));
    let text = |name: &str| stanza.get(name).map(str::to_owned);
    let yes = |name: &str| {
        stanza
            .get(name)
            .is_some_and(|v| v.eq_ignore_ascii_case("yes"))
    };

    let package = need("Package")?;
    if !is_package_name(package) {
        return Err(absurd("Package", package, "is no name by policy"));
    }
    let version = version("Version", need("Version")?)?;
    let architecture = need("Architecture")?;
    if !is_architecture(architecture) {
        return Err(absurd(
            "Architecture",
            architecture,
            "is no name of an architecture",
        ));
    }
    let filename = need("Filename")?;
    let filename = filename.strip_prefix("./").unwrap_or(filename);
    if !is_plain_path(filename) {
        return Err(absurd(
            "Filename",
            filename,
            "leads out of the archive or is no path",
        ));
    }
    let size = need("Size")?;
    let size = match size.parse() {
        Ok(size) if (1..=MAX_SIZE).contains(&size) => size,
        _ => return Err(absurd("Size", size, "is not between 1 byte and 8 GiB")),
    };
    let hash = need("SHA256")?;
    let sha256 = sha256(hash).ok_or_else(|| absurd("SHA256", hash, "is not 64 hex digits"))?;
    let (source, source_version) = source(stanza.get("Source"), package, &version)?;
    let phased_percentage = match stanza.get("Phased-Update-Percentage") {
        None => None,
        Some(value) => match value.parse() {
            Ok(percentage @ 0..=100) => Some(percentage),
            _ => return Err(absurd("Phased-Update-Percentage", value, "is not 0 to 100")),
        },
    };
    Ok(BinaryPackage {
        package: package.to_owned(),
        version,
        architecture: architecture.to_owned(),
        source,
        source_version,
        section: text("Section"),
        priority: text("Priority"),
        filename: filename.to_owned(),
        size,
        sha256,
        description: stanza.first_line("Description").unwrap_or_default(),
        multi_arch: multi_arch(stanza.get("Multi-Arch"))?,
        phased_percentage,
        essential: yes("Essential"),
        important: yes("Protected") || yes("Important"),
    })
}

/// `Source: name` or `name (version)`, in an index and in dpkg's status.
pub(crate) fn source(
    field: Option<&str>,
    package: &str,
    own: &Version,
) -> Result<(String, Version), Reason> {
    let Some(field) = field else {
        return Ok((package.to_owned(), own.clone()));
    };
    let (name, source_version) = match field.split_once('(') {
        None => (field, own.clone()),
        Some((name, rest)) => {
            let text = rest.strip_suffix(')');
            let text = text.ok_or_else(|| absurd("Source", field, "has no closing parenthesis"))?;
            (name.trim_end(), version("Source", text.trim())?)
        }
    };
    if !is_package_name(name) {
        return Err(absurd("Source", field, "is no name by policy"));
    }
    Ok((name.to_owned(), source_version))
}

pub(crate) fn multi_arch(field: Option<&str>) -> Result<MultiArch, Reason> {
    match field {
        None | Some("no") => Ok(MultiArch::No),
        Some("same") => Ok(MultiArch::Same),
        Some("foreign") => Ok(MultiArch::Foreign),
        Some("allowed") => Ok(MultiArch::Allowed),
        Some(other) => Err(absurd(
            "Multi-Arch",
            other,
            "is none of no, same, foreign, allowed",
        )),
    }
}

pub(crate) fn version(field: &'static str, text: &str) -> Result<Version, Reason> {
    text.parse()
        .map_err(|error: crate::version::InvalidVersion| absurd(field, text, error.reason))
}

pub(crate) fn absurd(field: &'static str, value: &str, rule: &'static str) -> Reason {
    Reason::Absurd {
        field,
        value: shorten(value),
        rule,
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Debian policy 5.6.1 and 5.6.7: at least two of lower case letters, digits, `+`, `-`, `.`; the first
/// a letter or digit. Upper case letters are let in as dpkg lets them in.
pub fn is_package_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    (2..=128).contains(&name.len())
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name.bytes().all(plain)
}

/// The name of an architecture, such as `amd64` or `all`.
pub fn is_architecture(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "Package: libssl3\nSource: openssl (3.0.16-1)\nVersion: 3.0.16-1+b1\nArchitecture: amd64\n\
        Section: libs\nPriority: optional\nMulti-Arch: same\nEssential: yes\nPhased-Update-Percentage: 20\n\
        Filename: pool/main/o/openssl/libssl3_3.0.16-1+b1_amd64.deb\nSize: 2000000\nDescription: a toolkit\n for TLS\n\
        SHA256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n";

    fn all(text: &str) -> Vec<Result<BinaryPackage, Rejected>> {
        Reader::new(text.as_bytes())
            .collect::<io::Result<_>>()
            .unwrap()
    }

    /// The good stanza with one field changed or, without a value, left out.
    fn with(field: &str, value: Option<&str>) -> String {
        let prefix = format!("{field}: ");
        let kept = GOOD
            .lines()
            .filter(|line| !line.starts_with(&prefix) && !line.starts_with(' '));
        let mut text = kept.collect::<Vec<_>>().join("\n");
        if let Some(value) = value {
            text.push_str(&format!("\n{prefix}{value}"));
        }
        text + "\n"
    }

    #[test]
    fn a_stanza_becomes_a_package() {
        let package = all(GOOD).remove(0).unwrap();
        assert_eq!(
            (package.package.as_str(), package.source.as_str()),
            ("libssl3", "openssl")
        );
        assert_eq!(package.version.as_str(), "3.0.16-1+b1");
        assert_eq!(package.source_version.as_str(), "3.0.16-1");
        assert_eq!(
            (package.size, package.multi_arch),
            (2_000_000, MultiArch::Same)
        );
        assert_eq!(
            (package.description.as_str(), package.phased_percentage),
            ("a toolkit", Some(20))
        );
        assert!(package.essential && !package.important);
        let package = all(&with("Source", None)).remove(0).unwrap();
        assert_eq!(
            (package.source.as_str(), package.source_version.as_str()),
            ("libssl3", "3.0.16-1+b1")
        );
    }

    #[test]
    fn a_missing_field_is_named() {
        for field in [
            "Package",
            "Version",
            "Architecture",
            "Filename",
            "Size",
            "SHA256",
        ] {
            let rejected = all(&with(field, None)).remove(0).unwrap_err();
            assert_eq!(rejected.reason, Reason::Missing(field));
            assert_eq!(
                (rejected.line, rejected.package.is_none()),
                (1, field == "Package")
            );
        }
    }

    #[test]
    fn an_absurd_field_is_named_with_its_value() {
        for (field, value) in [
            ("Package", "a"),
            ("Package", "../etc/passwd"),
            ("Package", "-rf"),
            ("Version", "one two"),
            ("Architecture", "AMD64"),
            ("Filename", "../../etc/passwd"),
            ("Filename", "/etc/passwd"),
            ("Filename", "pool/a b.deb"),
            ("Filename", "pool//a.deb"),
            ("Size", "-1"),
            ("Size", "0"),
            ("Size", "9000000000"),
            ("Size", "99999999999999999999999"),
            ("SHA256", "0123"),
            ("Source", "openssl (3.0"),
            ("Source", "open ssl"),
            ("Multi-Arch", "perhaps"),
            ("Phased-Update-Percentage", "101"),
        ] {
            let rejected = all(&with(field, Some(value))).remove(0).unwrap_err();
            assert!(
                matches!(rejected.reason, Reason::Absurd { field: named, .. } if named == field),
                "{field}: {value}: {rejected}"
            );
        }
    }

    #[test]
    fn one_bad_stanza_does_not_cost_the_others() {
        let long = "x".repeat(1_500_000);
        let text = format!(
            "{GOOD}\nPackage: bad\nVersion: 1\nTag: {long}\n\nPackage: worse\n\nno field\n\n{GOOD}"
        );
        let all = all(&text);
        assert_eq!(
            all.iter().map(Result::is_ok).collect::<Vec<_>>(),
            [true, false, false, false, true]
        );
        let line = GOOD.lines().count() as u64 + 4;
        assert_eq!(
            all[1].as_ref().unwrap_err().line,
            line,
            "the line of a megabyte"
        );
    }

    #[test]
    fn an_input_that_fails_is_an_error_and_not_an_end() {
        struct Failing;
        impl io::Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let text = io::Read::chain(GOOD.as_bytes(), Failing);
        let mut reader = Reader::new(io::BufReader::new(text));
        assert!(reader.next_package().is_err());
    }

    proptest! {
        #[test]
        fn no_stanza_makes_the_reader_panic(
            field in "(Package|Version|Source|Size|SHA256|Filename|Architecture|Multi-Arch)",
            value in "[ -~é\\n]{0,60}",
        ) {
            let _ = all(&with(&field, Some(&value)));
        }
    }
}
