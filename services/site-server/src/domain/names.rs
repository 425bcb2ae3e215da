//! Names that people give, and text that machines send for people to read.

use crate::app::Error;

/// The longest name of a collection, list, package or deployment, in characters.
const MAX_NAME: usize = 100;
/// The longest description, in bytes.
const MAX_DESCRIPTION: usize = 4_096;

/// A name as it is stored: trimmed, 1 to 100 characters, none of them a control character.
pub(crate) fn name(text: &str) -> Result<String, Error> {
    let trimmed = text.trim();
    if trimmed.is_empty() || trimmed.chars().count() > MAX_NAME {
        return Err(Error::invalid(
            "NAME",
            format!("a name must have 1 to {MAX_NAME} characters"),
        ));
    }
    if trimmed.chars().any(char::is_control) {
        return Err(Error::invalid(
            "NAME",
            "a name must not have control characters",
        ));
    }
    if qualified(trimmed).is_some() {
        return Err(Error::invalid(
            "NAME",
            "a name must not begin like that of another site's thing (three capitals and a slash)",
        ));
    }
    Ok(trimmed.to_owned())
}

/// The two parts of `CEN/name`. Codes are written in capitals, so that `dev/web` is a name.
pub(crate) fn qualified(name: &str) -> Option<(&str, &str)> {
    let (code, rest) = name.split_once('/')?;
    let is_code = code.len() == 3
        && code
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    (is_code && !rest.trim().is_empty()).then_some((code, rest.trim()))
}

/// A description as it is stored.
pub(crate) fn description(text: &str) -> Result<String, Error> {
    if text.len() > MAX_DESCRIPTION {
        let why = format!("a description may have {MAX_DESCRIPTION} bytes");
        return Err(Error::invalid("DESCRIPTION", why));
    }
    Ok(cleaned(text, MAX_DESCRIPTION))
}

/// Text of a machine for people: control characters (NUL is refused by PostgreSQL, escapes fool
/// terminals) become U+FFFD, and what is longer than `max` bytes is cut.
pub(crate) fn cleaned(text: &str, max: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(max));
    for c in text.chars() {
        let c = if c.is_control() && c != '\n' {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        };
        if clean.len() + c.len_utf8() > max {
            break;
        }
        clean.push(c);
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_machines_is_cut_and_loses_its_control_characters() {
        assert_eq!(cleaned("a\0b\x1b[31m", 100), "a\u{fffd}b\u{fffd}[31m");
        assert_eq!(cleaned("äöü", 3), "ä");
    }

    #[test]
    fn a_name_is_trimmed_and_bounded() {
        assert_eq!(name(" Servers ").unwrap(), "Servers");
        assert!(name("  ").is_err());
        assert!(name(&"x".repeat(101)).is_err());
        assert!(name("a\nb").is_err());
        assert!(name("CEN/Servers").is_err());
    }

    #[test]
    fn only_three_capitals_before_a_slash_name_a_site() {
        assert_eq!(qualified("CEN/Servers"), Some(("CEN", "Servers")));
        assert_eq!(qualified("P01/ a/b "), Some(("P01", "a/b")));
        for name in ["dev/web", "CEN", "CEN/", "CENT/x", "Servers", "É1/x"] {
            assert_eq!(qualified(name), None, "{name}");
        }
    }
}
