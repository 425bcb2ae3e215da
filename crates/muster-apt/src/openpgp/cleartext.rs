//! The cleartext signature framework (RFC 9580, section 7), stricter than the standard: what a second
//! reader could read differently is refused.

use super::Refused;

const BEGIN: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";
const END: &str = "-----END PGP SIGNATURE-----";

/// The parts of a clear-signed file.
#[derive(Debug)]
pub(super) struct Signed<'a> {
    /// The text as it is hashed: without dash escapes, without blanks at the ends of lines, lines
    /// joined by CR LF.
    pub(super) hashed: String,
    /// The armored block of signatures.
    pub(super) armor: &'a str,
}

/// Splits a file that is one clear-signed text and nothing else.
pub(super) fn split(file: &[u8]) -> Result<Signed<'_>, Refused> {
    let malformed = |reason: &str| Refused::Malformed(reason.to_owned());
    let text = match std::str::from_utf8(file) {
        Ok(text) => text,
        Err(_) if file.starts_with(BEGIN.as_bytes()) => return Err(malformed("it is no UTF-8")),
        Err(_) => return Err(Refused::NotSigned),
    };
    let mut lines = text.split_inclusive('\n');
    if lines.next().map(str::trim_end) != Some(BEGIN) {
        let later = text.lines().any(|line| line.trim_end() == BEGIN);
        return Err(if later {
            Refused::TextOutside
        } else {
            Refused::NotSigned
        });
    }
    for line in lines.by_ref() {
        match line.trim_end_matches(['\r', '\n']) {
            "" => break,
            header if header.starts_with("Hash: ") => {}
            _ => return Err(malformed("it has a header that is not Hash")),
        }
    }
    let mut hashed = String::with_capacity(text.len());
    let mut first = true;
    let mut found = None;
    for line in lines.by_ref() {
        let content = line.strip_suffix('\n').unwrap_or(line);
        let content = content.strip_suffix('\r').unwrap_or(content);
        if content.trim_end() == SIGNATURE {
            found = Some(line);
            break;
        }
        let content = match content.strip_prefix("- ") {
            Some(escaped) => escaped,
            None if content.starts_with('-') => {
                return Err(malformed("a line that starts with a dash is not escaped"));
            }
            None => content,
        };
        if content.contains('\r') {
            return Err(malformed("a line has a carriage return in it"));
        }
        if !first {
            hashed.push_str("\r\n");
        }
        first = false;
        hashed.push_str(content.trim_end_matches([' ', '\t']));
    }
    let begin = found.ok_or(Refused::NotSigned)?;
    let start = begin.as_ptr() as usize - text.as_ptr() as usize;
    let mut end = start + begin.len();
    for line in lines.by_ref() {
        end += line.len();
        if line.trim_end() == END {
            if !lines.all(|line| line.trim().is_empty()) {
                return Err(Refused::TextOutside);
            }
            return Ok(Signed {
                hashed,
                armor: &text[start..end],
            });
        }
        if line.starts_with('-') {
            return Err(malformed("another block stands in the signature"));
        }
    }
    Err(malformed("the signature has no end"))
}
