//! The display of a watch: redrawn in place for a person at a terminal, one line per change for
//! a log, one JSON document per line for a program.

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;

use super::{Document, Format, Printer, is_live, table};
use crate::failure::Failure;

/// Shows one document after the other.
#[derive(Debug)]
pub(crate) struct Live<'a> {
    printer: &'a Printer,
    display: Option<ProgressBar>,
    shown: String,
}

impl<'a> Live<'a> {
    /// Nothing is shown yet.
    pub(crate) fn new(printer: &'a Printer) -> Self {
        let redraw = printer.format() == Format::Table && is_live();
        let display = redraw.then(|| {
            let style = ProgressStyle::with_template("{msg}");
            let bar = ProgressBar::new_spinner();
            style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
        });
        Self {
            printer,
            display,
            shown: String::new(),
        }
    }

    /// Shows the newest document; one that looks like the last is left out.
    pub(crate) fn update(&mut self, document: &dyn Document) -> Result<(), Failure> {
        let now = Timestamp::now();
        if let Some(display) = &self.display {
            display.set_message(table::render(&document.blocks(now), false));
            return Ok(());
        }
        let text = match self.printer.format() {
            Format::Table => document.line(now),
            Format::Json | Format::Yaml | Format::Name => document.json()?.to_string(),
        };
        if text == self.shown {
            return Ok(());
        }
        self.shown = text;
        self.printer.show_next(document)
    }

    /// Leaves the last document behind, in full for people.
    pub(crate) fn finish(self, document: &dyn Document) -> Result<(), Failure> {
        if let Some(display) = &self.display {
            display.finish_and_clear();
        }
        match self.printer.format() {
            Format::Table => self.printer.show(document),
            Format::Json | Format::Yaml | Format::Name => Ok(()),
        }
    }
}
