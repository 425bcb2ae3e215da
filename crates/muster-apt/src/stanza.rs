//! A streaming reader of deb822 stanzas (deb822(5)): `Packages`, `Release`, dpkg's status,
//! `.sources`, preferences.
//!
//! One buffer is reused for all stanzas and fields are ranges into it, because Debian's main index
//! has 63,000 stanzas and a machine's memory is not ours. Every length is bounded. A stanza that
//! breaks a rule is reported with its line and skipped: the next call goes on with the next stanza.

use std::io::{self, BufRead, Read};
use std::ops::Range;

/// The bounds of a reader, in bytes and counts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest line, without its line feed.
    pub line: usize,
    /// The longest stanza.
    pub stanza: usize,
    /// The most fields of a stanza.
    pub fields: usize,
}

impl Default for Limits {
    /// 1 MiB a line (less than the absurd lines we refuse), 4 MiB a stanza, 256 fields.
    fn default() -> Self {
        Self {
            line: 1 << 20,
            stanza: 4 << 20,
            fields: 256,
        }
    }
}

/// Why a stanza was not given out. All but [`Error::Io`] concern this stanza only.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reader below failed; there is nothing more to read.
    #[error("reading failed at line {line}")]
    Io {
        /// The line that was being read, from 1.
        line: u64,
        /// What the reader said.
        source: io::Error,
    },
    /// A line is longer than [`Limits::line`].
    #[error("line {line} is longer than {limit} bytes")]
    LineTooLong {
        /// The line, from 1.
        line: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// The stanza is longer than [`Limits::stanza`].
    #[error("the stanza is longer than {limit} bytes at line {line}")]
    StanzaTooLong {
        /// The line on which the limit was passed.
        line: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// The stanza has more fields than [`Limits::fields`].
    #[error("the stanza has more than {limit} fields at line {line}")]
    TooManyFields {
        /// The line on which the limit was passed.
        line: u64,
        /// The limit.
        limit: usize,
    },
    /// A line is neither a field nor the continuation of one.
    #[error("line {line} is no field: {reason}")]
    Malformed {
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A field stands twice in the stanza, so two readers could see two different values.
    #[error("field {field} stands twice, again at line {line}")]
    Duplicate {
        /// The line of the second one.
        line: u64,
        /// The field's name.
        field: String,
    },
}

impl Error {
    /// Whether reading cannot go on.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Io { .. })
    }

    /// The line concerned, from 1.
    pub fn line(&self) -> u64 {
        match self {
            Self::Io { line, .. }
            | Self::LineTooLong { line, .. }
            | Self::StanzaTooLong { line, .. }
            | Self::TooManyFields { line, .. }
            | Self::Malformed { line, .. }
            | Self::Duplicate { line, .. } => *line,
        }
    }
}

#[derive(Debug, Clone)]
struct Field {
    name: Range<usize>,
    value: Range<usize>,
}

/// Reads stanzas one by one. See the module's text.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    limits: Limits,
    comments: bool,
    buffer: Vec<u8>,
    fields: Vec<Field>,
    line: u64,
}

/// One stanza; it borrows the reader's buffer.
#[derive(Debug, Clone, Copy)]
pub struct Stanza<'a> {
    buffer: &'a [u8],
    fields: &'a [Field],
    line: u64,
}

/// What one line turned out to be.
enum Line {
    End,
    Blank,
    Text,
}

impl<R: BufRead> Reader<R> {
    /// A reader with the default limits that takes `#` lines for data, as apt does for indexes.
    pub fn new(input: R) -> Self {
        let (buffer, fields) = (Vec::with_capacity(4096), Vec::with_capacity(32));
        Self {
            input,
            limits: Limits::default(),
            comments: false,
            buffer,
            fields,
            line: 0,
        }
    }

    /// Other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Skips lines that start with `#`, as apt does for `.sources` and preferences.
    #[must_use]
    pub fn with_comments(mut self) -> Self {
        self.comments = true;
        self
    }

