//! Which part of a file a request gets: RFC 9110, sections 13 and 14, for files whose validator is
//! a strong entity tag, and for some also the time they came (apt knows no tags).

use http::header::{HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue};

/// What to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// 200 with everything.
    Whole,
    /// 206 with the bytes `first..=last`.
    Part {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte.
        last: u64,
    },
    /// 304: the client has it.
    NotModified,
    /// 412: the client wants another version.
    PreconditionFailed,
    /// 416: there are no such bytes.
    Unsatisfiable,
}

/// Decides in the order of RFC 9110, 13.2.2. `etag` is with its quotes, `modified` as it is sent in
/// Last-Modified, `len` in bytes.
pub(crate) fn decide(
    get: bool,
    headers: &HeaderMap,
    etag: &str,
    modified: Option<&str>,
    len: u64,
) -> Answer {
    if headers.contains_key(IF_MATCH) && !matches(headers, &IF_MATCH, etag, false) {
        return Answer::PreconditionFailed;
    }
    if matches(headers, &IF_NONE_MATCH, etag, true) {
        return Answer::NotModified;
    }
    // The very time that we gave, not a later one: another distribution point may have got the
    // same files later, and older ones after us.
    let since = headers.get(IF_MODIFIED_SINCE).map(HeaderValue::as_bytes);
    if !headers.contains_key(IF_NONE_MATCH)
        && since.is_some()
        && since == modified.map(str::as_bytes)
    {
        return Answer::NotModified;
    }
    // A range has a meaning for GET only.
    let Some(range) = headers.get(RANGE).filter(|_| get) else {
        return Answer::Whole;
    };
    // Two Range headers are not one range, and a tag that is weak, a date, or another one means
    // that the client holds a part of something else: it gets everything.
    let same = headers
        .get(IF_RANGE)
        .is_none_or(|tag| tag.as_bytes() == etag.as_bytes());
    if headers.get_all(RANGE).iter().count() > 1 || !same {
        return Answer::Whole;
    }
    match range.to_str().ok().and_then(parse) {
        Some(Spec::From(first, last)) if first < len => Answer::Part {
            first,
            last: last.min(len - 1),
        },
        Some(Spec::Last(count)) if count > 0 && len > 0 => Answer::Part {
            first: len.saturating_sub(count),
            last: len - 1,
        },
        Some(Spec::From(..) | Spec::Last(_)) => Answer::Unsatisfiable,
        None => Answer::Whole,
    }
}

/// Whether a list of tags names ours. `weak` comparison ignores `W/` (for If-None-Match).
fn matches(headers: &HeaderMap, name: &HeaderName, etag: &str, weak: bool) -> bool {
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| {
            let tag = if weak {
                tag.strip_prefix("W/").unwrap_or(tag)
            } else {
                tag
            };
            tag == "*" || tag == etag
        })
}

enum Spec {
    /// `bytes=a-b` and `bytes=a-`.
    From(u64, u64),
    /// `bytes=-n`.
    Last(u64),
}

/// One range. Several ranges, another unit and what is malformed are `None`: such a header is
/// ignored, as the standard allows.
fn parse(text: &str) -> Option<Spec> {
    let (unit, range) = text.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") || range.contains(',') {
        return None;
    }
    let (first, last) = range.trim_matches([' ', '\t']).split_once('-')?;
    match (first, last) {
        ("", last) => Some(Spec::Last(number(last)?)),
        (first, "") => Some(Spec::From(number(first)?, u64::MAX)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::From(first, last))
        }
    }
}

