//! Debian's version order (deb-version(7)), proven against dpkg itself in the tests below.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// The longest version taken, in bytes. The longest in Debian's archive is below 100.
pub const MAX_LENGTH: usize = 256;

/// A version that follows dpkg's grammar: `[epoch:]upstream[-revision]`.
///
/// Equality is dpkg's: `1.0` and `1.00` are equal although their texts differ, so this type has
/// no `Hash`; use [`Version::as_str`] as a key.
#[derive(Clone)]
pub struct Version(Box<str>);

/// Why a text is no version. The reason names the rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no version: {reason}")]
pub struct InvalidVersion {
    /// The refused text, at most 64 characters of it.
    pub text: String,
    /// The rule it breaks.
    pub reason: &'static str,
}

impl Version {
    /// The version as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Compares two texts as versions.
///
/// # Errors
/// When one of them is no version by dpkg's grammar.
pub fn compare(left: &str, right: &str) -> Result<Ordering, InvalidVersion> {
    check(left)?;
    check(right)?;
    Ok(deb_version::compare_versions(left, right))
}

/// dpkg's `parseversion`, with a bound on the length. A first character that is no digit is only a
/// warning for dpkg, and such packages exist, so it is allowed here too.
fn check(text: &str) -> Result<(), InvalidVersion> {
    let refuse = |reason| {
        Err(InvalidVersion {
            text: text.chars().filter(|c| !c.is_control()).take(64).collect(),
            reason,
        })
    };
    if text.is_empty() {
        return refuse("it is empty");
    }
    if text.len() > MAX_LENGTH {
        return refuse("it is longer than 256 bytes");
    }
    let rest = match text.split_once(':') {
        None => text,
        Some((epoch, rest)) => {
            if epoch.is_empty() || !epoch.bytes().all(|b| b.is_ascii_digit()) {
                return refuse("the epoch is no number");
            }
            if epoch.parse::<i32>().is_err() {
                return refuse("the epoch is too big");
            }
            rest
        }
    };
    let (upstream, revision) = match rest.rsplit_once('-') {
        None => (rest, None),
        Some((upstream, revision)) => (upstream, Some(revision)),
    };
    if upstream.is_empty() {
        return refuse("the upstream part is empty");
    }
    if revision == Some("") {
        return refuse("the revision is empty");
    }
    let common = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'~');
    if !upstream
        .bytes()
        .all(|b| common(b) || matches!(b, b'-' | b':'))
    {
        return refuse("the upstream part has a character that is not allowed");
    }
    if !revision.unwrap_or_default().bytes().all(common) {
        return refuse("the revision has a character that is not allowed");
    }
    Ok(())
}

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        check(text)?;
        Ok(Self(text.into()))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        deb_version::compare_versions(&self.0, &other.0)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::{Command, Stdio};

    /// Pairs in which the left is older, each for a rule of deb-version(7).
    const OLDER: &[(&str, &str)] = &[
        ("1.0~rc1-1", "1.0-1"),
        ("1.0-1", "1.0-1+b1"),
        ("1.0-1", "1.0-1.1"),
        ("1.0", "1.0-0.1"),
        ("9.9", "1:0.1"),
        ("1.2", "1.10"),
        ("1.0a", "1.0+"),
        ("1.0~~", "1.0~"),
        ("1.0~~a", "1.0~"),
        ("3.0.15-1~deb12u1", "3.0.16-1~deb12u1"),
        ("3.0.17-1~deb12u2", "3.0.17-1~deb12u3"),
        ("2.36-9+deb12u4", "2.36-9+deb12u10"),
        ("1.0-1", "1.0-1ubuntu1"),
        ("0:1.0", "1:0"),
    ];

    #[test]
    fn the_order_follows_deb_version_7() {
        for (older, newer) in OLDER {
            assert_eq!(
                compare(older, newer),
                Ok(Ordering::Less),
                "{older} < {newer}"
            );
            assert_eq!(
                compare(newer, older),
                Ok(Ordering::Greater),
                "{newer} > {older}"
            );
        }
        for (a, b) in [("1.0", "1.0-0"), ("1.00", "1.0"), ("0:1", "1")] {
            assert_eq!(compare(a, b), Ok(Ordering::Equal), "{a} = {b}");
        }
    }

    #[test]
    fn a_text_outside_dpkgs_grammar_is_refused_with_the_rule() {
        for (text, reason) in [
            ("", "it is empty"),
            (":1", "the epoch is no number"),
            ("a:1", "the epoch is no number"),
            ("99999999999:1", "the epoch is too big"),
            ("1.0-", "the revision is empty"),
            ("-1", "the upstream part is empty"),
            (
                "1 0",
                "the upstream part has a character that is not allowed",
            ),
            (
                "1.0é",
                "the upstream part has a character that is not allowed",
            ),
            (
                "1.0-1_2",
                "the revision has a character that is not allowed",
            ),
        ] {
            assert_eq!(
                text.parse::<Version>().unwrap_err().reason,
                reason,
                "{text:?}"
            );
        }
        assert!("1".repeat(257).parse::<Version>().is_err());
    }

    fn dpkg_says(left: &str, right: &str) -> Option<Ordering> {
        let is = |relation| {
            let mut dpkg = Command::new("dpkg");
            dpkg.args(["--compare-versions", left, relation, right])
                .stderr(Stdio::null());
            dpkg.status().ok().map(|s| s.success())
        };
        Some(if is("lt")? {
            Ordering::Less
        } else if is("eq")? {
            Ordering::Equal
        } else {
            Ordering::Greater
        })
    }

    fn version() -> impl Strategy<Value = String> {
        "([0-9]{1,2}:)?[0-9][0-9a-zA-Z.+~]{0,6}(-[0-9a-zA-Z.+~]{1,4})?"
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn we_agree_with_dpkg(left in version(), right in version()) {
            if let Some(order) = dpkg_says(&left, &right) {
                prop_assert_eq!(compare(&left, &right), Ok(order), "{} against {}", left, right);
            }
        }

        #[test]
        fn no_text_makes_the_order_panic(left in ".{0,40}", right in ".{0,40}") {
            let _ = compare(&left, &right);
        }
    }
}
