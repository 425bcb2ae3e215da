//! What the signed text of an `InRelease` says, and whether its dates are good.

use std::collections::HashMap;

use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};

use crate::stanza::{Reader, Stanza};

/// How far in the future a `Date` may lie before it is refused.
pub const MAX_FUTURE: SignedDuration = SignedDuration::from_secs(300);

/// The most files a `Release` may list. Debian's main suite lists about 3,000.
pub const MAX_FILES: usize = 100_000;

/// The fields of a `Release` file that Muster uses.
#[derive(Debug, Clone, Default)]
pub struct Release {
    /// Who publishes it, such as `Debian`.
    pub origin: Option<String>,
    /// The label, such as `Debian-Security`.
    pub label: Option<String>,
    /// The suite's changing name, such as `oldstable`.
    pub suite: Option<String>,
    /// The suite's lasting name, such as `bookworm`.
    pub codename: Option<String>,
    /// The release's version, such as `12.5`.
    pub version: Option<String>,
    /// When it was made.
    pub date: Timestamp,
    /// Until when it may be used.
    pub valid_until: Option<Timestamp>,
    /// Whether indexes can be fetched under their hash.
    pub acquire_by_hash: bool,
    /// Whether apt chooses from it only when told to (priority 1).
    pub not_automatic: bool,
    /// With `not_automatic`: whether apt upgrades what was installed from it (priority 100).
    pub but_automatic_upgrades: bool,
    /// The architectures it has.
    pub architectures: Vec<String>,
    /// The components it has.
    pub components: Vec<String>,
    files: HashMap<String, File>,
}

/// Size and hash of a file that the release lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the content.
    pub sha256: [u8; 32],
}

/// Why a text is no usable release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not exactly one stanza.
    #[error("the release is not one stanza: {0}")]
    Shape(String),
    /// A field that must be there is missing.
    #[error("the release has no {0}")]
    Missing(&'static str),
    /// A field cannot be read.
    #[error("the release's {field} cannot be read: {reason}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// Why a release is not taken although its signature is good. Each is one check of TUF's list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// `Valid-Until` has passed: freeze attack, or a mirror that no longer follows.
    #[error("the release expired at {valid_until}")]
    Expired {
        /// Its `Valid-Until`.
        valid_until: Timestamp,
    },
    /// It is older than one that was accepted before: rollback.
    #[error("the release of {date} is older than the one of {accepted} that was accepted before")]
    Rollback {
        /// Its `Date`.
        date: Timestamp,
        /// The `Date` of the accepted one.
        accepted: Timestamp,
    },
    /// `Date` lies in the future.
    #[error("the release says that it was made in the future, at {date}")]
    Future {
        /// Its `Date`.
        date: Timestamp,
    },
}