/// Digits and nothing else; what is too large for us is larger than any file.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: &str = "\"abc\"";
    const MODIFIED: &str = "Tue, 30 Sep 2025 10:00:00 GMT";

    fn answer(len: u64, headers: &[(HeaderName, &str)]) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        decide(true, &map, ETAG, Some(MODIFIED), len)
    }

    #[test]
    fn ranges_are_answered_as_the_standard_says() {
        let part = |first, last| Answer::Part { first, last };
        let table = [
            ("bytes=0-0", part(0, 0)),
            ("bytes=0-9", part(0, 9)),
            ("bytes=3-5", part(3, 5)),
            ("bytes=9-9", part(9, 9)),
            ("bytes=5-", part(5, 9)),
            ("bytes=0-", part(0, 9)),
            ("bytes=-1", part(9, 9)),
            ("bytes=-10", part(0, 9)),
            ("bytes=-11", part(0, 9)),
            ("bytes=5-100", part(5, 9)),
            ("BYTES=1-2", part(1, 2)),
            ("bytes= 1-2", part(1, 2)),
            ("bytes=0-99999999999999999999999", part(0, 9)),
            ("bytes=10-", Answer::Unsatisfiable),
            ("bytes=10-20", Answer::Unsatisfiable),
            ("bytes=99999999999999999999999-", Answer::Unsatisfiable),
            ("bytes=-0", Answer::Unsatisfiable),
            ("bytes=0-1,3-4", Answer::Whole),
            ("bytes=5-3", Answer::Whole),
            ("bytes=-", Answer::Whole),
            ("bytes=", Answer::Whole),
            ("bytes", Answer::Whole),
            ("bytes=a-b", Answer::Whole),
            ("bytes=+1-2", Answer::Whole),
            ("bytes=1--2", Answer::Whole),
            ("lines=0-1", Answer::Whole),
        ];
        for (range, wanted) in table {
            assert_eq!(answer(10, &[(RANGE, range)]), wanted, "{range}");
        }
        assert_eq!(
            answer(10, &[(RANGE, "bytes=0-1"), (RANGE, "bytes=0-1")]),
            Answer::Whole
        );
        for range in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
            assert_eq!(
                answer(0, &[(RANGE, range)]),
                Answer::Unsatisfiable,
                "{range} of nothing"
            );
        }
    }

    #[test]
    fn a_part_is_sent_only_to_who_holds_the_same_version() {
        let range = (RANGE, "bytes=5-");
        let part = Answer::Part { first: 5, last: 9 };
        assert_eq!(answer(10, &[range.clone(), (IF_RANGE, ETAG)]), part);
        for other in [
            "\"abd\"",
            "W/\"abc\"",
            "abc",
            "*",
            "Wed, 21 Oct 2015 07:28:00 GMT",
        ] {
            assert_eq!(
                answer(10, &[range.clone(), (IF_RANGE, other)]),
                Answer::Whole,
                "{other}"
            );
        }
    }

    #[test]
    fn who_has_it_gets_nothing_and_who_wants_another_is_refused() {
        for tag in [ETAG, "W/\"abc\"", "*", "\"x\", \"abc\""] {
            assert_eq!(
                answer(10, &[(IF_NONE_MATCH, tag)]),
                Answer::NotModified,
                "{tag}"
            );
        }
        assert_eq!(answer(10, &[(IF_NONE_MATCH, "\"x\"")]), Answer::Whole);
        assert_eq!(
            answer(10, &[(IF_NONE_MATCH, ETAG), (RANGE, "bytes=1-")]),
            Answer::NotModified
        );
        assert_eq!(
            answer(10, &[(IF_MATCH, "\"x\"")]),
            Answer::PreconditionFailed
        );
        assert_eq!(
            answer(10, &[(IF_MATCH, "W/\"abc\"")]),
            Answer::PreconditionFailed
        );
        assert_eq!(answer(10, &[(IF_MATCH, ETAG)]), Answer::Whole);
    }

    #[test]
    fn who_names_the_time_it_was_given_gets_nothing() {
        let since = |time| (IF_MODIFIED_SINCE, time);
        assert_eq!(answer(10, &[since(MODIFIED)]), Answer::NotModified);
        let later = "Tue, 30 Sep 2025 10:00:01 GMT";
        assert_eq!(answer(10, &[since(later)]), Answer::Whole);
        let both = [since(MODIFIED), (IF_NONE_MATCH, "\"x\"")];
        assert_eq!(
            answer(10, &both),
            Answer::Whole,
            "a tag is the better witness"
        );
        let map = HeaderMap::from_iter([(IF_MODIFIED_SINCE, HeaderValue::from_static(MODIFIED))]);
        assert_eq!(decide(true, &map, ETAG, None, 10), Answer::Whole);
    }

    #[test]
    fn a_range_without_get_means_nothing() {
        let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=1-2"))]);
        assert_eq!(decide(false, &headers, ETAG, None, 10), Answer::Whole);
    }
}
