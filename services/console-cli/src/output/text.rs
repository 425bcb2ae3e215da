//! Words and numbers for people: relative times, sizes, and text that cannot harm a terminal.

use jiff::Timestamp;
use muster_proto::convert;

/// Text from a client or a vendor, on one line and without control characters: a host name must
/// not be able to move the cursor of the person who reads it.
pub(crate) fn clean(text: &str) -> String {
    // Direction overrides (U+202A to U+202E, U+2066 to U+2069) disguise text as well.
    let hides = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .map(|c| {
            if c.is_control() || hides(c) {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// A dash for nothing.
pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

/// "yes" or "no".
pub(crate) fn yes(value: bool) -> String {
    (if value { "yes" } else { "no" }).to_owned()
}

/// A time as people say it: "3m ago", "in 2h", "-".
pub(crate) fn ago(time: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    let Some(time) = timestamp(time) else {
        return "-".to_owned();
    };
    let seconds = now.as_second() - time.as_second();
    if seconds >= 0 {
        format!("{} ago", span(seconds))
    } else {
        format!("in {}", span(-seconds))
    }
}

/// A time in full with its distance, for descriptions.
pub(crate) fn at(time: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    match timestamp(time) {
        Some(exact) => {
            let whole = Timestamp::from_second(exact.as_second()).unwrap_or(exact);
            format!("{whole} ({})", ago(time, now))
        }
        None => "-".to_owned(),
    }
}

/// The day of a time.
pub(crate) fn day(time: Option<&prost_types::Timestamp>) -> String {
    let date = |time: Timestamp| time.strftime("%Y-%m-%d").to_string();
    timestamp(time).map_or_else(|| "-".to_owned(), date)
}

/// A time to the minute, in UTC.
pub(crate) fn minute(time: Option<&prost_types::Timestamp>) -> String {
    let text = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%MZ").to_string();
    timestamp(time).map_or_else(|| "-".to_owned(), text)
}

/// How long something took.
pub(crate) fn took(
    from: Option<&prost_types::Timestamp>,
    to: Option<&prost_types::Timestamp>,
) -> String {
    match (timestamp(from), timestamp(to)) {
        (Some(from), Some(to)) => span((to.as_second() - from.as_second()).max(0)),
        _ => "-".to_owned(),
    }
}

/// A length of time of the wire.
pub(crate) fn duration(duration: Option<&prost_types::Duration>) -> String {
    duration.map_or_else(|| "-".to_owned(), |duration| span(duration.seconds.max(0)))
}

/// Seconds in the unit that fits: "12s", "3m", "5h", "12d", "3y".
fn span(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        172_800..63_072_000 => format!("{}d", seconds / 86_400),
        _ => format!("{}y", seconds / 31_557_600),
    }
}

fn timestamp(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    convert::from_timestamp("time", time?).ok()
}

/// A size in the unit that fits: "812 B", "4.2 MB".
#[allow(clippy::cast_precision_loss)]
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1_000.0, 0);
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1_000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS.get(unit).unwrap_or(&"PB"))
}

/// A UUID of the wire as text; what is not one in hex.
pub(crate) fn id(bytes: &[u8]) -> String {
    match uuid::Uuid::from_slice(bytes) {
        Ok(uuid) => uuid.to_string(),
        Err(_) => hex(bytes),
    }
}

/// Bytes in lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of an enum value as it is typed: `CLASSIFICATION_FEATURE_PACK` is `feature-pack`.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    let word = name.strip_prefix(prefix).unwrap_or(name);
    if word == "UNSPECIFIED" {
        return "-".to_owned();
    }
    word.to_ascii_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(second: i64) -> prost_types::Timestamp {
        prost_types::Timestamp {
            seconds: second,
            nanos: 0,
        }
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        let now = Timestamp::from_second(1_000_000_000).unwrap();
        for (second, text) in [
            (1_000_000_000, "0s ago"),
            (999_999_941, "59s ago"),
            (999_999_820, "3m ago"),
            (999_910_000, "25h ago"),
            (999_000_000, "11d ago"),
            (0, "31y ago"),
            (1_000_007_200, "in 2h"),
        ] {
            assert_eq!(ago(Some(&wire(second)), now), text);
        }
        assert_eq!(ago(None, now), "-");
        assert_eq!(
            at(Some(&wire(999_999_820)), now),
            "2001-09-09T01:43:40Z (3m ago)"
        );
    }

    #[test]
    fn sizes_have_the_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (999_999, "1.0 MB"),
            (4_200_000, "4.2 MB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn text_of_others_cannot_harm_a_terminal() {
        assert_eq!(
            clean("web\x1b[2J\r\n01\u{9b}\u{202e}"),
            "web\u{fffd}[2J  01\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn enum_values_are_typed_as_words() {
        assert_eq!(
            word("CLASSIFICATION_FEATURE_PACK", "CLASSIFICATION_"),
            "feature-pack"
        );
        assert_eq!(word("CLASSIFICATION_UNSPECIFIED", "CLASSIFICATION_"), "-");
    }
}