impl Release {
    /// Parses the signed text of an `InRelease`.
    ///
    /// # Errors
    /// When it is not one stanza, has no `Date` or no `SHA256`, or one of its fields is absurd.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let limits = crate::stanza::Limits {
            stanza: 8 << 20,
            ..Default::default()
        };
        let mut reader = Reader::new(text.as_bytes()).with_limits(limits);
        let stanza = reader
            .next_stanza()
            .map_err(|e| Error::Shape(e.to_string()))?;
        let release =
            Self::from_stanza(&stanza.ok_or_else(|| Error::Shape("it is empty".into()))?)?;
        match reader.next_stanza() {
            Ok(None) => Ok(release),
            _ => Err(Error::Shape("more follows after it".into())),
        }
    }

    fn from_stanza(stanza: &Stanza<'_>) -> Result<Self, Error> {
        let text = |name| stanza.get(name).map(str::to_owned);
        let yes = |name| {
            stanza
                .get(name)
                .is_some_and(|v| v.eq_ignore_ascii_case("yes"))
        };
        let words = |name| -> Vec<String> {
            stanza
                .get(name)
                .unwrap_or_default()
                .split_ascii_whitespace()
                .map(str::to_owned)
                .collect()
        };
        let date = |field: &'static str| -> Result<Option<Timestamp>, Error> {
            let read = |value| parse_date(value).map_err(|reason| Error::Field { field, reason });
            stanza.get(field).map(read).transpose()
        };
        Ok(Self {
            origin: text("Origin"),
            label: text("Label"),
            suite: text("Suite"),
            codename: text("Codename"),
            version: text("Version"),
            date: date("Date")?.ok_or(Error::Missing("Date"))?,
            valid_until: date("Valid-Until")?,
            acquire_by_hash: yes("Acquire-By-Hash"),
            not_automatic: yes("NotAutomatic"),
            but_automatic_upgrades: yes("ButAutomaticUpgrades"),
            architectures: words("Architectures"),
            components: words("Components"),
            files: files(stanza.get("SHA256").ok_or(Error::Missing("SHA256"))?)?,
        })
    }

    /// Size and hash of a listed file, such as `main/binary-amd64/Packages.xz`.
    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.get(path)
    }

    /// Every listed file, in no order.
    pub fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        self.files.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// Whether the release may be taken now.
    ///
    /// `accepted` is the `Date` of the newest release that was accepted for this suite; the same
    /// date is taken again. `check_valid_until` is false only when the configuration says so.
    ///
    /// # Errors
    /// Names the check that failed.
    pub fn check_dates(
        &self,
        now: Timestamp,
        accepted: Option<Timestamp>,
        check_valid_until: bool,
    ) -> Result<(), Stale> {
        let date = self.date;
        if date.duration_since(now) > MAX_FUTURE {
            return Err(Stale::Future { date });
        }
        if let Some(accepted) = accepted.filter(|accepted| date < *accepted) {
            return Err(Stale::Rollback { date, accepted });
        }
        match self.valid_until {
            Some(valid_until) if check_valid_until && valid_until < now => {
                Err(Stale::Expired { valid_until })
            }
            _ => Ok(()),
        }
    }
}

/// Reads a date of a `Release`, as in `Sat, 17 May 2025 08:45:30 UTC`.
///
/// # Errors
/// With a reason, when it is no such date.
pub fn parse_date(text: &str) -> Result<Timestamp, String> {
    const PARSER: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);
    // The archive format says UTC where RFC 2822 only knows GMT.
    let text = text.trim();
    let text = text
        .strip_suffix("UTC")
        .map_or_else(|| text.to_owned(), |t| format!("{t}GMT"));
    PARSER
        .parse_timestamp(&text)
        .map_err(|error| error.to_string())
}

/// The lines of the `SHA256` field: hash, size, path.
fn files(field: &str) -> Result<HashMap<String, File>, Error> {
    let refuse = |reason: String| Error::Field {
        field: "SHA256",
        reason,
    };
    let mut files = HashMap::new();
    for line in field.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let short = || line.chars().take(100).collect::<String>();
        let mut words = line.split_ascii_whitespace();
        let (Some(hash), Some(size), Some(path), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(refuse(format!("not hash, size and path: {}", short())));
        };
        let sha256 = sha256(hash).ok_or_else(|| refuse(format!("no SHA-256: {}", short())))?;
        let size = size
            .parse()
            .map_err(|_| refuse(format!("no size: {}", short())))?;
        if !is_plain_path(path) {
            return Err(refuse(format!("a path that leads elsewhere: {}", short())));
        }
        let file = File { size, sha256 };
        if files
            .insert(path.to_owned(), file)
            .is_some_and(|before| before != file)
        {
            return Err(refuse(format!("listed twice: {}", short())));
        }
        if files.len() > MAX_FILES {
            return Err(refuse(format!("more than {MAX_FILES} files")));
        }
    }
    Ok(files)
}

/// 64 hex digits as bytes.
pub(crate) fn sha256(hex_digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(hex_digits, &mut bytes).ok()?;
    Some(bytes)
}

