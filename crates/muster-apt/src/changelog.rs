//! What a Debian changelog (deb-changelog(5)) says about an update: its urgency and the CVE ids that it
//! names, in the newest entry or in all entries since an installed version.

use std::collections::BTreeSet;

use crate::version::Version;

/// The most text that is looked at, in bytes.
pub const MAX_TEXT: usize = 8 << 20;

/// The urgency of an entry, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// `low`
    Low,
    /// `medium`
    Medium,
    /// `high`
    High,
    /// `emergency`
    Emergency,
    /// `critical`
    Critical,
}

impl Urgency {
    /// The word of a changelog.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Emergency => "emergency",
            Self::Critical => "critical",
        }
    }
}

/// What the entries looked at say together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many entries were looked at.
    pub entries: usize,
    /// The highest urgency of them.
    pub urgency: Option<Urgency>,
    /// The ids they name, such as `CVE-2024-12345`, each once, in the order of year and number.
    pub cves: Vec<String>,
}

/// Looks at the newest entry only.
pub fn newest(text: &str) -> Summary {
    summarise(text, |index, _| index == 0)
}

/// Looks at every entry that is newer than `installed`.
pub fn since(text: &str, installed: &Version) -> Summary {
    summarise(text, |_, version| {
        version.is_none_or(|version| version > installed)
    })
}

fn summarise(text: &str, wanted: impl Fn(usize, Option<&Version>) -> bool) -> Summary {
    let text = &text[..text.floor_char_boundary(MAX_TEXT)];
    let mut summary = Summary::default();
    let mut cves = BTreeSet::new();
    let mut index = 0;
    for line in text.lines() {
        if let Some((version, urgency)) = header(line) {
            if !wanted(index, version.as_ref()) {
                break; // entries stand newest first
            }
            index += 1;
            summary.urgency = summary.urgency.max(urgency);
        } else if index > 0 {
            find_cves(line, &mut cves);
        }
    }
    summary.entries = index;
    summary.cves = cves.into_iter().map(|(_, _, id)| id).collect();
    summary
}

/// The first line of an entry: `package (version) distribution; urgency=medium`.
fn header(line: &str) -> Option<(Option<Version>, Option<Urgency>)> {
    let first = line.bytes().next()?;
    if !first.is_ascii_alphanumeric() {
        return None;
    }
    let (name, rest) = line.split_once(" (")?;
    let (version, rest) = rest.split_once(')')?;
    let (_, keys) = rest.split_once(';')?;
    if !crate::packages::is_package_name(name) {
        return None;
    }
    let urgency = keys.split(',').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        if !key.trim().eq_ignore_ascii_case("urgency") {
            return None;
        }
        // A comment may follow the word, as in "high (security fixes)".
        match value
            .split_ascii_whitespace()
            .next()?
            .to_ascii_lowercase()
            .as_str()
        {
            "low" => Some(Urgency::Low),
            "medium" => Some(Urgency::Medium),
            "high" => Some(Urgency::High),
            "emergency" => Some(Urgency::Emergency),
            "critical" => Some(Urgency::Critical),
            _ => None,
        }
    });
    Some((version.parse().ok(), urgency))
}

/// Finds `CVE-` year `-` four to nineteen digits, in either case.
fn find_cves(line: &str, found: &mut BTreeSet<(u16, u64, String)>) {
    let bytes = line.as_bytes();
    let digits = |from: usize| {
        bytes[from..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count()
    };
    let mut at = 0;
    while at + 13 <= bytes.len() {
        let starts = bytes[at..at + 4].eq_ignore_ascii_case(b"CVE-");
        if !starts || digits(at + 4) != 4 || bytes.get(at + 8) != Some(&b'-') {
            at += 1;
            continue;
        }
        let count = digits(at + 9);
        // All of these bytes are ASCII, so the slices are on character boundaries.
        let (year, number) = (&line[at + 4..at + 8], &line[at + 9..at + 9 + count]);
        if let ((4..=19), Ok(y), Ok(n)) = (count, year.parse(), number.parse()) {
            found.insert((y, n, format!("CVE-{year}-{number}")));
        }
        at += 9 + count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "openssl (3.0.17-1~deb12u3) bookworm-security; urgency=high\n\n  * CVE-2025-9230 (Out-of-bounds read),\n    cve-2025-9231; CVE-2025-10000.\n\n -- A <a@archive.example>  Tue, 30 Sep 2025 10:00:00 +0200\n\n\
        openssl (3.0.17-1~deb12u2) bookworm; urgency=medium\n\n  * CVE-2024-13176, not CVE-99-1 nor CVE-2024-1\n\n -- A <a@archive.example>  Mon, 1 Sep 2025 10:00:00 +0200\n\n\
        openssl (3.0.16-1) bookworm; urgency=critical (really)\n\n  * CVE-2020-0001\n";

    #[test]
    fn the_newest_entry_gives_its_ids_and_urgency() {
        let found = newest(TEXT);
        assert_eq!((found.entries, found.urgency), (1, Some(Urgency::High)));
        assert_eq!(
            found.cves,
            ["CVE-2025-9230", "CVE-2025-9231", "CVE-2025-10000"]
        );
    }

    #[test]
    fn the_entries_since_a_version_are_taken_together() {
        let found = since(TEXT, &"3.0.16-1".parse().unwrap());
        assert_eq!((found.entries, found.urgency), (2, Some(Urgency::High)));
        assert_eq!(found.cves[0], "CVE-2024-13176");
        assert_eq!(found.cves.len(), 4);
        let found = since(TEXT, &"1.0".parse().unwrap());
        assert_eq!((found.entries, found.urgency), (3, Some(Urgency::Critical)));
    }

    #[test]
    fn a_text_without_an_entry_says_nothing() {
        assert_eq!(newest("no changelog\nCVE-2024-12345\n"), Summary::default());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_scan_panic(text in "(CVE-|cve|-|[0-9]{1,6}|é|\n|a \\(1\\) b; urgency=low\n| ){0,60}") {
            newest(&text);
        }
    }
}
