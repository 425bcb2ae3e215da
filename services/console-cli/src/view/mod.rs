//! What each answer of the site looks like to people. One file per package of `proto/`, or per kind of report; the
//! columns are stable, because scripts cut them. JSON needs nothing from here but the name of the message.

mod catalog;
mod client;
mod collection;
mod compliance;
mod content;
mod deployment;
mod report;
mod site;
mod state;
mod sync;
mod trend;

pub(crate) use site::SiteTree;

use jiff::Timestamp;
use serde_json::Value;

use crate::failure::Failure;
use crate::output::table::Block;
use crate::output::{Document, json};

/// An answer of the site.
pub(crate) trait Answer: prost::Message {
    /// Full name of the message.
    const MESSAGE: &'static str;
    /// For people.
    fn blocks(&self, now: Timestamp) -> Vec<Block>;
    /// What other commands take as NAME.
    fn names(&self) -> Vec<String>;
    /// One line of a watch.
    fn line(&self, _now: Timestamp) -> String {
        self.names().join(" ")
    }
}

impl<T: Answer> Document for T {
    fn json(&self) -> Result<Value, Failure> {
        json::message(T::MESSAGE, self)
    }

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        Answer::blocks(self, now)
    }

    fn names(&self) -> Vec<String> {
        Answer::names(self)
    }

    fn line(&self, now: Timestamp) -> String {
        Answer::line(self, now)
    }
}

/// The state with a number of the wire as people know it.
fn state<T: ToString>(id: i32, from_id: impl Fn(u8) -> Option<T>) -> String {
    let known = u8::try_from(id).ok().and_then(from_id);
    known.map_or_else(|| format!("state {id}"), |state| state.to_string())
}

/// An error number of a client with its meaning; nothing for "no error".
fn error(code: i32) -> String {
    match (code, muster_domain::error_code::meaning(code)) {
        (0, _) => String::new(),
        (_, Some(meaning)) => format!("{code} {meaning}"),
        (_, None) => code.to_string(),
    }
}

/// `collection "web" created`, and the names of what was created.
fn created(kind: &str, name: &str) -> Vec<Block> {
    vec![Block::Line(format!("{kind} \"{name}\" created"))]
}