    /// The next stanza, `None` at the end of the input.
    ///
    /// # Errors
    /// When the stanza breaks a rule: it is skipped and the next call gives the following one.
    /// [`Error::is_fatal`] says when there will be none.
    pub fn next_stanza(&mut self) -> Result<Option<Stanza<'_>>, Error> {
        self.buffer.clear();
        self.fields.clear();
        let mut first_line = 0;
        loop {
            let start = self.buffer.len();
            match self.read_line() {
                Ok(Line::Blank) if self.fields.is_empty() => self.buffer.truncate(start),
                Ok(Line::End) if self.fields.is_empty() => return Ok(None),
                Ok(Line::Blank | Line::End) => break,
                Ok(Line::Text) if self.comments && self.buffer[start] == b'#' => {
                    self.buffer.truncate(start);
                }
                Ok(Line::Text) => {
                    if first_line == 0 {
                        first_line = self.line;
                    }
                    if let Err(error) = self.take_line(start) {
                        self.skip_stanza()?;
                        return Err(error);
                    }
                }
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) => {
                    self.skip_stanza()?;
                    return Err(error);
                }
            }
        }
        Ok(Some(Stanza {
            buffer: &self.buffer,
            fields: &self.fields,
            line: first_line,
        }))
    }

    /// Appends the next line, without its end, to the buffer.
    fn read_line(&mut self) -> Result<Line, Error> {
        let start = self.buffer.len();
        let limit = self.limits.line;
        let line = self.line + 1;
        let read = (&mut self.input)
            .take(limit as u64 + 2)
            .read_until(b'\n', &mut self.buffer)
            .map_err(|source| Error::Io { line, source })?;
        if read == 0 {
            return Ok(Line::End);
        }
        self.line = line;
        let ended = self.buffer.last() == Some(&b'\n');
        if ended {
            self.buffer.pop();
        }
        if self.buffer.len() - start > limit {
            self.buffer.truncate(start);
            if !ended {
                self.skip_line()?;
            }
            return Err(Error::LineTooLong { line, limit });
        }
        if self.buffer.len() > start && self.buffer.last() == Some(&b'\r') {
            self.buffer.pop();
        }
        Ok(if self.buffer.len() == start {
            Line::Blank
        } else {
            Line::Text
        })
    }

    /// Passes over the rest of a line that is too long to be kept.
    fn skip_line(&mut self) -> Result<(), Error> {
        loop {
            let line = self.line;
            let chunk = self
                .input
                .fill_buf()
                .map_err(|source| Error::Io { line, source })?;
            if chunk.is_empty() {
                return Ok(());
            }
            let end = chunk.iter().position(|b| *b == b'\n');
            let used = end.map_or(chunk.len(), |at| at + 1);
            self.input.consume(used);
            if end.is_some() {
                return Ok(());
            }
        }
    }

    /// Passes over the rest of a stanza that broke a rule.
    fn skip_stanza(&mut self) -> Result<(), Error> {
        loop {
            self.buffer.clear();
            match self.read_line() {
                Ok(Line::Blank | Line::End) => return Ok(()),
                Ok(Line::Text) => {}
                Err(error) if error.is_fatal() => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Takes the line that starts at `start` in the buffer into the fields.
    fn take_line(&mut self, start: usize) -> Result<(), Error> {
        let line = self.line;
        let end = self.buffer.len();
        if end > self.limits.stanza {
            return Err(Error::StanzaTooLong {
                line,
                limit: self.limits.stanza,
            });
        }
        if matches!(self.buffer[start], b' ' | b'\t') {
            let Some(field) = self.fields.last_mut() else {
                return Err(Error::Malformed {
                    line,
                    reason: "a continuation without a field",
                });
            };
            // The line feed that was popped goes back between the two lines of the value.
            self.buffer.insert(start, b'\n');
            field.value.end = end + 1;
            return Ok(());
        }
        let text = &self.buffer[start..end];
        let Some(colon) = text.iter().position(|b| *b == b':') else {
            return Err(Error::Malformed {
                line,
                reason: "it has no colon",
            });
        };
        let name = start..start + colon;
        if name.is_empty() || !self.buffer[name.clone()].iter().all(u8::is_ascii_graphic) {
            return Err(Error::Malformed {
                line,
                reason: "its name is empty or has a blank",
            });
        }
        let known = |field: &Field| {
            self.buffer[field.name.clone()].eq_ignore_ascii_case(&self.buffer[name.clone()])
        };
        if self.fields.iter().any(known) {
            let field = String::from_utf8_lossy(&self.buffer[name]).into_owned();
            return Err(Error::Duplicate { line, field });
        }
        if self.fields.len() >= self.limits.fields {
            return Err(Error::TooManyFields {
                line,
                limit: self.limits.fields,
            });
        }
        self.fields.push(Field {
            value: name.end + 1..end,
            name,
        });
        Ok(())
    }
}

impl<'a> Stanza<'a> {
    /// The line of its first field, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The value of a field as bytes, without blanks around it. Names are compared without case.
    pub fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        let field = self
            .fields
            .iter()
            .find(|f| self.buffer[f.name.clone()].eq_ignore_ascii_case(name.as_bytes()))?;
        Some(self.buffer[field.value.clone()].trim_ascii())
    }

    /// The value of a field, `None` when the field is missing, empty or no UTF-8.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(name)?)
            .ok()
            .filter(|value| !value.is_empty())
    }

    /// The first line of a field's value, with what is no UTF-8 replaced.
    pub fn first_line(&self, name: &str) -> Option<String> {
        let bytes = self.bytes(name)?;
        let end = bytes
            .iter()
            .position(|b| *b == b'\n')
            .unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(bytes[..end].trim_ascii()).into_owned())
    }

    /// All fields in their order, names and values that are UTF-8.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let buffer = self.buffer;
        self.fields.iter().filter_map(move |field| {
            let name = std::str::from_utf8(&buffer[field.name.clone()]).ok()?;
            let value = std::str::from_utf8(buffer[field.value.clone()].trim_ascii()).ok()?;
            Some((name, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_continuations_and_line_ends_are_read() {
        let text = "\n\nPackage: a\r\nDescription: one\n two\n .\n\tthree\nEmpty:\n\n\nPackage:b";
        let mut reader = Reader::new(text.as_bytes());
        let stanza = reader.next_stanza().unwrap().unwrap();
        assert_eq!(stanza.line(), 3);
        assert_eq!(stanza.get("package"), Some("a"));
        assert_eq!(stanza.get("Description"), Some("one\n two\n .\n\tthree"));
        assert_eq!(stanza.first_line("Description").as_deref(), Some("one"));
        assert_eq!(
            (stanza.get("Empty"), stanza.bytes("Empty")),
            (None, Some(&b""[..]))
        );
        let stanza = reader.next_stanza().unwrap().unwrap();
        assert_eq!(stanza.get("Package"), Some("b"));
        assert!(reader.next_stanza().unwrap().is_none());
    }

    #[test]
    fn comments_are_data_in_an_index_and_nothing_in_a_sources_file() {
        let text = "# before\nA: 1\n# within\n 2\n";
        let mut reader = Reader::new(text.as_bytes()).with_comments();
        assert_eq!(
            reader.next_stanza().unwrap().unwrap().get("A"),
            Some("1\n 2")
        );
        let refused = Reader::new(text.as_bytes()).next_stanza().unwrap_err();
        assert!(
            matches!(refused, Error::Malformed { line: 1, .. }),
            "{refused}"
        );
    }

    #[test]
    fn a_line_of_one_megabyte_is_refused_by_its_number_and_the_next_stanza_is_read() {
        let mut text = b"Package: a\nTags: ".to_vec();
        text.extend(std::iter::repeat_n(b'x', 1_100_000));
        text.extend(b"\nVersion: 1\n\nPackage: b\n");
        let mut reader = Reader::new(&text[..]);
        let error = reader.next_stanza().unwrap_err();
        assert!(
            matches!(
                error,
                Error::LineTooLong {
                    line: 2,
                    limit: 1_048_576
                }
            ),
            "{error}"
        );
        let stanza = reader.next_stanza().unwrap().unwrap();
        assert_eq!((stanza.get("Package"), stanza.line()), (Some("b"), 5));
    }

    #[test]
    fn a_line_exactly_at_the_limit_is_read() {
        let limits = Limits {
            line: 8,
            ..Limits::default()
        };
        for (text, good) in [
            ("A: 45678\n", true),
            ("A: 456789\n", false),
            ("A: 45678", true),
        ] {
            let mut reader = Reader::new(text.as_bytes()).with_limits(limits);
            assert_eq!(reader.next_stanza().is_ok(), good, "{text}");
        }
    }

    #[test]
    fn too_many_fields_a_long_stanza_and_a_field_twice_are_refused() {
        let limits = Limits {
            stanza: 30,
            fields: 3,
            ..Limits::default()
        };
        let text = "A: 1\nB: 1\nC: 1\nD: 1\n\nA: 1\na: 2\n\nA: 1\n 2345678901234567890123456789012345\n\nA: 4\n";
        let mut reader = Reader::new(text.as_bytes()).with_limits(limits);
        assert!(matches!(
            reader.next_stanza(),
            Err(Error::TooManyFields { line: 4, .. })
        ));
        assert!(matches!(
            reader.next_stanza(),
            Err(Error::Duplicate { line: 7, .. })
        ));
        assert!(matches!(
            reader.next_stanza(),
            Err(Error::StanzaTooLong { line: 10, .. })
        ));
        assert_eq!(reader.next_stanza().unwrap().unwrap().get("A"), Some("4"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_run_for_ever(bytes in any::<Vec<u8>>()) {
            let mut reader = Reader::new(&bytes[..]).with_comments();
            for _ in 0..=bytes.len() {
                match reader.next_stanza() {
                    Ok(Some(stanza)) => prop_assert!(stanza.fields().count() <= bytes.len()),
                    Ok(None) => return Ok(()),
                    Err(error) => prop_assert!(!error.is_fatal()),
                }
            }
            prop_assert!(false, "more stanzas than bytes");
        }
    }
}
