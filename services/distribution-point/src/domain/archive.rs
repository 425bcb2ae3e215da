//! Names inside a vendor's archive. They are keys of maps and parts of upstream addresses, never
//! names of files on our disk; they are checked all the same.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest path or address, in bytes.
const MAX_NAME: usize = 1024;

/// A path inside an archive or a suite, such as `pool/main/o/openssl/libssl3_3.0.deb`: relative,
/// without empty, `.` or `..` segments, backslashes or control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ArchivePath(String);

impl ArchivePath {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let segment = |s: &str| {
            let plain = |c: char| !c.is_control() && c != '\\';
            !s.is_empty() && s != "." && s != ".." && s.chars().all(plain)
        };
        (text.len() <= MAX_NAME && text.split('/').all(segment)).then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<ArchivePath> for String {
    fn from(path: ArchivePath) -> Self {
        path.0
    }
}

impl TryFrom<String> for ArchivePath {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not a path inside an archive")
    }
}

/// Base address of an archive: `http` or `https`, a host, and perhaps a path. No user name, no
/// query. Kept without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ArchiveUri(String);

impl ArchiveUri {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim_end_matches('/');
        let uri: http::Uri = text.parse().ok()?;
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        let authority = uri.authority()?;
        let plain = !authority.as_str().contains('@') && !authority.host().is_empty();
        let bare = uri.query().is_none() && !text.contains('#');
        (text.len() <= MAX_NAME && known && plain && bare).then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<ArchiveUri> for String {
    fn from(uri: ArchiveUri) -> Self {
        uri.0
    }
}

impl TryFrom<String> for ArchiveUri {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not the base address of an archive")
    }
}

/// The name that the site gave to a published suite: 16 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct SuiteKey(String);

impl SuiteKey {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == 16 && text.bytes().all(lower)).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for SuiteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<SuiteKey> for String {
    fn from(key: SuiteKey) -> Self {
        key.0
    }
}

impl TryFrom<String> for SuiteKey {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not 16 lower-case hex digits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_inside_its_archive() {
        for good in [
            "pool/main/g/gcc/g++_1%3a2.deb",
            "InRelease",
            "a/b~c+d",
            "..a/.b",
        ] {
            assert!(ArchivePath::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "a//b",
            "a/",
            "../a",
            "a/../b",
            "a/./b",
            "a\\b",
            "a\0b",
            "a\nb",
        ] {
            assert!(ArchivePath::parse(bad).is_none(), "{bad:?}");
        }
        assert!(ArchivePath::parse(&"a".repeat(1025)).is_none());
    }

    #[test]
    fn an_archive_is_reached_over_http_and_nothing_else() {
        let uri = ArchiveUri::parse("http://archive.example/debian/").unwrap();
        assert_eq!(uri.as_str(), "http://archive.example/debian");
        assert!(ArchiveUri::parse("https://archive.example:8443").is_some());
        for bad in [
            "",
            "archive.example/debian",
            "file:///etc",
            "ftp://archive.example/debian",
            "http://user:secret@archive.example/debian",
            "http://archive.example/debian?x=y",
            "http://archive.example/debian#x",
            "http://",
        ] {
            assert!(ArchiveUri::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_suite_key_is_sixteen_hex_digits() {
        assert!(SuiteKey::parse("0123456789abcdef").is_some());
        for bad in [
            "",
            "0123456789ABCDEF",
            "0123456789abcde",
            "../../../../../..",
        ] {
            assert!(SuiteKey::parse(bad).is_none(), "{bad:?}");
        }
    }
}
