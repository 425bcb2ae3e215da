//! `muster context`: the sites that were logged in to.

use clap::Subcommand;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Plain;
use crate::config::{Config, Context};
use crate::failure::Failure;
use crate::output::table::Block;
use crate::output::{Document, Printer};

/// What can be done with contexts.
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List the contexts
    #[command(after_help = "Example:\n  muster context list")]
    List,
    /// Make another context the current one
    #[command(after_help = "Example:\n  muster context use P01")]
    Use {
        /// Name of the context
        name: String,
    },
    /// Show the current context, or the one of --context
    #[command(after_help = "Example:\n  muster context show")]
    Show,
}

/// Runs what was typed.
pub(crate) fn run(
    command: ContextCommand,
    name: Option<&str>,
    printer: &Printer,
) -> Result<(), Failure> {
    let mut config = Config::load()?;
    match command {
        ContextCommand::List => printer.show(&config),
        ContextCommand::Use { name } => {
            config.current = config.context(Some(&name))?.name.clone();
            config.save()?;
            printer.show(&Plain {
                value: json!({"context": name}),
                text: format!("context {name} is the current one"),
                names: vec![name],
            })
        }
        ContextCommand::Show => printer.show(config.context(name)?),
    }
}

fn value(context: &Context) -> Value {
    json!({
        "name": context.name,
        "siteServer": context.site_server,
        "ca": context.ca,
        "cert": context.cert,
        "key": context.key,
    })
}

impl Document for Config {
    fn json(&self) -> Result<Value, Failure> {
        let contexts: Vec<Value> = self.contexts.iter().map(value).collect();
        Ok(json!({"current": self.current, "contexts": contexts}))
    }

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        let row = |context: &Context| {
            let current = if context.name == self.current {
                "*"
            } else {
                ""
            };
            vec![
                context.name.clone(),
                current.to_owned(),
                context.site_server.clone(),
            ]
        };
        let header = &["CONTEXT", "CURRENT", "SITE-SERVER"];
        vec![Block::Table {
            header,
            rows: self.contexts.iter().map(row).collect(),
        }]
    }

    fn names(&self) -> Vec<String> {
        self.contexts
            .iter()
            .map(|context| context.name.clone())
            .collect()
    }

    fn line(&self, _now: Timestamp) -> String {
        self.current.clone()
    }
}

impl Document for Context {
    fn json(&self) -> Result<Value, Failure> {
        Ok(value(self))
    }

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        vec![Block::Pairs(vec![
            ("Context", self.name.clone()),
            ("Site server", self.site_server.clone()),
            ("CA", self.ca.display().to_string()),
            ("Certificate", self.cert.display().to_string()),
            ("Key", self.key.display().to_string()),
        ])]
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }

    fn line(&self, _now: Timestamp) -> String {
        self.name.clone()
    }
}