/// Whether a path is relative, stays below its root, and has no character that a URL or a file
/// system would take for something else.
pub(crate) fn is_plain_path(path: &str) -> bool {
    let plain =
        |b: u8| b.is_ascii_graphic() && !matches!(b, b'\\' | b'?' | b'#' | b'"' | b'<' | b'>');
    !path.is_empty()
        && path.len() <= 1024
        && path.bytes().all(plain)
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn text(date: &str, more: &str) -> String {
        format!(
            "Origin: Example\nSuite: stable\nCodename: one\nDate: {date}\n{more}SHA256:\n {HASH} 7 main/binary-amd64/Packages.xz\n"
        )
    }

    #[test]
    fn the_fields_and_the_files_are_read() {
        let more =
            "Valid-Until: Sat, 24 May 2025 08:45:30 UTC\nAcquire-By-Hash: yes\nNotAutomatic: yes\n";
        let release = Release::parse(&text("Sat, 17 May 2025 08:45:30 UTC", more)).unwrap();
        assert_eq!(release.date.to_string(), "2025-05-17T08:45:30Z");
        assert_eq!(
            release.valid_until.unwrap().to_string(),
            "2025-05-24T08:45:30Z"
        );
        assert_eq!(release.codename.as_deref(), Some("one"));
        assert!(
            release.acquire_by_hash && release.not_automatic && !release.but_automatic_upgrades
        );
        assert_eq!(
            release.file("main/binary-amd64/Packages.xz").unwrap().size,
            7
        );
        assert_eq!(release.files().count(), 1);
    }

    #[test]
    fn dates_decide_freeze_rollback_and_future() {
        let valid = "Valid-Until: Sat, 24 May 2025 08:45:30 +0000\n";
        let release = Release::parse(&text("Sat, 17 May 2025 08:45:30 UTC", valid)).unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (good, late) = (at("2025-05-18T00:00:00Z"), at("2025-05-25T00:00:00Z"));
        assert_eq!(release.check_dates(good, Some(release.date), true), Ok(()));
        assert!(matches!(
            release.check_dates(late, None, true),
            Err(Stale::Expired { .. })
        ));
        assert_eq!(release.check_dates(late, None, false), Ok(()));
        let newer = Some(at("2025-05-17T08:45:31Z"));
        assert!(matches!(
            release.check_dates(good, newer, true),
            Err(Stale::Rollback { .. })
        ));
        let before = at("2025-05-17T08:00:00Z");
        assert!(matches!(
            release.check_dates(before, None, true),
            Err(Stale::Future { .. })
        ));
    }

    #[test]
    fn absurd_releases_are_refused_by_field() {
        let date = "Sat, 17 May 2025 08:45:30 UTC";
        assert_eq!(
            Release::parse("Origin: x\n").unwrap_err(),
            Error::Missing("Date")
        );
        assert_eq!(
            Release::parse(&format!("Date: {date}\n")).unwrap_err(),
            Error::Missing("SHA256")
        );
        assert!(matches!(
            Release::parse(&text("yesterday", "")),
            Err(Error::Field { field: "Date", .. })
        ));
        assert!(matches!(
            Release::parse(&(text(date, "") + "\nA: b\n")),
            Err(Error::Shape(_))
        ));
        for line in [
            "abc 7 a",
            &format!("{HASH} -7 a"),
            &format!("{HASH} 7 ../a"),
            &format!("{HASH} 7 /a"),
            HASH,
        ] {
            let text = format!("Date: {date}\nSHA256:\n {line}\n");
            assert!(
                matches!(
                    Release::parse(&text),
                    Err(Error::Field {
                        field: "SHA256",
                        ..
                    })
                ),
                "{line}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,200}", date in ".{0,40}") {
            let _ = Release::parse(&text);
            let _ = Release::parse(&format!("Date: {date}\nSHA256: {text}\n"));
        }
    }
}
