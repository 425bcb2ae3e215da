//! What the path of an HTTP request names. Strict: one spelling per thing, and everything else
//! names nothing.

use super::archive::{ArchivePath, SuiteKey};
use super::digest::Digest;

/// What a request wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// `/content/<sha256>`
    Content(Digest),
    /// `/apt/<suite key>/<path>`
    Apt(SuiteKey, ArchivePath),
}

impl Target {
    /// Reads the path of a request, as it came (with percent escapes).
    pub(crate) fn parse(path: &str) -> Option<Self> {
        if let Some(name) = path.strip_prefix("/content/") {
            return Digest::parse(name).map(Self::Content);
        }
        let (key, rest) = path.strip_prefix("/apt/")?.split_once('/')?;
        Some(Self::Apt(
            SuiteKey::parse(key)?,
            ArchivePath::parse(&unescape(rest)?)?,
        ))
    }
}

/// Undoes percent escapes once. apt escapes `+` and `~` in names, and `%` itself.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let pair = [rest.next()?, rest.next()?];
        let mut decoded = [0];
        hex::decode_to_slice(pair, &mut decoded).ok()?;
        // A slash that was escaped is not a separator, and no archive has one in a name.
        if decoded[0] == b'/' {
            return None;
        }
        bytes.push(decoded[0]);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apt(path: &str) -> Target {
        Target::Apt(
            SuiteKey::parse("0123456789abcdef").unwrap(),
            ArchivePath::parse(path).unwrap(),
        )
    }

    #[test]
    fn content_and_archive_paths_are_understood() {
        let digest = "ab".repeat(32);
        assert_eq!(
            Target::parse(&format!("/content/{digest}")),
            Digest::parse(&digest).map(Target::Content)
        );
        for (path, wanted) in [
            ("dists/bookworm/InRelease", "dists/bookworm/InRelease"),
            (
                "pool/main/g/gcc/g%2b%2b_12%7e1.deb",
                "pool/main/g/gcc/g++_12~1.deb",
            ),
            ("pool/main/x/x_1%253a2.deb", "pool/main/x/x_1%3a2.deb"),
        ] {
            assert_eq!(
                Target::parse(&format!("/apt/0123456789abcdef/{path}")),
                Some(apt(wanted)),
                "{path}"
            );
        }
    }

    #[test]
    fn everything_else_names_nothing() {
        let digest = "ab".repeat(32);
        for path in [
            "",
            "/",
            "*",
            "/content",
            "/content/",
            "/content/abc",
            &format!("/content/{}", digest.to_uppercase()),
            &format!("/content/{digest}/"),
            &format!("/content/../content/{digest}"),
            &format!("//content/{digest}"),
            &format!("/content/%61{}", &digest[2..]),
            "/apt/0123456789abcdef",
            "/apt/0123456789abcdef/",
            "/apt/0123456789abcdeg/dists/a",
            "/apt/0123456789abcdef/../../etc/passwd",
            "/apt/0123456789abcdef/%2e%2e/%2e%2e/etc/passwd",
            "/apt/0123456789abcdef/dists%2fbookworm/InRelease",
            "/apt/0123456789abcdef//dists/bookworm/InRelease",
            "/apt/0123456789abcdef/dists/bookworm/%zz",
            "/apt/0123456789abcdef/dists/bookworm/%0",
            "/apt/0123456789abcdef/dists/bookworm/%00",
            "/apt/0123456789abcdef/dists/bookworm/%ff",
            "/apt/0123456789abcdef/dists\\bookworm",
            "/etc/passwd",
        ] {
            assert_eq!(Target::parse(path), None, "{path:?}");
        }
    }
}
