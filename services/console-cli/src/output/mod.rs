//! How an answer leaves the process. A [`Document`] knows itself as JSON, as blocks of text for
//! people, and as names for other commands; the [`Printer`] knows which of them is wanted.
//!
//! Answers go to stdout, everything about the run (notes, warnings, errors, questions) to
//! stderr, so that a pipe only carries answers.

pub(crate) mod json;
pub(crate) mod live;
pub(crate) mod table;
pub(crate) mod text;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::failure::{Failure, Kind};
use table::Block;

/// What answers look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// The answer as JSON: one document, or one per line in a watch.
    Json,
    /// The same as YAML.
    Yaml,
    /// What other commands take as NAME, one per line.
    Name,
}

/// An answer that can be printed.
pub(crate) trait Document {
    /// For programs; see [`mod@json`].
    fn json(&self) -> Result<Value, Failure>;
    /// For people; `now` is what relative times relate to.
    fn blocks(&self, now: Timestamp) -> Vec<Block>;
    /// What other commands take as NAME.
    fn names(&self) -> Vec<String>;
    /// One line, for a watch that is not at a terminal.
    fn line(&self, now: Timestamp) -> String;
}

/// Prints in one format.
#[derive(Debug)]
pub(crate) struct Printer {
    format: Format,
}

impl Printer {
    /// For the format of `--output`.
    pub(crate) const fn new(format: Format) -> Self {
        Self { format }
    }

    /// The format of `--output`.
    pub(crate) const fn format(&self) -> Format {
        self.format
    }

    /// Whether a person reads it.
    pub(crate) const fn is_for_people(&self) -> bool {
        matches!(self.format, Format::Table)
    }

    /// Prints an answer.
    pub(crate) fn show(&self, document: &dyn Document) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => {
                table::render(&document.blocks(Timestamp::now()), colour(&io::stdout()))
            }
            Format::Json => format!("{:#}\n", document.json()?),
            Format::Yaml => yaml(&document.json()?)?,
            Format::Name => lines(&document.names()),
        };
        write_out(&text)
    }

    /// Prints one of many answers of a watch: a line of text, a line of JSON, or one YAML
    /// document of a stream.
    pub(crate) fn show_next(&self, document: &dyn Document) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => {
                let now = Timestamp::now();
                let clock = now
                    .to_zoned(jiff::tz::TimeZone::system())
                    .strftime("%H:%M:%S");
                format!("{clock}  {}\n", document.line(now))
            }
            Format::Json => format!("{}\n", document.json()?),
            Format::Yaml => format!("---\n{}", yaml(&document.json()?)?),
            Format::Name => lines(&document.names()),
        };
        write_out(&text)
    }

    /// Tells people something besides the answer; programs that read JSON are not disturbed.
    pub(crate) fn note(&self, text: &str) {
        if matches!(self.format, Format::Table) {
            write_err(&format!("{}\n", text::clean(text)));
        }
    }

    /// Prints what the site warns about.
    pub(crate) fn warn(&self, warnings: &[String]) {
        for warning in warnings {
            self.note(&format!("warning: {warning}"));
        }
    }

    /// Prints a failure and gives its exit code.
    pub(crate) fn fail(&self, failure: &Failure) -> ExitCode {
        let message = text::clean(&failure.message);
        let text = match self.format {
            Format::Json => format!("{}\n", envelope(failure)),
            Format::Yaml => yaml(&envelope(failure)).unwrap_or_default(),
            Format::Table | Format::Name => {
                let (red, plain) = if colour(&io::stderr()) {
                    ("\x1b[1;31m", "\x1b[0m")
                } else {
                    ("", "")
                };
                let hint = failure.hint.as_ref().map(|hint| format!("hint: {hint}\n"));
                let reason = &failure.reason;
                format!(
                    "{red}error:{plain} {message} ({reason})\n{}",
                    hint.unwrap_or_default()
                )
            }
        };
        write_err(&text);
        ExitCode::from(failure.kind as u8)
    }
}

/// The shape of an error for programs, on stderr.
fn envelope(failure: &Failure) -> Value {
    json!({"error": {
        "reason": failure.reason,
        "message": failure.message,
        "hint": failure.hint,
        "exitCode": failure.kind as u8,
    }})
}

/// Asks a person. Without a terminal there is nobody to ask, and nothing is done.
pub(crate) fn confirm(question: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(
            "NOT_CONFIRMED",
            "there is no terminal to ask for confirmation",
        )
        .hint("`--yes` goes on without asking"));
    }
    write_err(&format!("{} [y/N] ", text::clean(question)));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::new(
        Kind::General,
        "NOT_CONFIRMED",
        "nothing was changed",
    ))
}

/// Whether both streams go to a person, so that a display may be redrawn.
pub(crate) fn is_live() -> bool {
    io::stdout().is_terminal() && io::stderr().is_terminal()
}

/// Colour is for people, and only for those who want it (no-color.org).
fn colour(stream: &impl IsTerminal) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !refused
}

fn yaml(value: &Value) -> Result<String, Failure> {
    serde_saphyr::to_string(value)
        .map_err(|error| Failure::new(Kind::General, "OUTPUT", error.to_string()))
}

fn lines(items: &[String]) -> String {
    items
        .iter()
        .map(|item| format!("{}\n", text::clean(item)))
        .collect()
}

/// Writes an answer.
pub(crate) fn write_out(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes something about the run; nothing can be done when nobody hears it.
fn write_err(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
