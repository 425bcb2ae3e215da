//! Patterns of apt's preferences: shell globs (fnmatch(3) without flags) and `/regular expressions/`,
//! both without regard to case, as apt's `ExpressionMatches` does it.

use regex::bytes::{Regex, RegexBuilder};

/// The longest pattern taken, in bytes.
const MAX_PATTERN: usize = 1024;

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) enum Pattern {
    /// Bytes in lower case with `*`, `?`, `[…]` and `\`.
    Glob(Vec<u8>),
    /// Between two slashes.
    Regex(Regex),
}

impl Pattern {
    /// Compiles a pattern; `None` when it is too long or no regular expression.
    pub(crate) fn new(text: &str) -> Option<Self> {
        if text.len() > MAX_PATTERN {
            return None;
        }
        let inner = text
            .strip_prefix('/')
            .and_then(|rest| rest.strip_suffix('/'));
        match inner {
            Some(regex) => RegexBuilder::new(regex)
                .unicode(false)
                .case_insensitive(true)
                .size_limit(1 << 20)
                .build()
                .ok()
                .map(Self::Regex),
            None => Some(Self::Glob(text.to_ascii_lowercase().into_bytes())),
        }
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Glob(glob) => glob_matches(glob, &text.to_ascii_lowercase().into_bytes()),
            Self::Regex(regex) => regex.is_match(text.as_bytes()),
        }
    }
}

/// Without recursion: only the last `*` is ever tried again, so the time is at most length × length.
fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut at, mut here) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while here < text.len() {
        let step = match glob.get(at) {
            Some(b'*') => {
                star = Some((at + 1, here));
                at += 1;
                continue;
            }
            Some(b'?') => Some(at + 1),
            Some(b'[') => match set_matches(&glob[at..], text[here]) {
                Some((true, length)) => Some(at + length),
                Some((false, _)) => None,
                None if text[here] == b'[' => Some(at + 1),
                None => None,
            },
            Some(b'\\') if at + 1 < glob.len() => (glob[at + 1] == text[here]).then_some(at + 2),
            Some(byte) => (*byte == text[here]).then_some(at + 1),
            None => None,
        };
        match (step, star) {
            (Some(next), _) => (at, here) = (next, here + 1),
            (None, Some((after, from))) => {
                star = Some((after, from + 1));
                (at, here) = (after, from + 1);
            }
            (None, None) => return false,
        }
    }
    glob[at..].iter().all(|byte| *byte == b'*')
}

/// `[abc]`, `[a-z]`, `[!a]`: whether the byte is in the set, and the set's length. `None` when it has no end.
fn set_matches(glob: &[u8], byte: u8) -> Option<(bool, usize)> {
    let mut at = 1;
    let negated = matches!(glob.get(at), Some(b'!' | b'^'));
    at += usize::from(negated);
    let start = at;
    let mut found = false;
    loop {
        let first = *glob.get(at)?;
        if first == b']' && at > start {
            return Some((found != negated, at + 1));
        }
        match (glob.get(at + 1), glob.get(at + 2)) {
            (Some(b'-'), Some(last)) if *last != b']' => {
                found |= (first..=*last).contains(&byte);
                at += 3;
            }
            _ => {
                found |= first == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn globs_and_regular_expressions_match_as_in_apt() {
        for (pattern, text, expected) in [
            ("linux-*", "linux-image-6.1", true),
            ("linux-*", "linux", false),
            ("*", "", true),
            ("g++", "g++", true),
            ("lib?", "libc", true),
            ("lib[a-c]*6", "libc6", true),
            ("lib[!a-c]*", "libc6", false),
            ("*ssl*", "libssl3", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("Debian*", "debian-security", true),
            ("/^lib(ssl|crypto)/", "libssl3", true),
            ("/^lib(ssl|crypto)/", "openssl", false),
            ("/SSL$/", "openssl", true),
            ("[a", "[a", true),
        ] {
            assert_eq!(
                Pattern::new(pattern).unwrap().matches(text),
                expected,
                "{pattern} {text}"
            );
        }
        assert!(Pattern::new("/(/").is_none());
    }

    proptest! {
        #[test]
        fn no_pattern_panics(pattern in "[a-c*?\\[\\]!\\\\/-]{0,12}", text in "[a-c\\[é-]{0,12}") {
            if let Some(pattern) = Pattern::new(&pattern) {
                pattern.matches(&text);
            }
        }
    }
}
